"""Runs that differ in their seed alone are one cell: a mean, a spread, and how many there are."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from seggrid.comparison.rows import as_number, inference
from seggrid.results import natural_order

if TYPE_CHECKING:
    from seggrid.comparison.report import Run

NO_MEAN = {"rank", "seed", "overrides", "started", "ended"}
OF_DEVICE = ("s_per_iter", "s_per_iter_samples", "data_s_per_iter", "images_per_s", "peak_memory_bytes")


class Difference(NamedTuple):
    """How far one score is above another: a 95 % interval, and what it is over, as words."""

    low: float
    high: float
    over: str


@dataclass
class Cell:
    """The runs of one cell of a comparison.

    Attributes:
        runs: by seed, at least one; all of one status.
        rank: among the cells on the same data, from 1; None without a score.
        tied: whether it is not the best on its data, but cannot be told apart from it.
        interval: of the score, 95 %: over images and seeds; None where it is not known.
        behind: how far the score is below that of the best on the same data, 95 %; None where that is not known.
        images: what tells the images that it was measured on, and their labels; None where that is not known.
        elsewhere: whether it is known not to have been measured on the images of the best on the same data.
    """

    runs: "list[Run]"
    rank: int | None = None
    tied: bool = False
    interval: tuple[float, float] | None = None
    behind: Difference | None = None
    images: bytes | None = None
    elsewhere: bool = False

    @property
    def label(self) -> str:
        """The cell's name in its comparison; that of its run where there is one."""
        return self.runs[0].cell if len(self.runs) > 1 else self.runs[0].label

    @property
    def status(self) -> str:
        """The status that all its runs have."""
        return self.runs[0].record.status

    @property
    def data(self) -> str:
        """What the mIoU was measured on."""
        return self.runs[0].data

    @cached_property
    def score(self) -> float | None:
        """The mean mIoU over the seeds."""
        scores = [run.score for run in self.runs if run.score is not None]
        return statistics.fmean(scores) if scores else None

    @cached_property
    def spread(self) -> float | None:
        """The standard deviation of the mIoU over the seeds (n - 1); None of a single one."""
        scores = [run.score for run in self.runs if run.score is not None]
        return statistics.stdev(scores) if len(scores) > 1 else None

    @cached_property
    def measured(self) -> "set[tuple[Any, ...]]":
        """What was measured how: checkpoints by their folder and name, and the inference; empty where not known."""
        return {known for run in self.runs if (known := _measured(run)) is not None}

    def measures_again(self, other: "Cell") -> bool:
        """Whether this is a second measurement of another cell's weights by the same inference, and so no rival."""
        return self.data == other.data and not self.measured.isdisjoint(other.measured)

    @property
    def best(self) -> "Run":
        """The run with the highest mIoU."""
        return max(self.runs, key=lambda run: -1.0 if run.score is None else run.score)

    @property
    def values(self) -> dict[str, Any]:
        """As ``Run.values``: the mean of the figures in which the runs differ, ``n``, ``mIoU_spread``, ``seeds``.

        Words in which they differ stand one after the other, and of the overrides those that all runs have. Of runs on
        several devices there are no times and no memory of training.
        """
        values = self._row | {"rank": self.rank, "mIoU_spread": self.spread}
        if self.interval is not None:
            low, high = self.interval
            ends = f"{100 * low:.1f} to {100 * high:.1f}"
            values |= {"mIoU_low": low, "mIoU_high": high, "interval": ends}
        return values

    @cached_property  # the runs are joined with their profiles before they are cells
    def _row(self) -> dict[str, Any]:
        rows = [run.values for run in self.runs]
        seeds = [run.record.seed for run in self.runs if run.record.seed is not None]
        more = {"n": len(rows), "seeds": " ".join(map(str, seeds)) or None}
        if len(rows) == 1:
            return rows[0] | more
        merged = {
            key: _merged(row.get(key) for row in rows) for key in dict.fromkeys(key for row in rows for key in row)
        }
        for key in NO_MEAN | {"mIoU_low", "mIoU_high", "interval"}:  # those of single runs are not the cell's
            merged[key] = None
        if len({row["device"] for row in rows if row.get("device") is not None}) > 1:
            merged |= dict.fromkeys(OF_DEVICE)  # a mean of the times of two devices is that of none
        first, *others = [[str(item) for item in run.record.overrides] for run in self.runs]
        shared = [item for item in first if all(item in other for other in others)]
        times = {"started": min(_texts(rows, "started")), "ended": max(_texts(rows, "ended"))}
        return merged | more | times | {"overrides": " ".join(shared)}


