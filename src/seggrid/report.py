"""Many records -> one comparison: a table to compute with, a table to paste, and a page to show."""

import csv
import io
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seggrid import joining, results
from seggrid.columns import COLUMNS, CSV_COLUMNS, PROFILE_SETTINGS, SETTINGS, Column
from seggrid.errors import UserError
from seggrid.results import NOISY, Record
from seggrid.rows import DERIVED, SECTIONS, as_number, flatten, with_profile

log = logging.getLogger(__name__)

STATUS_ORDER = ("completed", "failed", "interrupted", "skipped")


@dataclass
class Run:
    """One record and its folder; ``cell`` and ``label`` (the cell and what tells its runs apart) name it in a sweep.

    ``profile`` is the profile of the same network that lends it its figures, where there is one.
    """

    folder: Path
    record: Record
    cell: str = ""
    label: str = ""
    rank: int | None = None
    profile: "Run | None" = None

    @property
    def values(self) -> dict[str, Any]:
        """Every figure and word of the record, and of the profile, under the names of ``comparison.csv``."""
        return {"rank": self.rank, **self._row}

    @cached_property  # the record is read once, and joined before anyone looks at its values
    def _row(self) -> dict[str, Any]:
        own = flatten(self.record)
        return own if self.profile is None else with_profile(own, flatten(self.profile.record))

    @property
    def own_profile(self) -> "Run | None":
        """The completed profile that this run is or that lends it its figures."""
        is_one = (self.record.kind, self.record.status) == ("profile", "completed")
        return self if is_one else self.profile

    @property
    def model(self) -> str:
        """The cell on whatever data: ``backend / arch / encoder``."""
        return f"{self.record.backend} / {self.record.arch} / {self.record.encoder}"

    @property
    def score(self) -> float | None:
        """The mIoU, where the run completed and has one."""
        return as_number((self.record.metrics or {}).get("mIoU")) if self.record.status == "completed" else None

    @property
    def data(self) -> str:
        """What the mIoU was measured on: the dataset, with the split where that is not ``val``."""
        split = (self.record.evaluation or {}).get("split") or "val"
        return str(self.record.dataset) + (f" {split}" if split != "val" else "")

    @property
    def params(self) -> float:
        """The number of parameters; infinite where it is not known."""
        number = as_number(self.values.get("params"))
        return float("inf") if number is None else number

    @property
    def reason(self) -> str:
        """Why the run has no result, as one line."""
        return self.values["error"] or "no reason recorded"


@dataclass
class Comparison:
    """The runs of some folders, best first, and what was written about them.

    ``winner`` is None where no run has an mIoU, or where several datasets were used: ``verdict`` then names the best
    of each. A profile that lends its figures to other runs is not among ``runs``. ``notes`` are lines about the
    profiles: which were not joined and why, which were measured on a noisy machine.
    """

    folder: Path
    runs: list[Run]
    paths: dict[str, Path]
    winner: Run | None
    verdict: str
    notes: list[str] = field(default_factory=list)

    def columns(self) -> list[Column]:
        """Returns the columns that tell something here: no empty ones, no setting that all runs share."""
        texts = {column.key: {column.text(run) for run in self.runs} - {""} for column in COLUMNS}
        told = {key for key in texts if len(texts[key]) > (key in SETTINGS)}
        return [
            column for column in self._headed() if column.key in told and (column.key != "status" or self.unfinished)
        ]

    def shared(self) -> str:
        """Returns how many runs completed and the settings that all runs share, as one line."""
        parts = [f"{len(self.runs) - len(self.unfinished)} of {len(self.runs)} runs completed"]
        for column in (column for column in self._headed() if column.key in SETTINGS):
            texts = {column.text(run) for run in self.runs} - {""}
            parts += [f"{column.head} {text}" for text in texts if len(texts) == 1]
        return ", ".join(parts)

    def _headed(self) -> list[Column]:
        """All columns; beside runs that are no profiles, the settings of the profiles are named as such."""
        if all(run.record.kind == "profile" for run in self.runs):
            return list(COLUMNS)
        return [
            column._replace(head=f"profiled {column.head.removeprefix('profiled ')}")
            if column.key in PROFILE_SETTINGS
            else column
            for column in COLUMNS
        ]

    @property
    def profiles(self) -> list[Run]:
        """The completed profiles, each once, be they rows of their own or lent to other runs."""
        return profiles(self.runs)

    @property
    def lent(self) -> list[Run]:
        """The profiles that have no row of their own."""
        return list({id(run.profile): run.profile for run in self.runs if run.profile is not None}.values())

    @property
    def unfinished(self) -> list[Run]:
        """The runs that did not complete."""
        return [run for run in self.runs if run.record.status != "completed"]


def profiles(runs: list[Run]) -> list[Run]:
    """Returns the completed profiles among ``runs`` and those that lend them figures, each once."""
    return list({id(profile): profile for run in runs if (profile := run.own_profile) is not None}.values())


def read_sweep(folder: Path) -> list[Run]:
    """Reads every ``result.json`` below a folder.

    Args:
        folder: a sweep's folder, or any folder with runs somewhere below it.

    Returns:
        The runs by folder name, job 2 before job 10. A damaged or foreign file is named in a warning and passed over.
    """
    runs = []
    paths = (path.parent for path in folder.rglob(results.FILE_NAME))
    for path in sorted(
        paths, key=lambda path: [results.natural_order(part) for part in path.relative_to(folder).parts]
    ):
        try:
            record = results.read(path)
        except UserError as error:
            log.warning("passed over: %s", error)
            continue
        if record is not None and _is_sound(record):
            runs.append(Run(path, record))
        else:
            log.warning("passed over: %s is no record of a run", path / results.FILE_NAME)
    return runs


