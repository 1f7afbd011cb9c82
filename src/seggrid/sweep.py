"""The end of a sweep: its comparison, and its exit status.

``python -m seggrid.sweep <folder> [<folder> ...]`` compares the runs of some folders again, say of a sweep of trainings
and of one of profiles.
"""

import sys
from pathlib import Path
from typing import Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from seggrid.errors import UserError


class Comparison(Callback):
    """Hydra calls this once after the last job of a sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes and prints the comparison; exits with status 1 if a job failed or none completed."""
        folder = Path(config.hydra.sweep.dir)
        if not any(folder.glob("*/result.json")):
            _exit("the sweep had no jobs: a glob(...) in it matches nothing")
        statuses = compare_folders(folder)
        if "completed" not in statuses or statuses & {"failed", "interrupted"}:
            sys.exit(1)


def compare_folders(folder: Path, *more: Path) -> set[str]:
    """Writes and prints the comparison of the runs below some folders.

    Args:
        folder: gets ``comparison.csv``, ``.md`` and ``.html``.
        more: further folders with runs.

    Returns:
        The statuses that the runs have. Exits with status 1 where one of the folders holds no run.
    """
    from rich.console import Console

    from seggrid.report import compare
    from seggrid.summary import print_summary

    try:
        comparison = compare(folder, *more)
    except UserError as error:
        _exit(str(error))
    print_summary(comparison, Console())
    return {run.record.status for run in comparison.runs}


def _exit(line: str) -> NoReturn:
    # Hydra turns an exception of a callback into a warning; an exit it lets through.
    sys.exit(f"error: {line}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or any(argument.startswith("-") for argument in sys.argv[1:]):
        _exit("say python -m seggrid.sweep <folder with runs> [<folder> ...]; the result is written into the first")
    compare_folders(*map(Path, sys.argv[1:]))
