"""The training losses: SMP's where SMP has one, torch's else."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seggrid.checks import ImpossibleCellError, loss_name
from seggrid.config import LossConfig, ProfileConfig, TrainConfig
from seggrid.models.segmenter import Segmenter, SegOutput

AUX_WEIGHT = 0.4  # PSPNet's (Zhao et al. 2017, arXiv:1612.01105), and MMSegmentation's


class SegmentationLoss(nn.Module):
    """The loss of the logits plus the weighted losses of the auxiliary logits.

    Args:
        criterion: a loss of logits ``(B, C, H, W)`` and labels ``(B, H, W)``.
        aux_weight: weight of each auxiliary loss.
    """

    def __init__(self, criterion: nn.Module, aux_weight: float) -> None:
        super().__init__()
        self.criterion = criterion
        self.aux_weight = aux_weight

    def forward(self, output: SegOutput, masks: Tensor) -> Tensor:
        """Returns a scalar."""
        loss: Tensor = self.criterion(_at_least_single(output.logits), masks)
        for logits in output.aux:
            loss = loss + self.aux_weight * self.criterion(_at_least_single(logits), masks)
        return loss


class CrossEntropy(nn.Module):
    """Cross-entropy averaged over the pixels that count; zero, not NaN, where none does.

    Args:
        ignore_index: the label that does not count.
        class_weights: one weight per class.
        label_smoothing: as in ``torch.nn.CrossEntropyLoss``.
    """

    def __init__(self, ignore_index: int, class_weights: list[float] | None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None if class_weights is None else torch.tensor(class_weights))

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Returns a scalar from logits ``(B, C, H, W)`` and labels ``(B, H, W)``."""
        class_weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        total = F.cross_entropy(
            logits,
            masks,
            class_weights,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / _pixel_weights(masks, self.ignore_index, class_weights).sum().clamp_min(1e-6)


class OhemCrossEntropy(nn.Module):
    """Cross-entropy of the hard pixels (Shrivastava et al. 2016, arXiv:1604.03540).

    Args:
        ignore_index: the label that does not count.
        class_weights: one weight per class.
        threshold: a pixel is hard while the probability of its class is below this.
        min_kept_fraction: the hardest pixels of a batch that are kept in any case.
    """

    def __init__(
        self, ignore_index: int, class_weights: list[float] | None, threshold: float, min_kept_fraction: float
    ) -> None:
        super().__init__()
        self.ignore_index, self.threshold, self.min_kept_fraction = ignore_index, threshold, min_kept_fraction
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None if class_weights is None else torch.tensor(class_weights))

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Returns a scalar from logits ``(B, C, H, W)`` and labels ``(B, H, W)``."""
        losses = F.cross_entropy(logits, masks, ignore_index=self.ignore_index, reduction="none")
        kept = max(1, round(self.min_kept_fraction * losses.numel()))
        hardest = losses.detach().flatten().topk(kept).values[-1]
        easy_below = hardest.clamp_max(-math.log(max(self.threshold, 1e-12)))
        class_weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        weights = _pixel_weights(masks, self.ignore_index, class_weights) * (losses.detach() >= easy_below)
        return (losses * weights).sum() / weights.sum().clamp_min(1e-6)


class ZeroWhereNoneCounts(nn.Module):
    """A loss of SMP's that has no scalar, or NaN, for a batch whose pixels are all ignored; in single precision.

    Args:
        criterion: the loss.
        ignore_index: the label that does not count.
    """

    def __init__(self, criterion: nn.Module, ignore_index: int) -> None:
        super().__init__()
        self.criterion, self.ignore_index = criterion, ignore_index

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Returns a scalar from logits ``(B, C, H, W)`` and labels ``(B, H, W)``."""
        if not (masks != self.ignore_index).any():
            return 0.0 * logits.sum()
        loss: Tensor = self.criterion(logits.float(), masks)
        return loss


def loss_for(config: TrainConfig | ProfileConfig, model: Segmenter, ignore_index: int) -> SegmentationLoss | None:
    """Builds the training loss of a cell.

    Args:
        config: the cell and its loss.
        model: the cell's model.
        ignore_index: the label that does not count.

    Returns:
        The loss of the logits; None stands for the library's own, :meth:`Segmenter.native_loss`.

    Raises:
        ImpossibleCellError: the cell has no such loss.
    """
    name = loss_name(config)
    cell = f"backend={config.backend.name} arch={config.arch.name}"
    if name == "native":
        if not model.has_native_loss:
            raise ImpossibleCellError(f"{cell} has no loss of its own; choose another than loss=native")
        return None
    if not model.trains_from_logits:
        raise ImpossibleCellError(
            f"{cell} cannot be trained with loss={name}: its logits alone do not train all of it; leave loss out, or "
            "say loss=native (docs/models.md)"
        )
    return build_loss(dataclasses.replace(config.loss, name=name), ignore_index)


def build_loss(config: LossConfig, ignore_index: int) -> SegmentationLoss:
    """Builds the configured loss.

    Args:
        config: which one, and its settings.
        ignore_index: the label that does not count.
    """
    criterion: nn.Module
    if config.name == "cross_entropy":
        criterion = CrossEntropy(ignore_index, config.class_weights, config.label_smoothing or 0.0)
    elif config.name == "ohem":
        threshold = 0.7 if config.threshold is None else config.threshold
        fraction = 0.1 if config.min_kept_fraction is None else config.min_kept_fraction
        criterion = OhemCrossEntropy(ignore_index, config.class_weights, threshold, fraction)
    else:
        # Imported here: a run with another backend and torch's own loss needs no SMP.
        from segmentation_models_pytorch import losses as smp

        if config.name == "dice":
            criterion = smp.DiceLoss("multiclass", ignore_index=ignore_index)
        elif config.name == "lovasz":
            criterion = ZeroWhereNoneCounts(smp.LovaszLoss("multiclass", ignore_index=ignore_index), ignore_index)
        else:
            gamma = 2.0 if config.gamma is None else config.gamma
            weights = {} if config.class_weights is None else {"class_weights": config.class_weights}
            focal = smp.FocalLoss("multiclass", gamma=gamma, ignore_index=ignore_index, **weights)
            criterion = ZeroWhereNoneCounts(focal, ignore_index)
    return SegmentationLoss(criterion, AUX_WEIGHT if config.aux_weight is None else config.aux_weight)


def _at_least_single(logits: Tensor) -> Tensor:
    """A sum over a batch's pixels does not fit into half precision."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _pixel_weights(masks: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    counts = masks != ignore_index
    if class_weights is None:
        return counts.float()
    return class_weights[torch.where(counts, masks, 0)] * counts
