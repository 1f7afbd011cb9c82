"""Many records -> one comparison: a table to compute with, a table to paste, and a page to show."""

import csv
import io
import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from seggrid import results
from seggrid.errors import UserError
from seggrid.results import Record

log = logging.getLogger(__name__)

STATUS_ORDER = ("completed", "failed", "interrupted", "skipped")
# Where two sections share a key, the prefix tells them apart: `images_per_s` in training, `profile_images_per_s`.
SECTIONS = {
    "metrics": "",
    "model": "",
    "train": "",
    "profile": "profile_",
    "published": "published_",
    "environment": "",
}
CSV_COLUMNS = (
    *("backend", "arch", "encoder", "dataset", "seed", "kind", "status", "error"),
    *("mIoU", "mIoU_low", "mIoU_high", "mAcc", "aAcc", "mDice", "boundary_mIoU", "ECE", "loss"),
    *("split", "inference", "tta"),
    *("params", "params_encoder", "params_aux", "gmacs", "gmacs_aux", "input_height", "input_width"),
    *("output_stride", "encoder_depth", "decoder_channels", "loss_name", "unmatched"),
    *("published_config", "published_dataset", "published_mIoU", "published_mIoU_ms_flip", "published_memory_gb"),
    "published_weights",
    *("epochs", "steps", "s_per_iter", "images_per_s", "peak_memory_bytes"),
    *("latency_ms_median", "latency_ms_p10", "latency_ms_p90", "latency_samples"),
    *("profile_images_per_s", "profile_train_s_per_iter", "profile_peak_memory_bytes"),
    *("profile_precision", "profile_device", "profile_mode"),
    *("seggrid", "python", "torch", "backend_version", "device", "git_sha", "overrides", "started", "ended"),
)


class Column(NamedTuple):
    """A column as people read it: ``values[key] * scale`` with so many digits; None leaves the value as it is."""

    key: str
    head: str
    scale: float = 1.0
    digits: int | None = None

    def text(self, run: "Run") -> str:
        """Returns what stands in this column for ``run``; nothing where the run has no such value."""
        value = run.values.get(self.key)
        number = as_number(value)
        if self.digits is None or number is None:
            return "" if value is None else str(value)
        return f"{number * self.scale:.{self.digits}f}"


COLUMNS = (
    Column("rank", "#"),
    Column("backend", "backend"),
    Column("arch", "arch"),
    Column("encoder", "encoder"),
    Column("dataset", "dataset"),
    Column("seed", "seed"),
    Column("kind", "kind"),
    Column("mIoU", "mIoU %", 100, 2),
    Column("interval", "95 % interval"),
    Column("boundary_mIoU", "boundary mIoU %", 100, 2),
    Column("split", "split"),
    Column("inference", "inference"),
    Column("tta", "TTA"),
    Column("params", "params M", 1e-6, 2),
    Column("gmacs", "GMac", 1, 2),
    Column("output_stride", "stride"),
    Column("encoder_depth", "depth"),
    Column("decoder_channels", "decoder width"),
    Column("unmatched", "not matched"),
    Column("loss_name", "loss"),
    Column("published_mIoU", "published mIoU %", 100, 2),
    Column("published_dataset", "published on"),
    Column("published_memory_gb", "published GB", 1, 1),
    Column("mAcc", "mAcc %", 100, 2),
    Column("aAcc", "aAcc %", 100, 2),
    Column("mDice", "mDice %", 100, 2),
    Column("s_per_iter", "s/iter", 1, 3),
    Column("peak_memory_bytes", "memory GiB", 2**-30, 2),
    Column("latency_ms_median", "latency ms", 1, 2),
    Column("profile_images_per_s", "images/s", 1, 1),
    Column("profile_train_s_per_iter", "profiled s/iter", 1, 3),
    Column("profile_peak_memory_bytes", "profiled GiB", 2**-30, 2),
    Column("input", "input"),
    Column("epochs", "epochs"),
    Column("status", "status"),
)
SETTINGS = (
    "dataset",
    "seed",
    "kind",
    "input",
    "epochs",
    "loss_name",
    "split",
    "inference",
    "tta",
)  # a column where they vary, one line where they do not
WORDS = ("backend", "arch", "encoder", "dataset", "kind", "split", "inference", "tta", "status", "input")


