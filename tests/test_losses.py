"""The losses: what they equal, what they leave out, and that they can be minimised."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seggrid.checks import LOSSES
from seggrid.config import LossConfig
from seggrid.losses import SegmentationLoss, build_loss
from seggrid.models.segmenter import SegOutput

IGNORE = 255


def _loss(name: str, **settings: Any) -> SegmentationLoss:
    return build_loss(LossConfig(name=name, **settings), IGNORE)


def _batch(seed: int = 0, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=generator)
    masks = torch.randint(0, classes, (2, 6, 7), generator=generator)
    masks[:, :2, :3] = IGNORE
    return logits, masks


def _value(loss: SegmentationLoss, logits: Tensor, masks: Tensor, *aux: Tensor) -> float:
    return float(loss(SegOutput(logits, aux), masks).detach())


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 0.0]])
@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_cross_entropy_is_torchs(weights: list[float] | None, smoothing: float | None) -> None:
    logits, masks = _batch()
    expected = functional.cross_entropy(
        logits,
        masks,
        None if weights is None else torch.tensor(weights),
        ignore_index=IGNORE,
        label_smoothing=smoothing or 0.0,
    )
    loss = _loss("cross_entropy", class_weights=weights, label_smoothing=smoothing)
    assert _value(loss, logits, masks) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_counted_pixel_costs_nothing(name: str) -> None:
    logits, masks = _batch()
    logits.requires_grad_()
    value = _loss(name)(SegOutput(logits, (logits,)), torch.full_like(masks, IGNORE))
    value.backward()
    assert value.shape == () and value.item() == 0
    assert logits.grad is not None and (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_gradient(name: str) -> None:
    logits, masks = _batch()
    logits.requires_grad_()
    _loss(name)(SegOutput(logits, ()), masks).backward()
    size = logits.grad.abs().sum(1)
    assert (size[masks == IGNORE] == 0).all()
    assert (size[masks != IGNORE] > 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_auxiliary_logits_add_their_weight(name: str) -> None:
    (logits, masks), (aux, _) = _batch(), _batch(1)
    one, two = _value(_loss(name), logits, masks), _value(_loss(name), aux, masks)
    assert _value(_loss(name), logits, masks, aux) == pytest.approx(one + 0.4 * two, rel=1e-5)
    assert _value(_loss(name, aux_weight=0.1), logits, masks, aux, aux) == pytest.approx(one + 0.2 * two, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_can_be_minimised(name: str) -> None:
    logits, masks = _batch()
    logits.requires_grad_()
    loss, optimizer = _loss(name), torch.optim.Adam([logits], lr=0.2)
    counted = masks != IGNORE
    first = _value(loss, logits, masks)
    for _ in range(60):
        optimizer.zero_grad()
        loss(SegOutput(logits, ()), masks).backward()
        optimizer.step()
    assert _value(loss, logits, masks) < 0.3 * first
    assert (logits.argmax(1) == masks)[counted].float().mean() > 0.95


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double_logits_give_the_value_of_single_ones(name: str, dtype: torch.dtype) -> None:
    """The sum over a batch of this size is more than a half-precision number can be."""
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 300, 300).to(torch.bfloat16).to(torch.float16)  # the same in every type
    masks = torch.randint(0, 3, (1, 300, 300))
    weights = [1.0, 2.0, 0.5] if name in ("cross_entropy", "focal", "ohem") else None
    loss = _loss(name, class_weights=weights)
    expected = _value(loss, logits.float(), masks)
    assert _value(loss.to(dtype), logits.to(dtype), masks) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["cross_entropy", "ohem"])
def test_class_weights_move_the_loss_towards_the_heavy_class(name: str) -> None:
    logits, masks = _batch()
    logits[:, 0] -= 3  # class 0 is what this model gets wrong
    values = [_value(_loss(name, class_weights=weights), logits, masks) for weights in (None, [1.0] * 4, [9, 1, 1, 1])]
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert values[2] > 1.2 * values[0]


def test_focal_is_a_weighted_mean_of_one_against_all_losses_which_gamma_lowers() -> None:
    logits, masks = _batch()
    counted = masks != IGNORE
    targets = functional.one_hot(masks.where(counted, torch.tensor(0)), 4).movedim(-1, 1).float()
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").movedim(1, -1)
    by_class = each[counted].mean(0)
    assert _value(_loss("focal", gamma=0.0), logits, masks) == pytest.approx(float(by_class.mean()), rel=1e-5)
    weighted = float(by_class @ torch.tensor([9.0, 1.0, 1.0, 1.0])) / 12
    loss = _loss("focal", gamma=0.0, class_weights=[9.0, 1.0, 1.0, 1.0])
    assert _value(loss, logits, masks) == pytest.approx(weighted, rel=1e-5)
    assert weighted != pytest.approx(float(by_class.mean()), rel=0.01)
    assert _value(_loss("focal"), logits, masks) == _value(_loss("focal", gamma=2.0), logits, masks)
    assert _value(_loss("focal"), logits, masks) < float(each[counted].mean())


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 3.0]])
def test_ohem_is_the_plain_definition(threshold: float, fraction: float, weights: list[float] | None) -> None:
    logits, masks = _batch()
    probabilities = logits.double().softmax(1).numpy()
    total = kept = 0.0
    losses = []
    for image, row, column in np.ndindex(*masks.shape):
        label = int(masks[image, row, column])
        if label == IGNORE:
            continue
        probability = float(probabilities[image, label, row, column])
        losses.append((-np.log(probability), probability < threshold, 1.0 if weights is None else weights[label]))
    losses.sort(reverse=True)
    in_any_case = max(1, round(fraction * masks.numel()))
    for rank, (value, hard, weight) in enumerate(losses):
        if hard or rank < in_any_case:
            total, kept = total + weight * value, kept + weight
    loss = _loss("ohem", threshold=threshold, min_kept_fraction=fraction, class_weights=weights)
    assert _value(loss, logits, masks) == pytest.approx(total / kept, rel=1e-5)
