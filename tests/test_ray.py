"""Jobs on a Ray cluster that is this machine, started once: it takes seconds."""

import itertools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_events import until

from hydra_plugins.seggrid_grid import RayConf
from seggrid.errors import UserError
from seggrid.grid import ray
from seggrid.grid.job import Ended, Job, Started


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ray.RayEngine]:
    made = ray.RayEngine(RayConf(cpus_per_job=0.5), tmp_path_factory.mktemp("sweep"), 60.0)
    yield made
    made.close()


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """``make_job("print(1)", gpus=2)``: a job whose script is this text."""
    numbers = itertools.count()

    def made(text: str, **resources: int) -> Job:
        number = next(numbers)
        folder = tmp_path / str(number)
        folder.mkdir()
        script = folder / "job.py"
        script.write_text(re.sub(r"(?m)^ {8}", "", text))
        return Job(number, "train", "a cell", "smp", script, ("an", "argument"), folder, tmp_path, **resources)

    return made


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def processes(marker: Path) -> list[str]:
    """The ids of processes with this path in their command line."""
    return subprocess.run(["pgrep", "-f", str(marker)], capture_output=True, text=True, check=False).stdout.split()


# It sleeps, with a child that does, and reports an interruption by its exit status.
SLEEPER = """
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import sys, time; time.sleep(60)", __file__])
        try:
            print("here", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            child.kill()
            sys.exit(7)
        """


def test_jobs_say_how_they_ended_and_a_slow_one_is_ended(
    engine: ray.RayEngine, make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_timeout_s", 3.0)
    fine = make_job("import os, sys; print(sys.argv, os.getcwd())")
    failing = make_job("import sys; print('told', file=sys.stderr); sys.exit(3)")
    killed = make_job("import os; os.kill(os.getpid(), 9)")
    slow = make_job(SLEEPER)
    engine.submit([fine, failing, killed, slow])
    events = until(engine, *(4 * [Started]), *(4 * [Ended]))
    ended = {item.job.number: item for item in events if isinstance(item, Ended)}
    assert [ended[number] for number in (0, 1, 2)] == [
        Ended(fine, 0),
        Ended(failing, 3),
        Ended(killed, -signal.SIGKILL),
    ]
    assert ended[3] == Ended(
        slow, None, {"type": "Timeout", "message": "it ran longer than hydra.launcher.timeout (3 s)"}
    )
    wait_for(lambda: processes(slow.folder) == [])
    assert fine.output.read_text() == f"{[str(fine.script), 'an', 'argument']} {tmp_path}\n"
    assert failing.output.read_text() == "told\n"


def test_an_interruption_is_clean_and_a_dead_worker_leaves_nothing(
    engine: ray.RayEngine, make_job: Callable[..., Job]
) -> None:
    clean = make_job(SLEEPER)
    engine.submit([clean])
    until(engine, Started)
    wait_for(lambda: clean.output.read_text() == "here\n")
    before = time.monotonic()
    assert engine.poll(0.1) == []
    assert time.monotonic() - before < 1
    engine.interrupt()
    assert until(engine, Ended) == [Ended(clean, 7)]

    orphan, killed = make_job(SLEEPER), make_job(SLEEPER)
    engine.submit([orphan, killed])
    until(engine, Started, Started)
    for job in (orphan, killed):
        wait_for(lambda job=job: job.output.exists() and job.output.read_text() == "here\n")  # type: ignore[misc]
    leash = subprocess.run(["pgrep", "-f", f"leash.*{orphan.folder}"], capture_output=True, text=True, check=True)
    worker = subprocess.run(["ps", "-o", "ppid=", leash.stdout.split()[0]], capture_output=True, text=True, check=True)
    subprocess.run(["kill", "-9", worker.stdout.strip()], check=True)
    (ended,) = until(engine, Ended)
    assert isinstance(ended, Ended) and ended.job == orphan and ended.error is not None
    assert ended.error["type"] == "Killed"
    wait_for(lambda: processes(orphan.folder) == [])

    assert processes(killed.folder)
    engine.kill()
    (ended,) = until(engine, Ended)
    assert isinstance(ended, Ended) and ended.job == killed and ended.error is not None
    wait_for(lambda: processes(killed.folder) == [])


def test_what_no_node_has_is_one_line(engine: ray.RayEngine, make_job: Callable[..., Job]) -> None:
    with pytest.raises(UserError, match=r"job 0 needs \(CPU 0.5, GPU 99\); its nodes have: CPU .*, GPU 0"):
        engine.submit([make_job("", gpus=99)])
    with pytest.raises(UserError, match=r"trainer.num_nodes=2: hydra.launcher.engine=ray runs a job on one node"):
        engine.submit([make_job("", nodes=2)])
    assert engine.slots >= 2


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'seggrid\[ray\]'"):
        ray.RayEngine(RayConf(), tmp_path, None)


def test_importing_the_engine_imports_no_ray() -> None:
    code = (
        "import sys, seggrid.grid.ray, seggrid.grid.slurm; assert not {'ray', 'submitit', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
