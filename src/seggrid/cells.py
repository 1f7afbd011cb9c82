"""Runs that differ in their seed alone are one cell: a mean, a spread, and how many there are."""

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggrid.report import Run


@dataclass
class Cell:
    """The runs of one cell of a comparison.

    Attributes:
        runs: by seed, at least one; all of one status.
        rank: among the cells on the same data, from 1; None without a score.
        tied: whether it is not the best on its data, but cannot be told apart from it.
        interval: of the score, 95 %: over images and seeds; None where it is not known.
    """

    runs: "list[Run]"
    rank: int | None = None
    tied: bool = False
    interval: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """The cell's name in its comparison; that of its run where there is one."""
        return self.runs[0].cell if len(self.runs) > 1 else self.runs[0].label

    @property
    def score(self) -> float | None:
        """The mean mIoU over the seeds."""
        scores = [run.score for run in self.runs if run.score is not None]
        return statistics.fmean(scores) if scores else None

    @property
    def spread(self) -> float | None:
        """The standard deviation of the mIoU over the seeds (n - 1); None of a single one."""
        scores = [run.score for run in self.runs if run.score is not None]
        return statistics.stdev(scores) if len(scores) > 1 else None

    @property
    def values(self) -> dict[str, Any]:
        """As ``Run.values``: the mean of the figures in which the runs differ, ``n``, ``mIoU_spread``, ``seeds``."""
        raise NotImplementedError
