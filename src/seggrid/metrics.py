"""mIoU and its kin from one confusion matrix, equal to MMSegmentation's ``IoUMetric``."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

PIXELS = 2**18  # counted at once: what is made on the way stays in a processor's cache


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


class ConfusionMatrix(Metric):
    """Counts pixels by label and prediction, over batches and over processes.

    Args:
        num_classes: number of classes, C.
        ignore_index: the label that does not count.

    Attributes:
        matrix: ``(C, C)``, int64, rows the labels, columns the predictions; :meth:`compute` returns it.
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self._num_classes, self._ignore_index = num_classes, ignore_index
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds label maps; see :func:`count`."""
        self.matrix += count(predictions, labels, self._num_classes, self._ignore_index)

    def compute(self) -> Tensor:
        """Returns the counts of all processes."""
        return self.matrix


def count(predictions: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Counts pixels by label and prediction.

    One histogram over pairs; ignored pixels are a row of their own, which is dropped. A label that is ``ignore_index``
    does not count even where that is the index of a class.

    Args:
        predictions: class indices, of any shape and any integer type.
        labels: the same shape, any integer type: class indices and ``ignore_index``.
        num_classes: number of classes, C.
        ignore_index: the label that does not count.

    Returns:
        ``(C, C)``, int64, rows the labels, columns the predictions.

    Raises:
        ValueError: a label is neither a class nor ``ignore_index``, or a prediction is no class, or the shapes differ.
            Such pixels are not left out: a score of what remains would look as good as any other.
    """
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions are {tuple(predictions.shape)}, labels {tuple(labels.shape)}")
    total = torch.zeros(num_classes + 1, num_classes, dtype=torch.int64, device=labels.device)
    if not labels.numel():
        return total[1:]
    parts = (torch.split(item.flatten(), PIXELS) for item in (predictions, labels))
    for predicted, labelled in zip(*parts, strict=True):
        low, high = (int(value) for value in predicted.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(f"a prediction is {min(low, 0) or high}, which is none of {num_classes} classes")
        rows = torch.where(labelled == ignore_index, -1, labelled.to(torch.int32)).add_(1)
        pairs = torch.bincount(rows.clamp_(min=0).mul_(num_classes).add_(predicted), minlength=total.numel())
        bad = len(pairs) > total.numel() or (labelled.dtype.is_signed and int(labelled.min()) < 0)
        if bad and len(wrong := labelled[(labelled != ignore_index) & ((labelled < 0) | (labelled >= num_classes))]):
            raise ValueError(f"a label is {int(wrong[0])}, neither one of {num_classes} classes nor {ignore_index}")
        total += pairs.view_as(total)
    return total[1:]


def areas(matrix: Tensor) -> Tensor:
    """Takes per-class hits, labelled pixels and predicted pixels, ``(3, C)``, out of a confusion matrix."""
    return torch.stack((matrix.diag(), matrix.sum(1), matrix.sum(0)))


def ratios(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns IoU, accuracy and Dice per class.

    The definitions are those of ``IoUMetric.total_area_to_metrics`` in MMSegmentation 1.2.2.

    Args:
        counts: ``(..., 3, C)``: hits, labelled pixels, predicted pixels; see :func:`areas`.

    Returns:
        Three of ``(..., C)``, double; NaN where there is nothing to divide by.
    """
    hits, labelled, predicted = counts.double().unbind(-2)
    return hits / (labelled + predicted - hits), hits / labelled, 2 * hits / (labelled + predicted)


def scores(matrix: Tensor) -> Scores:
    """Derives all scores from a confusion matrix.

    Args:
        matrix: ``(C, C)`` counts, rows the labels, columns the predictions.
    """
    counts = areas(matrix.cpu())  # on the CPU: Apple's GPUs have no doubles
    iou, acc, dice = ratios(counts)
    hits, labelled, _ = counts.double().sum(1)
    return Scores(float(hits / labelled), iou, acc, dice, counts[1].to(torch.int64))
