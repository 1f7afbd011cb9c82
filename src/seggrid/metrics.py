"""mIoU and its kin from one confusion matrix, equal to MMSegmentation's ``IoUMetric``."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; fractions in [0, 1].

    A class that is neither in the labels nor predicted is NaN, and left out of the means.

    Attributes:
        aacc: share of all pixels that is right.
        iou: per class, tp / (tp + fp + fn).
        acc: per class, tp / (tp + fn).
        dice: per class, 2 tp / (2 tp + fp + fn).
        pixels: per class, labelled pixels.
    """

    aacc: float
    iou: Tensor
    acc: Tensor
    dice: Tensor
    pixels: Tensor

    @property
    def means(self) -> dict[str, float]:
        """The four scores of a record: mIoU, mAcc, aAcc, mDice."""
        return {
            "mIoU": float(self.iou.nanmean()),
            "mAcc": float(self.acc.nanmean()),
            "aAcc": self.aacc,
            "mDice": float(self.dice.nanmean()),
        }

    def per_class(self, classes: list[str]) -> list[dict[str, Any]]:
        """The rows of a record, one per class."""
        return [
            {
                "class": name,
                "iou": float(self.iou[index]),
                "acc": float(self.acc[index]),
                "dice": float(self.dice[index]),
                "pixels": int(self.pixels[index]),
            }
            for index, name in enumerate(classes)
        ]


def confusion_matrix(num_classes: int, ignore_index: int) -> MulticlassConfusionMatrix:
    """Returns the metric that is fed with label maps; it sums over batches and over processes.

    Args:
        num_classes: number of classes.
        ignore_index: the label that does not count.
    """
    return MulticlassConfusionMatrix(num_classes, ignore_index=ignore_index, validate_args=False)


def scores(matrix: Tensor) -> Scores:
    """Derives all scores from a confusion matrix.

    The definitions are those of ``IoUMetric.total_area_to_metrics`` in MMSegmentation 1.2.2.

    Args:
        matrix: ``(C, C)`` counts, rows the labels, columns the predictions.
    """
    counts = matrix.cpu().double()  # in this order: Apple's GPUs have no doubles
    hits, labelled, predicted = counts.diag(), counts.sum(1), counts.sum(0)
    return Scores(
        aacc=float(hits.sum() / counts.sum()),
        iou=hits / (labelled + predicted - hits),
        acc=hits / labelled,
        dice=2 * hits / (labelled + predicted),
        pixels=labelled.to(torch.int64),
    )
