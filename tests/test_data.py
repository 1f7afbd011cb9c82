"""The generated shapes, and the loaders that make batches of any source."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader

from seggrid.config import AugmentConfig, DatasetConfig, ShapesConfig
from seggrid.data.augment import TrainTransform
from seggrid.data.datamodule import SegmentationData, SegmentationDataset
from seggrid.data.files import FileSource, find_files
from seggrid.data.shapes import DOT, ShapesSource
from seggrid.errors import UserError

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


def _save(path: Path, shape: tuple[int, ...]) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)


def test_images_of_several_sizes_need_a_crop_or_a_resize(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name, size in (("a", (4, 6)), ("b", (8, 8))):
            _save(tmp_path / split / f"{name}.jpg", (*size, 3))
            _save(tmp_path / split / f"{name}.png", size)
    config = DatasetConfig(
        name="sizes", classes=["x"], root=str(tmp_path), images="{split}/*.jpg", masks="{split}/*.png"
    )
    loaders = _loaders(config, AugmentConfig(), batch_size=2, eval_batch_size=2)
    for split, remedy in (("train", r"augment\.crop or augment\.resize"), ("val", "eval_batch_size=1")):
        with pytest.raises(UserError, match=f"images of one size, but these have 2; set {remedy}"):
            next(iter(loaders[split]))
    images, _ = next(iter(_loaders(config, AugmentConfig(resize=[5, 5]), batch_size=2)["train"]))
    assert images.shape == (2, 3, 5, 5)


def test_two_workers_give_the_same_batches_as_none() -> None:
    dataset = DatasetConfig(name="shapes", classes=["x"] * 6, shapes=ShapesConfig(size=[16, 24], train=10, val=3))
    augment = AugmentConfig(scale=[0.5, 2.0], crop=[12, 12], flip=0.5, photometric=True)
    without, within = (_loaders(dataset, augment, number, batch_size=4) for number in (0, 2))
    for split in ("train", "val"):
        for _ in range(2):  # the second round goes through workers that were kept
            pairs = list(zip(without[split], within[split], strict=True))
            assert len(pairs) == {"train": 2, "val": 3}[split]
            for here, there in pairs:
                assert torch.equal(here[0], there[0]) and torch.equal(here[1], there[1])


class Watching(pl.LightningModule):
    """Keeps the images that its steps get."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 1, 1)
        self.images: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.images.append(batch[0].detach().clone())
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, masks, indices = batch
        assert masks.dtype == torch.uint8 and indices.tolist() == [batch_idx]
        self.images.append(images.clone())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.float32),
        ("16-true", torch.float16),
        ("bf16-true", torch.bfloat16),
        ("64-true", torch.float64),
    ],
)
def test_images_reach_the_model_normalised_and_in_its_precision(precision: Any, dtype: torch.dtype) -> None:
    dataset = DatasetConfig(name="shapes", classes=["x"] * 6, shapes=ShapesConfig(size=[16, 24], train=1, val=1))
    data = SegmentationData(dataset, AugmentConfig(mean=[0.1, 0.2, 0.3]), num_workers=0)
    data.normalize_for([0.7, 0.7, 0.7], [0.5, 0.25, 2.0])  # the mean is the configuration's already
    module = Watching()
    trainer = pl.Trainer(
        accelerator="cpu", precision=precision, max_epochs=1, logger=False, enable_checkpointing=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    assert len(module.images) == 2
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.1, 0.2, 0.3], [0.5, 0.25, 2.0]))
    for images, split in zip(module.images, ("train", "val"), strict=True):
        assert images.dtype == next(module.parameters()).dtype == dtype
        expected = (ShapesSource(dataset.shapes or SMALL, split, 255).read(0)[0] / 255 - mean) / std
        tolerance = 0.03 if dtype == torch.bfloat16 else 2e-3 if dtype == torch.float16 else 1e-6
        torch.testing.assert_close(images[0].float(), expected, rtol=tolerance, atol=tolerance)


def test_normalisation_takes_the_models_values_unless_the_configuration_has_some() -> None:
    dataset = DatasetConfig(name="shapes", classes=["x"] * 6, shapes=ShapesConfig(size=[8, 8], train=1, val=1))
    images = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    data = SegmentationData(dataset, AugmentConfig(crop=[12, 12], std=[0.1, 0.1, 0.1]))
    torch.testing.assert_close(data.normalize(images)[0, :, 0, 0], torch.tensor([-2.85, -2.56, -2.06]))
    data.normalize_for([0.2, 0.1, 0.0], [1.0, 1.0, 1.0])
    torch.testing.assert_close(data.normalize(images)[0, :, 0, 0], torch.tensor([0.0, 1.0, 2.0]))
    assert data.train_dataset is not None
    image, mask = data.train_dataset[(0, 0)]
    padding = data.normalize(image[None, :, mask == 255][..., None])
    assert (mask[8:] == 255).all() and image[:, -1, -1].tolist() == [51, 26, 0]  # the model's mean colour
    assert padding.shape[1] == 3


class Whole:
    """A source of files that always decodes all of them."""

    labelled = True

    def __init__(self, source: FileSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def key(self, index: int) -> str:
        return self._source.key(index)

    def name(self, index: int) -> str:
        return self._source.name(index)

    def read(self, index: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._source.read(index)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_crop_of_files_decoded_to_its_last_row_is_that_of_whole_files(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    for index in range(3):
        for kind, shape in (("images", (40, 32, 3)), ("masks", (40, 32))):
            path = tmp_path / kind / (f"{index}.png" if kind == "masks" else f"{index}.{suffix}")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(random.integers(0, 3 if kind == "masks" else 256, shape, np.uint8)).save(path)
    config = DatasetConfig(
        name="own", classes=["a", "b", "c"], root=str(tmp_path), images="images/*", masks="masks/*", val_fraction=0.3
    )
    source = find_files(config, "train")
    transform = TrainTransform(AugmentConfig(scale=[0.8, 2.0], crop=[12, 14], flip=0.5, photometric=True), 255)
    whole, top = SegmentationDataset(Whole(source), transform), SegmentationDataset(source, transform)
    rows: list[int] = []
    for epoch in range(12):
        for index in range(len(source)):
            for expected, found in zip(whole[(epoch, index)], top[(epoch, index)], strict=True):
                assert torch.equal(expected, found)
            rows.append(source.read_top(index, lambda labels: 10)[0].shape[1])
    assert set(rows) == ({10} if suffix == "png" else {40})  # a JPEG is decoded whole


def test_a_batch_larger_than_the_split_is_refused() -> None:
    dataset = DatasetConfig(name="shapes", classes=["x"] * 6, shapes=ShapesConfig(size=[16, 16], train=3, val=1))
    with pytest.raises(UserError, match=r"batch_size=4 is larger .* 3 images"):
        SegmentationData(dataset, AugmentConfig(), batch_size=4)
