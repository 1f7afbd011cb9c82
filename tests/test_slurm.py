"""SLURM: the scripts that are handed to it, and jobs driven through a cluster that is this machine (fake_slurm.py)."""

import itertools
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import TINY, record
from engine_events import until

from hydra_plugins.seggrid_grid import SlurmConf
from seggrid.errors import UserError
from seggrid.grid import slurm
from seggrid.grid.job import Ended, Job, Started

HERE = Path(__file__).resolve().parent
NUMBERS = itertools.count(100)  # of clusters: submitit remembers the jobs of all of them by their ids


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake cluster's commands on the PATH, and no others; its memory."""
    memory, commands = tmp_path / "cluster", tmp_path / "commands"
    memory.mkdir()
    commands.mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel", "end"):
        script = commands / name
        script.write_text(f"#!{sys.executable} -IS\n" + (HERE / "fake_slurm.py").read_text())
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(memory))
    monkeypatch.setenv("FAKE_SLURM_FIRST", str(next(NUMBERS)))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(slurm, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(slurm, "ASK_EVERY_S", 0.2)
    monkeypatch.setattr(slurm, "ASK_SOON_S", 0.2)
    monkeypatch.setattr(slurm, "OVER", dict.fromkeys(slurm.OVER, 0.3))
    return memory


@pytest.fixture
def start(cluster: Path, tmp_path: Path) -> Iterator[Callable[..., slurm.SlurmEngine]]:
    """``start(timeout_s, **settings)``: an engine that is closed at the end."""
    engines = []

    def started(timeout_s: float | None = None, **settings: Any) -> slurm.SlurmEngine:
        engines.append(slurm.SlurmEngine(SlurmConf(**settings), tmp_path / "sweep", timeout_s))
        return engines[-1]

    yield started
    for engine in engines:
        engine.close()


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """``make_job("print(1)", gpus=2)``: a job whose script is this text."""
    numbers = itertools.count()

    def made(text: str, kind: str = "train", **resources: int) -> Job:
        number = next(numbers)
        folder = tmp_path / "sweep" / str(number)
        folder.mkdir(parents=True)
        (folder / "job.py").write_text(text)
        return Job(
            number, kind, "a cell", "smp", folder / "job.py", ("an", "argument"), folder, cwd=tmp_path, **resources
        )

    return made


def scripts(cluster: Path) -> list[str]:
    return [path.read_text() for path in sorted(cluster.glob("script_*"))]


def name_of(cluster: Path) -> str:
    """The one job's name in the cluster."""
    return next(cluster.glob("tasks_*")).name.removeprefix("tasks_")


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def test_jobs_of_equal_resources_are_one_array(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job]
) -> None:
    settings: dict[str, Any] = {
        "partition": "gpu",
        "account": "lab",
        "qos": "high",
        "constraint": "a100",
        "array_parallelism": 2,
        "cpus_per_gpu": 6,
        "mem_gb": 1.5,
        "setup": ["module load cuda", "export A=1"],
        "additional_parameters": {"mail-user": "me@here", "requeue": True},
    }
    engine = start(5400.5, **settings)
    one = [make_job("", gpus=1) for _ in range(3)]
    engine.submit([one[0], make_job("", gpus=8, nodes=1, devices=4), one[1], one[2]])
    assert engine.slots == 2
    alike, wide = scripts(cluster)
    for line in (
        "--job-name=seggrid",
        "--array=0-2%2",
        "--partition=gpu",
        "--account=lab",
        "--qos=high",
        "--constraint=a100",
        "--gpus-per-node=1",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=6",
        "--mem=1536MB",
        "--time=91",  # minutes, rounded up
        "--mail-user=me@here",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in alike, line
    assert alike.index("module load cuda\nexport A=1\n") < alike.index("\nsrun ")
    assert "--cpus-per-task=6" in alike[alike.index("\nsrun ") :]  # srun does not take over sbatch's
    assert "--kill-on-bad-exit" not in alike

    assert "--array" not in wide
    assert "#SBATCH --ntasks-per-node=4\n" in wide
    assert "#SBATCH --gpus-per-node=8\n" in wide
    assert "#SBATCH --cpus-per-task=12\n" in wide  # of two GPUs
    assert "--kill-on-bad-exit=1" in wide[wide.index("\nsrun ") :]


def test_what_is_not_set_is_left_to_the_cluster(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job]
) -> None:
    start().submit([make_job("")])
    (script,) = scripts(cluster)
    for flag in ("time", "mem", "partition", "account", "gpus", "cpus"):  # submitit's own default is five minutes
        assert f"#SBATCH --{flag}" not in script


