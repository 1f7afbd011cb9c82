"""Image files and mask files: which belong together, what is in them, and what their labels mean; CamVid."""

import dataclasses
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import torch
import yaml
from PIL import ExifTags, Image, ImageOps

from seggrid.config import DatasetConfig
from seggrid.data.files import FileSource, find_files
from seggrid.data.labels import file_labels, settled
from seggrid.data.pairs import Sample
from seggrid.errors import UserError
from seggrid.metrics import ConfusionMatrix, scores

ROOT = Path(__file__).resolve().parents[1]
CAMVID = Path(os.environ.get("SEGGRID_CAMVID", ROOT.parent / "shared" / "data" / "camvid"))
needs_camvid = pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid at {CAMVID}; set SEGGRID_CAMVID")


def _write_image(path: Path, value: int = 100, size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def _write_mask(path: Path, labels: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8))
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    image.save(path)


def _folder(root: Path, number: int, **values: Any) -> DatasetConfig:
    """A folder of pairs; image ``i`` and its mask both have the value ``i``."""
    for index in range(number):
        _write_image(root / "images" / f"{index:02d}.png", index)
        _write_mask(root / "masks" / f"{index:02d}.png", np.full((4, 6), index))
    classes = [f"class{index}" for index in range(number)]
    settings = {"images": "images/*", "masks": "masks/*", "val_fraction": 0.2} | values
    return DatasetConfig(name="folder", classes=classes, root=str(root), **settings)


def _camvid(root: Path) -> DatasetConfig:
    return DatasetConfig(**yaml.safe_load((ROOT / "conf" / "dataset" / "camvid.yaml").read_text()), root=str(root))


def _indices(config: DatasetConfig, split: str) -> list[int]:
    source = find_files(config, split)
    return [int(source.read(index)[1][0, 0]) for index in range(len(source))]


# Files


