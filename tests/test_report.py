"""Records in, one comparison out: what is ordered, written, said and passed over."""

import csv
import json
import logging
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from seggrid import image_scores
from seggrid.comparison import report
from seggrid.comparison.summary import print_summary
from seggrid.comparison.ties import COUNTS
from seggrid.errors import UserError
from seggrid.results import Record


def _write(folder: Path, score: float | None = None, arch: str = "unet", **values: Any) -> None:
    values = {"kind": "train", "backend": "smp", "encoder": "resnet18", "dataset": "streets", "seed": 0} | values
    if score is not None:
        metrics = {"mIoU": score, "mAcc": score + 0.05, "aAcc": 0.9, "mDice": score + 0.1, "loss": 0.4}
        values = {"status": "completed", "metrics": metrics} | values
    Record(arch=arch, **values).write(folder)


def _model(params: int) -> dict[str, Any]:
    counts = {"params": params, "params_encoder": params - 1, "params_aux": 0, "gmacs": 12.34, "gmacs_aux": 0.0}
    return counts | {"input_size": [360, 480], "output_stride": 16, "encoder_depth": 5, "decoder_channels": [64, 32]}


def _failed(status: str, message: str) -> dict[str, Any]:
    return {"status": status, "error": {"type": "UserError", "message": message}}


