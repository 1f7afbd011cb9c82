"""The scores are those of MMSegmentation's ``IoUMetric`` and of two more definitions, on one process and on several."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from seggrid import metrics
from seggrid.data.samplers import EvalSampler
from seggrid.metrics import ConfusionMatrix, Scores, count, scores

CLASSES, IGNORE = 6, 255
IMAGES = 9


def _image(index: int, predicted_only: int = 4, nowhere: int = 5) -> tuple[Tensor, Tensor]:
    """A prediction and labels: one class is only ever predicted, one is nowhere, some pixels are ignored."""
    generator = torch.Generator().manual_seed(index)
    labels = torch.randint(0, predicted_only, (20, 30), generator=generator)
    wrong = torch.rand(20, 30, generator=generator) < 0.3 + 0.05 * index  # so that images differ in how good they are
    prediction = torch.where(wrong, torch.randint(0, nowhere, (20, 30), generator=generator), labels)
    labels[: index + 1, :4] = IGNORE
    return prediction, labels


def _scores(indices: list[int], **image: int) -> Scores:
    metric = ConfusionMatrix(CLASSES, IGNORE)
    for index in indices:
        prediction, labels = _image(index, **image)
        metric.update(prediction[None], labels[None])
    return scores(metric.compute())


@pytest.mark.parametrize(
    "image", [{}, {"predicted_only": 2, "nowhere": 2}, {"predicted_only": 6, "nowhere": 6}], ids=str
)
def test_scores_are_mmsegs(image: dict[str, int]) -> None:
    from seggrid.models import mmcv_ops

    mmcv_ops.install()
    from mmseg.evaluation.metrics import IoUMetric

    areas = [IoUMetric.intersect_and_union(*_image(index, **image), CLASSES, IGNORE) for index in range(IMAGES)]
    theirs = IoUMetric.total_area_to_metrics(*(sum(area) for area in zip(*areas, strict=True)), ["mIoU", "mDice"])
    ours = _scores(list(range(IMAGES)), **image)
    assert ours.aacc == pytest.approx(float(theirs["aAcc"]), abs=1e-6)
    for name, values in (("IoU", ours.iou), ("Acc", ours.acc), ("Dice", ours.dice)):
        expected = torch.as_tensor(theirs[name]).double()
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-6, equal_nan=True)
        assert ours.means[f"m{name}"] == pytest.approx(float(expected.nanmean()), abs=1e-6)


def test_scores_are_those_of_torchvisions_reference() -> None:
    """The definition of ``ConfusionMatrix`` in references/segmentation/utils.py of pytorch/vision, a pixel at a time.

    There pixels whose label is no class do not count; accuracy of a class is that of its row, its IoU is over row and
    column together. It takes the mean over all classes, so that all of them are there.
    """
    matrix = np.zeros((CLASSES, CLASSES))
    for index in range(IMAGES):
        prediction, labels = _image(index, predicted_only=CLASSES, nowhere=CLASSES)
        for label, predicted in zip(labels.flatten().tolist(), prediction.flatten().tolist(), strict=True):
            if 0 <= label < CLASSES:
                matrix[label, predicted] += 1
    ours = _scores(list(range(IMAGES)), predicted_only=CLASSES, nowhere=CLASSES)
    hits, rows, columns = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    assert ours.aacc == pytest.approx(hits.sum() / matrix.sum(), abs=1e-6)
    assert ours.acc.tolist() == pytest.approx((hits / rows).tolist(), abs=1e-6)
    assert ours.iou.tolist() == pytest.approx((hits / (rows + columns - hits)).tolist(), abs=1e-6)
    assert ours.means["mIoU"] == pytest.approx((hits / (rows + columns - hits)).mean(), abs=1e-6)


def test_scores_are_those_of_the_ade20k_benchmark() -> None:
    """The definition in evaluationCode/utils_eval.py of CSAILVision/sceneparsing, on files as the benchmark has them.

    Labels are 0, which does not count, and 1..C; predictions are 1..C, and taken out where the label is 0. IoU is the
    sum of intersections over images by the sum of unions, and mean IoU is over all classes: they are all there.
    """
    intersections, unions, correct, labelled = np.zeros(CLASSES), np.zeros(CLASSES), 0, 0
    matrix = ConfusionMatrix(CLASSES, IGNORE)
    for index in range(IMAGES):
        prediction, labels = _image(index, predicted_only=CLASSES, nowhere=CLASSES)
        matrix.update(prediction, labels)
        file_labels = np.where(labels == IGNORE, 0, labels + 1)
        file_prediction = (prediction.numpy() + 1) * (file_labels > 0)
        for name in range(1, CLASSES + 1):
            ours, theirs = file_prediction == name, file_labels == name
            intersections[name - 1] += (ours & theirs).sum()
            unions[name - 1] += (ours | theirs).sum()
        correct += ((file_prediction == file_labels) & (file_labels > 0)).sum()
        labelled += (file_labels > 0).sum()
    found = scores(matrix.compute())
    assert labelled < IMAGES * 20 * 30  # some pixels are 0
    assert found.aacc == pytest.approx(correct / labelled, abs=1e-6)
    assert found.iou.tolist() == pytest.approx((intersections / unions).tolist(), abs=1e-6)
    assert found.means["mIoU"] == pytest.approx((intersections / unions).mean(), abs=1e-6)


def _types() -> Iterator[tuple[torch.dtype, torch.dtype]]:
    for predictions in (torch.uint8, torch.int16, torch.int32, torch.int64):
        for labels in (torch.uint8, torch.int16, torch.int32, torch.int64):
            yield predictions, labels


@pytest.mark.parametrize("pixels", [7, 2**18])
@pytest.mark.parametrize("ignore", [IGNORE, 2, 0])
@pytest.mark.parametrize("types", list(_types()), ids=str)
def test_any_integer_type_counts_alike(
    types: tuple[torch.dtype, torch.dtype], ignore: int, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "PIXELS", pixels)
    predictions, labels = _image(3)
    labels = torch.where(labels == IGNORE, ignore, labels)
    before = predictions.clone(), labels.clone()
    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for label in set(range(CLASSES)) - {ignore}:
        for predicted in range(CLASSES):
            expected[label, predicted] = ((labels == label) & (predictions == predicted)).sum()
    assert torch.equal(count(predictions.to(types[0]), labels.to(types[1]), CLASSES, ignore), expected)
    assert torch.equal(predictions, before[0]) and torch.equal(labels, before[1])


def test_more_classes_than_a_byte_holds() -> None:
    labels = torch.tensor([0, 299, 255, 256, -1])
    predictions = torch.tensor([299, 299, 255, 0, 5], dtype=torch.int16)
    found = count(predictions, labels, 300, -1)
    assert found.nonzero().tolist() == [[0, 299], [255, 255], [256, 0], [299, 299]]


def test_deterministic_algorithms_count_as_others_do() -> None:
    predictions, labels = _image(0)
    expected = count(predictions, labels, CLASSES, IGNORE)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(count(predictions, labels, CLASSES, IGNORE), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("bad", [CLASSES, CLASSES + 1, 200, 254])
def test_a_label_that_is_no_class_is_not_left_out(bad: int) -> None:
    predictions, labels = _image(0)
    labels[10, 10] = bad
    with pytest.raises(ValueError, match=f"a label is {bad}, neither one of {CLASSES} classes nor {IGNORE}"):
        count(predictions, labels.to(torch.uint8), CLASSES, IGNORE)


def test_what_is_no_class_at_all_is_refused() -> None:
    predictions, labels = _image(0)
    wrong = predictions.clone()
    wrong[10, 10] = CLASSES  # would count as class 0 of the next label
    with pytest.raises(ValueError, match=f"a prediction is {CLASSES}"):
        count(wrong, labels, CLASSES, IGNORE)
    wrong[10, 10] = -1
    with pytest.raises(ValueError, match="a prediction is -1"):
        count(wrong, labels, CLASSES, IGNORE)
    labels[10, 10] = -1
    with pytest.raises(ValueError, match="a label is -1"):
        count(predictions, labels, CLASSES, IGNORE)
    with pytest.raises(ValueError, match="predictions are "):
        count(predictions[:, :-1], labels, CLASSES, IGNORE)


def test_an_image_without_pixels_counts_nothing() -> None:
    nothing = torch.zeros(0, 5, dtype=torch.uint8)
    assert count(nothing, nothing, CLASSES, IGNORE).sum() == 0


def test_a_metric_is_reset_and_used_again() -> None:
    metric = ConfusionMatrix(CLASSES, IGNORE)
    metric.update(*_image(0))
    first = metric.compute().clone()
    metric.reset()
    assert metric.compute().sum() == 0
    metric.update(*_image(1))
    second = metric.compute().clone()
    metric.reset()
    metric.update(*_image(0))
    metric.update(*_image(1))
    assert torch.equal(metric.compute(), first + second)


def test_an_absent_class_is_undefined_and_left_out_of_the_means() -> None:
    found = _scores(list(range(IMAGES)))
    # Class 4 is predicted where it is not: no accuracy, but an IoU of zero. Class 5 is nowhere.
    assert found.iou[4] == found.dice[4] == 0 and math.isnan(found.acc[4])
    assert math.isnan(found.iou[5]) and math.isnan(found.acc[5]) and math.isnan(found.dice[5])
    assert found.means["mIoU"] == pytest.approx(float(found.iou[:5].mean()))
    assert found.means["mAcc"] == pytest.approx(float(found.acc[:4].mean()))
    rows = found.per_class([f"class{index}" for index in range(CLASSES)])
    assert [row["pixels"] for row in rows][4:] == [0, 0]
    assert sum(row["pixels"] for row in rows) == IMAGES * 20 * 30 - 4 * sum(range(1, IMAGES + 1))


def test_a_hand_made_matrix() -> None:
    found = scores(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))
    assert found.iou[:2].tolist() == pytest.approx([6 / 9, 3 / 6])
    assert found.acc[:2].tolist() == pytest.approx([6 / 8, 3 / 4])
    assert found.dice[:2].tolist() == pytest.approx([12 / 15, 6 / 9])
    assert found.aacc == pytest.approx(9 / 12)
    assert found.pixels.tolist() == [8, 4, 0]


def test_the_whole_split_counts_and_not_the_mean_over_images() -> None:
    together = _scores(list(range(IMAGES))).means["mIoU"]
    one_by_one = sum(_scores([index]).means["mIoU"] for index in range(IMAGES)) / IMAGES
    assert together != pytest.approx(one_by_one, abs=1e-4)


def test_a_split_without_a_counted_pixel_has_no_score() -> None:
    found = scores(torch.zeros(3, 3))
    assert all(math.isnan(value) for value in found.means.values())


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    indices = [index for _, index in EvalSampler(IMAGES, rank, 2)]
    found = _scores(indices)
    torch.save((len(indices), found.aacc, found.iou, found.acc, found.dice, found.pixels), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_nine_images_score_as_one_does(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    alone = _scores(list(range(IMAGES)))
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert [share[0] for share in shares] == [5, 4]
    for _, *found in shares:
        expected = [alone.aacc, alone.iou, alone.acc, alone.dice, alone.pixels]
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
