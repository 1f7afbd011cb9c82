"""Where samples come from: files in the layouts that users have, generated shapes, CamVid, and the loaders."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from seggrid.config import AugmentConfig, DatasetConfig, ShapesConfig
from seggrid.data.datamodule import SegmentationData
from seggrid.data.files import find_files
from seggrid.data.shapes import DOT, ShapesSource
from seggrid.errors import UserError
from seggrid.metrics import confusion_matrix, scores

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


def test_an_image_too_large_for_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_files(_folder(tmp_path, 2), "val")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(UserError, match=r"images.*\.png cannot be read \(Image size \(24 pixels\) exceeds limit"):
        source.read(0)


def test_a_root_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _folder(tmp_path / "mine", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    config.root = "~/mine"
    assert len(find_files(config, "val")) == 1


def test_a_stem_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    config = _folder(tmp_path, 3)
    _write_image(tmp_path / "images" / "01.jpg")
    with pytest.raises(UserError, match="stem 01 twice"):
        find_files(config, "train")


def test_a_glob_outside_the_root_is_refused_in_one_line(tmp_path: Path) -> None:
    config = _folder(tmp_path, 3, images=str(tmp_path / "images" / "*"))
    with pytest.raises(UserError, match=r"dataset\.images=.* is no glob within dataset\.root"):
        find_files(config, "train")


def test_images_of_several_sizes_need_a_crop_or_a_resize(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name, size in (("a", (4, 6)), ("b", (8, 8))):
            _write_image(tmp_path / split / f"{name}.jpg", size=size)
            _write_mask(tmp_path / split / f"{name}.png", np.zeros(size))
    config = DatasetConfig(
        name="sizes", classes=["x"], root=str(tmp_path), images="{split}/*.jpg", masks="{split}/*.png"
    )
    loaders = _loaders(config, AugmentConfig(), batch_size=2, eval_batch_size=2)
    for split, remedy in (("train", r"augment\.crop or augment\.resize"), ("val", "eval_batch_size=1")):
        with pytest.raises(UserError, match=f"images of one size, but these have 2; set {remedy}"):
            next(iter(loaders[split]))
    images, _ = next(iter(_loaders(config, AugmentConfig(resize=[5, 5]), batch_size=2)["train"]))
    assert images.shape == (2, 3, 5, 5)


# Shapes

SMALL = ShapesConfig(size=[32, 48], train=40, val=10)


DIGEST = """
import hashlib
from seggrid.config import ShapesConfig
from seggrid.data.shapes import ShapesSource
source = ShapesSource(ShapesConfig(size=[32, 48], train=40, val=10), "train", 255)
drawn = b"".join(tensor.numpy().tobytes() for index in range(3) for tensor in source.read(index))
digest = hashlib.sha256(drawn).hexdigest()
"""


def test_shapes_are_the_same_in_another_process() -> None:
    here: dict[str, Any] = {}
    exec(DIGEST, here)
    there = subprocess.run([sys.executable, "-c", DIGEST + "print(digest)"], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here["digest"]


def test_shapes_differ_by_split_index_and_seed() -> None:
    other = ShapesConfig(size=[32, 48], seed=1)
    images = [
        ShapesSource(SMALL, "train", 255).read(0)[0],
        ShapesSource(SMALL, "train", 255).read(1)[0],
        ShapesSource(SMALL, "val", 255).read(0)[0],
        ShapesSource(other, "train", 255).read(0)[0],
    ]
    assert len({image.numpy().tobytes() for image in images}) == 4


def test_shapes_have_the_configured_size_and_number() -> None:
    train, val = ShapesSource(SMALL, "train", 255), ShapesSource(SMALL, "val", 255)
    assert (len(train), len(val)) == (40, 10)
    image, labels = train.read(39)
    assert image.shape == (3, 32, 48) and labels.shape == (32, 48)


def test_shapes_ignore_exactly_the_border_between_labels() -> None:
    source = ShapesSource(SMALL, "train", 255)
    ignored = 0
    for index in range(5):
        labels = source.read(index)[1].int()
        ignored += int((labels == 255).sum())
        right = (labels[:, :-1] != labels[:, 1:]) & (labels[:, :-1] != 255) & (labels[:, 1:] != 255)
        below = (labels[:-1] != labels[1:]) & (labels[:-1] != 255) & (labels[1:] != 255)
        assert not right.any() and not below.any()  # two labels never touch
    assert 0.02 < ignored / (5 * 32 * 48) < 0.25


def test_shapes_keep_their_class_shares() -> None:
    """What a change of the drawing would show, without pinning every bit of it."""
    source = ShapesSource(ShapesConfig(size=[96, 96], train=40), "train", 255)
    labels = torch.cat([source.read(index)[1].flatten() for index in range(40)])
    counts = torch.bincount(labels[labels != 255].long(), minlength=DOT + 1)
    shares = counts / counts.sum()
    assert len(shares) == 6
    assert 0.70 < shares[0] < 0.92  # background
    assert all(0.01 < share < 0.10 for share in shares[1:DOT])
    assert 0.0005 < shares[DOT] < 0.01


# Loaders


def _loaders(
    dataset: DatasetConfig, augment: AugmentConfig, num_workers: int = 0, **sizes: int
) -> dict[str, DataLoader[Any]]:
    data = SegmentationData(dataset, augment, num_workers=num_workers, **sizes)
    data.trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    return {"train": data.train_dataloader(), "val": data.val_dataloader()}


def test_two_workers_give_the_same_batches_as_none() -> None:
    dataset = DatasetConfig(name="shapes", classes=["x"] * 6, shapes=ShapesConfig(size=[16, 24], train=10, val=3))
    augment = AugmentConfig(scale=[0.5, 2.0], crop=[12, 12], flip=0.5, color_jitter=0.5)
    without, within = (_loaders(dataset, augment, number, batch_size=4) for number in (0, 2))
    for split in ("train", "val"):
        for _ in range(2):  # the second round goes through workers that were kept
            pairs = list(zip(without[split], within[split], strict=True))
            assert len(pairs) == {"train": 2, "val": 3}[split]
            for here, there in pairs:
                assert torch.equal(here[0], there[0]) and torch.equal(here[1], there[1])


def test_a_batch_larger_than_the_split_is_refused() -> None:
    dataset = DatasetConfig(name="shapes", classes=["x"] * 6, shapes=ShapesConfig(size=[16, 16], train=3, val=1))
    with pytest.raises(UserError, match=r"batch_size=4 is larger .* 3 images"):
        SegmentationData(dataset, AugmentConfig(), batch_size=4)


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
        metric = confusion_matrix(11, 255)
        metric.update(torch.full_like(labels, index), labels)
        found = scores(metric.compute())
        share = float(counts[index] / counts.sum())
        assert found.means["mIoU"] == pytest.approx(share / 11, abs=1e-9)
        assert found.aacc == pytest.approx(share, abs=1e-9)
        assert found.means["mAcc"] == pytest.approx(1 / 11, abs=1e-9)
        baselines[name] = found.means["mIoU"]
    assert all(0.01 < value < 0.05 for value in baselines.values()), baselines
