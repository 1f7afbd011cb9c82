"""What is measured image by image while a split is evaluated, and written as it comes."""

from typing import Any

import pytorch_lightning as pl

from seggrid.boundary import BoundaryCounts
from seggrid.data.datamodule import SegmentationData
from seggrid.image_scores import ImageCounts
from seggrid.metrics import count
from seggrid.module import EvalBatch
from seggrid.prediction import LabelWriter


class ImageScoring(pl.Callback):
    """Counts hits by image, for intervals and for the worst images, and along the classes' boundaries.

    Args:
        num_classes: number of classes.
        ignore_index: the label that counts nowhere.
        boundary: count along boundaries, too.

    Attributes:
        images: the counts of each image.
        boundary: those of all images along boundaries; None where they are not counted.
    """

    def __init__(self, num_classes: int, ignore_index: int, boundary: bool) -> None:
        self._num_classes, self._ignore_index = num_classes, ignore_index
        self.images = ImageCounts(num_classes)
        self.boundary = BoundaryCounts(num_classes, ignore_index) if boundary else None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the counts on the device, on which processes exchange them."""
        self.images.to(pl_module.device)
        if self.boundary is not None:
            self.boundary.to(pl_module.device)

    def on_validation_batch_end(  # noqa: D102  # Lightning's
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: EvalBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        _, masks, indices = batch
        for index, prediction, labels in zip(indices.tolist(), outputs, masks, strict=True):
            self.images.update(index, count(prediction, labels, self._num_classes, self._ignore_index))
        if self.boundary is not None:
            self.boundary.update(outputs, masks)


class Saving(pl.Callback):
    """Writes each prediction of an evaluation to a file.

    Args:
        writer: where it goes.
    """

    def __init__(self, writer: LabelWriter) -> None:
        self._writer = writer

    def on_validation_batch_end(  # noqa: D102  # Lightning's
        self,
        trainer: Any,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: EvalBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        data: SegmentationData = trainer.datamodule
        for index, prediction in zip(batch[2].tolist(), outputs.cpu(), strict=True):
            self._writer.write(data.eval_source.key(index), prediction)
