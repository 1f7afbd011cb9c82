"""Sweeps by the grid launcher: they survive their jobs, go on where they were, and can be stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ROOT, TINY, record, run

TESTS = str(Path(__file__).parent)
CELL = ("-m", *(item for item in TINY if not item.startswith(("arch=", "encoder"))), "backend=custom")
FAULTS = ("Sound", "Raises", "Killed", "Exits", "Hangs")
GRID = (*CELL, f"arch.target={','.join(f'faults.{fault}' for fault in FAULTS)}", "hydra.launcher.slots=2")


def _path() -> str:
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), TESTS]))


def _by_fault(folder: Path) -> dict[str, Path]:
    return {record(path.parent)["arch"].split(".")[1]: path.parent for path in folder.glob("*/result.json")}


def _start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": _path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for(folder: Path, words: str) -> None:
    end = time.monotonic() + 120
    while not any(words in path.read_text() for path in folder.glob("*/output.log")):
        assert time.monotonic() < end, f"no job said {words!r}"
        time.sleep(0.1)


def _processes_in(folder: Path) -> list[str]:
    """The command lines and open outputs of processes that still work for a sweep."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in os.readlink(process / "fd" / "1"):
                found.append(process.name)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("faulty") / "sweep"
    arguments = (*GRID, f"hydra.sweep.dir={folder}", "hydra.launcher.timeout=15s")
    return folder, run("train.py", *arguments, expect=4, PYTHONPATH=_path()).stdout


def test_whatever_ends_a_job_is_its_reason_and_the_others_go_on(faulty: tuple[Path, str]) -> None:
    folder, output = faulty
    found = {fault: record(path) for fault, path in _by_fault(folder).items()}
    assert found["Sound"]["status"] == "completed"
    assert {found[fault]["status"] for fault in FAULTS[1:]} == {"failed"}
    errors = {fault: found[fault]["error"] for fault in FAULTS[1:]}
    assert errors["Raises"] == {"type": "ValueError", "message": "a planted fault"}
    assert errors["Killed"] == {"type": "Killed", "message": "killed by SIGKILL"}
    assert errors["Exits"]["type"] == "Exited"
    assert (
        "exit status 3" in errors["Exits"]["message"] and "its last line: about to leave" in errors["Exits"]["message"]
    )
    assert errors["Hangs"]["type"] == "Timeout" and "hydra.launcher.timeout, 15 s" in errors["Hangs"]["message"]
    assert "5 of 5" in output
    assert output.splitlines()[-1] == f"comparison: {folder / 'comparison.html'}"


def test_each_job_has_its_output_and_the_terminal_has_none_of_it(faulty: tuple[Path, str]) -> None:
    folder, output = faulty
    folders = _by_fault(folder)
    assert "epoch 1/1" in (folders["Sound"] / "output.log").read_text()
    assert "Traceback" in (folders["Raises"] / "output.log").read_text()
    assert "Traceback" not in output and "epoch 1/1" not in output


def test_nothing_is_left_running(faulty: tuple[Path, str]) -> None:
    assert _processes_in(faulty[0]) == []


def test_failed_cells_are_left_where_they_are_not_to_be_tried_again(faulty: tuple[Path, str]) -> None:
    folder, _ = faulty
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    done = run("train.py", *GRID, f"hydra.sweep.dir={folder}", "sweep.retry=false", expect=4, PYTHONPATH=_path())
    assert "1 finished before, 4 failed before and left" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")} == before


def test_failed_cells_are_tried_again_and_finished_ones_are_not(faulty: tuple[Path, str]) -> None:
    folder, _ = faulty
    sound = _by_fault(folder)["Sound"] / "result.json"
    before = sound.read_text()
    # Another order, and a cell more: numbers are no names.
    targets = "faults.Slow,faults.Raises,faults.Sound"
    arguments = (*CELL, f"arch.target={targets}", f"hydra.sweep.dir={folder}")
    done = run("train.py", *arguments, expect=1, PYTHONPATH=_path())  # of its own cells
    assert "3 cells: 2 to run, 1 finished before" in done.stdout
    assert sound.read_text() == before
    folders = _by_fault(folder)
    assert record(folders["Slow"])["status"] == "completed"
    assert (folders["Raises"] / "output.log").read_text().count("Traceback (most recent call last)") >= 2
    assert len(folders) == 6