def test_jobs_say_how_they_ended(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    engine = start(array_parallelism=3)
    fine = make_job("import os, sys; print(sys.argv, os.getcwd())")
    failing = make_job("import sys; print('told', file=sys.stderr); sys.exit(3)")
    killed = make_job("import os; os.kill(os.getpid(), 9)")
    engine.submit([fine, failing, killed])
    events = until(engine, *(3 * [Started]), *(3 * [Ended]))
    assert {item.job.number: item for item in events if isinstance(item, Ended)} == {
        0: Ended(fine, 0),
        1: Ended(failing, 3),
        2: Ended(killed, -signal.SIGKILL),
    }
    assert fine.output.read_text() == f"{[str(fine.script), 'an', 'argument']} {tmp_path}\n"
    assert failing.output.read_text() == "told\n"

    again = make_job("print(2)")
    engine.submit([again])
    assert until(engine, Started, Ended) == [Started(again), Ended(again, 0)]


def test_each_process_of_a_distributed_job_is_a_task(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job]
) -> None:
    engine = start()
    show = "import os; print(*(os.environ['SLURM_' + n] for n in ('PROCID', 'NTASKS', 'NTASKS_PER_NODE', 'NNODES')))"
    job = make_job(show, nodes=2, devices=2)
    engine.submit([job])
    assert until(engine, Started, Ended)[-1] == Ended(job, 0)
    assert job.output.read_text() == "0 4 2 2\n"
    assert [(job.folder / f"output.{rank}.log").read_text() for rank in (1, 2, 3)] == [
        f"{rank} 4 2 2\n" for rank in (1, 2, 3)
    ]


def test_one_process_that_fails_ends_the_others(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job]
) -> None:
    engine = start()
    job = make_job("import os, time; os.environ['SLURM_PROCID'] == '1' and exit(3); time.sleep(60)", devices=2)
    engine.submit([job])
    ended = until(engine, Started, Ended)[-1]
    assert isinstance(ended, Ended) and ended.exit_code not in (0, None)


@pytest.mark.parametrize(
    ("state", "kind", "number"),
    [
        ("TIMEOUT", "Timeout", signal.SIGTERM),
        ("OUT_OF_MEMORY", "OutOfMemory", signal.SIGKILL),
        ("NODE_FAIL", "Killed", signal.SIGKILL),
    ],
)
def test_what_slurm_ended_has_its_reason(
    cluster: Path,
    start: Callable[..., slurm.SlurmEngine],
    make_job: Callable[..., Job],
    state: str,
    kind: str,
    number: int,
) -> None:
    engine = start()
    engine.submit([make_job("import time; print('here', flush=True); time.sleep(60)")])
    until(engine, Started)
    wait_for(lambda: bool(list(cluster.glob("tasks_*"))))
    subprocess.run(["end", name_of(cluster), state, str(int(number))], check=True)
    (ended,) = until(engine, Ended)
    assert isinstance(ended, Ended) and ended.error is not None and ended.exit_code != 0
    assert ended.error["type"] == kind
    assert state in ended.error["message"] and "\n" not in ended.error["message"]


