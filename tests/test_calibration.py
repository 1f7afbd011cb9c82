"""The expected calibration error against its definition, bin by bin."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seggrid.calibration import BINS, Calibration, confidence_of

IGNORE = 255


def _pixels(number: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(number, generator=generator) ** 0.5
    right = torch.rand(number, generator=generator) < confidence**2  # an overconfident model
    labels = torch.randint(3, (number,), generator=generator)
    predictions = torch.where(right, labels, (labels + 1) % 3)
    labels[::17] = IGNORE
    return confidence, predictions, labels


def _defined(confidence: np.ndarray, right: np.ndarray) -> tuple[float, list[dict[str, Any]]]:
    """Guo et al. 2017, equations 2 to 5: bins are ((m - 1) / M, m / M]."""
    error, bins = 0.0, []
    for index in range(BINS):
        inside = (confidence > index / BINS) & (confidence <= (index + 1) / BINS)
        mean, accuracy = confidence[inside].mean(), right[inside].mean()
        bins.append({"count": int(inside.sum()), "confidence": mean, "accuracy": accuracy})
        error += inside.sum() / len(confidence) * abs(accuracy - mean)
    return error, bins


def test_the_error_and_the_bins_are_those_of_the_definition() -> None:
    metric = Calibration(IGNORE)
    parts = [_pixels(20_000, seed) for seed in range(3)]
    for confidence, predictions, labels in parts:
        metric.update(confidence.view(100, 200), predictions.view(100, 200).to(torch.uint8), labels.view(100, 200))
    confidence, predictions, labels = (torch.cat(items).numpy() for items in zip(*parts, strict=True))
    counted = labels != IGNORE
    expected, bins = _defined(confidence[counted].astype(float), (predictions == labels)[counted])
    error, found = metric.compute()
    assert expected > 0.1
    assert error == pytest.approx(expected, abs=1e-5)
    assert sum(item["count"] for item in found) == counted.sum()
    for ours, theirs in zip(found, bins, strict=True):
        assert abs(ours["count"] - theirs["count"]) <= 3  # a value within 1e-5 of a border may fall on its other side
        assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=1e-4)
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=5e-3)


def test_a_border_belongs_to_the_bin_below() -> None:
    metric = Calibration(IGNORE)
    borders = torch.arange(1, BINS + 1).double() / BINS
    nothing = torch.zeros(BINS, dtype=torch.uint8)
    metric.update(borders.float(), nothing, nothing)
    assert [item["count"] for item in metric.compute()[1]] == [1] * BINS
    metric.update(torch.tensor([0.0, 1.0]), nothing[:2], nothing[:2])
    assert [item["count"] for item in metric.compute()[1]] == [2, *[1] * (BINS - 2), 2]


def test_a_model_that_is_as_right_as_it_says_has_no_error() -> None:
    metric = Calibration(IGNORE)
    labels = torch.zeros(1000, dtype=torch.int64)
    predictions = (torch.arange(1000) >= 800).long()
    metric.update(torch.full((1000,), 0.8), predictions, labels)
    assert metric.compute()[0] == pytest.approx(0, abs=1e-5)
    metric.reset()
    metric.update(torch.full((1000,), 1.0), predictions, labels)
    assert metric.compute()[0] == pytest.approx(0.2, abs=1e-9)


def test_the_order_of_batches_changes_nothing() -> None:
    results = []
    for order in ((0, 1, 2), (2, 0, 1)):
        metric = Calibration(IGNORE)
        for seed in order:
            metric.update(*_pixels(5000, seed))
        results.append(metric.compute())
    assert results[0] == results[1]


def test_without_pixels_there_is_no_error() -> None:
    metric = Calibration(IGNORE)
    metric.update(torch.rand(4), torch.zeros(4), torch.full((4,), IGNORE))
    error, bins = metric.compute()
    assert math.isnan(error)
    assert all(item["count"] == 0 and math.isnan(item["accuracy"]) for item in bins)


def test_confidence_is_the_largest_probability() -> None:
    logits = 30 * torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(1)
    torch.testing.assert_close(confidence_of(logits, True), probabilities.amax(1))
    assert torch.equal(confidence_of(probabilities, False), probabilities.amax(1))
