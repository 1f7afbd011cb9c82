"""Intervals over images and seeds hold what they promise, and a tie is said where two cells cannot be told apart."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from profiled import cells, rows, summary, write_training

from seggrid import image_scores
from seggrid.comparison import report
from seggrid.comparison.ties import COUNTS, Evidence, difference
from seggrid.comparison.ties import _ends as ends
from seggrid.comparison.ties import _with_seeds as with_seeds

IMAGES = 60


def _run(folder: Path, shift: float, seed: int, arch: str, noise: float = 0.0, images: bool = True) -> None:
    """A run whose images are as hard for every arch, but for ``noise``."""
    hard = torch.rand(IMAGES, generator=torch.Generator().manual_seed(7)) * 0.5 + 0.2
    own = torch.randn(IMAGES, generator=torch.Generator().manual_seed(seed + len(arch) * 100)) * noise
    hits = ((hard + own - own.mean() + shift).clamp(0, 1) * 1000).long()
    counts = torch.stack((hits, torch.full_like(hits, 1000), torch.full_like(hits, 1000)), 1)[:, :, None]
    total = counts.sum(0)[:, 0].double()
    score = float(total[0] / (total[1] + total[2] - total[0]))
    write_training(folder, score, arch, (f"seed={seed}",), seed=seed)
    if images:
        image_scores.write(folder / COUNTS, [f"image{index}" for index in range(IMAGES)], counts)


def test_of_single_runs_a_tie_is_by_the_same_images(tmp_path: Path) -> None:
    _run(tmp_path / "0", 0.03, 0, "best")
    _run(tmp_path / "1", 0.02, 0, "near", noise=0.1)
    _run(tmp_path / "2", 0.0, 0, "far")
    comparison = report.compare(tmp_path)
    order = {cell.runs[0].record.arch: cell for cell in comparison.cells}
    assert [cell.tied for cell in (order["best"], order["near"], order["far"])] == [False, True, False]
    assert order["far"].behind is not None and 0 < order["far"].behind.low < 0.03 < order["far"].behind.high + 0.01
    assert "they cannot be told apart: the difference is " in comparison.verdict
    assert f"95 % interval over the {IMAGES} images)" in comparison.verdict
    for cell in comparison.cells:  # the images' own interval, where the record has none
        counts = image_scores.read(cell.runs[0].folder / COUNTS)[1]
        assert cell.interval == pytest.approx(image_scores.bootstrap(counts)["mIoU"])
    assert any(line.split()[:2] == ["=", "2"] for line in summary(comparison, 80))
    assert [line.split(" | ")[0] for line in cells(tmp_path)[2:]] == ["1", "= 2", "3"]
    assert float(rows(tmp_path)[0]["mIoU_low"]) == pytest.approx(comparison.cells[0].interval[0])  # type: ignore[index]


def test_the_verdict_names_the_ties(tmp_path: Path) -> None:
    for job, arch in enumerate(("a", "bb", "ccc")):
        _run(tmp_path / str(job), 0.0, 0, arch, noise=0.1)
    _run(tmp_path / "9", -0.15, 0, "dddd")
    comparison = report.compare(tmp_path)
    tied = [cell.label for cell in comparison.cells if cell.tied]
    assert len(tied) == 2
    assert comparison.verdict.endswith(f"; tied with 2 others: {tied[0]} and {tied[1]}.")


def test_seeds_that_scatter_make_a_tie_of_what_one_seed_would_call_a_difference(tmp_path: Path) -> None:
    for seed, (best, other) in enumerate([(0.10, 0.06), (0.04, 0.02), (0.08, 0.00)]):
        _run(tmp_path / f"b{seed}", best, seed, "best")
        _run(tmp_path / f"o{seed}", other, seed, "other")
    comparison = report.compare(tmp_path)
    first, second = comparison.cells
    assert second.tied and second.behind is not None
    assert second.behind.over == f"the {IMAGES} images and 3 seeds"
    assert first.interval is not None and first.spread is not None and first.score is not None
    reach = 4.303 * first.spread / math.sqrt(3)  # Student's t of two degrees of freedom
    assert first.interval[0] < first.score - reach and first.score + reach < first.interval[1]
    for seed in (1, 2):
        for name in "bo":
            (tmp_path / f"{name}{seed}" / "result.json").unlink()
    assert not any(cell.tied for cell in report.compare(tmp_path).cells)


def test_of_one_run_and_several_seeds_the_text_says_whose_seeds_it_is_over(tmp_path: Path) -> None:
    for seed in range(3):
        _run(tmp_path / f"b{seed}", 0.10 + 0.001 * seed, seed, "best")
    _run(tmp_path / "o", 0.0, 0, "other")
    comparison = report.compare(tmp_path)
    assert f"(95 % interval over the {IMAGES} images and the 3 seeds of one of the two)" in comparison.verdict


def test_a_training_is_no_rival_of_its_own_evaluation(tmp_path: Path) -> None:
    """The same weights on the same images, measured twice: what they are tied with is themselves."""
    _run(tmp_path / "t", 0.1, 0, "best")
    _run(tmp_path / "o", 0.0, 0, "other")
    score = report.read_sweep(tmp_path / "t")[0].score
    assert score is not None
    how = {"run": str(tmp_path / "t"), "checkpoint": "best", "split": "val", "inference": "whole"}
    write_training(tmp_path / "e", score, "best", kind="evaluate", evaluation=how)
    comparison = report.compare(tmp_path)
    assert [cell.tied for cell in comparison.cells] == [False, False, False]
    assert " points ahead of smp / other / resnet18" in comparison.verdict
    for other in ({"checkpoint": "last"}, {"tta_flip": True}, {"run": str(tmp_path / "o")}):  # these are rivals
        write_training(tmp_path / "e", score, "best", kind="evaluate", evaluation=how | other)
        assert "level with smp / best / resnet18" in report.compare(tmp_path).verdict


def test_without_images_the_seeds_decide_and_single_runs_stay_unknown(tmp_path: Path) -> None:
    for seed in range(3):
        _run(tmp_path / f"b{seed}", 0.10 + 0.01 * seed, seed, "best", images=False)
        _run(tmp_path / f"o{seed}", 0.095 + 0.01 * seed, seed, "other", images=False)
        _run(tmp_path / f"f{seed}", -0.1 + 0.01 * seed, seed, "far", images=False)
    _run(tmp_path / "s", 0.09, 0, "single", images=False)
    comparison = report.compare(tmp_path)
    order = {cell.runs[0].record.arch: cell for cell in comparison.cells}
    assert (order["other"].tied, order["far"].tied, order["single"].tied) == (True, False, False)
    assert order["far"].behind is not None and order["far"].behind.over == "3 seeds"
    assert order["single"].behind is None and order["best"].interval is None


def test_scores_on_images_that_differ_are_not_compared(tmp_path: Path) -> None:
    """Three seeds on easier images are not the better model, however little they scatter."""
    for seed in range(3):
        _run(tmp_path / f"b{seed}", 0.2 + 0.001 * seed, seed, "best")
        _run(tmp_path / f"o{seed}", 0.1 + 0.001 * seed, seed, "other")
        keys, counts = image_scores.read(tmp_path / f"b{seed}" / COUNTS)
        image_scores.write(tmp_path / f"b{seed}" / COUNTS, [f"easy {key}" for key in keys], counts)
    comparison = report.compare(tmp_path)
    first, second = comparison.cells
    assert (second.behind, second.tied, second.elsewhere, first.elsewhere) == (None, False, True, False)
    assert "they were not measured on the same images and labels, and cannot be compared" in comparison.verdict
    (tmp_path / "o0" / COUNTS).unlink()  # one of the seeds is not known: what is there still differs
    for name in ("b0", "b1"):
        image_scores.write(tmp_path / name / COUNTS, [f"{name} {index}" for index in range(IMAGES)], counts)
    assert report.compare(tmp_path).cells[1].elsewhere


def test_without_images_the_interval_is_students_t() -> None:
    # Of a single cell against one without any spread the Behrens-Fisher interval is that of the t distribution.
    first, second = Evidence(None, None, 0.5, 0.01, 5), Evidence(None, None, 0.48, 1e-12, 5)
    lead = difference(first, second)
    assert lead is not None
    assert (lead.low, lead.high) == pytest.approx(
        (0.02 - 2.776 * 0.01 / 5**0.5, 0.02 + 2.776 * 0.01 / 5**0.5), rel=1e-2
    )


def test_an_interval_of_three_seeds_covers_what_it_promises() -> None:
    """A bootstrap that draws seeds with replacement covers 87 % here: this one has to cover 95 %."""
    rng = np.random.default_rng(0)
    covered, drawn_with_replacement = 0, 0
    for _ in range(300):
        images = rng.normal(0, math.sqrt(IMAGES), IMAGES)  # a standard error of 1, and seeds that scatter by 3
        runs = images + rng.normal(0, 3, (3, 1))
        weights = rng.multinomial(IMAGES, [1 / IMAGES] * IMAGES, 500) / IMAGES
        scores, drawn = runs.mean(1), runs @ weights.T
        own = Evidence((b"", IMAGES), drawn.mean(0), float(scores.mean()), float(scores.std(ddof=1)), 3)
        found = ends(with_seeds(drawn.mean(0), (own, 1)))
        assert found is not None
        covered += found[0] <= 0 <= found[1]
        naive = drawn[rng.integers(3, size=(3, 500)), np.arange(500)].mean(0)
        drawn_with_replacement += np.quantile(naive, 0.025) <= 0 <= np.quantile(naive, 0.975)
    assert covered >= 0.93 * 300
    assert drawn_with_replacement < 0.91 * 300


@pytest.mark.parametrize("damage", ["text", "cut", "flipped", "array", "shape", "names"])
def test_a_damaged_file_of_scores_by_image_is_named_once_and_the_rest_is_compared(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    _run(tmp_path / "0", 0.03, 0, "best")
    _run(tmp_path / "1", 0.02, 0, "broken")
    _run(tmp_path / "2", 0.0, 0, "far")
    path = tmp_path / "1" / COUNTS
    whole = path.read_bytes()
    if damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage in ("shape", "names"):
        keys = np.array(["a"] * (IMAGES if damage == "shape" else 2))
        with path.open("wb") as file:
            np.savez(file, keys=keys, counts=np.zeros((IMAGES, 2 if damage == "shape" else 3, 1), dtype=np.int64))
    else:
        middle = len(whole) // 2
        flipped = whole[:60] + bytes(255 - byte for byte in whole[60:90]) + whole[90:]
        path.write_bytes({"text": b"no archive", "cut": whole[:middle], "flipped": flipped}[damage])
    comparison = report.compare(tmp_path)
    order = {cell.runs[0].record.arch: cell for cell in comparison.cells}
    assert order["broken"].behind is None and order["far"].behind is not None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and str(path) in said[0] and "\n" not in said[0]
