"""Scores by image, and intervals that hold what they promise."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from seggrid.errors import UserError
from seggrid.image_scores import ImageCounts, bootstrap, image_miou, paired_difference, read, write
from seggrid.metrics import areas, count, scores

CLASSES, IGNORE = 4, 255
pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")


def _matrix(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    labels = torch.randint(CLASSES - 1, (10, 10), generator=generator)
    wrong = torch.rand(10, 10, generator=generator) < 0.1 * (index % 7)
    return count(torch.where(wrong, (labels + 1) % (CLASSES - 1), labels), labels, CLASSES, IGNORE)


def _population(images: int, seed: int, bias: float = 0.0) -> Tensor:
    """Images of differing hardness and differing classes, one class in only some of them."""
    generator = np.random.default_rng(seed)
    labelled = generator.integers(200, 2000, (images, CLASSES))
    labelled[:, -1] *= generator.random(images) < 0.3
    accuracy = np.clip(generator.beta(6, 2, (images, 1)) + generator.normal(0, 0.05, (images, CLASSES)) - bias, 0, 1)
    hits = generator.binomial(labelled, accuracy)
    missed = labelled - hits
    predicted = hits + np.roll(missed, 1, axis=1)  # what one class misses the next is blamed for
    return torch.from_numpy(np.stack((hits, labelled, predicted), 1))


def test_images_come_in_order_and_once() -> None:
    metric = ImageCounts(CLASSES)
    for index in (5, 2, 9, 2, 0):
        metric.update(index, _matrix(index))
    indices, counts = metric.compute()
    assert indices == [0, 2, 5, 9]
    assert torch.equal(counts, torch.stack([areas(_matrix(index)) for index in (0, 2, 5, 9)]))
    metric.reset()
    assert [len(item) for item in metric.compute()] == [0, 0]
    metric.update(3, _matrix(3))
    assert metric.compute()[0] == [3]  # a list: torchmetrics makes a tensor of one element a scalar


def _rank(rank: int, folder: str, images: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = ImageCounts(CLASSES)
    for number in (images, 1):  # one image alone: the other process has none
        metric.reset()
        for index in range(rank, number, 2):
            metric.update(index, _matrix(index))
        torch.save(metric.compute(), f"{folder}/{number}-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives_also_when_one_has_no_image(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (str(tmp_path), 5), nprocs=2)
    for images in (5, 1):
        expected = torch.stack([areas(_matrix(index)) for index in range(images)])
        for rank in (0, 1):
            indices, counts = torch.load(tmp_path / f"{images}-{rank}.pt")
            assert indices == list(range(images))
            assert torch.equal(counts, expected)


def test_an_images_score_is_over_the_classes_it_shows() -> None:
    counts = torch.stack([areas(_matrix(index)) for index in range(7)] + [torch.zeros(3, CLASSES, dtype=torch.int64)])
    found = image_miou(counts)
    assert found[:7].tolist() == pytest.approx([scores(_matrix(index)).means["mIoU"] for index in range(7)])
    assert found[0] == 1  # three classes of four, all right
    assert math.isnan(found[7])


def test_an_interval_is_of_resampled_data_sets() -> None:
    """Against a resampling in a plain loop, with its own draws."""
    population = _population(40, 1)
    generator = np.random.default_rng(0)
    values: dict[str, list[float]] = {"mIoU": [], "mAcc": [], "aAcc": [], "mDice": []}
    for _ in range(2000):
        hits, labelled, predicted = population.numpy()[generator.integers(40, size=40)].sum(0)
        values["mIoU"].append(np.mean(hits / (labelled + predicted - hits)))
        values["mAcc"].append(np.mean(hits / labelled))
        values["aAcc"].append(hits.sum() / labelled.sum())
        values["mDice"].append(np.mean(2 * hits / (labelled + predicted)))
    found = bootstrap(population, resamples=2000)
    assert list(found) == list(values)
    for name, (low, high) in found.items():
        expected = np.quantile(values[name], [0.025, 0.975])
        tolerance = 0.08 * (expected[1] - expected[0])
        assert [low, high] == pytest.approx(expected.tolist(), abs=tolerance)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    whole = _population(200_000, 0).sum(0)
    truth = float((whole[0] / (whole[1] + whole[2] - whole[0])).mean())
    repetitions = 200
    intervals = [bootstrap(_population(60, 1000 + index), 200)["mIoU"] for index in range(repetitions)]
    covered = sum(low <= truth <= high for low, high in intervals) / repetitions
    assert 0.88 <= covered <= 0.99


def test_a_seed_gives_the_same_interval_and_another_another() -> None:
    population = _population(30, 2)
    assert bootstrap(population, 150, 1) == bootstrap(population, 150, 1)
    assert bootstrap(population, 150, 1) != bootstrap(population, 150, 2)


def test_undefined_classes_and_images_do_not_spoil_an_interval() -> None:
    population = _population(20, 3)
    expected = bootstrap(population)
    nowhere = torch.cat((population, torch.zeros(20, 3, 2, dtype=torch.int64)), 2)
    for name, interval in bootstrap(nowhere).items():
        assert interval == pytest.approx(expected[name])
    rare = population.clone()
    rare[1:, :, -1] = 0  # in one image: in a third of the draws it is not there
    assert all(0 < low < high < 1 for low, high in bootstrap(rare).values())
    void = torch.zeros(2, 3, CLASSES, dtype=torch.int64)
    void[0] = population[0]  # a quarter of the draws has no pixel that counts
    low, high = bootstrap(void)["mIoU"]
    assert low == high == pytest.approx(float(image_miou(population[:1])))


def test_without_a_counted_pixel_there_is_no_interval() -> None:
    for images in (0, 3):
        found = bootstrap(torch.zeros(images, 3, CLASSES, dtype=torch.int64))
        assert all(math.isnan(value) for interval in found.values() for value in interval)
        assert len(found) == 4


def test_a_difference_on_the_same_images_is_seen_where_two_intervals_overlap() -> None:
    worse, better = _population(100, 4, bias=0.02), _population(100, 4)
    low, high = paired_difference(worse, better)
    assert 0 < low < high < 0.1
    assert bootstrap(worse)["mIoU"][1] > bootstrap(better)["mIoU"][0]
    reverse = paired_difference(better, worse)
    assert reverse == pytest.approx((-high, -low), abs=1e-12)
    assert paired_difference(worse, worse) == (0, 0)


def test_five_thousand_images_of_171_classes_are_a_matter_of_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 5000, (5000, 3, 171), generator=generator)
    counts[:, 1:] += counts[:, :1]
    start = time.perf_counter()
    bootstrap(counts)
    assert time.perf_counter() - start < 5  # 0.3 s on two idle cores


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path, keys, counts = tmp_path / "images.npz", ["a/b.png", "ü", "c"], _population(3, 5)
    write(path, keys, counts)
    assert [file.name for file in tmp_path.iterdir()] == ["images.npz"]
    found = read(path)
    assert found[0] == keys
    assert torch.equal(found[1], counts) and found[1].dtype == torch.int64
    write(path, [], counts[:0])
    assert read(path)[0] == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text", None], ids=str)
def test_a_file_that_is_none_of_ours_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    if content is None:
        np.savez(path, other=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="is not a file of scores by image"):
        read(path)
    with pytest.raises(UserError, match="is not a file of scores by image"):
        read(tmp_path / "missing.npz")
