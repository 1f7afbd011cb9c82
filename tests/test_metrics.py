"""The scores are those of MMSegmentation's ``IoUMetric``, on one process and on several."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from seggrid.data.samplers import EvalSampler
from seggrid.metrics import Scores, confusion_matrix, scores

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
    metric = confusion_matrix(CLASSES, IGNORE)
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