def test_camvid_layout_is_read_with_its_label_map(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _write_image(tmp_path / split / "a.jpg")
        _write_mask(tmp_path / f"{split}annot" / "a.png", [[0, 1, 2, 11, 10, 11]] * 4)
    image, labels = find_files(_camvid(tmp_path), "val").read(0)
    assert image.shape == (3, 4, 6) and image.dtype == labels.dtype == torch.uint8
    assert labels[0].tolist() == [0, 1, 2, 255, 10, 255]


def test_val_fraction_splits_a_folder_without_loss_or_overlap(tmp_path: Path) -> None:
    config = _folder(tmp_path, 20)
    train, val = _indices(config, "train"), _indices(config, "val")
    assert len(val) == 4
    assert sorted(train + val) == list(range(20))
    assert (train, val) == (_indices(config, "train"), _indices(config, "val"))
    config.split_seed = 1
    assert _indices(config, "val") != val


def test_each_split_of_a_tiny_folder_gets_a_pair(tmp_path: Path) -> None:
    for fraction in (0.01, 0.99):
        config = _folder(tmp_path, 3, val_fraction=fraction)
        assert min(len(_indices(config, "train")), len(_indices(config, "val"))) == 1


def test_a_folder_split_by_val_fraction_has_no_third_split(tmp_path: Path) -> None:
    config = _folder(tmp_path, 5, splits={"train": "train", "val": "val", "test": "test"})
    with pytest.raises(UserError, match="no split test"):
        find_files(config, "test")


def test_globs_name_the_split_by_the_data_sets_own_word(tmp_path: Path) -> None:
    config = _folder(tmp_path, 4, images="images/{split}/*", masks="masks/{split}/*", val_fraction=None)
    config.splits = {"train": "training", "val": "dev"}
    for word, index in (("training", 1), ("dev", 2)):
        for kind in ("images", "masks"):
            (tmp_path / kind / word).mkdir()
            (tmp_path / kind / f"{index:02d}.png").rename(tmp_path / kind / word / f"{index:02d}.png")
    assert (_indices(config, "train"), _indices(config, "val")) == ([1], [2])


def test_jpeg_and_png_and_grey_images_may_be_mixed(tmp_path: Path) -> None:
    config = _folder(tmp_path, 3, val_fraction=0.4)
    (tmp_path / "images" / "01.png").unlink()
    _write_image(tmp_path / "images" / "01.jpg", 1)
    Image.fromarray(np.full((4, 6), 2, np.uint8)).save(tmp_path / "images" / "02.png")
    for split in ("train", "val"):
        source = find_files(config, split)
        for index in range(len(source)):
            image, labels = source.read(index)
            assert image.shape == (3, 4, 6)
            assert (image == labels).all()


@pytest.mark.parametrize("mode", ["P", None])
def test_a_masks_value_is_its_class_whatever_its_palette(tmp_path: Path, mode: str | None) -> None:
    config = _folder(tmp_path, 3)
    rows = [[0, 1, 2, 255, 255, 0]] * 4
    for index in range(3):
        _write_mask(tmp_path / "masks" / f"{index:02d}.png", rows, mode)
    assert find_files(config, "val").read(0)[1].tolist() == rows  # 255, the ignore_index, is kept


def test_sixteen_bit_labels_are_mapped_and_refused_as_others_are(tmp_path: Path) -> None:
    config = _folder(tmp_path, 2)
    for index in range(2):
        Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(tmp_path / "masks" / f"{index:02d}.png")
    with pytest.raises(UserError, match="label 1000"):
        find_files(config, "val").read(0)
    config.label_map = {1000: 1}
    assert find_files(config, "val").read(0)[1].unique().tolist() == [1]


def test_a_label_map_moves_only_the_labels_it_names(tmp_path: Path) -> None:
    config = _folder(tmp_path, 4, label_map={0: 3, 3: 255})
    source = find_files(config, "train")
    got = {int(Path(source.name(index)).stem): int(source.read(index)[1][0, 0]) for index in range(len(source))}
    assert got == {stem: {0: 3, 3: 255}.get(stem, stem) for stem in got}


@pytest.mark.parametrize("source", [-1, 2**16])
def test_a_label_map_names_only_labels_that_a_mask_can_have(tmp_path: Path, source: int) -> None:
    config = _folder(tmp_path, 2, label_map={source: 1})
    with pytest.raises(UserError, match=rf"dataset\.label_map\.{source}: .* from 0 to 65535"):
        find_files(config, "val").read(0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK", "F"])
def test_a_mask_has_one_channel_of_whole_numbers(tmp_path: Path, mode: str) -> None:
    config = _folder(tmp_path, 2, masks="masks/*.tif*")
    for index in range(2):
        Image.new(mode, (6, 4)).save(tmp_path / "masks" / f"{index:02d}.tif")
    with pytest.raises(UserError, match=rf"\.tif is a {mode} image; .* save it with one channel"):
        find_files(config, "val").read(0)


def test_an_image_may_be_larger_than_what_pillow_takes_for_an_attack(tmp_path: Path) -> None:
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_root_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _folder(tmp_path / "mine", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    config.root = "~/mine"
    assert len(find_files(config, "val")) == 1


def test_a_stem_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    config = _folder(tmp_path, 3)
    _write_image(tmp_path / "images" / "01.jpg")
    with pytest.raises(UserError, match="name 01 twice"):
        find_files(config, "train")


def test_a_glob_outside_the_root_is_refused_in_one_line(tmp_path: Path) -> None:
    config = _folder(tmp_path, 3, images=str(tmp_path / "images" / "*"))
    with pytest.raises(UserError, match=r"dataset\.images=.* is no pattern within dataset\.root"):
        find_files(config, "train")


# Splits


def _listed(root: Path, lines: str, **values: Any) -> DatasetConfig:
    """A folder of five pairs in which a list names the training images."""
    (root / "train.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "train.txt").write_text(lines)
    (root / "val.txt").write_text("04\n")
    settings = {
        "images": "images/{name}.*",
        "masks": "masks/{name}.png",
        "lists": {"train": "train.txt", "val": "val.txt"},
    }
    return _folder(root, 5, **settings | values)


@pytest.mark.parametrize(
    "lines",
    [
        "00\n\n02\n",
        "00.png\n02.jpg\n",
        "images/00.png\n./images/02\n",
        "/images/00.png /masks/00.png\n02  1\n",
        "00\n02\n00",
    ],
)
def test_a_list_names_images_in_any_usual_spelling(tmp_path: Path, lines: str) -> None:
    config = _listed(tmp_path, lines)
    assert (_indices(config, "train"), _indices(config, "val")) == ([0, 2], [4])
    exact = dataclasses.replace(config, images="images/{name}.png")
    assert _indices(exact, "train") == [0, 2]


def test_what_val_names_is_in_no_train_however_it_is_spelt(tmp_path: Path) -> None:
    config = _listed(tmp_path, "00\n04\nimages/04.png\n01\n")
    assert _indices(config, "train") == [0, 1]


def test_names_with_dots_and_folders_stay_apart(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        for name in ("x.1", "x.2"):
            _write_image(tmp_path / "images" / folder / f"{name}.png", value)
            _write_mask(tmp_path / "masks" / folder / f"{name}.png", np.full((4, 6), value))
    settings = {"images": "images/{name}.png", "masks": "masks/{name}.png"}
    config = DatasetConfig(name="mine", classes=["x", "y", "z"], root=str(tmp_path), **settings)
    config.names = {"train": ["a/x.1", "a/x.2", "b/x.1"], "val": ["b/x.2"]}
    source = find_files(config, "train")
    assert [source.key(index) for index in range(3)] == ["a/x.1", "a/x.2", "b/x.1"]
    assert _indices(config, "train") == [1, 1, 2]
    config.images, config.masks = "images/*/{name}.png", "masks/*/{name}.png"
    assert [find_files(config, "val").key(0), len(find_files(config, "train"))] == ["b/x.2", 3]
    config.names["val"] = ["x.2"]
    with pytest.raises(UserError, match=r"dataset\.names\.val names x\.2, which is several files: .*a/x\.2\.png"):
        find_files(config, "val")


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = _listed(tmp_path, "00\n", lists={"train": "none.txt", "val": "val.txt"}, download="get it from me")
    with pytest.raises(UserError, match=r"dataset\.lists\.train: .*none\.txt is not there; get it from me"):
        find_files(config, "train")
    with pytest.raises(UserError, match="no split test; it has train, val"):
        find_files(config, "test")


def test_a_list_may_leave_masks_without_image_alone(tmp_path: Path) -> None:
    config = _listed(tmp_path, "00\n01\n")
    (tmp_path / "images" / "03.png").unlink()
    assert _indices(config, "train") == [0, 1]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    config = _folder(tmp_path, 3)
    for name in ("images/.DS_Store", "images/._01.png", "masks/._01.png"):
        (tmp_path / name).write_text("no picture")
    assert len(find_files(config, "train")) + len(find_files(config, "val")) == 3


@pytest.mark.parametrize(
    ("pattern", "text"), [("{splits}/*", "names {splits}"), ("/a/*", "relative"), ("a/", "relative")]
)
def test_a_pattern_that_can_match_nothing_is_refused(tmp_path: Path, pattern: str, text: str) -> None:
    with pytest.raises(UserError, match=rf"dataset\.images={re.escape(pattern)} .*{text}"):
        find_files(_folder(tmp_path, 2, images=pattern), "val")


def test_a_hundred_thousand_files_are_matched_in_seconds(tmp_path: Path) -> None:
    """The folders hold a tenth of them; the bound is far above what that takes, and far below one glob an image."""
    config = _folder(tmp_path, 2, images="images/{split}/{name}.jpg", masks="masks/{split}/{name}.png")
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / kind / "train").mkdir()
        for index in range(10_000):
            os.mknod(tmp_path / kind / "train" / f"{index:06d}.{suffix}")
    start = time.perf_counter()
    assert len(find_files(config, "train")) == 10_000
    assert time.perf_counter() - start < 2


def test_a_name_with_dots_is_not_cut(tmp_path: Path) -> None:
    for name in ("img", "img.v2"):
        _write_image(tmp_path / "images" / f"{name}.jpg")
        _write_mask(tmp_path / "masks" / f"{name}.png", np.zeros((4, 6)))
    config = _folder(tmp_path, 0, lists={"train": "train.txt"}, images="images/{name}.jpg", masks="masks/{name}.png")
    (tmp_path / "train.txt").write_text("img.v2\nimg.jpg\n")
    assert [sample.key for sample in find_files(config, "train").samples] == ["img", "img.v2"]
    (tmp_path / "train.txt").write_text("img.v3\n")
    with pytest.raises(UserError, match=r"names img\.v3, but no file of that name"):
        find_files(config, "train")


# Odd images


def _pair(root: Path, image: Path, **values: Any) -> FileSource:
    """A split of one picture, whose mask of 4x6 pixels is all 1."""
    if not (root / "mask.png").exists():
        _write_mask(root / "mask.png", np.ones((4, 6)))
    classes = values.pop("classes", ["a", "b"])
    config = DatasetConfig(name="one", classes=classes, root=str(root), images="{name}.none", **values)
    return FileSource(settled(config), "val", [Sample("one", str(image), str(root / "mask.png"))])


RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
COLORS = np.stack([RAMP, 255 - RAMP, np.full_like(RAMP, 60)], axis=2)


def _deep_png(path: Path) -> None:
    """Writes a PNG of 16 bits per channel, which Pillow cannot write."""
    assert cv2.imwrite(str(path), COLORS[:, :, ::-1].astype(np.uint16) * 257)


RED = (200, 40, 60)
ODD: dict[str, tuple[Callable[[Path], object], np.ndarray, int]] = {
    "rgb.png": (lambda path: Image.fromarray(COLORS).save(path), COLORS, 0),
    "grey.png": (lambda path: Image.fromarray(RAMP).save(path), RAMP, 0),
    "grey_alpha.png": (lambda path: Image.fromarray(RAMP).convert("LA").save(path), RAMP, 0),
    "rgba.png": (lambda path: Image.fromarray(np.dstack([COLORS, RAMP])).save(path), COLORS, 0),
    "palette.png": (lambda path: Image.fromarray(COLORS).quantize(24).save(path), COLORS, 0),
    "bits.png": (lambda path: Image.fromarray(RAMP > 100).save(path), (RAMP > 100) * 255, 0),
    "grey16.png": (lambda path: Image.fromarray(RAMP.astype(np.uint16) * 257).save(path), RAMP, 0),
    "grey16.tif": (lambda path: Image.fromarray(RAMP.astype(np.uint16) * 257).save(path), RAMP, 0),
    "rgb16.png": (_deep_png, COLORS, 0),
    "cmyk.tif": (lambda path: Image.fromarray(COLORS).convert("CMYK").save(path), COLORS, 0),
    "cmyk.jpg": (
        lambda path: Image.new("RGB", (6, 4), (200, 40, 60)).convert("CMYK").save(path, quality=95),
        (200, 40, 60),
        3,
    ),
    "grey.jpg": (lambda path: Image.new("L", (6, 4), 90).save(path, quality=95), (90, 90, 90), 1),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_gives_the_right_colours(tmp_path: Path, name: str) -> None:
    write, expected, tolerance = ODD[name]
    write(tmp_path / name)
    image, labels = _pair(tmp_path, tmp_path / name).read(0)
    assert image.dtype == torch.uint8 and image.shape == (3, 4, 6) and labels is not None
    pixels = np.asarray(expected, np.int16)
    wanted = np.broadcast_to(pixels if pixels.ndim != 2 else pixels[..., None], (4, 6, 3))
    assert np.abs(image.permute(1, 2, 0).numpy() - wanted).max() <= tolerance


def test_an_image_of_fractions_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32) / 255).save(tmp_path / "f.tif")
    with pytest.raises(UserError, match=r"f\.tif holds fractions; save it with 8 or 16 bits"):
        _pair(tmp_path, tmp_path / "f.tif").read(0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.kron(RAMP, np.ones((16, 16), np.uint8))).convert("RGB").save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    _write_mask(tmp_path / "mask.png", np.ones(expected.shape[:2]))
    source = _pair(tmp_path, path)
    for image in (source.read(0)[0], source.read_image(0)):
        assert (image.permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize("drawn_on_raw", [True, False])
def test_an_image_and_a_mask_that_was_drawn_on_its_raw_pixels_fit(tmp_path: Path, drawn_on_raw: bool) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(COLORS).save(tmp_path / "image.png", exif=exif)
    _write_mask(tmp_path / "mask.png", np.ones((4, 6) if drawn_on_raw else (6, 4)))
    source = _pair(tmp_path, tmp_path / "image.png")
    image, labels = source.read(0)
    assert labels is not None and image.shape[1:] == labels.shape
    wanted = COLORS if drawn_on_raw else np.rot90(COLORS, -1)
    assert (image.permute(1, 2, 0).numpy() == wanted).all() and torch.equal(source.read_image(0), image)


def test_a_mask_of_neither_size_is_refused(tmp_path: Path) -> None:
    _write_mask(tmp_path / "mask.png", np.ones((5, 5)))
    Image.fromarray(COLORS).save(tmp_path / "image.png")
    with pytest.raises(UserError, match=r"mask\.png is 5x5 pixels, its image .* is 6x4"):
        _pair(tmp_path, tmp_path / "image.png").read(0)


def test_a_png_whose_checksum_is_wrong_is_named_without_a_word_of_the_decoder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(COLORS).save(tmp_path / "image.png")
    content = bytearray((tmp_path / "image.png").read_bytes())
    content[content.index(b"IDAT") + 6] ^= 255
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(UserError, match=r"image\.png cannot be read \("):
        _pair(tmp_path, tmp_path / "image.png").read(0)
    assert capfd.readouterr().err == ""


# Masks in colours


def _colored(root: Path, colors: Any, mode: str = "RGB", **values: Any) -> torch.Tensor:
    Image.fromarray(np.tile(np.array(colors, np.uint8), (4, 1, 1))).convert(mode).save(root / "mask.png")
    Image.fromarray(COLORS).save(root / "image.png")
    labels = _pair(root, root / "image.png", **values).read(0)[1]
    assert labels is not None and (labels == labels[0]).all()
    return labels[0]


SIX = [[0, 0, 0], [9, 9, 9], [0, 0, 0], [0, 0, 9], [9, 9, 9], [0, 0, 9]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_become_classes(tmp_path: Path, mode: str) -> None:
    palette = [[0, 0, 9], [0, 0, 0], [9, 9, 9]]
    assert _colored(tmp_path, SIX, mode, classes=["a", "b", "c"], palette=palette).tolist() == [1, 2, 1, 0, 2, 0]


def test_a_palette_is_one_of_classes_and_mask_colors_are_those_of_labels(tmp_path: Path) -> None:
    palette = [[0, 0, 9], [0, 0, 0], [9, 9, 9]]
    values: dict[str, Any] = {"classes": ["a", "b", "c"], "palette": palette}
    assert _colored(tmp_path, SIX, reduce_zero_label=True, **values).tolist() == [1, 2, 1, 0, 2, 0]
    values |= {"mask_colors": [[9, 9, 9], [0, 0, 0], [0, 0, 9]], "label_map": {0: 255, 2: 0}}
    assert _colored(tmp_path, SIX, **values).tolist() == [1, 255, 1, 0, 255, 0]


def test_a_palette_that_two_classes_share_is_refused_where_masks_are_colours(tmp_path: Path) -> None:
    values: dict[str, Any] = {"classes": ["a", "b", "c"], "palette": [[0, 0, 9], [0, 0, 0], [0, 0, 0]]}
    with pytest.raises(UserError, match=r"gives b and c one colour, \[0, 0, 0\]"):
        _colored(tmp_path, SIX, **values)
    merged = _colored(tmp_path, [SIX[0], SIX[3]] * 3, merge={"bc": ["b", "c"]}, **values)
    assert merged.tolist() == [1, 0] * 3
    Image.fromarray(np.full((4, 6), 2, np.uint8)).save(tmp_path / "mask.png")  # an index tells them apart
    assert _pair(tmp_path, tmp_path / "image.png", **values).read(0)[1].unique().tolist() == [2]


def test_colours_without_a_palette_ask_for_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mask\.png is a RGB image; .* set dataset\.palette"):
        _colored(tmp_path, SIX)


def test_a_foreign_colour_is_named_with_its_place_and_a_remedy(tmp_path: Path) -> None:
    values: dict[str, Any] = {"palette": [[0, 0, 0], [9, 9, 9]]}
    message = r"the colour \[0, 0, 9\] at row 0, column 3, which is no class: the known colours are a \[0, 0, 0\], b"
    with pytest.raises(UserError, match=message + r".*; add it to dataset\.classes .* dataset\.ignore"):
        _colored(tmp_path, SIX, **values)
    ignored = {"classes": ["a", "b", "void"], "palette": [[0, 0, 0], [9, 9, 9], [0, 0, 9]], "ignore": ["void"]}
    assert _colored(tmp_path, SIX, **ignored).tolist() == [0, 1, 0, 255, 1, 255]


def test_a_tolerance_takes_the_nearest_colour(tmp_path: Path) -> None:
    values: dict[str, Any] = {"palette": [[0, 0, 0], [200, 200, 200]], "color_tolerance": 60}
    row = [[0, 0, 0], [50, 3, 0], [160, 190, 255], [200, 200, 200], [60, 60, 60], [199, 1, 1]]
    with pytest.raises(UserError, match=r"colour \[199, 1, 1\] at row 0, column 5"):
        _colored(tmp_path, row, **values)
    assert _colored(tmp_path, [*row[:5], row[0]], **values).tolist() == [0, 0, 1, 1, 0, 0]


def test_a_mask_saved_with_loss_is_recognised(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "mask.png")
    Image.fromarray(COLORS).save(tmp_path / "image.png")
    with pytest.raises(
        UserError, match=r"24 such colours, as a mask that was resized or saved as JPEG: save it as PNG"
    ):
        _pair(tmp_path, tmp_path / "image.png", palette=[[0, 0, 0], [9, 9, 9]]).read(0)


# MATLAB


def test_a_matlab_file_says_what_it_has(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "mask.mat", {"S": np.ones((4, 6)), "names": {"a": 1}})
    Image.fromarray(COLORS).save(tmp_path / "image.png")
    source = _pair(tmp_path, tmp_path / "image.png")
    for key, text in (
        (None, r"say which of its arrays holds the labels: dataset\.mat_key"),
        ("T", r"has no array T, as dataset\.mat_key=T says; it has S, names"),
        ("names.b", "has no b, .* it has a"),
        ("names", "holds no labels in names"),
    ):
        config = dataclasses.replace(source.config, mat_key=key)
        sample = Sample("one", str(tmp_path / "image.png"), str(tmp_path / "mask.mat"))
        with pytest.raises(UserError, match=text):
            FileSource(config, "val", [sample]).read(0)
    config = dataclasses.replace(source.config, mat_key="S")
    labels = FileSource(config, "val", [sample]).read(0)[1]
    assert labels is not None and labels.unique().tolist() == [1]


# Labels


def _described(**values: Any) -> DatasetConfig:
    return DatasetConfig(**{"name": "mine", "classes": ["car", "bus", "road", "sky"]} | values)


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"merge": {"v": ["car", "buss"]}},
        r"dataset\.merge\.v names buss, .*; did you mean bus\?",
    ),
    "ignored": ({"ignore": ["moon"]}, r"dataset\.ignore names moon, which is no class\. dataset\.classes has car, bus"),
    "twice": ({"merge": {"v": ["car"], "w": ["car"]}}, r"car is in dataset\.merge\.v and in dataset\.merge\.w"),
    "both": ({"merge": {"v": ["car"]}, "ignore": ["car"]}, r"car is in dataset\.merge\.v and in dataset\.ignore"),
    "again": ({"ignore": ["car", "car"]}, r"dataset\.ignore names car twice"),
    "name": ({"merge": {"sky": ["car", "bus"]}}, r"dataset\.merge\.sky has the name of a class that is not in it"),
    "empty": ({"merge": {"v": []}}, r"dataset\.merge\.v is empty"),
    "few": ({"merge": {"v": ["car", "bus", "road", "sky"]}}, "leave 1 of 4 classes"),
    "none": ({"ignore": ["car", "bus", "road"]}, "leave 1 of 4 classes"),
    "zero": ({"reduce_zero_label": True, "label_map": {0: 1}}, r"reduce_zero_label=true .* dataset\.label_map names 0"),
    "target": ({"label_map": {7: 4}}, r"dataset\.label_map\.7 is 4; it takes 0\.\.3 or the ignore_index 255"),
    "colour": ({"mask_colors": [[1, 2]]}, r"dataset\.mask_colors has the colour \[1, 2\]"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_labels_are_refused(case: str) -> None:
    values, text = IMPOSSIBLE[case]
    with pytest.raises(UserError, match=text):
        settled(_described(**values))


def test_settling_merges_ignores_and_shifts_at_once() -> None:
    palette = [[1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]]
    config = _described(palette=palette, merge={"vehicle": ["bus", "car"]}, ignore=["road"], reduce_zero_label=True)
    final = settled(config)
    assert final.classes == ["vehicle", "sky"] and final.palette == [palette[0], palette[3]]
    assert final.label_map == {0: 255, 1: 0, 2: 0, 3: 255, 4: 1, 255: 255}
    assert (final.merge, final.ignore, final.reduce_zero_label) == ({}, [], False)
    assert settled(final) == final and file_labels(config) == file_labels(final) == [1, 4]
    assert config.merge and config.classes[0] == "car"  # the description stays as it was


def test_a_class_that_no_label_means_cannot_be_written() -> None:
    with pytest.raises(UserError, match=r"no label in the files means the class 'car'"):
        file_labels(_described(label_map={0: 1}))


def test_labels_from_one_on_are_recognised(tmp_path: Path) -> None:
    config = _folder(tmp_path, 3)
    for index in range(3):
        _write_mask(tmp_path / "masks" / f"{index:02d}.png", [[0, 1, 2, 3, 3, 3]] * 4)
    with pytest.raises(UserError, match=r"label 3, .* dataset\.reduce_zero_label=true; else add the class"):
        find_files(config, "val").read(0)
    config.reduce_zero_label = True
    assert find_files(config, "val").read(0)[1][0].tolist() == [255, 0, 1, 2, 2, 2]


def test_raw_labels_are_those_of_the_file(tmp_path: Path) -> None:
    config = _folder(tmp_path, 2, label_map={7: 1})
    for index in range(2):
        _write_mask(tmp_path / "masks" / f"{index:02d}.png", np.full((4, 6), 7))
    source = find_files(config, "val")
    assert np.unique(source.read_raw(0)).tolist() == [7]
    assert [path.parent.name for path in source.paths(0)] == ["images", "masks"]


# CamVid


@pytest.mark.data
@needs_camvid
def test_camvid_is_whole() -> None:
    train, val = (find_files(_camvid(CAMVID), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    image, labels = val.read(0)
    assert image.shape == (3, 360, 480) and labels.shape == (360, 480)


@pytest.mark.data
@needs_camvid
def test_camvid_holds_its_eleven_classes_and_the_baselines_that_a_model_must_beat() -> None:
    """Always saying one class scores its share of the counted pixels on that class, and 0 on every other one."""
    config = _camvid(CAMVID)
    source = find_files(config, "val")
    labels = torch.stack([source.read(index)[1] for index in range(0, len(source), 10)]).long()
    assert sorted(labels.unique().tolist()) == [*range(11), 255]
    counts = torch.bincount(labels[labels != 255], minlength=11).double()
    baselines = {}
    for name in ("building", "road"):
        index = config.classes.index(name)
        metric = ConfusionMatrix(11, 255)
        metric.update(torch.full_like(labels, index), labels)
        found = scores(metric.compute())
        share = float(counts[index] / counts.sum())
        assert found.means["mIoU"] == pytest.approx(share / 11, abs=1e-9)
        assert found.aacc == pytest.approx(share, abs=1e-9)
        assert found.means["mAcc"] == pytest.approx(1 / 11, abs=1e-9)
        baselines[name] = found.means["mIoU"]
    assert all(0.01 < value < 0.05 for value in baselines.values()), baselines