@dataclass
class Run:
    """One record and its folder; ``cell`` and ``label`` (the cell and what tells its runs apart) name it in a sweep."""

    folder: Path
    record: Record
    cell: str = ""
    label: str = ""
    rank: int | None = None

    @property
    def values(self) -> dict[str, Any]:
        """Every scalar of the record under the names of ``comparison.csv``."""
        return {"rank": self.rank, **_flatten(self.record)}

    @property
    def score(self) -> float | None:
        """The mIoU, where the run completed and has one."""
        return as_number(self.values.get("mIoU")) if self.record.status == "completed" else None

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
        return _flatten(self.record)["error"] or "no reason recorded"


@dataclass
class Comparison:
    """The runs of a folder, best first, and what was written about them.

    ``winner`` is None where no run has an mIoU, or where several datasets were used: ``verdict`` then names the best
    of each.
    """

    folder: Path
    runs: list[Run]
    paths: dict[str, Path]
    winner: Run | None
    verdict: str

    def columns(self) -> list[Column]:
        """Returns the columns that tell something here: no empty ones, no setting that all runs share."""
        texts = {column.key: {column.text(run) for run in self.runs} - {""} for column in COLUMNS}
        told = {key for key in texts if len(texts[key]) > (key in SETTINGS)}
        return [column for column in COLUMNS if column.key in told and (column.key != "status" or self.unfinished)]

    def shared(self) -> str:
        """Returns how many runs completed and the settings that all runs share, as one line."""
        parts = [f"{len(self.runs) - len(self.unfinished)} of {len(self.runs)} runs completed"]
        for column in (column for column in COLUMNS if column.key in SETTINGS):
            texts = {column.text(run) for run in self.runs} - {""}
            parts += [f"{column.head} {text}" for text in texts if len(texts) == 1]
        return ", ".join(parts)

    @property
    def unfinished(self) -> list[Run]:
        """The runs that did not complete."""
        return [run for run in self.runs if run.record.status != "completed"]