def test_ctrl_c_ends_jobs_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    arguments = (*CELL, "arch.target=faults.Slow", "seed=0,1", "trainer.max_epochs=4", f"hydra.sweep.dir={folder}")
    process = _start(*arguments)
    _wait_for(folder, "epoch 1/4")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    (first,) = folder.glob("*/result.json")
    assert record(first.parent)["status"] == "interrupted"
    assert record(first.parent)["error"]["type"] == "Interrupted"
    assert "1 of 2 cells were not started" in output
    assert "comparison: " in output.splitlines()[-1]
    assert json.loads((folder / "sweep.json").read_text())["interrupted"] is True

    done = run("train.py", *arguments, PYTHONPATH=_path())
    assert "2 cells: 1 to run, 1 to go on with" in done.stdout
    assert [record(path.parent)["status"] for path in folder.glob("*/result.json")] == ["completed", "completed"]
    assert (first.parent / "output.log").read_text().count("epoch 1/4") == 1  # it did not begin again
    assert not any("resume=" in item for item in record(first.parent)["overrides"])


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    process = _start(*CELL, "arch.target=faults.Hangs", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    _wait_for(tmp_path / "sweep", "hanging")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert time.monotonic() - began < 10
    assert _processes_in(tmp_path) == []


def test_a_sweep_that_is_killed_takes_its_jobs_along_and_goes_on_later(tmp_path: Path) -> None:
    folder = tmp_path / "it's a sweep"
    named = "hydra.sweep.dir='" + str(folder).replace("'", "\\'") + "'"
    arguments = (*CELL, "arch.target=faults.Slow", "trainer.max_epochs=4", named)
    process = _start(*arguments)
    _wait_for(folder, "epoch 1/4")
    done = run("train.py", *arguments, expect=1, PYTHONPATH=_path())
    assert re.fullmatch(r"error: .* is in use by another sweep \(process \d+ on .*\n", done.stderr), done.stderr
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while _processes_in(folder):
        assert time.monotonic() < end, "a job lives on without its sweep"
        time.sleep(0.1)
    (folder / "foreign").mkdir()
    (folder / "foreign" / "result.json").write_text(
        '{"schema": 1, "kind": "train", "status": "completed", '
        '"backend": "a", "arch": "b", "encoder": "c", "identity": "d"}'
    )
    done = run("train.py", *arguments, PYTHONPATH=_path())
    assert "1 cell: 1 to go on with" in done.stdout
    (output,) = folder.glob("*/output.log")
    assert output.read_text().count("epoch 1/4") == 1


def test_a_terminal_that_is_closed_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    arguments = (*CELL, "arch.target=faults.Slow", "seed=0,1", "trainer.max_epochs=30", f"hydra.sweep.dir={folder}")
    process = _start(*arguments)
    _wait_for(folder, "epoch 1/30")
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 130
    (path,) = folder.glob("*/result.json")
    assert record(path.parent)["error"]["type"] == "Interrupted"
    assert json.loads((folder / "sweep.json").read_text())["interrupted"] is True
    assert (folder / "comparison.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hydra.launcher.engine=moon",), "hydra.launcher.engine is 'moon'; it takes one of local, slurm, ray"),
        (("hydra.launcher.timeout=soon",), "hydra.launcher.timeout=soon is no duration; say 90s, 30m, 12h or 2d"),
        (("hydra.launcher.slots=0",), "hydra.launcher.slots is 0; it must be at least 1"),
        (("encoder=glob(nosuch*)",), "the sweep had no jobs: a glob(...) in it matches nothing"),
        (
            ("seed=range(0,501)",),
            "this sweep has 501 jobs (how long one takes is not known yet); say ",
        ),
        (("optimizer.lr=-1", "sweep.retri=false"), "sweep.retri is not a key; did you mean retry?"),
    ],
)
def test_what_cannot_be_launched_is_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run("train.py", "-m", *arguments, f"hydra.sweep.dir={tmp_path}/sweep", expect=1)
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_an_estimate_is_made_from_the_runs_that_are_there(tmp_path: Path) -> None:
    finished = tmp_path / "before" / "0"
    finished.mkdir(parents=True)
    values = {"schema": 1, "kind": "train", "status": "completed", "backend": "smp", "arch": "unet", "encoder": "x"}
    times = {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:10:00+00:00"}
    (finished / "result.json").write_text(json.dumps({**values, **times}))
    arguments = ("-m", "seed=range(0,600)", "hydra.launcher.slots=2", f"hydra.sweep.dir={tmp_path}/sweep")
    done = run("train.py", *arguments, expect=1)
    assert "600 jobs (at 10 min each, the median of the runs that are there, about 2 d 2 h on 2 slots)" in done.stderr


def test_a_cell_that_cannot_be_is_skipped_without_a_process(tmp_path: Path) -> None:
    done = run("train.py", "-m", *TINY, "backend=torchvision", f"hydra.sweep.dir={tmp_path}", expect=1)
    assert "1 cell: 1 impossible" in done.stdout
    (path,) = tmp_path.glob("*/result.json")
    assert record(path.parent)["status"] == "skipped"
    assert not (path.parent / "output.log").exists()
