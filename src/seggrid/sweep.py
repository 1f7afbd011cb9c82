"""The end of a sweep: its comparison, and its exit status, the number of cells that failed.

``python -m seggrid.sweep <folder> [<folder> ...]`` compares the runs of some folders again, say of a sweep of trainings
and of one of profiles.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from seggrid import results
from seggrid.errors import INTERRUPTED, UserError
from seggrid.grid import sweep_record

MOST = 100  # of failed cells in the exit status, in which there is room for a byte


class Comparison(Callback):
    """Hydra calls this once after the last job of a sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes and prints the comparison; exits with the number of jobs that failed, or 1 if none completed."""
        folder = Path(config.hydra.sweep.dir)
        sweep = sweep_record.read(folder)
        if sweep is not None and sweep.not_started:
            print(
                f"{len(sweep.not_started)} of {sweep.jobs} cells were not started; the same command goes on with them"
            )
        statuses = []
        if any(folder.glob(f"*/{results.FILE_NAME}")):
            statuses = compare_folders(folder)
        elif sweep is None:
            _exit("the sweep had no jobs: a glob(...) in it matches nothing")
        if sweep is not None and sweep.interrupted:
            sys.exit(INTERRUPTED)
        # Those of this command; the folder may hold others.
        failed = sum(status in ("failed", "interrupted") for status in statuses) if sweep is None else sweep.failed
        completed = "completed" in statuses if sweep is None else sweep.completed > 0
        if failed or not completed:
            sys.exit(min(max(1, failed), MOST))


def compare_folders(folder: Path, *more: Path) -> list[str]:
    """Writes and prints the comparison of the runs below some folders.

    Args:
        folder: gets ``comparison.csv``, ``.md`` and ``.html``.
        more: further folders with runs.

    Returns:
        The status of each run. Exits with status 1 where one of the folders holds no run.
    """
    from seggrid.comparison.report import compare
    from seggrid.comparison.summary import print_summary
    from seggrid.grid.terminal import Output

    try:
        comparison = compare(folder, *more)
    except UserError as error:
        _exit(str(error))
    with suppress(OSError):  # of a terminal that is closed; the files are written
        print_summary(comparison, Output())
    return [run.record.status for run in comparison.runs]


def _exit(line: str) -> NoReturn:
    # Hydra turns an exception of a callback into a warning; an exit it lets through.
    sys.exit(f"error: {line}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or any(argument.startswith("-") for argument in sys.argv[1:]):
        _exit("say python -m seggrid.sweep <folder with runs> [<folder> ...]; the result is written into the first")
    compare_folders(*map(Path, sys.argv[1:]))