def test_a_job_that_is_queued_again_resumes(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job]
) -> None:
    text = """
        import os, pathlib, sys, time
        print(sys.argv[1:], flush=True)
        last = pathlib.Path(__file__).parent / "checkpoints/last.ckpt"
        if not last.exists():
            last.parent.mkdir()
            last.touch()
            time.sleep(60)
        """
    engine = start()
    job = make_job(re.sub(r"(?m)^ {8}", "", text))
    engine.submit([job])
    until(engine, Started)
    wait_for((job.folder / "checkpoints/last.ckpt").exists)
    subprocess.run(["end", name_of(cluster), "REQUEUED", str(int(signal.SIGTERM))], check=True)
    assert until(engine, Ended) == [Ended(job, 0)]  # and not that of the first time
    assert "['an', 'argument']" in job.output.read_text()
    assert f"""['an', 'argument', "resume='{job.folder}'"]""" in job.output.read_text()


def test_an_interruption_ends_what_runs_cleanly_and_cancels_what_waits(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job]
) -> None:
    text = """
        import sys, time
        try:
            print("here", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            sys.exit(7)
        """
    engine = start(array_parallelism=1)
    jobs = [make_job(re.sub(r"(?m)^ {8}", "", text)) for _ in range(2)]
    engine.submit(jobs)
    until(engine, Started)
    wait_for(lambda: jobs[0].output.exists() and jobs[0].output.read_text() == "here\n")
    engine.interrupt()
    ended = {item.job.number: item for item in until(engine, Ended, Ended) if isinstance(item, Ended)}
    assert ended[0] == Ended(jobs[0], 7)
    assert ended[1].exit_code is None and ended[1].error is not None and ended[1].error["type"] == "Killed"
    assert not jobs[1].output.exists()


def test_a_kill_cancels_everything(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job]
) -> None:
    engine = start()
    engine.submit([make_job("import time; time.sleep(60)"), make_job("import time; time.sleep(60)")])
    until(engine, Started, Started)
    wait_for(lambda: len(list(cluster.glob("tasks_*"))) == 2)
    engine.kill()
    for item in until(engine, Ended, Ended):
        assert isinstance(item, Ended) and item.error is not None and item.error["type"] == "Killed"


def test_polling_waits_no_longer_than_it_may_and_asks_slurm_rarely(
    cluster: Path,
    start: Callable[..., slurm.SlurmEngine],
    make_job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm, "ASK_EVERY_S", 60.0)
    engine = start()
    engine.submit([make_job("import time; time.sleep(60)")])
    until(engine, Started)
    before = time.monotonic()
    for _ in range(10):
        assert engine.poll(0.05) == []
    assert time.monotonic() - before < 2
    assert not (cluster / "asked").exists()


def test_what_sbatch_refuses_is_one_line(
    cluster: Path, start: Callable[..., slurm.SlurmEngine], make_job: Callable[..., Job]
) -> None:
    with pytest.raises(UserError, match=r"sbatch refuses the jobs: .*invalid partition specified: nowhere") as caught:
        start(partition="nowhere").submit([make_job("")])
    assert "\n" not in str(caught.value)


def test_no_cluster_and_no_submitit_are_one_line_each(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'seggrid\[slurm\]'"):
        slurm.SlurmEngine(SlurmConf(), tmp_path, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"sbatch, which is not on the PATH.*hydra.launcher.engine=local"):
        slurm.SlurmEngine(SlurmConf(), tmp_path, None)


@pytest.mark.slow
def test_a_real_cell_runs_by_submitits_local_executor(tmp_path: Path) -> None:
    import submitit

    folder = tmp_path / "run"
    folder.mkdir()
    arguments = (*TINY, "backend=smp", f"hydra.run.dir={folder}")
    job = Job(0, "train", "fpn", "smp", HERE.parent / "train.py", arguments, folder, HERE.parent)
    handle = submitit.LocalExecutor(tmp_path / "slurm").submit(slurm.run_task, *slurm.task(job))
    assert handle.result() == 0
    assert record(folder)["status"] == "completed"
    assert "mIoU" in job.output.read_text()
