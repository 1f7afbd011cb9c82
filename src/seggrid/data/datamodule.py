"""The data of one run: sources, transforms and loaders."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import default_collate

from seggrid.config import AugmentConfig, DatasetConfig
from seggrid.data.augment import EvalTransform, TrainTransform
from seggrid.data.files import find_files
from seggrid.data.samplers import EvalSampler, Key, TrainBatchSampler
from seggrid.data.shapes import ShapesSource
from seggrid.errors import UserError

Sample = tuple[Tensor, Tensor]


class Source(Protocol):
    """Pictures with labels, one by one."""

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def name(self, index: int) -> str:
        """Names a picture in messages."""
        ...

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns the image, uint8 ``(3, H, W)``, and the labels, uint8 ``(H, W)``."""
        ...


def open_source(config: DatasetConfig, split: str) -> Source:
    """Opens one split of a data set; raises UserError where it is not there, or not whole."""
    if config.shapes is not None:
        if split not in config.splits:
            raise UserError(f"dataset={config.name} has no split {split}; it has {', '.join(config.splits)}")
        return ShapesSource(config.shapes, split, config.ignore_index)
    return find_files(config, split)


class SegmentationDataset(Dataset[Sample]):
    """A source with a transform whose randomness depends on (seed, epoch, index) alone.

    Args:
        source: the pictures.
        transform: from what the source reads to what the model sees.
        seed: of the augmentation.
        crop: [height, width] that images must have at least.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        seed: int = 0,
        crop: list[int] | None = None,
    ) -> None:
        self.source, self.transform, self.seed, self.crop = source, transform, seed, crop

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        image, mask = self.source.read(index)
        height, width = image.shape[-2:]
        if self.crop is not None and (height < self.crop[0] or width < self.crop[1]):
            raise UserError(
                f"{self.source.name(index)} is {height}x{width} (height x width), smaller than augment.crop "
                f"{self.crop[0]}x{self.crop[1]}; set a smaller augment.crop, augment.crop=null, or augment.resize"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(((self.seed * 1_000_003 + epoch) * 1_000_003 + index) % 2**63)
            return self.transform(image, mask)


class SegmentationData(pl.LightningDataModule):
    """Loaders for training and evaluation.

    Args:
        dataset: the data set.
        augment: what happens to its images.
        batch_size: training images per process.
        eval_batch_size: evaluation images per process.
        num_workers: loader processes; None takes none where the model itself runs on the CPU.
        seed: of order and augmentation.
        eval_split: the split of evaluation.
        train: whether the training split is needed.

    Raises:
        UserError: a split is not there, not whole, or smaller than a batch.
    """

    def __init__(
        self,
        dataset: DatasetConfig,
        augment: AugmentConfig,
        batch_size: int = 1,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        seed: int = 0,
        eval_split: str = "val",
        train: bool = True,
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self._num_workers, self._augment, self._ignore_index = num_workers, augment, dataset.ignore_index
        self.eval_source = open_source(dataset, eval_split)
        self.eval_dataset = SegmentationDataset(self.eval_source, EvalTransform(augment))
        self.train_dataset: SegmentationDataset | None = None
        if train:
            source = open_source(dataset, "train")
            if batch_size > len(source):
                raise UserError(
                    f"batch_size={batch_size} is larger than the training split, which has {len(source)} images; "
                    f"set batch_size to at most {len(source)}"
                )
            crop = augment.crop if augment.resize is None else None
            self.train_dataset = SegmentationDataset(source, TrainTransform(augment, dataset.ignore_index), seed, crop)

    def normalize_for(self, means: Sequence[float], deviations: Sequence[float]) -> None:
        """Normalises images as a model wants them, as far as the configuration leaves that to the model.

        Args:
            means: of the channels, for values in [0, 1].
            deviations: their standard deviations.
        """
        mean, std = self._augment.mean or list(means), self._augment.std or list(deviations)
        augment = dataclasses.replace(self._augment, mean=mean, std=std)
        self.eval_dataset.transform = EvalTransform(augment)
        if self.train_dataset is not None:
            self.train_dataset.transform = TrainTransform(augment, self._ignore_index)

    def train_dataloader(self) -> Any:
        """Returns the training loader, which goes on where a resumed run stopped."""
        assert self.train_dataset is not None and self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        sampler = TrainBatchSampler(len(self.train_dataset), self.batch_size, self.seed, rank, world_size, done)
        if len(sampler) == 0:
            raise UserError(
                f"batch_size={self.batch_size} on {world_size} devices is more than the training split's "
                f"{len(self.train_dataset)} images; set a smaller batch_size"
            )
        return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=_collate_train, **self._loading())

    def val_dataloader(self) -> Any:
        """Returns the loader of the evaluation split, each image once over all processes."""
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        if len(self.eval_dataset) < world_size:
            raise UserError(
                f"the evaluation split has {len(self.eval_dataset)} images, fewer than the {world_size} devices"
            )
        sampler = EvalSampler(len(self.eval_dataset), rank, world_size)
        return DataLoader(
            self.eval_dataset,
            batch_size=self.eval_batch_size,
            sampler=sampler,
            collate_fn=_collate_eval,
            **self._loading(),
        )

    def _loading(self) -> dict[str, Any]:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device.type
        workers = self._num_workers
        if workers is None:
            workers = 0 if device == "cpu" else min(8, (os.cpu_count() or 1) // max(1, self.trainer.num_devices))
        return {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": device == "cuda"}


def _collate_train(samples: list[Sample]) -> Any:
    return _collate(samples, "set augment.crop or augment.resize, or batch_size=1")


def _collate_eval(samples: list[Sample]) -> Any:
    return _collate(samples, "set eval_batch_size=1")


def _collate(samples: list[Sample], remedy: str) -> Any:
    sizes = {(tuple(image.shape[-2:]), tuple(mask.shape)) for image, mask in samples}
    if len(sizes) > 1:
        raise UserError(f"a batch of {len(samples)} needs images of one size, but these have {len(sizes)}; {remedy}")
    return default_collate(samples)
