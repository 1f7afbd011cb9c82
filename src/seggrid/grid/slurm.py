"""``engine=slurm``: the jobs of a sweep as arrays of SLURM, through submitit. Imports no torch, and submitit when used.

A job says that it has begun and how it has ended by files in the sweep's folder, which cost a listing to read; SLURM
itself is asked rarely, by a thread, and only matters for jobs that were ended from outside.
"""

import itertools
import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.seggrid_grid import SlurmConf
from seggrid.errors import UserError, one_line
from seggrid.grid.job import Ended, Job, Started

if TYPE_CHECKING:
    import submitit

COMMANDS = ("sbatch", "srun", "sacct", "scancel")
NAME = "seggrid"  # of the jobs, as squeue shows them
LARGEST_ARRAY = 1000  # SLURM's MaxArraySize is 1001 unless a cluster says otherwise
LOOK_EVERY_S = 1.0  # for files
ASK_EVERY_S, ASK_SOON_S = 30.0, 5.0  # SLURM: one call for all jobs; sooner once jobs have been told to end
# States in which a job is over, and seconds to wait for its files, or for SLURM to put it back into the queue.
OVER = {
    "COMPLETED": 20.0,
    "FAILED": 20.0,
    "TIMEOUT": 5.0,
    "DEADLINE": 5.0,
    "OUT_OF_MEMORY": 5.0,
    "CANCELLED": 5.0,
    "NODE_FAIL": 60.0,
    "BOOT_FAIL": 60.0,
    "REVOKED": 60.0,
    "PREEMPTED": 300.0,
}
REASONS = {
    "TIMEOUT": ("Timeout", "it ran longer than its time limit"),
    "DEADLINE": ("Timeout", "it could not end before its deadline"),
    "OUT_OF_MEMORY": ("OutOfMemory", "it used more memory than SLURM gave it; raise hydra.launcher.slurm.mem_gb"),
    "CANCELLED": ("Killed", "it was cancelled"),
    "NODE_FAIL": ("Killed", "its node failed"),
    "BOOT_FAIL": ("Killed", "its node did not boot"),
    "REVOKED": ("Killed", "it was revoked"),
    "PREEMPTED": ("Killed", "another job took its place, and it was not queued again"),
}


class TaskError(Exception):
    """The command of a task has ended with this exit status, the last word of the message."""


@dataclass
class _Submitted:
    job: Job
    handle: "submitit.SlurmJob[int]"
    started: bool = False
    state: str = ""  # the last that SLURM gave, and since when
    since: float = 0.0