def as_number(value: Any) -> float | None:
    """Returns ``value`` as a float where it is a number (a bool is none), else None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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


def compare(folder: Path) -> Comparison:
    """Compares the runs below a folder and writes ``comparison.csv``, ``comparison.md`` and ``comparison.html`` there.

    Args:
        folder: a sweep's folder.

    Returns:
        The comparison: completed runs by mIoU (within each dataset, where there are several), then the others.

    Raises:
        UserError: there is no record below the folder.
    """
    from seggrid import page  # it needs plotly; reading a sweep does not
    from seggrid.verdict import choose

    runs = read_sweep(folder)
    if not runs:
        raise UserError(f"no readable {results.FILE_NAME} below {folder}; give the folder of a sweep or of a run")
    _name(runs)
    runs.sort(key=_order)
    ranks: Counter[str] = Counter()
    for run in runs:
        if run.score is not None:
            ranks[run.data] += 1
            run.rank = ranks[run.data]
    winner, verdict = choose(runs)
    paths = {kind: folder / f"comparison.{kind}" for kind in ("csv", "md", "html")}
    comparison = Comparison(folder, runs, paths, winner, verdict)
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


def _flatten(record: Record) -> dict[str, Any]:
    values = {key: getattr(record, key) for key in ("backend", "arch", "encoder", "dataset", "seed", "kind", "status")}
    error = record.error or {}
    values["error"] = " ".join(str(error.get("message") or error.get("type") or "").split()) or None
    for section, prefix in SECTIONS.items():
        for key, value in (getattr(record, section) or {}).items():
            if key == "latency_ms" and isinstance(value, dict):
                values |= {"latency_samples" if k == "samples" else f"latency_ms_{k}": v for k, v in value.items()}
            elif key == "input_size" and isinstance(value, list) and len(value) == 2:
                values |= {"input_height": value[0], "input_width": value[1]}
            elif isinstance(value, list):
                values[prefix + key] = ("; " if key == "unmatched" else " ").join(map(str, value))
            elif not isinstance(value, dict):
                values[prefix + key] = value
    values |= _interval(record) | _evaluation(record)
    values |= {"overrides": " ".join(map(str, record.overrides)), "started": record.started, "ended": record.ended}
    if "input_height" in values:
        values["input"] = f"{values['input_height']} x {values['input_width']}"
    return values


def _interval(record: Record) -> dict[str, Any]:
    ends = (record.intervals or {}).get("mIoU")
    if not isinstance(ends, list) or len(ends) != 2 or any(as_number(end) is None for end in ends):
        return {}
    return {"mIoU_low": ends[0], "mIoU_high": ends[1], "interval": f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"}


def _evaluation(record: Record) -> dict[str, Any]:
    """How it was measured, as short words; nothing for the plain evaluation that ends a training."""
    how = record.evaluation
    if not isinstance(how, dict):
        return {}
    flip, scales = how.get("tta_flip"), how.get("tta_scales") or [1.0]
    tta = "+".join([f"{len(scales)} scales"] * (scales != [1.0]) + ["flip"] * bool(flip))
    return {"split": how.get("split"), "inference": how.get("inference"), "tta": tta or "none"}


def _name(runs: list[Run]) -> None:
    """Gives each run a name of its own: ``backend / arch / encoder`` and whatever else tells it from the others."""
    several_datasets = len({run.record.dataset for run in runs} - {None}) > 1
    several_seeds = len({run.record.seed for run in runs} - {None}) > 1
    cells: dict[str, list[Run]] = {}
    for run in runs:
        record = run.record
        names = [record.backend, record.arch, record.encoder, record.dataset if several_datasets else None]
        cells.setdefault(" / ".join(str(name) for name in names if name is not None), []).append(run)
    for cell, same in cells.items():
        several_kinds = len({run.record.kind for run in same}) > 1
        for run in same:
            settings = [_settings(other) for other in same if other.record.kind == run.record.kind]
            details = [run.record.kind] if several_kinds else []
            details += [item for item in _settings(run) if not all(item in other for other in settings)]
            run.cell = run.label = f"{cell} ({', '.join(details)})" if details else cell
            if several_seeds and run.record.seed is not None:
                run.label += f" / seed {run.record.seed}"
    counts = Counter(run.label for run in runs)
    for run in runs:
        if counts[run.label] > 1:
            run.label += f" / {run.folder.name}"


def _settings(run: Run) -> list[str]:
    """The overrides that make a run another experiment; its seed, and where it is written or read from, do not.

    An evaluation is of the experiment that the evaluated run was, and one more by what it says itself.
    """
    trained = (run.record.evaluation or {}).get("trained_with")
    overrides = [*(trained if isinstance(trained, list) else []), *run.record.overrides]
    elsewhere = ("seed=", "hydra.", "run=", "save=") if run.record.kind == "evaluate" else ("seed=", "hydra.")
    return [item for item in overrides if not str(item).lstrip("+~").startswith(elsewhere)]


def _order(run: Run) -> tuple[Any, ...]:
    status, score = run.record.status, run.score
    place = STATUS_ORDER.index(status) if status in STATUS_ORDER else len(STATUS_ORDER)
    if score is None:
        return (place, True)
    return (place, False, run.data, -score, run.params)


def _csv(comparison: Comparison) -> str:
    rows = [{**run.values, "folder": run.folder.relative_to(comparison.folder).as_posix()} for run in comparison.runs]
    derived = {"rank", "input", "folder"}
    more = sorted({key for row in rows for key in row} - set(CSV_COLUMNS) - derived)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*CSV_COLUMNS, *more, "folder"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