def _summary(comparison: report.Comparison, width: int = 100) -> list[str]:
    console = Console(file=StringIO(), width=width)
    print_summary(comparison, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "comparison.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_jobs_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for job in (10, 2, 1):
        _write(tmp_path / "sweep" / str(job), 0.5, arch=f"arch{job}")
    assert [run.folder.name for run in report.read_sweep(tmp_path)] == ["1", "2", "10"]


def test_completed_come_first_by_score_then_the_others(tmp_path: Path) -> None:
    _write(tmp_path / "0", arch="a", **_failed("skipped", "no"))
    _write(tmp_path / "1", arch="b")
    _write(tmp_path / "2", 0.41, arch="c")
    _write(tmp_path / "3", arch="d", **_failed("failed", "no"))
    _write(tmp_path / "4", 0.62, arch="e")
    comparison = report.compare(tmp_path)
    assert [run.record.arch for run in comparison.runs] == ["e", "c", "d", "b", "a"]
    assert [run.rank for run in comparison.runs] == [1, 2, None, None, None]
    assert comparison.winner is comparison.runs[0]


def test_csv_holds_the_record_as_it_is(tmp_path: Path) -> None:
    train = {"epochs": 3, "steps": 30, "s_per_iter": 0.125, "images_per_s": 64.0, "peak_memory_bytes": 2**31}
    overrides = ["arch=unet", "optimizer.lr=1e-3"]
    _write(tmp_path / "4", 0.654321, model=_model(14_328_209), train=train, overrides=overrides)
    _write(tmp_path / "5", **_failed("failed", "two\nlines, and a comma"))
    report.compare(tmp_path)
    first, second = _rows(tmp_path)
    expected = {
        "backend": "smp", "arch": "unet", "encoder": "resnet18", "dataset": "streets", "seed": "0", "kind": "train",
        "status": "completed", "error": "", "mIoU": "0.654321", "params": "14328209", "params_encoder": "14328208",
        "params_aux": "0", "gmacs": "12.34", "gmacs_aux": "0.0", "input_height": "360", "input_width": "480",
        "output_stride": "16", "encoder_depth": "5", "decoder_channels": "64 32", "epochs": "3", "steps": "30",
        "s_per_iter": "0.125", "images_per_s": "64.0", "peak_memory_bytes": str(2**31), "latency_ms_median": "",
        "overrides": "arch=unet optimizer.lr=1e-3", "folder": "4",
    }  # fmt: skip
    assert {key: first[key] for key in expected} == expected
    assert second["error"] == "two lines, and a comma"
    assert second["mIoU"] == second["params"] == ""


def test_a_key_that_is_new_to_the_report_reaches_the_csv(tmp_path: Path) -> None:
    _write(tmp_path / "0", 0.5, train={"s_per_iter": 0.1, "batch_size": 16})
    report.compare(tmp_path)
    assert _rows(tmp_path)[0]["batch_size"] == "16"


def test_training_and_profile_figures_of_one_name_stay_apart(tmp_path: Path) -> None:
    latency = {"median": 7.5, "p10": 7.0, "p90": 9.0, "samples": 50}
    profile = {
        "latency_ms": latency,
        "images_per_s": 133.0,
        "peak_memory_bytes": 2**29,
        "precision": "32",
        "mode": "whole",
    }
    _write(tmp_path / "0", kind="profile", status="completed", dataset=None, profile=profile, model=_model(5_000_000))
    comparison = report.compare(tmp_path)
    row = _rows(tmp_path)[0]
    assert (row["latency_ms_median"], row["latency_ms_p90"], row["latency_samples"]) == ("7.5", "9.0", "50")
    assert (row["profile_images_per_s"], row["images_per_s"], row["profile_mode"]) == ("133.0", "", "whole")
    lines = _summary(comparison)
    assert "7.50" in next(line for line in lines if "resnet18" in line)
    assert lines[-2] == (
        "smp / unet / resnet18: 7.50 ms, 5.00 M parameters, 12.34 GMac, 0.50 GiB peak memory; "
        "no other profile to compare it with."
    )


def test_markdown_is_in_percent_and_shows_text_as_written(tmp_path: Path) -> None:
    _write(tmp_path / "0", 0.71236, model=_model(1_500_000))
    _write(tmp_path / "1", arch="fcn", **_failed("skipped", "a|b <i>c</i>"))
    report.compare(tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    head, rule, first, second = [line for line in text.splitlines() if line.startswith("|")]
    cells = dict(zip(head.split(" | "), first.split(" | "), strict=True))
    assert (cells["mIoU %"], cells["params M"], cells["stride"]) == ("71.24", "1.50", "16")
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|")
    assert r"smp / fcn / resnet18: skipped: a\|b &lt;i>c&lt;/i>" in text


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 99}', '{"name": "of another program"}', '{"schema": 1, "kind": "train"}']
)
def test_a_damaged_or_foreign_file_is_named_and_passed_over(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path / "0", 0.5)
    bad = tmp_path / "1" / "result.json"
    bad.parent.mkdir()
    bad.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert len(report.compare(tmp_path).runs) == 1
    assert [str(bad) in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(("key", "value"), [("metrics", [1]), ("per_class", ["road"]), ("arch", None), ("error", "x")])
def test_a_record_of_the_wrong_shape_is_passed_over(
    tmp_path: Path, key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path / "0", 0.5)
    _write(tmp_path / "1", 0.6)
    path = tmp_path / "1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert [run.folder.name for run in report.compare(tmp_path).runs] == ["0"]
    assert str(path) in caplog.text


def test_an_empty_folder_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        report.compare(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_the_files_of_the_comparison_are_left(tmp_path: Path) -> None:
    _write(tmp_path / "0", 0.5)
    for _ in range(2):
        report.compare(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0", "comparison.csv", "comparison.html", "comparison.md", "comparison.tex", "runs.csv"
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
def test_summary_says_table_reasons_winner_and_path(tmp_path: Path, width: int) -> None:
    _write(tmp_path / "0", 0.60, model=_model(14_000_000), train={"s_per_iter": 0.25})
    _write(tmp_path / "1", 0.625, arch="deeplabv3plus", backend="torchvision", model=_model(26_678_629))
    _write(tmp_path / "2", arch="fcn", **_failed("skipped", "[bold]smp[/bold] has no fcn: " + "long " * 40))
    lines = _summary(report.compare(tmp_path), width)
    assert max(len(line) for line in lines[:-3]) <= width
    first = next(line for line in lines if "deeplabv3plus" in line).split()
    assert first[:8] == ["1", "torchvision", "deeplabv3plus", "resnet18", "62.50", "26.68", "12.34", "16"]
    assert lines[-3] == "smp / fcn / resnet18: skipped: [bold]smp[/bold] has no fcn: " + ("long " * 40).strip()
    assert lines[-2] == (
        "Winner: torchvision / deeplabv3plus / resnet18 with 62.50 % mIoU and 26.68 M parameters, "
        "2.50 points ahead of smp / unet / resnet18; whether that is more than chance is not known."
    )
    assert lines[-1] == f"comparison: {tmp_path / 'comparison.html'}"


def test_no_completed_run_has_no_winner(tmp_path: Path) -> None:
    _write(tmp_path / "0", **_failed("failed", "out of memory"))
    _write(tmp_path / "1", arch="fcn")
    comparison = report.compare(tmp_path)
    assert comparison.winner is None
    assert comparison.verdict == "No winner: no run completed (1 failed, 1 interrupted)."
    assert "smp / fcn / resnet18: interrupted: no reason recorded" in _summary(comparison)


def test_a_run_that_failed_after_it_was_scored_does_not_win(tmp_path: Path) -> None:
    _write(tmp_path / "0", 0.9, arch="fcn", **_failed("failed", "disk full"))
    _write(tmp_path / "1", 0.5)
    winner = report.compare(tmp_path).winner
    assert winner is not None
    assert winner.folder.name == "1"


def test_one_cell_is_compared_with_nothing(tmp_path: Path) -> None:
    _write(tmp_path / "0", 0.5)
    verdict = report.compare(tmp_path).verdict
    assert verdict == "Winner: smp / unet / resnet18 with 50.00 % mIoU; no other cell has an mIoU to compare it with."


def test_a_tie_goes_to_the_smaller_model_and_is_called_one(tmp_path: Path) -> None:
    _write(tmp_path / "0", 0.5, arch="big", model=_model(9_000_000))
    _write(tmp_path / "1", 0.5, arch="small", model=_model(1_000_000))
    comparison = report.compare(tmp_path)
    assert [run.record.arch for run in comparison.runs] == ["small", "big"]
    assert comparison.verdict.endswith("and 1.00 M parameters, level with smp / big / resnet18.")


def test_seeds_are_averaged_before_cells_are_compared(tmp_path: Path) -> None:
    for seed, (unet, fcn) in enumerate([(0.50, 0.57), (0.60, 0.58), (0.52, 0.59)]):
        _write(tmp_path / f"u{seed}", unet, seed=seed, overrides=[f"seed={seed}"])
        _write(tmp_path / f"f{seed}", fcn, arch="fcn", seed=seed, overrides=[f"seed={seed}"])
    comparison = report.compare(tmp_path)
    assert comparison.runs[0].label == "smp / unet / resnet18 / seed 1"
    assert comparison.verdict == (
        "Winner: smp / fcn / resnet18 (mean of 3 runs, ± 1.00) with 58.00 % mIoU, 4.00 points ahead of "
        "smp / unet / resnet18 (mean of 3 runs, ± 5.29); they cannot be told apart: the difference is -9.54 to 17.61 "
        "points (95 % interval over 3 seeds)."
    )
    assert comparison.winner is not None
    assert comparison.winner.record.arch == "fcn"


def test_each_dataset_has_its_own_ranks_and_winner(tmp_path: Path) -> None:
    _write(tmp_path / "0", 0.4, dataset="hard")
    _write(tmp_path / "1", 0.3, dataset="hard", arch="fcn")
    _write(tmp_path / "2", 0.8, dataset="easy")
    comparison = report.compare(tmp_path)
    assert [(run.label, run.rank) for run in comparison.runs] == [
        ("smp / unet / resnet18 / easy", 1),
        ("smp / unet / resnet18 / hard", 1),
        ("smp / fcn / resnet18 / hard", 2),
    ]
    assert comparison.winner is None
    assert comparison.verdict.startswith("Winners on 2 datasets: smp / unet / resnet18 / easy with 80.00 % mIoU")
    assert "10.00 points ahead of smp / fcn / resnet18 / hard" in comparison.verdict


def test_runs_of_one_cell_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    for job, rate in enumerate(("1e-3", "1e-4")):
        overrides = ["arch=unet", f"optimizer.lr={rate}", f"seed={job}"]
        _write(tmp_path / str(job), 0.5 + job / 10, seed=job, overrides=overrides)
    for job in (2, 3):  # of two profiles it is not known which belongs to a training
        _write(tmp_path / str(job), kind="profile", status="completed", dataset=None, seed=None, model=_model(job))
    labels = {run.folder.name: run.label for run in report.compare(tmp_path).runs}
    assert labels == {
        "0": "smp / unet / resnet18 (train, optimizer.lr=1e-3) / seed 0",
        "1": "smp / unet / resnet18 (train, optimizer.lr=1e-4) / seed 1",
        "2": "smp / unet / resnet18 (profile) / 2",
        "3": "smp / unet / resnet18 (profile) / 3",
    }


def test_the_very_same_run_twice_is_told_apart_by_its_folder(tmp_path: Path) -> None:
    _write(tmp_path / "0", 0.5)
    _write(tmp_path / "1", 0.6)
    assert [run.label for run in report.compare(tmp_path).runs] == [
        "smp / unet / resnet18 / 1",
        "smp / unet / resnet18 / 0",
    ]


def test_reporting_imports_no_torch() -> None:
    code = "import sys, seggrid.comparison.report, seggrid.comparison.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _images(folder: Path, hits: list[int], labelled: int = 100) -> None:
    """Scores by image of two classes: so many hits of the first, everything else said to be the second."""
    counts = torch.tensor([[[hit, 0], [labelled, 0], [hit, labelled - hit]] for hit in hits])
    image_scores.write(folder / COUNTS, [f"image{index}" for index in range(len(hits))], counts)


def test_the_verdict_says_whether_the_best_two_differ_on_the_same_images(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    hard = torch.randint(10, 80, (40,), generator=random)  # what is hard for one model is so for the other
    _write(tmp_path / "0", 0.46, arch="better")
    _write(tmp_path / "1", 0.45, arch="worse")
    _images(tmp_path / "0", (hard + 2).tolist())
    _images(tmp_path / "1", hard.tolist())
    verdict = report.compare(tmp_path).verdict
    assert "points ahead of smp / worse / resnet18; the difference is " in verdict
    low, high = (float(word) for word in verdict.split("the difference is ")[1].split(" points")[0].split(" to "))
    assert 0.9 <= low <= 1.0 <= high <= 1.1  # 2 of 100 hits are 2 points of one of two classes

    noise = torch.randint(-8, 9, (40,), generator=random)
    _images(tmp_path / "0", (hard + noise).tolist())
    assert "; they cannot be told apart: the difference is -" in report.compare(tmp_path).verdict


def test_scores_of_other_images_or_labels_say_nothing_about_a_difference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path / "0", 0.46, arch="better")
    _write(tmp_path / "1", 0.45, arch="worse")
    _images(tmp_path / "0", [50, 60])
    for spoilt in ([50], [40, 50, 60]):
        _images(tmp_path / "1", spoilt)
        assert "difference" not in report.compare(tmp_path).verdict
    _images(tmp_path / "1", [40, 50], labelled=90)
    assert "difference" not in report.compare(tmp_path).verdict
    (tmp_path / "1" / COUNTS).write_bytes(b"no archive")
    assert "difference" not in report.compare(tmp_path).verdict
    assert "passed over" in caplog.text


def test_how_a_run_was_evaluated_stands_in_the_table(tmp_path: Path) -> None:
    how = {"split": "val", "inference": "slide", "tta_flip": True, "tta_scales": [0.5, 1.0]}
    _write(tmp_path / "0", 0.5, kind="evaluate", evaluation=how, intervals={"mIoU": [0.48123, 0.52]})
    _write(tmp_path / "1", 0.4, kind="evaluate", evaluation=how | {"tta_flip": False, "tta_scales": [1.0]})
    report.compare(tmp_path)
    first, second = _rows(tmp_path)
    assert (first["split"], first["inference"], first["tta"]) == ("val", "slide", "2 scales+flip")
    assert (first["mIoU_low"], second["tta"], second["mIoU_low"]) == ("0.48123", "none", "")
    assert "48.1 to 52.0" in (tmp_path / "comparison.md").read_text()


def test_seeds_of_an_evaluated_sweep_are_runs_of_one_cell(tmp_path: Path) -> None:
    for job, (arch, seed, score) in enumerate([("fpn", 0, 0.5), ("fpn", 1, 0.52), ("unet", 0, 0.4), ("unet", 1, 0.42)]):
        how = {"split": "val", "run": f"r/{job}", "trained_with": [f"arch={arch}", f"seed={seed}"]}
        overrides = [f"run='r/{job}'", "save=x"]
        _write(tmp_path / str(job), score, arch=arch, seed=seed, kind="evaluate", evaluation=how, overrides=overrides)
    verdict = report.compare(tmp_path).verdict
    assert "smp / fpn / resnet18 (mean of 2 runs" in verdict and "ahead of smp / unet / resnet18 (mean of 2" in verdict


def test_splits_are_not_ranked_against_each_other(tmp_path: Path) -> None:
    for job, (split, score) in enumerate([("train", 0.9), ("val", 0.5), ("val", 0.4)]):
        how = {"split": split, "trained_with": [f"arch=arch{job}"]}
        _write(tmp_path / str(job), score, arch=f"arch{job}", kind="evaluate", evaluation=how)
    comparison = report.compare(tmp_path)
    assert comparison.winner is None and "Winners on 2 datasets" in comparison.verdict
    assert sorted(run.rank or 0 for run in comparison.runs) == [1, 1, 2]
