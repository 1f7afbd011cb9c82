"""Why a job ended that could not say so itself. Imports no torch."""

import logging
import signal
from pathlib import Path

from seggrid import results
from seggrid.errors import UserError
from seggrid.grid.job import Ended
from seggrid.results import Record

# Of these a run knew nothing: it can go on where it was.
FROM_WITHOUT = ("Killed", "OutOfMemory", "Timeout", "Interrupted", "FullDiskError")
log = logging.getLogger(__name__)
LONGEST = 200  # characters of the last line of a job's output


def settle(ended: Ended, record: Record) -> Record:
    """Returns the record that a job has left, with the reason where it could not write one, and writes that.

    Args:
        ended: how its process ended.
        record: as the run began.
    """
    try:
        left = results.read(ended.job.folder) or record
    except UserError:
        left = record
    stopped = ended.error is not None and ended.error["type"] == "Interrupted"
    # What fails after the user has asked for the end, fails because of that.
    if (left.status == "interrupted" and left.error is None) or (left.status == "failed" and stopped):
        left.error = ended.error or _reason(ended)
        left.status = "interrupted" if left.error["type"] == "Interrupted" else "failed"
        left.identity = left.identity or record.identity
        try:
            left.write(ended.job.folder)
        except OSError as error:  # a full disk ends a job, and not the sweep, which may make room
            log.warning("warning: %s could not be written (%s)", ended.job.folder / results.FILE_NAME, error.strerror)
    return left


def _reason(ended: Ended) -> dict[str, str]:
    code = ended.exit_code
    if code is not None and code < 0:
        return {"type": "Killed", "message": f"killed by {_signal_name(-code)}{_said(ended.job.output)}"}
    status = "an unknown exit status" if code is None else f"exit status {code}"
    return {"type": "Exited", "message": f"ended with {status} and no result{_said(ended.job.output)}"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _said(output: Path) -> str:
    """The last line of a job's output, which often is the reason."""
    line = last_line(output)
    return f"; its last line: {line[:LONGEST]}" if line else ""


def last_line(output: Path) -> str:
    """Returns the last line that a job has printed, as far as there is one."""
    try:
        with output.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