def compare(folder: Path, *more: Path) -> Comparison:
    """Compares the runs below some folders and writes ``comparison.csv``, ``.md`` and ``.html`` into the first.

    Args:
        folder: a sweep's folder.
        more: further ones, say of the profiles of the same cells.

    Returns:
        The comparison: completed runs by mIoU (within each dataset, where there are several), then the others.

    Raises:
        UserError: there is no record below one of the folders.
    """
    from seggrid import page  # it needs plotly; reading a sweep does not
    from seggrid.verdict import choose

    found: dict[Path, Run] = {}  # a folder within another is read once
    for each in (folder, *more):
        runs = read_sweep(each)
        if not runs:
            raise UserError(f"no readable {results.FILE_NAME} below {each}; give the folder of a sweep or of a run")
        found |= {run.folder.resolve(): run for run in runs if run.folder.resolve() not in found}
    runs, notes = joining.join(list(found.values()))
    _name(runs)
    runs.sort(key=_order)
    ranks: Counter[str] = Counter()
    for run in runs:
        if run.score is not None:
            ranks[run.data] += 1
            run.rank = ranks[run.data]
    winner, verdict = choose(runs)
    paths = {kind: folder / f"comparison.{kind}" for kind in ("csv", "md", "html")}
    comparison = Comparison(folder, runs, paths, winner, verdict, [*notes, *_noisy(runs)])
    _write(paths["csv"], _csv(comparison))
    _write(paths["md"], page.markdown(comparison))
    _write(paths["html"], page.render(comparison))
    return comparison


def _is_sound(record: Record) -> bool:
    words = (record.kind, record.status, record.backend, record.arch, record.encoder)
    sections = [getattr(record, name) for name in (*SECTIONS, "error", "intervals", "evaluation")]
    entries: Any = [] if record.per_class is None else record.per_class
    return (
        all(isinstance(word, str) for word in words)
        and all(section is None or isinstance(section, dict) for section in sections)
        and isinstance(record.overrides, list)
        and isinstance(entries, list)
        and all(isinstance(entry, dict) for entry in entries)
    )


def _name(runs: list[Run]) -> None:
    """Gives each run a name of its own: ``backend / arch / encoder`` and whatever else tells it from the others."""
    several_datasets = len({run.record.dataset for run in runs} - {None}) > 1
    several_seeds = len({run.record.seed for run in runs} - {None}) > 1
    cells: dict[str, list[Run]] = {}
    for run in runs:
        # A profile's data set is only what it loads: its costs are those of the cell on whatever data.
        dataset = run.record.dataset if several_datasets and run.record.kind != "profile" else None
        cells.setdefault(run.model + (f" / {dataset}" if dataset is not None else ""), []).append(run)
    for cell, same in cells.items():
        several_kinds = len({run.record.kind for run in same}) > 1
        for run in same:
            settings = [joining.settings(other) for other in same if other.record.kind == run.record.kind]
            details = [run.record.kind] if several_kinds else []
            details += [item for item in joining.settings(run) if not all(item in other for other in settings)]
            run.cell = run.label = f"{cell} ({', '.join(details)})" if details else cell
            if several_seeds and run.record.seed is not None:
                run.label += f" / seed {run.record.seed}"
    _tell_apart(runs)
    lent = [profile for profile in profiles(runs) if not profile.label]  # these have no row
    for profile in lent:
        network = ", ".join(f"{key}={value}" for key, value in sorted(joining.network(profile).items()))
        profile.cell = profile.label = f"{profile.model} ({network})" if network else profile.model
    _tell_apart(lent)


def _tell_apart(runs: list[Run]) -> None:
    """Adds to the labels that several runs have what they were measured on, else their folders."""
    for same in _by_label(runs).values():
        devices = {str(run.values.get("profile_device")) for run in same}
        for run in same:
            run.label += f" / {run.values.get('profile_device')}" if len(devices) > 1 else ""
    for same in _by_label(runs).values():
        names = {run.folder.name for run in same}
        for run in same:
            run.label += f" / {run.folder.name if len(names) == len(same) else '/'.join(run.folder.parts[-2:])}"


def _by_label(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs whose label is not theirs alone."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return {label: same for label, same in groups.items() if len(same) > 1}


def _noisy(runs: list[Run]) -> list[str]:
    """A line that names the profiles whose figures scatter too much."""
    noises = {run.label: as_number(run.values.get("profile_noise")) for run in profiles(runs)}
    noisy = [f"{label} ({noise:.2f})" for label, noise in noises.items() if noise is not None and noise > NOISY]
    if not noisy:
        return []
    return [
        f"Noisy, p90 over p10 above {NOISY}: {', '.join(noisy)}; measure again on a machine that does nothing else."
    ]


def _order(run: Run) -> tuple[Any, ...]:
    status, score = run.record.status, run.score
    place = STATUS_ORDER.index(status) if status in STATUS_ORDER else len(STATUS_ORDER)
    if score is None:
        return (place, True)
    return (place, False, run.data, -score, run.params)


def _csv(comparison: Comparison) -> str:
    rows = [
        {
            **run.values,
            "folder": _relative(run, comparison.folder),
            "profile_folder": _relative(run.profile, comparison.folder),
        }
        for run in comparison.runs
    ]
    more = sorted({key for row in rows for key in row} - set(CSV_COLUMNS) - DERIVED)
    columns = [*CSV_COLUMNS, *more, "profile_folder", "folder"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _relative(run: Run | None, folder: Path) -> str:
    return "" if run is None else Path(os.path.relpath(run.folder, folder)).as_posix()


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
