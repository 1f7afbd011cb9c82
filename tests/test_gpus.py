"""Which GPUs a job gets, with a driver's tool that the test makes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seggrid.errors import UserError
from seggrid.grid.gpus import gpus_here, gpus_needed, processes
from seggrid.grid.job import Ended, Job, Started
from seggrid.grid.local import LocalEngine


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_gpus")
def test_the_gpus_are_those_that_the_user_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_here() == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5e")
    assert gpus_here() == ["2", "GPU-5e"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here() == []


def test_there_are_none_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here() == []


@pytest.mark.parametrize(
    ("kind", "overrides", "here", "needed"),
    [
        ("train", ("trainer=default",), 4, 1),
        ("train", ("trainer=default",), 0, 0),
        ("train", ("trainer=cpu",), 4, 0),
        ("train", ("trainer.devices=3", "trainer.strategy=ddp"), 4, 3),
        ("train", ("trainer=ddp",), 4, 4),
        ("train", ("trainer.devices=8",), None, 8),
        ("evaluate", ("devices=2",), 4, 2),
        ("evaluate", ("accelerator=cpu", "devices=2"), 4, 0),
        ("profile", ("device=cpu",), 4, 0),
        ("profile", (), 4, 1),
    ],
)
def test_a_run_needs_its_devices(
    kind: str, overrides: tuple[str, ...], here: int | None, needed: int, compose: Callable[..., Any]
) -> None:
    assert gpus_needed(kind, compose(kind, *overrides), here) == needed


@pytest.mark.parametrize(
    ("overrides", "here", "message"),
    [
        (
            ("trainer.devices=5",),
            4,
            "trainer.devices=5 asks for more GPUs than there are here: 4; say",
        ),
        (("trainer.devices=[0,1]",), 4, r"trainer.devices=\[0, 1\] names GPUs, .* say trainer.devices=2"),
        (("trainer=ddp",), None, "trainer.devices=auto: how many GPUs another machine has is not known; say"),
    ],
)
def test_a_run_that_cannot_have_them_is_one_line(
    overrides: tuple[str, ...], here: int | None, message: str, compose: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match=message):
        gpus_needed("train", compose("train", *overrides), here)


def test_processes_are_counted_on_the_cpu_too(compose: Callable[..., Any]) -> None:
    typed = compose("train", "trainer=cpu", "trainer.devices=2", "trainer.strategy=ddp")
    assert processes("train", typed, 0) == 2


def test_jobs_share_the_gpus_and_never_one_of_them(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("import os, time; print('GPUs', os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(1)\n")
    engine = LocalEngine(3, ["0", "7", "9"], {"PATH": os.environ["PATH"]})
    jobs = []
    for number, gpus in enumerate((2, 1, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        jobs.append(Job(number, "train", str(number), "smp", script, (), folder, tmp_path, gpus))
    engine.submit(jobs)
    running: dict[int, set[str]] = {}
    held: list[int] = []
    try:
        ended = 0
        while ended < len(jobs):
            for event in engine.poll(0.2):
                if isinstance(event, Started):
                    running[event.job.number] = set()
                    held.append(sum(jobs[number].gpus for number in running))
                elif isinstance(event, Ended):
                    assert event.exit_code == 0, event.job.output.read_text()
                    running.pop(event.job.number)
                    ended += 1
    finally:
        engine.close()
    assert max(held) <= 3
    said = [job.output.read_text().split()[1].split(",") for job in jobs]
    assert said[0] == ["0", "7"] and said[1] == ["9"]
    assert len(set(said[2])) == 2 and set(said[2]) <= {"0", "7", "9"}
