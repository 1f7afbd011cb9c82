"""A sweep through the real command: every cell leaves a record, and the sweep its comparison."""

import csv
from pathlib import Path

import pytest
from command import TINY, call, record, run, wandb_entries

from seggrid.comparison import report

KEYS = {
    "schema", "kind", "status", "error", "backend", "arch", "encoder", "dataset", "seed", "model", "train", "metrics",
    "per_class", "profile", "environment", "overrides", "started", "ended",
}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...], str]:
    folder = tmp_path_factory.mktemp("sweep") / "grid"
    cells = ("-m", *TINY, "backend=smp,torchvision,mmseg", "arch=deeplabv3,fcn", "logger=wandb", "logger.mode=offline")
    arguments = (*cells, f"hydra.sweep.dir={folder}")
    return folder, arguments, run("train.py", *arguments).stdout


def test_every_cell_completes_or_is_skipped_with_the_reason(sweep: tuple[Path, tuple[str, ...], str]) -> None:
    records = [record(path.parent) for path in sorted(sweep[0].glob("*/result.json"))]
    assert [item["status"] for item in records].count("completed") == 5
    skipped = [item for item in records if item["status"] == "skipped"]
    assert [(item["backend"], item["arch"]) for item in skipped] == [("smp", "fcn")]
    assert "arch=fcn is in backend=mmseg,torchvision" in skipped[0]["error"]["message"]
    for item in records:
        assert set(item) >= KEYS
        if item["status"] == "completed":
            assert item["model"]["params"] > 1e6
            assert item["train"]["steps"] == 2
            assert 0 <= item["metrics"]["mIoU"] <= 1
            assert item["per_class"][0]["class"] == "background"
            assert item["error"] is None


def test_the_comparison_names_a_winner_and_where_it_is(sweep: tuple[Path, tuple[str, ...], str]) -> None:
    folder, _, output = sweep
    lines = output.strip().splitlines()
    assert lines[-1] == f"comparison: {folder / 'comparison.html'}"
    assert lines[-2].startswith("Winner: ")
    with (folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0]["status"] == "completed"
    assert rows[-1]["status"] == "skipped"
    page = (folder / "comparison.html").read_text()
    assert page.count("data:image/png") >= 6  # a label and five predictions
    assert "https://" not in page.split("<script", 1)[0]


def test_a_profile_of_a_cell_joins_its_training(sweep: tuple[Path, tuple[str, ...], str], tmp_path: Path) -> None:
    cell = ("backend=smp", "arch=deeplabv3", "encoder=resnet10t", "input.size=[64,96]")
    assert call("profile", "-m", *cell, "counts_only=true", f"hydra.sweep.dir={tmp_path}") == 0
    comparison = report.compare(tmp_path, sweep[0])
    assert len(comparison.runs) == 6  # those of the trainings
    (joined,) = (run for run in comparison.runs if run.profile)
    assert joined.model == "smp / deeplabv3 / resnet10t"
    assert joined.values["profile_input"] == "64 x 96"
    assert comparison.verdict.startswith("Winner: ")


def test_wandb_gets_one_run_per_cell_in_the_group_of_the_sweep(sweep: tuple[Path, tuple[str, ...], str]) -> None:
    folder = sweep[0]
    logs = sorted(folder.glob("*/wandb/offline-run-*/*.wandb"))
    assert len(logs) == 5
    entries = wandb_entries(logs[0])
    started = next(entry["run"] for entry in entries if entry["type"] == "run")
    assert started["run_group"] == folder.name
    assert started["display_name"].count("/") == 2
    assert started["config"]["update"]["trainer"]["max_epochs"] == 1
    assert next(entry["exit"] for entry in entries if entry["type"] == "exit").get("exit_code", 0) == 0


def test_the_same_command_again_trains_nothing(sweep: tuple[Path, tuple[str, ...], str]) -> None:
    folder, arguments, _ = sweep
    before = {path: path.read_text() for path in folder.glob("*/result.json") if '"completed"' in path.read_text()}
    output = run("train.py", *arguments).stdout
    assert "6 cells: 5 finished before, 1 impossible" in output and len(before) == 5
    assert all(path.read_text() == text for path, text in before.items())


def test_a_failing_cell_is_recorded_and_the_sweep_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    done = run("train.py", "-m", *TINY, "optimizer.lr=1e30,0.001", f"hydra.sweep.dir={folder}", expect=1)
    records = [record(path.parent) for path in sorted(folder.glob("*/result.json"))]
    assert [item["status"] for item in records] == ["failed", "completed"]
    assert "not finite at step" in records[0]["error"]["message"]
    assert "Traceback" not in done.stdout + done.stderr
    assert "comparison: " in done.stdout.splitlines()[-1]


def test_a_glob_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    done = run("train.py", "-m", "encoder=glob(nosuch*)", f"hydra.sweep.dir={tmp_path}", expect=1)
    assert done.stderr.strip() == "error: the sweep had no jobs: a glob(...) in it matches nothing"
