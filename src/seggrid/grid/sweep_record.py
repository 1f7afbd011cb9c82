"""What is known of a sweep as a whole: ``sweep.json`` in its folder. Imports no torch."""

import dataclasses
import json
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from seggrid import results
from seggrid.errors import UserError

FILE_NAME = "sweep.json"


@dataclass
class SweepRecord:
    """One call of a sweep's command, over all batches that its sweeper makes of it.

    Attributes:
        command: the command line.
        jobs: cells that it names.
        finished: of these, how many were finished before.
        completed: how many have a result, those included.
        failed: how many failed or were interrupted, now or before.
        not_started: the cells that Ctrl-C kept from starting.
        interrupted: whether it was stopped.
        started: when, UTC.
        ended: when it ended, UTC; None while it runs.
    """

    command: str
    jobs: int = 0
    finished: int = 0
    completed: int = 0
    failed: int = 0
    not_started: list[str] = field(default_factory=list)
    interrupted: bool = False
    started: str = field(default_factory=results.now)
    ended: str | None = None

    def write(self, folder: Path) -> None:
        """Writes it as ``folder/sweep.json``, whole or not at all.

        Raises:
            UserError: the disk is full, or the folder cannot be written to.
        """
        temporary = folder / f".{FILE_NAME}.{os.getpid()}"
        try:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
            temporary.replace(folder / FILE_NAME)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            path = folder / FILE_NAME
            raise UserError(
                f"{path} cannot be written ({error.strerror}); make room, or choose another hydra.sweep.dir"
            ) from error


def read(folder: Path) -> SweepRecord | None:
    """Returns what ``folder/sweep.json`` says; None where it is not there, or damaged: nothing depends on it."""
    try:
        values = json.loads((folder / FILE_NAME).read_text())
        known = {entry.name for entry in dataclasses.fields(SweepRecord)}
        return SweepRecord(**{key: value for key, value in values.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def command_line(argv: list[str]) -> str:
    """Returns a command line as it can be typed again."""
    return shlex.join(["python", *argv])