class SlurmEngine:
    """Runs jobs on a SLURM cluster; see :class:`seggrid.grid.job.Engine`.

    Args:
        settings: ``hydra.launcher.slurm``.
        folder: the sweep's, shared by all nodes; ``slurm`` in it gets scripts and submitit's files.
        timeout_s: the time limit of a job; SLURM counts in minutes. None leaves it to the partition.

    Raises:
        UserError: this is no machine of a SLURM cluster, or submitit is not installed.
    """

    def __init__(self, settings: SlurmConf, folder: Path, timeout_s: float | None) -> None:
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        if missing:
            raise UserError(
                f"hydra.launcher.engine=slurm needs the command {missing[0]}, which is not on the PATH; start the "
                "sweep on a machine of the cluster, or say hydra.launcher.engine=local"
            )
        if find_spec("submitit") is None:
            raise UserError("hydra.launcher.engine=slurm needs submitit: pip install 'seggrid[slurm]'")
        self._settings, self._folder, self._timeout_s = settings, folder / "slurm", timeout_s
        self._submitted: list[_Submitted] = []
        self._closed = False
        self._wake = threading.Event()
        self._ask_every_s = ASK_EVERY_S
        self._asking = threading.Thread(target=self._ask, daemon=True)
        self._asking.start()

    @property
    def slots(self) -> int:
        """How many jobs of an array run at once."""
        return self._settings.array_parallelism

    def submit(self, jobs: list[Job]) -> None:
        """Queues jobs, those of equal resources as one array.

        Raises:
            UserError: SLURM refuses them.
        """
        import submitit
        from submitit.helpers import clean_env

        def resources(job: Job) -> tuple[int, int, int]:
            return job.gpus, job.nodes, job.devices

        # From within a job of SLURM its own variables would go on to those that it queues.
        inside = "SLURM_JOB_ID" in os.environ
        for _, group in itertools.groupby(sorted(jobs, key=resources), key=resources):
            alike = list(group)
            for first in range(0, len(alike), LARGEST_ARRAY):
                array = alike[first : first + LARGEST_ARRAY]
                try:
                    executor = submitit.SlurmExecutor(self._folder)
                    executor.update_parameters(**self._parameters(array[0]))
                    with clean_env() if inside else nullcontext(), executor.batch():
                        handles = [executor.submit(run_task, *task(job)) for job in array]
                except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
                    raise UserError(f"sbatch refuses the jobs: {one_line(error)}; see hydra.launcher.slurm") from error
                self._submitted += map(_Submitted, array, handles)  # type: ignore[arg-type]  # promoted by batch()

    def poll(self, timeout_s: float) -> list[Started | Ended]:
        """Looks for files of jobs that have begun or ended."""
        until = time.monotonic() + timeout_s
        while True:
            events = self._look()
            left = until - time.monotonic()
            if events or left <= 0:
                return events
            time.sleep(min(left, LOOK_EVERY_S))

    def interrupt(self) -> None:
        """Takes waiting jobs out of the queue, which then end as cancelled, and sends SIGINT to those that run."""
        self._cancel("--state=PENDING")
        self._cancel("--state=RUNNING", "--signal=INT")

    def kill(self) -> None:
        """Cancels all jobs; SLURM ends those that run within its ``KillWait``, half a minute by default."""
        self._cancel()

    def close(self) -> None:
        """Cancels what is left."""
        self.kill()
        self._closed = True
        self._wake.set()

    def _parameters(self, job: Job) -> dict[str, Any]:
        """The parameters of sbatch in submitit's words, which leave out what is None."""
        settings = self._settings
        srun, cpus = [], settings.cpus_per_gpu
        if cpus is not None:
            cpus *= max(1, job.gpus // job.devices)
            srun.append(f"--cpus-per-task={cpus}")  # since SLURM 22.05 srun does not take over that of sbatch
        if job.nodes * job.devices > 1:
            srun.append("--kill-on-bad-exit=1")  # else the others wait for one that has failed
        return {
            "job_name": NAME,
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "constraint": settings.constraint,
            "array_parallelism": settings.array_parallelism,
            "nodes": job.nodes,
            "ntasks_per_node": job.devices,
            "gpus_per_node": job.gpus or None,
            "cpus_per_task": cpus,
            "mem": None if settings.mem_gb is None else f"{math.ceil(settings.mem_gb * 1024)}MB",
            "time": None if self._timeout_s is None else max(1, math.ceil(self._timeout_s / 60)),
            "signal_delay_s": 1,  # submitit's warning before the time limit is of no use here
            "setup": settings.setup or None,
            "additional_parameters": settings.additional_parameters or None,
            "srun_args": srun or None,
        }

    def _look(self) -> list[Started | Ended]:
        if not self._submitted:
            return []
        self._folder.chmod(self._folder.stat().st_mode)  # has a network file system look again
        files = set(os.listdir(self._folder))
        events: list[Started | Ended] = []
        for item in list(self._submitted):
            if not item.started and item.handle.paths.stdout.name in files:
                item.started = True
                events.append(Started(item.job))
            ended = self._ended(item, files)
            if ended is not None:
                self._submitted.remove(item)
                events.append(ended)
        return events

    def _ended(self, item: _Submitted, files: set[str]) -> Ended | None:
        job, handle = item.job, item.handle
        tasks = [handle.task(rank) for rank in range(handle.num_tasks)]
        codes = [_exit_code(task) for task in tasks if task.paths.result_pickle.name in files]
        failed = [code for code in codes if code != 0]
        if len(codes) == len(tasks) and all(code >= 0 for code in codes):
            return Ended(job, failed[0] if failed else 0)

        # A task that a signal has ended may be one that SLURM puts back into the queue.
        state = str(handle.watcher.get_state(handle.job_id, mode="cache")).upper().split(" ")[0]  # CANCELLED by 1000
        if state != item.state:
            item.state, item.since = state, time.monotonic()
        if state not in OVER or time.monotonic() - item.since < OVER[state]:
            return None
        code = failed[0] if failed else None
        if state in REASONS:
            kind, why = REASONS[state]
            return Ended(job, code, {"type": kind, "message": f"{why} (SLURM job {handle.job_id}: {state})"})
        if code is not None:
            return Ended(job, code)
        message = f"it ended without a word (SLURM job {handle.job_id}: {state}); see {handle.paths.stderr}"
        return Ended(job, None, {"type": "Exited", "message": message})

    def _cancel(self, *options: str) -> None:
        ids = [item.handle.job_id for item in self._submitted]
        if ids:
            # Its exit status says only that some job has ended in the meantime.
            subprocess.run(["scancel", *options, *ids], check=False, stderr=subprocess.DEVNULL)
            self._ask_every_s = ASK_SOON_S
            self._wake.set()

    def _ask(self) -> None:
        import submitit

        while not self._closed:
            self._wake.wait(self._ask_every_s)
            self._wake.clear()
            if self._submitted and not self._closed:
                submitit.SlurmJob.watcher.update()


def task(job: Job) -> tuple[list[str], Path, Path, bool]:
    """Returns the arguments of :func:`run_task` for a job."""
    return job.command, job.cwd, job.output, job.kind == "train"


def run_task(command: list[str], cwd: Path, output: Path, can_resume: bool) -> int:
    """Runs a job's command; SLURM starts this on a node once for each process of the job.

    Where SLURM has put the job back into the queue, after a preemption or the failure of a node, the run goes on from
    its last checkpoint. SIGINT and SIGTERM, which often reach only this process, end the command cleanly.

    Args:
        command: the command line.
        cwd: where.
        output: the file that gets what the first process prints; others write ``<stem>.<rank><suffix>`` beside it.
        can_resume: the command takes ``resume=<folder>``.

    Returns:
        0.

    Raises:
        TaskError: the exit status is another one; that of the task is not 0 then, so that srun ends the others.
    """
    import submitit

    environment = submitit.JobEnvironment()
    environment.paths.result_pickle.unlink(missing_ok=True)  # of the time before the job was queued again
    if environment.global_rank:
        output = output.with_name(f"{output.stem}.{environment.global_rank}{output.suffix}")
    folder = output.parent
    if can_resume and os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and (folder / "checkpoints/last.ckpt").exists():
        command = [*command, f"resume='{folder}'"]
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit's, and deadly to the command, which takes this over
    with output.open("ab") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    terminated = False

    def end(number: int, frame: object) -> None:
        nonlocal terminated
        terminated = terminated or number == signal.SIGTERM
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGINT)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    code = process.wait()
    if code == 0:
        return 0
    raise TaskError(f"exit status {-signal.SIGTERM if terminated else code}")


def _exit_code(task: "submitit.Job[int]") -> int:
    """The exit status of a task that has left its result; 1 where it failed beside its command."""
    error = task.exception()
    if error is None:
        return 0
    statuses = re.findall(r"TaskError: exit status (-?\d+)", str(error))
    return int(statuses[-1]) if statuses else 1
