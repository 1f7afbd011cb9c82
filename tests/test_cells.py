"""Runs that differ in their seed alone are one row; what is no seed is none."""

import re
from pathlib import Path
from typing import Any

import pytest
from profiled import cells, counted, rows, summary, timed, write_profile, write_training

from seggrid.comparison import report
from seggrid.comparison.page_data import data


def _seeds(folder: Path, scores: tuple[float, ...], arch: str = "unet", **values: Any) -> None:
    for seed, score in enumerate(scores):
        train = {"s_per_iter": 0.1 * (seed + 1), "epochs": 3}
        said = (f"seed={seed}", "optimizer.lr=0.1")
        write_training(folder / f"{arch}{seed}", score, arch, said, **{"seed": seed, "train": train} | values)


def test_seeds_are_one_row_of_mean_spread_and_n_and_each_run_stays_raw(tmp_path: Path) -> None:
    _seeds(tmp_path, (0.5, 0.6, 0.7))
    _seeds(tmp_path, (0.55,), "fpn")
    comparison = report.compare(tmp_path)
    first, second = rows(tmp_path)
    assert float(first["mIoU"]) == pytest.approx(0.6) and float(first["mIoU_spread"]) == pytest.approx(0.1)
    assert (first["n"], first["seeds"], first["seed"], first["epochs"]) == ("3", "0 1 2", "", "3")
    assert float(first["s_per_iter"]) == pytest.approx(0.2)
    assert first["overrides"] == "arch=unet dataset=streets optimizer.lr=0.1"
    assert first["folder"] == "unet0 unet1 unet2"
    assert (second["n"], second["mIoU_spread"], second["seed"]) == ("1", "", "0")
    raw = rows(tmp_path, "runs.csv")
    assert [(row["mIoU"], row["seed"]) for row in raw] == [("0.7", "2"), ("0.6", "1"), ("0.55", "0"), ("0.5", "0")]
    assert "n" not in raw[0] and "mIoU_spread" not in raw[0]
    assert [run.rank for run in comparison.cells[0].runs] == [1, 1, 1]
    assert comparison.winner is not None and comparison.winner.folder.name == "unet2"
    head, _, line, *_ = cells(tmp_path)
    row = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert (row["mIoU %"], row["±"], row["n"], row["seeds"]) == ("60.00", "10.00", "3", "0 1 2")
    table = summary(comparison, 80)
    assert any(line.split()[:7] == ["1", "smp", "unet", "resnet18", "0", "1", "2"] for line in table)
    assert max(map(len, table[:6])) <= 80


def test_seeds_on_two_devices_have_no_mean_of_their_times(tmp_path: Path) -> None:
    for seed, device in enumerate(("a GPU", "a CPU")):
        train = {"s_per_iter": 0.1 + seed, "images_per_s": 10.0, "peak_memory_bytes": 2**30, "epochs": 3}
        environment = {"device": device, "torch": "2.15"}
        write_training(tmp_path / str(seed), 0.6, seed=seed, train=train, environment=environment)
    comparison = report.compare(tmp_path)
    (row,) = rows(tmp_path)
    assert (row["device"], row["epochs"], row["n"]) == ("a GPU; a CPU", "3", "2")
    assert [row.get(key) for key in ("s_per_iter", "images_per_s", "peak_memory_bytes")] == ["", "", ""]
    figures = data(comparison)["cells"][0]["figures"]
    assert "mIoU" in figures and not {"s_per_iter", "peak_memory_bytes"} & set(figures)
    assert [row["s_per_iter"] for row in rows(tmp_path, "runs.csv")] == ["0.1", "1.1"]


def test_with_single_runs_the_csv_has_no_column_of_seeds(tmp_path: Path) -> None:
    _seeds(tmp_path, (0.5,))
    _seeds(tmp_path, (0.5,), "fpn")
    report.compare(tmp_path)
    assert not {"n", "seeds", "mIoU_spread"} & set(rows(tmp_path)[0])
    assert rows(tmp_path)[0]["seed"] == "0"
    assert " ± " not in cells(tmp_path)[0]


def test_a_seed_that_failed_is_a_row_of_its_own(tmp_path: Path) -> None:
    _seeds(tmp_path, (0.5, 0.6, 0.7))
    write_training(
        *(tmp_path / "unet1", 0.6, "unet", ("seed=1", "optimizer.lr=0.1")),
        **{"seed": 1, "status": "failed", "error": {"type": "Killed", "message": "killed"}},
    )
    comparison = report.compare(tmp_path)
    assert [(cell.label, len(cell.runs), cell.status) for cell in comparison.cells] == [
        ("smp / unet / resnet18", 2, "completed"), ("smp / unet / resnet18 / seed 1", 1, "failed")
    ]  # fmt: skip
    assert comparison.shared().startswith("2 of 3 runs completed")
    assert "smp / unet / resnet18 / seed 1: failed: killed" in summary(comparison, 80)


