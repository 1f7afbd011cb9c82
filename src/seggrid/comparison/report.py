"""Many records -> one comparison: a table to compute with, a table to paste, and a page to show."""

import csv
import io
import logging
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seggrid import results
from seggrid.comparison import joining
from seggrid.comparison.cells import Cell, collapse
from seggrid.comparison.columns import COLUMNS, CSV_COLUMNS, PROFILE_SETTINGS, SETTINGS, Column
from seggrid.comparison.foreign import fault
from seggrid.comparison.rows import DERIVED, as_number, flatten, inference, with_profile
from seggrid.errors import UserError
from seggrid.results import NOISY, Record

log = logging.getLogger(__name__)

MOST_PASSED_OVER = 5  # files that the notes name
# Settings that have columns of their own.
WITH_COLUMNS = {"inference", "tta", "split", "dataset", "precision", "channels_last", "compile"}
STATUS_ORDER = ("completed", "failed", "interrupted", "skipped")


@dataclass
class Run:
    """One record and its folder; ``cell`` and ``label`` (the cell and what tells its runs apart) name it in a sweep.

    ``rank`` is that of its cell; ``apart`` are the settings that tell it from others of its backend, arch and encoder.
    ``profile`` is the profile of the same network that lends it its figures, where there is one; ``several`` says how
    those differ of which it is not known which of them belongs to the run.
    """

    folder: Path
    record: Record
    cell: str = ""
    label: str = ""
    rank: int | None = None
    profile: "Run | None" = None
    several: str = ""
    apart: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """Every figure and word of the record, and of the profile, under the names of ``comparison.csv``."""
        return {"rank": self.rank, "settings": self.apart or None, **self._row}

    @cached_property  # the record is read once, and joined before anyone looks at its values
    def _row(self) -> dict[str, Any]:
        own = flatten(self.record)
        if self.profile is None:
            return own
        return with_profile(own, flatten(self.profile.record), self.has_profiled_inference)

    @property
    def has_profiled_inference(self) -> bool:
        """Whether the profile that lends this run its figures timed the inference that its scores are by."""
        return self.profile is not None and inference(self.profile.record) == inference(self.record)

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

    ``cells`` are the same runs with the seeds of a cell as one, best first, then what did not complete; runs that were
    made again since are in none. ``winner`` is None where no run has an mIoU, or where several datasets were used:
    ``verdict`` then names the best of each; else it is the best run of the best cell. A profile that lends its figures
    to other runs is not among ``runs``. ``notes`` are lines about what was made again, and about the profiles: which
    were not joined and why, which were measured on a noisy machine.
    """

    folder: Path
    runs: list[Run]
    cells: list[Cell]
    paths: dict[str, Path]
    winner: Run | None
    verdict: str
    notes: list[str] = field(default_factory=list)

    def columns(self) -> list[Column]:
        """Returns the columns that tell something of the cells: no empty ones, no setting that all cells share."""
        texts = {column.key: {column.text(cell) for cell in self.cells} - {""} for column in COLUMNS}
        told = {key for key in texts if len(texts[key]) > (key in SETTINGS)} - self._untold()
        return [
            column for column in self._headed() if column.key in told and (column.key != "status" or self.unfinished)
        ]

    def shared(self) -> str:
        """Returns how many runs completed and the settings that all cells share, as one line."""
        parts = [f"{len(self.runs) - len(self.unfinished)} of {len(self.runs)} runs completed"]
        untold = self._untold()
        for column in (column for column in self._headed() if column.key in SETTINGS and column.key not in untold):
            texts = {column.text(cell) for cell in self.cells} - {""}
            parts += [f"{column.head} {text}" for text in texts if len(texts) == 1]
        return ", ".join(parts)

    def _untold(self) -> set[str]:
        """Of one run a cell the seed is a number; of several there are the seeds, and how many they are."""
        return {"seed"} if any(len(cell.runs) > 1 for cell in self.cells) else {"n", "seeds"}

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
    """Returns the runs below a folder as :func:`read_all` does, without the lines about what was passed over."""
    return read_all(folder)[0]


def read_all(folder: Path) -> tuple[list[Run], list[str]]:
    """Reads every ``result.json`` below a folder.

    Args:
        folder: a sweep's folder, or any folder with runs somewhere below it.

    Returns:
        The runs by folder name, job 2 before job 10; and a line for each damaged or foreign file that was passed over,
        which a warning says, too.
    """
    runs, passed_over = [], []
    paths = (path.parent for path in folder.rglob(results.FILE_NAME))
    for path in sorted(
        paths, key=lambda path: [results.natural_order(part) for part in path.relative_to(folder).parts]
    ):
        try:
            record = results.read(path)
        except UserError as error:
            passed_over.append(str(error))
            continue
        wrong = "is no record of a run" if record is None else fault(record)
        if record is not None and not wrong:
            runs.append(Run(path, record))
        else:
            passed_over.append(f"{path / results.FILE_NAME} {wrong}; move it away, or leave it")
    for line in passed_over:
        log.warning("passed over: %s", line)
    return runs, passed_over


def compare(folder: Path, *more: Path) -> Comparison:
    """Compares the runs below some folders and writes what it finds into the first.

    ``comparison.csv`` has a row for each cell, ``runs.csv`` one for each run; ``comparison.md`` and ``.tex`` are tables
    to paste, ``comparison.html`` is a page.

    Args:
        folder: a sweep's folder.
        more: further ones, say of the profiles of the same cells.

    Returns:
        The comparison: completed runs by mIoU (within each dataset, where there are several), then the others.

    Raises:
        UserError: there is no record below one of the folders.
    """
    from seggrid.comparison import page, tables, ties  # plotly and numpy; reading a sweep needs neither
    from seggrid.comparison.verdict import choose

    runs, cells, notes = gather(folder, *more)
    ties.judge(cells)
    for cell in cells:
        for run in cell.runs:
            run.rank = cell.rank
    winner, verdict = choose(cells)
    paths = {kind: folder / f"comparison.{kind}" for kind in ("csv", "md", "tex", "html")} | {
        "runs": folder / "runs.csv"
    }
    comparison = Comparison(folder, runs, cells, paths, winner, verdict, notes)
    _write(paths["csv"], _csv(_cell_rows(comparison)))
    _write(paths["runs"], _csv([run.values | _folders([run], folder) for run in runs]))
    _write(paths["md"], tables.markdown(comparison))
    _write(paths["tex"], tables.latex(comparison))
    _write(paths["html"], page.render(comparison))
    return comparison


def gather(*folders: Path, device: str | None = None) -> tuple[list[Run], list[Cell], list[str]]:
    """Reads the runs below some folders, joins profiles to them, names them and makes cells of them.

    Args:
        folders: of sweeps, or of runs.
        device: the profiles whose device has these words in its name are taken alone.

    Returns:
        The runs, the cells, both best first, and what has to be said of them.

    Raises:
        UserError: there is no record below one of the folders, or no profile on the device.
    """
    found: dict[Path, Run] = {}  # a folder within another is read once
    passed_over: dict[str, None] = {}
    for folder in folders:
        runs, lines = read_all(folder)
        passed_over |= {f"Passed over: {line}": None for line in lines}
        if not runs:
            raise UserError(f"no readable {results.FILE_NAME} below {folder}; give the folder of a sweep or of a run")
        found |= {run.folder.resolve(): run for run in runs if run.folder.resolve() not in found}
    runs, notes = joining.join(list(found.values()) if device is None else _on(device, list(found.values())))
    _name(runs)
    runs.sort(key=_order)
    cells, replaced = collapse(runs)
    more = len(passed_over) - MOST_PASSED_OVER
    said = [*list(passed_over)[:MOST_PASSED_OVER], *([f"Passed over: {more} more, see the log."] if more > 0 else [])]
    return runs, cells, [*said, *replaced, *notes, *_noisy(runs)]


def _on(device: str, runs: list[Run]) -> list[Run]:
    """The runs without the profiles that were made on other devices."""
    devices = {id(run): str((run.record.profile or {}).get("device")) for run in runs if run.record.kind == "profile"}
    other = {key for key, name in devices.items() if device.lower() not in name.lower()}
    if len(other) == len(devices):
        known = ", ".join(sorted(set(devices.values()) - {"None"})) or "none"
        raise UserError(f"--device {device}: no profile here is of such a device; there are those of: {known}")
    return [run for run in runs if id(run) not in other]


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
            apart = [item for item in joining.settings(run) if not all(item in other for other in settings)]
            run.apart = ", ".join(item for item in apart if item.lstrip("+~").split("=")[0] not in WITH_COLUMNS)
            details += apart
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


def _cell_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of the cells; where each is a run, what only cells of several have is left out."""
    single = all(len(cell.runs) == 1 for cell in comparison.cells)
    left_out = ("n", "seeds", "mIoU_spread") if single else ()
    return [
        {key: value for key, value in cell.values.items() if key not in left_out}
        | _folders(cell.runs, comparison.folder)
        for cell in comparison.cells
    ]


def _folders(runs: list[Run], folder: Path) -> dict[str, str]:
    profiles = dict.fromkeys(_relative(run.profile, folder) for run in runs)
    return {"folder": " ".join(_relative(run, folder) for run in runs), "profile_folder": " ".join(profiles)}


def _csv(rows: list[dict[str, Any]]) -> str:
    known = set(CSV_COLUMNS) - {"n", "seeds", "mIoU_spread"} | {key for row in rows for key in row}
    more = sorted(known - set(CSV_COLUMNS) - DERIVED)
    columns = [*(key for key in CSV_COLUMNS if key in known), *more, "profile_folder", "folder"]
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
    temporary.write_text(text, encoding="utf-8", errors="replace")  # a folder's name can be no UTF-8
    temporary.replace(path)
