"""The upper part of a PNG file, for crops that do not reach its lower one."""

import struct
import zlib

START = b"\x89PNG\r\n\x1a\n"


def top(data: bytes, rows: int) -> bytes:
    """Makes of a PNG file one that ends after some rows, without decoding it.

    A PNG is decoded from the top, each row by the one above. Only the height in the header is changed; Pillow stops
    decoding there, where libpng, and OpenCV with it, would go on and complain.

    Args:
        data: the file.
        rows: how many rows are wanted.

    Returns:
        The file of the first rows; ``data`` itself where it has no more rows, or is no PNG whose rows lie in order.
    """
    if not data.startswith(START) or data[12:16] != b"IHDR" or len(data) < 33 or data[28] != 0:  # 28: interlacing
        return data
    if not 0 < rows < int.from_bytes(data[20:24], "big"):
        return data
    header = data[12:20] + struct.pack(">I", rows) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
