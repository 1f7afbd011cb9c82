"""A job of a sweep, and what runs jobs. Imports no torch."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seggrid import results


@dataclass(frozen=True)
class Job:
    """One run of a sweep, as an engine gets it.

    Attributes:
        number: in its sweep, from 0.
        kind: ``train``, ``evaluate`` or ``profile``.
        label: its cell, for people.
        backend: its library, which a fork server can import beforehand.
        script: the entry point, an absolute path.
        arguments: of the entry point: the job's overrides and its ``hydra.run.dir``.
        folder: the run's folder, an absolute path; it exists.
        cwd: the folder that the command was given in.
        gpus: GPUs that it needs on each node.
        nodes: machines that it needs.
        devices: processes of the run on each node; 1 where Lightning is to start none.
    """

    number: int
    kind: str
    label: str
    backend: str
    script: Path
    arguments: tuple[str, ...]
    folder: Path
    cwd: Path
    gpus: int = 0
    nodes: int = 1
    devices: int = 1

    @property
    def command(self) -> list[str]:
        """The command line that runs the job in a process of its own."""
        return [sys.executable, str(self.script), *self.arguments]

    @property
    def output(self) -> Path:
        """The file that gets all the job prints."""
        return self.folder / results.OUTPUT_NAME


@dataclass(frozen=True)
class Started:
    """A job has begun to run."""

    job: Job


@dataclass(frozen=True)
class Ended:
    """A job's process has ended.

    Attributes:
        job: which.
        exit_code: its exit status, negative for a signal; None where it is not known.
        error: ``type`` and ``message`` for the record where the engine knows why, say a timeout.
    """

    job: Job
    exit_code: int | None
    error: dict[str, str] | None = None


class Engine(Protocol):
    """What runs jobs: this machine, SLURM or Ray. It only runs them: records are read and mended by its caller."""

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        ...

    def submit(self, jobs: list[Job]) -> None:
        """Takes jobs, which start as there is room; may be called again once these have ended."""
        ...

    def poll(self, timeout_s: float) -> list[Started | Ended]:
        """Returns what has happened since the last call; waits at most so long for something to happen."""
        ...

    def interrupt(self) -> None:
        """Starts no further job, and has those that run end cleanly (SIGINT)."""
        ...

    def kill(self) -> None:
        """Ends at once what runs."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds."""
        ...
