"""``engine=ray``: a sweep's jobs on a Ray cluster. Imports no torch, and Ray only when used."""

import contextlib
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra_plugins.seggrid_grid import RayConf
from seggrid.errors import UserError, one_line
from seggrid.grid import leash
from seggrid.grid.job import Ended, Job, Started

TIMED_OUT = None  # in place of an exit status


class Runner:
    """What a worker does for one job; Ray makes an actor of it, whose methods run side by side."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, command: list[str], cwd: Path, output: Path) -> None:
        """Starts the command."""
        with output.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", leash.__name__, *command],
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, timeout_s: float | None) -> int | None:
        """Waits for its end; returns its exit status, or ``TIMED_OUT``."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
            return TIMED_OUT

    def interrupt(self) -> None:
        """Sends SIGINT to its process group."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._process.stdin.write(leash.INTERRUPT)
                self._process.stdin.flush()

    def kill(self) -> None:
        """Ends it with all of its process group."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()


@dataclass
class _Submitted:
    job: Job
    actor: Any
    begun: Any  # references to what the actor's methods will have returned
    ended: Any
    started: bool = False


class RayEngine:
    """Runs jobs on a Ray cluster; see :class:`seggrid.grid.job.Engine`.

    Args:
        settings: ``hydra.launcher.ray``.
        folder: the sweep's, shared by all nodes.
        timeout_s: a job that runs longer is killed.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, settings: RayConf, folder: Path, timeout_s: float | None) -> None:
        if find_spec("ray") is None:
            raise UserError("hydra.launcher.engine=ray needs Ray: pip install 'seggrid[ray]'")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._settings, self._timeout_s = settings, timeout_s
        own = {} if settings.address else {"include_dashboard": False}
        try:
            ray.init(settings.address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"hydra.launcher.ray.address={settings.address}: there is no Ray cluster ({one_line(error)[:160]}); "
                "leave it out to start one on this machine"
            ) from error
        self._submitted: list[_Submitted] = []
        self._gpus = 0

    @property
    def slots(self) -> int:
        """How many jobs the cluster has room for."""
        return max(1, sum(_room(node, self._needs(self._gpus)) for node in _nodes()))

    def submit(self, jobs: list[Job]) -> None:
        """Hands jobs to Ray, which starts them as there is room.

        Raises:
            UserError: a job needs more than any node has, or several nodes.
        """
        import ray

        for job in jobs:
            if job.nodes > 1:
                raise UserError(
                    f"trainer.num_nodes={job.nodes}: hydra.launcher.engine=ray runs a job on one node; say "
                    "trainer.num_nodes=1, or hydra.launcher.engine=slurm"
                )
            needs = self._needs(job.gpus)
            if not any(_room(node, needs) for node in _nodes()):
                wanted = ", ".join(f"{key} {value:g}" for key, value in needs.items())
                there = "; ".join(", ".join(f"{key} {node.get(key, 0):g}" for key in needs) for node in _nodes())
                raise UserError(
                    f"no node of the Ray cluster has what job {job.number} needs ({wanted}); its nodes have: {there}. "
                    "Lower hydra.launcher.ray.cpus_per_job, hydra.launcher.ray.resources or trainer.devices"
                )
        for job in jobs:
            self._gpus = max(self._gpus, job.gpus)
            actor = (
                ray.remote(Runner)
                .options(
                    num_cpus=self._settings.cpus_per_job,
                    num_gpus=job.gpus,
                    resources=self._settings.resources,
                    max_concurrency=3,  # an interruption comes while the job is waited for
                    max_restarts=0,
                    max_task_retries=0,
                )
                .remote()
            )
            begun = actor.begin.remote(job.command, job.cwd, job.output)
            self._submitted.append(_Submitted(job, actor, begun, None))

    def poll(self, timeout_s: float) -> list[Started | Ended]:
        """Waits for jobs to begin or end."""
        import ray

        waiting = {item.ended if item.started else item.begun: item for item in self._submitted}
        if not waiting:
            return []
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout_s)
        if ready:  # and what else has come by now
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return [self._event(waiting[reference]) for reference in ready]

    def interrupt(self) -> None:
        """Takes back the jobs that wait, which then end as killed, and sends SIGINT to those that run."""
        import ray

        for item in self._submitted:
            if ray.wait([item.begun], timeout=0)[0]:
                item.actor.interrupt.remote()
            else:
                ray.kill(item.actor)

    def kill(self) -> None:
        """Ends all jobs: with its worker gone, a job's leash ends its processes."""
        import ray

        for item in self._submitted:
            ray.kill(item.actor)

    def close(self) -> None:
        """Leaves the cluster, or ends the one on this machine."""
        import ray

        if ray.is_initialized():
            self.kill()
            ray.shutdown()

    def _needs(self, gpus: int) -> dict[str, float]:
        needs = {"CPU": self._settings.cpus_per_job, "GPU": float(gpus), **self._settings.resources}
        return {key: value for key, value in needs.items() if value > 0}

    def _event(self, item: _Submitted) -> Started | Ended:
        import ray

        try:
            result = ray.get(item.ended if item.started else item.begun)
        except Exception as error:  # of Ray's many, or of the start of the command
            self._submitted.remove(item)
            return Ended(item.job, None, _reason(error, item.started))
        if not item.started:
            item.started = True
            item.ended = item.actor.wait.remote(self._timeout_s)
            return Started(item.job)
        self._submitted.remove(item)
        ray.kill(item.actor)  # gives its resources to the next
        if result is TIMED_OUT:
            message = f"it ran longer than hydra.launcher.timeout ({self._timeout_s:g} s)"
            return Ended(item.job, None, {"type": "Timeout", "message": message})
        return Ended(item.job, int(result))


def _reason(error: Exception, started: bool) -> dict[str, str]:
    import ray.exceptions

    if isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in str(error):
        return {"type": "OutOfMemory", "message": "Ray's memory monitor ended it: its node ran out of memory"}
    if isinstance(error, ray.exceptions.RayActorError):
        where = "its worker or its node died" if started else "it was cancelled before it began, or its node died"
        return {"type": "Killed", "message": f"{where} ({type(error).__name__})"}
    return {"type": "Exited", "message": f"it could not be started: {one_line(error)}"}


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive, by name."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(node: dict[str, float], needs: dict[str, float]) -> int:
    """How many jobs a node has room for when it is empty."""
    return min((int(node.get(key, 0) / value) for key, value in needs.items()), default=len(node))