def test_other_settings_another_kind_or_another_network_are_no_seeds(tmp_path: Path) -> None:
    write_training(tmp_path / "0", 0.5, overrides=("optimizer.lr=1",), seed=0)
    write_training(tmp_path / "1", 0.6, overrides=("optimizer.lr=2",), seed=1)
    assert [len(cell.runs) for cell in report.compare(tmp_path).cells] == [1, 1]
    how = {"split": "val", "inference": "whole", "trained_with": ["arch=unet", "dataset=streets"]}
    write_training(tmp_path / "0", 0.5, seed=0)
    write_training(tmp_path / "1", 0.6, seed=1, kind="evaluate", evaluation=how)
    assert [len(cell.runs) for cell in report.compare(tmp_path).cells] == [1, 1]
    write_training(tmp_path / "1", 0.6, seed=1, model={"params": 1})
    assert [len(cell.runs) for cell in report.compare(tmp_path).cells] == [1, 1]
    write_training(tmp_path / "1", 0.6, seed=1)
    assert [len(cell.runs) for cell in report.compare(tmp_path).cells] == [2]


@pytest.mark.parametrize(
    "other",
    [
        {"train": {"epochs": 300, "steps": 9, "precision": "bf16"}},
        {"train": {"epochs": 3, "steps": 90, "precision": "bf16"}},
        {"train": {"epochs": 3, "steps": 9, "precision": "fp32"}},
        {"model": counted(gmacs=1.5, input_size=[192, 256])},
        {"identity": {"config": "c", "data": "others"}},
    ],
)
def test_runs_that_files_made_different_are_no_seeds_of_one_cell(tmp_path: Path, other: dict[str, Any]) -> None:
    """An experiment's file, or the data themselves, were changed between two sweeps of other seeds."""
    values: dict[str, Any] = {"train": {"epochs": 3, "steps": 9, "precision": "bf16"}}
    values |= {"identity": {"config": "c", "data": "some"}}
    for seed in range(4):
        name = "before" if seed < 2 else "after"
        changed = other if seed > 1 else {}
        write_training(tmp_path / name / str(seed), 0.6, seed=seed, overrides=(f"seed={seed}",), **values | changed)
    found = {cell.label: [run.record.seed for run in cell.runs] for cell in report.compare(tmp_path).cells}
    assert found == {"smp / unet / resnet18 / before": [0, 1], "smp / unet / resnet18 / after": [2, 3]}


def test_evaluations_of_several_seeds_are_one_cell_whatever_their_checkpoints(tmp_path: Path) -> None:
    for seed in (0, 1):
        how = {"run": f"t{seed}", "split": "test", "trained_with": [f"seed={seed}"]}
        identity = {"config": "c", "data": f"checkpoint {seed}"}
        write_training(
            tmp_path / str(seed), 0.6, seed=seed, kind="evaluate", evaluation=how, train=None, identity=identity
        )
    assert [len(cell.runs) for cell in report.compare(tmp_path).cells] == [2]


def test_the_cells_of_a_study_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    for job, (rate, decay) in enumerate(((0.001234, 0.1), (0.000056, 0.2))):
        said = (f"optimizer.lr={rate}", f"optimizer.weight_decay={decay}", "seed=3", "trainer.max_epochs=2")
        write_training(tmp_path / str(job), 0.6 - job / 10, overrides=said)
    comparison = report.compare(tmp_path)
    said = ["optimizer.lr=0.001234, optimizer.weight_decay=0.1", "optimizer.lr=5.6e-05, optimizer.weight_decay=0.2"]
    head, _, *lines = cells(tmp_path)
    place = head.split(" | ").index("settings")
    assert [line.split(" | ")[place].replace("\\", "") for line in lines] == said
    shown = data(comparison)
    place = [column["key"] for column in shown["columns"]].index("settings")
    assert [cell["texts"][place] for cell in shown["cells"]] == said
    for width in (80, 200):  # folded where it is narrow
        lines = summary(comparison, width)
        table = lines[: next(place for place, line in enumerate(lines) if line.startswith("Winner"))]
        assert max(map(len, table)) <= width
        assert all(any(part in line for line in table) for part in ("settings", "optimizer.lr=0.001234,", "lr=5.6e-05"))
    write_training(tmp_path / "1", 0.5, arch="fpn", overrides=("optimizer.lr=1",))
    report.compare(tmp_path)
    assert "settings" not in cells(tmp_path)[0]


def test_of_a_run_that_was_made_again_the_newest_counts_and_that_is_said(tmp_path: Path) -> None:
    times = {"old": "2026-01-01T00:00:00+00:00", "new": "2026-01-02T00:00:00+00:00"}
    identity = {"config": "c", "data": "d"}
    for name, score in (("new", 0.6), ("old", 0.7)):
        _seeds(tmp_path / name, (score,), started=times[name], identity=identity)
    _seeds(tmp_path / "new", (0.6, 0.62), started=times["new"], identity=identity)
    comparison = report.compare(tmp_path / "old", tmp_path / "new")
    (cell,) = comparison.cells
    assert [run.folder.parent.name for run in cell.runs] == ["new", "new"]
    assert comparison.notes == [f"Made again since, the newest counts: {tmp_path / 'old' / 'unet0'}."]
    assert comparison.notes[0] in summary(comparison, 80)
    assert len(rows(tmp_path / "old", "runs.csv")) == 3 and len(rows(tmp_path / "old")) == 1


