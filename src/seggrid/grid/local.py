"""``engine=local``: the jobs of a sweep on this machine, as many at once as there are slots.

Each has a process of its own, forked from a server that has imported what all of them need: a job starts at once and
dies alone. The server has never touched a GPU, and its imports are told to ask the driver's library, not CUDA, whether
there is one: a process that is forked after CUDA has been initialised cannot use it.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess

from seggrid.grid.job import Ended, Job, Started

# Forking a process that has used Apple's libraries is not safe: there a job imports for itself.
FORKS = sys.platform == "linux"
LOST = 255  # what multiprocessing says of a process whose fork server cannot say how it ended
NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
MODULES = "SEGGRID_PRELOAD"  # read by preload.py
OOM_COUNTER = "/proc/vmstat"


@dataclass
class _Running:
    job: Job
    process: ForkServerProcess | SpawnProcess
    gpus: list[str]
    started: float
    oom_kills: int
    timed_out: bool = False


class LocalEngine:
    """Runs jobs on this machine.

    Args:
        slots: how many at once.
        gpus: the GPUs there are, as ``CUDA_VISIBLE_DEVICES`` names them.
        environment: of the jobs.
        timeout_s: how long a job may run; None for ever.
        preload: modules that the jobs need.
    """

    def __init__(
        self,
        slots: int,
        gpus: list[str],
        environment: dict[str, str],
        timeout_s: float | None = None,
        preload: list[str] | None = None,
    ) -> None:
        self.slots = slots
        self._gpus, self._environment, self._timeout_s = list(gpus), environment, timeout_s
        self._waiting: deque[Job] = deque()
        self._running: list[_Running] = []
        self._threads = max(1, _cores() // slots) if slots > 1 else None
        self._context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
        if FORKS:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(["seggrid.grid.preload"])
        self._of_server = {NVML_CHECK: "1", MODULES: " ".join(preload or [])}

    def submit(self, jobs: list[Job]) -> None:
        """Takes jobs, which start as there is room."""
        self._waiting.extend(jobs)

    def poll(self, timeout_s: float) -> list[Started | Ended]:
        """Starts what there is room for, and returns what has begun and ended; waits at most so long."""
        events: list[Started | Ended] = []
        while self._waiting and len(self._running) < self.slots and self._waiting[0].gpus <= len(self._gpus):
            events.append(self._start(self._waiting.popleft()))
        if not events:
            wait([running.process.sentinel for running in self._running], timeout_s)
        for running in list(self._running):
            late = self._timeout_s is not None and time.monotonic() - running.started > self._timeout_s
            if late and running.process.is_alive():
                running.timed_out = True
                _signal_group(running.process, signal.SIGKILL)
                running.process.join()
            if not running.process.is_alive():
                events.append(self._end(running))
        return events

    def interrupt(self) -> None:
        """Starts no further job, and has those that run end cleanly."""
        self._waiting.clear()
        for running in self._running:
            with suppress(ProcessLookupError):
                os.kill(_pid(running.process), signal.SIGINT)

    def kill(self) -> None:
        """Ends at once what runs."""
        self._waiting.clear()
        for running in self._running:
            _signal_group(running.process, signal.SIGKILL)

    def close(self) -> None:
        """Ends what still runs, say after an error of ours."""
        self.kill()
        for running in self._running:
            running.process.join()

    def _start(self, job: Job) -> Started | Ended:
        gpus = [self._gpus.pop(0) for _ in range(job.gpus)]
        environment = dict(self._environment)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        if self._threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        process = self._context.Process(target=_run, args=(job, environment), daemon=False)
        with _environment(self._of_server):  # the server starts with the first job, and keeps what it finds
            try:
                process.start()
            except (OSError, EOFError) as error:  # the server has died; the next job starts another
                self._gpus += gpus
                message = f"no process could be started for it ({type(error).__name__}: {error}); is memory short?"
                return Ended(job, None, {"type": "Exited", "message": message})
        self._running.append(_Running(job, process, gpus, time.monotonic(), _oom_kills()))
        return Started(job)

    def _end(self, running: _Running) -> Ended:
        running.process.join()
        self._running.remove(running)
        self._gpus += running.gpus
        _signal_group(running.process, signal.SIGKILL)  # loaders and other ranks that it has left behind
        error, code = None, running.process.exitcode
        if running.timed_out:
            error = {
                "type": "Timeout",
                "message": f"ran longer than hydra.launcher.timeout, {self._timeout_s:g} s, and was ended",
            }
        elif code == LOST:
            error = {"type": "Killed", "message": "its process was lost: the server that it was forked from has died"}
        elif code == -signal.SIGKILL and _oom_kills() > running.oom_kills:
            error = {
                "type": "OutOfMemory",
                "message": "killed by the system, which had run out of memory; lower batch_size, num_workers, or "
                "hydra.launcher.slots",
            }
        running.process.close()
        return Ended(running.job, code, error)


def _run(job: Job, environment: dict[str, str]) -> None:
    """What a job's process does: it becomes that of the job's command line."""
    os.setsid()  # Ctrl-C in the terminal is for the sweep, which passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _end_with_parent()
    output = os.open(job.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # never replaced in a process of ours
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(job.cwd)
    if "torch" in sys.modules and "OMP_NUM_THREADS" in environment:
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # it has read the variable when it was imported
    sys.argv = [str(job.script), *job.arguments]
    if str(job.script.parent) not in sys.path:
        sys.path.insert(0, str(job.script.parent))
    runpy.run_path(str(job.script), run_name="__main__")


def _end_with_parent() -> None:
    """Ends this process group when the sweep's process is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _signal_group(process: ForkServerProcess | SpawnProcess, number: int) -> None:
    pid = _pid(process)
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) != pid:  # not yet a group of its own
            os.kill(pid, number)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _pid(process: ForkServerProcess | SpawnProcess) -> int:
    assert process.pid is not None
    return process.pid


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _oom_kills() -> int:
    """How often the system has killed a process for want of memory; 0 where it does not count."""
    with suppress(OSError, ValueError), open(OOM_COUNTER) as file:
        return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    return 0