def collapse(runs: "list[Run]") -> "tuple[list[Cell], list[str]]":
    """Makes cells of the scored runs that differ in their seed alone; every other run is one of its own.

    The very same run made twice is not two seeds: the newest is taken. Two runs of one name and seed that were made
    from other configurations or data, which files can say where no command line does, are not of one cell; nor are
    trainings of other data, length, input or precision, whatever their seeds.

    Args:
        runs: in the order of the comparison, each with its name.

    Returns:
        The cells, best first within each data set, then those without a score in the order of ``runs``; the others
        are ranked nowhere. Lines that name the runs that newer ones replace.
    """
    groups: dict[tuple[Any, ...], list[Run]] = {}
    rest: list[Cell] = []
    for run in runs:
        if run.score is None or run.record.seed is None:
            rest.append(Cell([run]))
        else:
            how = (str(run.values.get(key)) for key in ("kind", "inference", "tta", "params"))
            groups.setdefault((run.cell, run.data, *how, *_made(run)), []).append(run)
    scored: list[Cell] = [cell for cell in rest if cell.score is not None]
    replaced: list[Run] = []
    for same in groups.values():
        newest = _newest(same)
        replaced += [run for run in same if not any(run is other for other in newest)]
        scored += [Cell(sorted(part, key=lambda run: run.record.seed or 0)) for part in _by_seed(newest)]
    _tell_apart([cell for cell in scored if len(cell.runs) > 1])
    scored.sort(key=lambda cell: (cell.data, -(cell.score or 0.0), cell.runs[0].params))
    ranks: dict[str, int] = {}
    for cell in scored:
        cell.rank = ranks[cell.data] = ranks.get(cell.data, 0) + 1
    return [*scored, *(cell for cell in rest if cell.score is None)], _replacements(replaced)


def _newest(runs: "list[Run]") -> "list[Run]":
    """Of the runs with one seed and the same identity the one that was begun last."""
    newest: dict[tuple[Any, ...], Run] = {}
    for run in sorted(runs, key=lambda run: (str(run.record.started), natural_order(str(run.folder)))):
        newest[run.record.seed, *_identity(run)] = run
    return [run for run in runs if any(run is kept for kept in newest.values())]


def _by_seed(runs: "list[Run]") -> "list[list[Run]]":
    """The runs as one cell; where a seed is there twice, those of each sweep, and if need be each run alone."""
    if _seeds_differ(runs):
        return [runs]
    sweeps: dict[Path, list[Run]] = {}
    for run in runs:
        sweeps.setdefault(run.folder.resolve().parent, []).append(run)
    return list(sweeps.values()) if all(map(_seeds_differ, sweeps.values())) else [[run] for run in runs]


def _tell_apart(cells: list[Cell]) -> None:
    """Adds to the name that several cells have that of their sweeps, else their folders."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.label, []).append(cell)
    for same in (same for same in groups.values() if len(same) > 1):
        sweeps = [cell.runs[0].folder.resolve().parent.name for cell in same]
        folders = [" ".join(run.folder.name for run in cell.runs) for cell in same]
        for cell, name in zip(same, sweeps if len({*sweeps}) == len(same) else folders, strict=True):
            for run in cell.runs:
                run.cell += f" / {name}"


def _seeds_differ(runs: "list[Run]") -> bool:
    return len({run.record.seed for run in runs}) == len(runs)


def _measured(run: "Run") -> tuple[Any, ...] | None:
    """The weights and the inference of a run: of a training its best checkpoint, on whole images."""
    if run.record.kind == "train":
        return run.folder.resolve(), "best", str(inference(run.record))
    how = run.record.evaluation or {}
    if not isinstance(how.get("run"), str):
        return None
    return Path(how["run"]).expanduser().resolve(), str(how.get("checkpoint") or "best"), str(inference(run.record))


def _made(run: "Run") -> tuple[str, ...]:
    """What seeds have in common beside their settings: files can say it where no command line does."""
    model, train = run.record.model or {}, run.record.train or {}
    made = [model.get("input_size"), *(train.get(key) for key in ("epochs", "steps", "precision"))]
    if run.record.kind == "train":  # that of an evaluation tells of its checkpoint, another of each seed
        made.append((run.record.identity or {}).get("data"))
    return tuple(map(str, made))


def _identity(run: "Run") -> tuple[Any, ...]:
    identity = run.record.identity or {}
    return str(identity.get("config")), str(identity.get("data"))


def _replacements(runs: "list[Run]") -> list[str]:
    if not runs:
        return []
    named = ", ".join(str(run.folder) for run in runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
    return [f"Made again since, the newest counts: {named}."]


def _merged(values: Iterable[Any]) -> Any:
    """One value for several: itself where they are the same, the mean of numbers, different words side by side."""
    known = [value for value in values if value is not None]
    different = list(dict.fromkeys(map(str, known)))
    if len(different) < 2:
        return known[0] if known else None
    numbers = [number for value in known if (number := as_number(value)) is not None]
    return statistics.fmean(numbers) if len(numbers) == len(known) else "; ".join(different)


def _texts(rows: list[dict[str, Any]], key: str) -> list[str]:
    return [str(row[key]) for row in rows if row.get(key) is not None] or [""]
