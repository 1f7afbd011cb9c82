"""Two gloo processes on the CPU: from a single run, and from a sweep, whose cells get processes of their own."""

from pathlib import Path

import pytest
from command import TINY, record, run

# 16 pictures in batches of 4 on 2 processes: 2 steps; 5 validation pictures, which do not divide.
TWO = (
    *TINY,
    "backend=smp",
    "dataset.shapes.train=16",
    "dataset.shapes.val=5",
    "trainer.devices=2",
    "trainer.strategy=ddp",
)


def test_a_run_on_two_processes_counts_each_picture_once(tmp_path: Path) -> None:
    trained, evaluated = tmp_path / "trained", tmp_path / "evaluated"
    done = run("train.py", *TWO, f"hydra.run.dir={trained}")
    first = record(trained)
    assert first["status"] == "completed"
    assert first["train"]["steps"] == 2
    assert done.stdout.count("mIoU 1") <= 2  # only the first process speaks

    run("evaluate.py", f"run={trained}", "accelerator=cpu", f"hydra.run.dir={evaluated}")  # one process
    second = record(evaluated)
    assert [row["pixels"] for row in second["per_class"]] == [row["pixels"] for row in first["per_class"]]
    assert second["metrics"]["mIoU"] == pytest.approx(first["metrics"]["mIoU"], abs=1e-6)


def test_a_sweep_with_two_processes_per_cell_is_not_repeated_by_them(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    run("train.py", "-m", *TWO, "trainer.devices=1,2", f"hydra.sweep.dir={folder}")
    records = [record(path.parent) for path in sorted(folder.glob("*/result.json"))]
    assert [item["status"] for item in records] == ["completed", "completed"]
    assert [item["train"]["steps"] for item in records] == [4, 2]


def test_an_error_on_two_processes_is_one_line(tmp_path: Path) -> None:
    done = run("train.py", *TWO, "optimizer.lr=1e30", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}", expect=1)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: the loss is not finite at step") == 1
    assert record(tmp_path)["status"] == "failed"
