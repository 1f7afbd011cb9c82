"""The end of a sweep: its comparison, and its exit status."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from seggrid.errors import UserError


class Comparison(Callback):
    """Hydra calls this once after the last job of a sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes and prints the comparison; exits with status 1 if a job failed or none completed."""
        from rich.console import Console

        from seggrid.report import compare, print_summary

        folder = Path(config.hydra.sweep.dir)
        if not any(folder.glob("*/result.json")):
            _exit("the sweep had no jobs: a glob(...) in it matches nothing")
        try:
            comparison = compare(folder)
        except UserError as error:
            _exit(str(error))
        print_summary(comparison, Console())
        statuses = {run.record.status for run in comparison.runs}
        if "completed" not in statuses or statuses & {"failed", "interrupted"}:
            sys.exit(1)


def _exit(line: str) -> None:
    # Hydra turns an exception of a callback into a warning; an exit it lets through.
    print(f"error: {line}", file=sys.stderr)
    sys.exit(1)
