"""The data of one run: sources, transforms and loaders."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import default_collate

from seggrid.config import AugmentConfig, DatasetConfig
from seggrid.data.augment import Crop, EvalTransform, TrainTransform
from seggrid.data.cache import with_cache
from seggrid.data.files import find_files
from seggrid.data.normalization import Normalization
from seggrid.data.samplers import EvalSampler, Key, TrainBatchSampler
from seggrid.data.shapes import ShapesSource
from seggrid.errors import UserError

Sample = tuple[Tensor, Tensor]


class Source(Protocol):
    """Pictures with labels, one by one."""

    @property
    def labelled(self) -> bool:
        """Whether there are labels; without, :meth:`read` gives None for them."""
        ...

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def key(self, index: int) -> str:
        """Names a picture in the split: a relative path without suffix, under which its prediction can be saved."""
        ...

    def name(self, index: int) -> str:
        """Names a picture in messages."""
        ...

    def read(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Returns the image, uint8 ``(3, H, W)``, not always contiguous, and the labels, uint8 ``(H, W)``."""
        ...


@runtime_checkable
class FromTheTop(Protocol):
    """A source that need not decode an image to its end: rows below a crop are a quarter of the recipe's decoding."""

    def read_top(self, index: int, rows: Callable[[Tensor], int]) -> Sample:
        """Reads the labels, and then of the image at least the first ``rows(labels)`` rows.

        Args:
            index: which one.
            rows: is given the labels, uint8 ``(H, W)``.

        Returns:
            The image, uint8 ``(3, h, W)`` with h from ``rows(labels)`` to H, and the labels.
        """
        ...


def open_source(config: DatasetConfig, split: str, need_labels: bool = True) -> Source:
    """Opens one split of a data set.

    Args:
        config: the data set.
        split: which.
        need_labels: whether a split that has no labels at all is refused.

    Raises:
        UserError: the split is not there, or not whole.
    """
    if config.shapes is not None:
        if split not in config.splits:
            raise UserError(f"dataset={config.name} has no split {split}; it has {', '.join(config.splits)}")
        return ShapesSource(config.shapes, split, config.ignore_index)
    return find_files(config, split, need_labels)


class SegmentationDataset(Dataset[Sample]):
    """A labelled source with a transform whose randomness depends on (seed, epoch, index) alone.

    Args:
        source: the pictures.
        transform: from what the source reads to what the model is trained on.
        seed: of the augmentation.
    """

    def __init__(self, source: Source, transform: TrainTransform, seed: int = 0) -> None:
        self.source, self.transform, self.seed = source, transform, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        seed = ((self.seed * 1_000_003 + epoch) * 1_000_003 + index) % 2**63
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.source, FromTheTop):
            crops: list[Crop] = []

            def bottom(labels: Tensor) -> int:
                crops.append(self.transform.draw(labels, generator))
                return crops[0].region.bottom

            image, labels = self.source.read_top(index, bottom)
            return self.transform.apply(image, labels, crops[0], generator)
        image, mask = self.source.read(index)
        assert mask is not None
        return self.transform(image, mask, generator)


class EvaluationDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """A source as it is evaluated: the image, the labels at their own size, and which picture it is.

    Args:
        source: the pictures; where it has no labels, every pixel's is ``ignore_index``.
        transform: from what the source reads to what the model sees.
        ignore_index: the label that counts nowhere.
    """

    def __init__(self, source: Source, transform: EvalTransform, ignore_index: int) -> None:
        self.source, self.transform, self._ignore_index = source, transform, ignore_index

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        _, index = key
        image, mask = self.source.read(index)
        if mask is None:
            mask = torch.full(image.shape[-2:], self._ignore_index, dtype=torch.uint8)
        return *self.transform(image, mask), index


class SegmentationData(pl.LightningDataModule):
    """Loaders for training and evaluation.

    Images leave the loaders in 8 bits and are normalised where the model is.

    Args:
        dataset: the data set.
        augment: what happens to its images.
        batch_size: training images per process.
        eval_batch_size: evaluation images per process.
        num_workers: loader processes; None takes none where the model itself runs on the CPU.
        seed: of order and augmentation.
        eval_split: the split of evaluation.
        train: whether the training split is needed.
        need_labels: whether an evaluation split without labels is refused.

    Attributes:
        normalize: from images in 8 bits to what the model wants.
        first_epoch: the epoch that a resumed run goes on with: Lightning asks for batches before it knows.
        first_batch: the batches of it that were trained before, per process.
        train_source: the training split as it lies in its files, without a cache; None where it is not needed.

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
        need_labels: bool = True,
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self._num_workers, self._augment, self._ignore_index = num_workers, augment, dataset.ignore_index
        sources = [open_source(dataset, eval_split, need_labels)]
        if train:
            sources.append(open_source(dataset, "train"))
            if batch_size > len(sources[1]):
                raise UserError(
                    f"batch_size={batch_size} is larger than the training split, which has {len(sources[1])} images; "
                    f"set batch_size to at most {len(sources[1])}"
                )
        self.train_source = sources[1] if train else None
        self.first_epoch, self.first_batch = 0, 0
        sources = with_cache(dataset, sources)
        self.eval_source = sources[0]
        self.eval_dataset = EvaluationDataset(sources[0], EvalTransform(augment), dataset.ignore_index)
        self.train_dataset: SegmentationDataset | None = None
        if train:
            self.train_dataset = SegmentationDataset(sources[1], TrainTransform(augment, dataset.ignore_index), seed)
        self.normalize = Normalization(augment)

    def normalize_for(self, means: Sequence[float], deviations: Sequence[float]) -> None:
        """Normalises images as a model wants them, as far as the configuration leaves that to the model.

        Args:
            means: of the channels, for values in [0, 1].
            deviations: their standard deviations.
        """
        self.normalize = Normalization(self._augment, means, deviations)
        if self.train_dataset is not None:  # padding has the mean colour
            augment = dataclasses.replace(self._augment, mean=self.normalize.mean)
            self.train_dataset.transform = TrainTransform(augment, self._ignore_index)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalises the images of a batch that has reached the device, in the precision of ``trainer.precision``."""
        assert self.trainer is not None
        images, *others = batch
        return [self.trainer.precision_plugin.convert_input(self.normalize(images)), *others]

    def train_dataloader(self) -> Any:
        """Returns the training loader, which goes on where a resumed run stopped."""
        assert self.train_dataset is not None and self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        start = self.first_batch
        sampler = TrainBatchSampler(len(self.train_dataset), self.batch_size, self.seed, rank, world_size, start)
        sampler.set_epoch(self.first_epoch)
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


def _collate_train(samples: list[Any]) -> Any:
    return _collate(samples, "set augment.crop or augment.resize, or batch_size=1")


def _collate_eval(samples: list[Any]) -> Any:
    return _collate(samples, "set eval_batch_size=1")


def _collate(samples: list[Any], remedy: str) -> Any:
    sizes = {(tuple(image.shape[-2:]), tuple(mask.shape)) for image, mask, *_ in samples}
    if len(sizes) > 1:
        raise UserError(f"a batch of {len(samples)} needs images of one size, but these have {len(sizes)}; {remedy}")
    return default_collate(samples)
