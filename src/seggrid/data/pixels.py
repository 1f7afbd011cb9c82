"""Image and mask files as arrays, whatever they were saved as."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from seggrid.data import png
from seggrid.errors import UserError

Pixels = NDArray[np.uint8]
LARGEST_OF_OPENCV = 2**30  # pixels
LARGEST_TOP = 0.85  # Pillow stops at a row and OpenCV does not; above this share OpenCV is done first all the same
PNG_START = b"\x89PNG\r\n\x1a\n"
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
LABEL_MODES = ("1", "L", "P", *DEEP_MODES)
# What an EXIF orientation asks a viewer to do: transpose, then flip rows, then flip columns.
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

Image.MAX_IMAGE_PIXELS = None  # aerial images are larger than what Pillow takes for an attack


def read_image(path: Path) -> tuple[Pixels, int]:
    """Reads an image file.

    Args:
        path: of any format and mode that Pillow knows. Deep images are scaled to 8 bits, an alpha channel is dropped.

    Returns:
        RGB, uint8 ``(H, W, 3)`` as it lies in the file, and the EXIF orientation, 1 to 8, that :func:`upright` applies.

    Raises:
        UserError: the file is empty or damaged.
    """
    data = _content(path)
    if _is_plain_png(data):
        # Faster at these than Pillow, to the same pixels.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is not None:
            return np.asarray(pixels, np.uint8), 1
    image = _decoded(path, data)
    orientation = _orientation(image)  # after the pixels: a TIFF is turned, and loses the tag, while it is read
    if image.mode in DEEP_MODES:
        deep = np.asarray(image).astype(np.float64)
        if deep.min() < 0 or deep.max() > 65535:
            raise UserError(f"{path} has values beyond 16 bits; save it with 8 or 16 bits per channel")
        grey = np.rint(deep / 257).astype(np.uint8)  # 65535 is 255
        return np.repeat(grey[..., None], 3, axis=2), orientation
    if image.mode == "F":
        raise UserError(f"{path} holds fractions; save it with 8 or 16 bits per channel")
    try:
        return np.array(image if image.mode == "RGB" else image.convert("RGB")), orientation
    except ValueError as error:
        raise _unreadable(path, error) from error


def read_top(path: Path, rows: int, size: tuple[int, int]) -> Pixels | None:
    """Reads the first rows of an image file alone, where its format allows it and that is faster than reading it all.

    Args:
        path: the file.
        rows: how many rows are wanted.
        size: (height, width) that the image has to have.

    Returns:
        RGB, uint8 ``(rows, W, 3)``; None where :func:`read_image` has to be asked.

    Raises:
        UserError: the file is empty or damaged.
    """
    if rows > LARGEST_TOP * size[0]:
        return None
    data = _content(path)
    if not _is_plain_png(data, check=False) or struct.unpack(">II", data[16:24]) != (size[1], size[0]):
        return None
    return np.array(_decoded(path, png.top(data, rows)))


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns an image as its EXIF orientation asks a viewer to (CIPA DC-008, 4.6.4)."""
    transpose, rows, columns = TURNS[orientation]
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    if rows:
        pixels = pixels[::-1]
    if columns:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)  # torch takes no negative strides


def read_mask(path: Path, mat_key: str | None = None) -> NDArray[Any]:
    """Reads a mask file as it is.

    Args:
        path: an image, or a MATLAB file.
        mat_key: where in a MATLAB file the labels lie.

    Returns:
        Labels, whole numbers ``(H, W)``, or colours, uint8 ``(H, W, 3)``. A palette image gives its indices.

    Raises:
        UserError: the file is empty or damaged, or holds neither labels nor colours.
    """
    data = _content(path)
    if path.suffix.lower() == ".mat":
        return _matlab(path, data, mat_key)
    image = _decoded(path, data)
    mode = image.mode
    if mode in ("LA", "PA", "RGBA") and image.getchannel("A").getextrema() == (255, 255):
        # Opaque everywhere: the alpha channel says nothing.
        image = image.getchannel(0) if mode != "RGBA" else image.convert("RGB")
    if image.mode not in (*LABEL_MODES, "RGB"):
        raise UserError(
            f"{path} is a {mode} image; a mask holds one class index per pixel, or one colour of dataset.palette: save "
            "it with one channel, or as RGB"
        )
    return np.asarray(image)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or error) from error
    if not data:
        raise _unreadable(path, "it is empty")
    return data


def _decoded(path: Path, data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():  # what Pillow warns of either raises, too, or is no fault: a large image
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.load()
        return image
    except UnidentifiedImageError as error:
        raise _unreadable(path, "no known image format") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise _unreadable(path, error) from error  # SyntaxError: a PNG's chunk


def _unreadable(path: Path, reason: object) -> UserError:
    return UserError(f"{path} cannot be read ({reason}); replace it, or remove it and its partner")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):  # viewers pass over a broken EXIF block, too
        return 1
    return value if value in TURNS else 1


def _is_plain_png(data: bytes, check: bool = True) -> bool:
    """Whether this is a whole PNG of 8-bit RGB with no word on how to show it.

    Args:
        data: the file.
        check: compare checksums: OpenCV's decoder prints to stderr what it finds wrong, so that only files without a
            fault may reach it.
    """
    if not data.startswith(PNG_START) or data[24:26] != b"\x08\x02":
        return False
    place = len(PNG_START)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        end = place + 8 + length
        if kind in (b"eXIf", b"tRNS", b"acTL") or end + 4 > len(data):
            return False
        if check and zlib.crc32(memoryview(data)[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if kind == b"IEND":
            width, height = struct.unpack(">II", data[16:24])
            return bool(width * height <= LARGEST_OF_OPENCV)
        place = end + 4
    return False


def _matlab(path: Path, data: bytes, key: str | None) -> NDArray[Any]:
    from scipy.io import loadmat  # half a second that most data sets do not need

    if key is None:
        raise UserError(f"{path} is a MATLAB file; say which of its arrays holds the labels: dataset.mat_key=<name>")
    first, *fields = key.split(".")
    try:
        found = loadmat(io.BytesIO(data))
    except NotImplementedError as error:
        raise UserError(f"{path} is a MATLAB 7.3 file; save it in MATLAB with -v7") from error
    except Exception as error:  # whatever damaged bytes lead scipy to
        raise _unreadable(path, " ".join(str(error).split()) or type(error).__name__) from error
    names = [name for name in found if not name.startswith("__")]
    if first not in found:
        raise UserError(f"{path} has no array {first}, as dataset.mat_key={key} says; it has {', '.join(names)}")
    value = found[first]
    for field in fields:
        if field not in (value.dtype.names or ()):
            raise UserError(
                f"{path} has no {field}, as dataset.mat_key={key} says; it has {', '.join(value.dtype.names or names)}"
            )
        value = value[field]
        while value.dtype == object and value.size == 1:  # MATLAB's struct is an array of one
            value = value.flat[0]
    if value.ndim != 2 or value.dtype.kind not in "iubf" or (value.dtype.kind == "f" and (value % 1 != 0).any()):
        raise UserError(f"{path} holds no labels in {key}: a mask is a matrix of whole numbers")
    return np.asarray(value if value.dtype.kind in "iu" else value.astype(np.int64))
