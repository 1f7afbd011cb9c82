"""Boundary IoU against its authors' definition, one class at a time."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seggrid.boundary import BoundaryCounts, boundary_counts
from seggrid.metrics import ratios

CLASSES, IGNORE = 7, 255


def _maps(height: int, width: int, seed: int = 0, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Blobs of several sizes and a noisy prediction of them; one class is nowhere in the labels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, classes - 1, 6, 8, generator=generator)
    fine = functional.interpolate(noise, size=(height, width), mode="bicubic")
    labels = fine.argmax(1)[0]
    wrong = fine + 0.2 * functional.interpolate(
        torch.rand(1, classes - 1, 20, 20, generator=generator), (height, width)
    )
    predictions = wrong.argmax(1)[0]
    predictions[3:9, 4:20] = classes - 1
    labels[height // 2 : height // 2 + 9, : width // 2] = IGNORE
    labels[:5, -6:] = IGNORE
    return predictions, labels


def _authors(mask: np.ndarray, ratio: float) -> np.ndarray:
    """``mask_to_boundary`` of boundary_iou/utils/boundary_utils.py in bowenc0221/boundary-iou-api, as it defines it.

    A frame of zeros around the mask, d erosions by 3x3, and what they take away.
    """
    distance = max(1, round(ratio * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    framed = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask & (inner == 0)


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.07])
@pytest.mark.parametrize("size", [(60, 80), (97, 41), (20, 200), (33, 33)], ids=str)
def test_counts_are_those_of_the_authors_definition(size: tuple[int, int], ratio: float) -> None:
    predictions, labels = _maps(*size)
    found = boundary_counts(predictions, labels, CLASSES, IGNORE, ratio)
    counted = labels.numpy() != IGNORE
    for name in range(CLASSES):
        near_label = _authors((labels.numpy() == name) & counted, ratio)
        near_prediction = _authors((predictions.numpy() == name) & counted, ratio)
        expected = [(near_label & near_prediction).sum(), near_label.sum(), near_prediction.sum()]
        assert found[:, name].tolist() == expected
    assert found[1, :-1].min() > 0


def test_a_square_by_hand() -> None:
    labels = torch.zeros(50, 50, dtype=torch.uint8)
    labels[10:30, 10:30] = 1
    predictions = torch.zeros(50, 50, dtype=torch.int64)
    predictions[10:30, 11:31] = 1  # one to the right; d is 1, as 0.02 * 70.7 is 1.41
    hits, labelled, predicted = boundary_counts(predictions, labels, 2, IGNORE)[:, 1].tolist()
    assert labelled == predicted == 4 * 19  # the ring of a square of 20
    assert hits == 2 * 19  # the upper and the lower side, without the column that each has alone
    assert float(ratios(torch.tensor([[hits], [labelled], [predicted]]))[0]) == pytest.approx(38 / 114)


def test_a_shift_costs_more_than_in_the_whole_area() -> None:
    labels = torch.zeros(100, 100, dtype=torch.uint8)
    labels[20:80, 20:80] = 1
    near = ratios(boundary_counts(labels.roll(2, 1), labels, 2, IGNORE))[0][1]
    whole = 60 * 58 / (60 * 62)
    assert near < whole - 0.2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_any_integer_type_counts_alike_and_stays_as_it_is(dtype: torch.dtype) -> None:
    predictions, labels = _maps(40, 50)
    expected = boundary_counts(predictions, labels, CLASSES, IGNORE)
    given = predictions.to(dtype), labels.to(dtype)
    before = given[0].clone(), given[1].clone()
    assert torch.equal(boundary_counts(*given, CLASSES, IGNORE), expected)
    assert torch.equal(given[0], before[0]) and torch.equal(given[1], before[1])


def test_more_classes_than_a_byte_holds() -> None:
    predictions, labels = _maps(40, 50)
    ignored = labels == IGNORE
    expected = boundary_counts(predictions, labels, CLASSES, IGNORE)
    high = torch.where(ignored, 999, labels + 290).to(torch.int16)
    found = boundary_counts((predictions + 290).to(torch.int16), high, 300, 999)
    assert torch.equal(found[:, 290 : 290 + CLASSES], expected)
    assert found.sum() == expected.sum()
    for classes in (255, 256):  # the last that fits a byte, with what is ignored, and the first that does not
        shifted = torch.where(ignored, 999, labels + classes - CLASSES)
        found = boundary_counts(predictions + classes - CLASSES, shifted, classes, 999)
        assert torch.equal(found[:, classes - CLASSES :], expected)


def test_images_add_up() -> None:
    metric = BoundaryCounts(CLASSES, IGNORE)
    maps = [_maps(40, 50, seed) for seed in range(3)]
    metric.update(*(torch.stack(items) for items in zip(*maps[:2], strict=True)))
    metric.update(maps[2][0][None], maps[2][1][None])
    expected = torch.stack([boundary_counts(*item, CLASSES, IGNORE) for item in maps]).sum(0)
    assert torch.equal(metric.compute(), expected)


def test_an_image_that_is_all_ignored_and_one_of_a_single_pixel() -> None:
    ignored = torch.full((5, 6), IGNORE)
    assert boundary_counts(torch.zeros(5, 6, dtype=torch.int64), ignored, CLASSES, IGNORE).sum() == 0
    one = torch.ones(1, 1, dtype=torch.int64)
    assert boundary_counts(one, one, CLASSES, IGNORE)[:, 1].tolist() == [1, 1, 1]