def test_one_seed_from_two_configurations_is_two_cells(tmp_path: Path) -> None:
    """A file of the configuration was changed between two sweeps, which no command line shows."""
    for name, score in (("before", 0.6), ("after", 0.7)):
        for seed in (0, 1):
            write_training(
                *(tmp_path / name / str(seed), score, "unet", (f"seed={seed}",)),
                **{"seed": seed, "identity": {"config": f"{name}{seed}", "data": None}},
            )
    comparison = report.compare(tmp_path / "before", tmp_path / "after")
    assert [(cell.label, len(cell.runs)) for cell in comparison.cells] == [
        ("smp / unet / resnet18 / after", 2), ("smp / unet / resnet18 / before", 2)
    ]  # fmt: skip
    assert comparison.notes == []


def test_a_profile_lends_its_figures_to_the_cell_of_all_seeds(tmp_path: Path) -> None:
    _seeds(tmp_path / "t", (0.5, 0.6, 0.7))
    write_profile(tmp_path / "p" / "0", profile=timed(10.0), overrides=("seed=7",))
    comparison = report.compare(tmp_path / "t", tmp_path / "p")
    (row,) = rows(tmp_path / "t")
    assert (row["latency_ms_median"], row["profile_folder"], row["n"]) == ("10.0", "../p/0", "3")
    assert len(comparison.profiles) == 1


def test_records_with_absurd_values_break_no_comparison(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_training(tmp_path / "0", 0.5)
    absurd: tuple[tuple[str, object], ...] = (
        ("seed", [0]), ("dataset", {}), ("identity", 3), ("started", None), ("evaluation", {"tta_scales": 5}),
        ("evaluation", {"tta_flip": True, "inference": ["x"]}), ("metrics", {"mIoU": 10**400}),
        ("identity", {"config": []}), ("seed", None), ("curves", 5), ("curves", "abc"), ("curves", [None]),
        ("logger", "wandb"), ("per_class", [{"iou": 0.5}]), ("per_class", [{"class": ["x"], "iou": 0.5}]),
        ("intervals", {"mAcc": None}), ("metrics", {"mIoU": 55.3}), ("model", {"input_size": "x"}),
        ("model", {"input_size": [1, "x"]}), ("profile", 3),
    )  # fmt: skip
    for job, (key, value) in enumerate(absurd, start=1):
        write_training(tmp_path / str(job), 0.4, **{key: value})
    comparison = report.compare(tmp_path)
    assert comparison.winner is not None and comparison.winner.folder.name == "0"
    passed = [record.getMessage() for record in caplog.records]
    assert len(passed) == 17 and all(line.startswith("passed over: ") and "\n" not in line for line in passed)
    assert any("(metrics.mIoU is 55.3, no fraction in [0, 1]); move it away, or leave it" in line for line in passed)
    notes = [note for note in comparison.notes if note.startswith("Passed over: ")]
    assert len(notes) == 6 and notes[0] == f"P{passed[0][1:]}" and notes[5] == "Passed over: 12 more, see the log."
    for text in (*summary(comparison, 80), (tmp_path / "comparison.md").read_text().replace("\\", "")):
        notes = [note for note in notes if note not in text]
    assert notes == []


def test_what_is_no_utf8_or_too_deep_breaks_no_comparison(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file's name that is no UTF-8 is in an error's message: no file takes it as it is."""
    write_training(tmp_path / "0", 0.5)
    error = {"type": "X", "message": "no file a\udcff.png"}
    write_training(tmp_path / "1", 0.5, "fpn", status="failed", error=error)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "result.json").write_text("[" * 100_000)
    comparison = report.compare(tmp_path)
    assert "no file a?.png" in comparison.paths["html"].read_text(encoding="utf-8")
    assert any("failed: no file a?.png" in line for line in summary(comparison, 80))
    assert "RecursionError" in caplog.text and len(comparison.runs) == 2


def test_of_hundreds_of_cells_the_terminal_shows_the_best_twenty(tmp_path: Path) -> None:
    for job in range(70):
        failed = {"status": "failed", "error": {"type": "E", "message": "no"}} if job >= 45 else {}
        write_training(tmp_path / str(job), 0.9 - job / 100, f"arch{job}", **failed)
    comparison = report.compare(tmp_path)
    lines = summary(comparison, 80)
    shown = [line.split()[2] for line in lines if re.match(r" *\d+ smp ", line)]
    assert shown == [f"arch{job}" for job in range(20)]
    assert "50 more in comparison.csv and on the page" in lines
    assert sum(": failed: no" in line for line in lines) == 20 and "5 more without a result" in lines
