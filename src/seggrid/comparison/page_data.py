"""What a comparison's page draws from: one object for its script, a cell an entry."""

import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from seggrid.comparison.columns import WORDS, Column
from seggrid.comparison.rows import as_number
from seggrid.comparison.speed import CONDITIONS, place

if TYPE_CHECKING:
    from seggrid.comparison.cells import Cell
    from seggrid.comparison.report import Comparison, Run

POINTS = 100_000  # of all learning curves, and of all samples of latencies: beyond them they are thinned
SCRIPTS = {"train": "train.py", "evaluate": "evaluate.py", "profile": "profile.py"}
ENVIRONMENT = {
    "seggrid": "seggrid",
    "python": "Python",
    "torch": "PyTorch",
    "backend_version": "backend version",
    "device": "device",
    "git_sha": "commit",
}
# They have a section of their own, with its reasons; or are said otherwise in a row that stands for several runs.
ELSEWHERE = (
    *("published_params", "published_params_difference", "published_gmacs", "published_gmacs_difference"),
    *("published_train_s_per_iter", "published_train_s_per_iter_difference", "published_device", "published_note"),
    *("seed", "seeds", "n", "mIoU_spread", "interval"),
)
HIGH_FIRST = ("mIoU", "boundary_mIoU", "mAcc", "aAcc", "mDice", "profile_images_per_s", "profile_best_images_per_s")


class Axis(NamedTuple):
    """A figure that can be an axis: ``values[key] * scale``.

    ``better`` is ``high`` or ``low``, or empty where neither is; ``alike`` names what two cells must have in common
    for the figure to be compared; ``ends`` the keys of its p10 and p90.
    """

    key: str
    title: str
    unit: str
    scale: float = 1.0
    digits: int = 2
    better: str = "low"
    alike: str = ""
    ends: tuple[str, str] | None = None


AXES = (
    Axis("mIoU", "mIoU (%)", "% mIoU", 100, better="high"),
    Axis("boundary_mIoU", "boundary mIoU (%)", "% boundary mIoU", 100, better="high"),
    Axis("mAcc", "mAcc (%)", "% mAcc", 100, better="high"),
    Axis("aAcc", "aAcc (%)", "% aAcc", 100, better="high"),
    Axis("mDice", "mDice (%)", "% mDice", 100, better="high"),
    Axis("ECE", "calibration error", "ECE", digits=4),
    Axis(
        *("latency_ms_median", "latency of one image (ms)", "ms"),
        alike="profile",
        ends=("latency_ms_p10", "latency_ms_p90"),
    ),
    Axis("gmacs", "GMac of one image", "GMac", alike="input"),
    Axis("params", "parameters (million)", "M parameters", 1e-6),
    Axis("inference_memory_bytes", "peak memory of inference (GiB)", "GiB for inference", 2**-30, alike="profile"),
    Axis("profile_images_per_s", "images/s, one by one", "images/s", 1, 1, "high", "profile"),
    Axis("profile_best_images_per_s", "images/s at the best batch size", "images/s at best", 1, 1, "high", "profile"),
    Axis("s_per_iter", "training step with its data (s/iter)", "s/iter", 1, 3, alike="training"),
    Axis("peak_memory_bytes", "peak memory of training (GiB)", "GiB in training", 2**-30, alike="training"),
    Axis("profile_train_s_per_iter", "profiled training step (s/iter)", "s/iter profiled", 1, 3, alike="profile"),
    Axis("training_memory_bytes", "peak memory of a profiled step (GiB)", "GiB of a step", 2**-30, alike="profile"),
    Axis("activation_bytes", "activations of a training image (MiB)", "MiB of activations", 2**-20, 0, alike="input"),
    Axis("checkpoint_bytes", "checkpoint (MiB)", "MiB of checkpoint", 2**-20, 1),
    Axis("output_stride", "output stride", "stride", 1, 0, ""),
    Axis("encoder_depth", "encoder depth", "stages", 1, 0, ""),
    Axis("decoder_channels", "decoder width", "channels", 1, 0, ""),
    Axis("published_mIoU", "published mIoU (%)", "% published mIoU", 100, better="high"),
)


def data(comparison: "Comparison") -> dict[str, Any]:
    """Returns all that the page's script draws, ready for JSON.

    Args:
        comparison: its cells, named and ordered.
    """
    cells = comparison.cells
    columns = _columns(comparison)
    classes = _classes(cells)
    runs = sum(len(run.record.curves or ()) > 0 for cell in cells for run in cell.runs)
    length = max(20, POINTS // max(1, runs))
    return {
        "cells": [_cell(cell, columns, classes, length) for cell in cells],
        "columns": [
            {
                "key": column.key,
                "head": column.head,
                "word": column.key in (*WORDS, "fronts"),
                "high": column.key in HIGH_FIRST,
            }
            for column in columns
        ],
        "axes": [axis._asdict() for axis in AXES],
        "classes": classes,
        "curve_length": length,
        "profiles": _profiles(comparison),
        "failures": _failures(cells),
        "commands": _commands(comparison),
        **_runs(comparison),
    }


def data_of(cell: "Cell") -> str:
    """Returns what the cell was measured on, as a word."""
    run = cell.runs[0]
    return run.data if run.record.dataset else "no dataset"


def cells_of_profiles(comparison: "Comparison") -> dict[int, list[int]]:
    """Returns the indices of the cells that have a profile's figures, by the ``id`` of the profile's run."""
    found: dict[int, list[int]] = {}
    for index, cell in enumerate(comparison.cells):
        for profile in {id(run.own_profile) for run in cell.runs if run.own_profile is not None}:
            found.setdefault(profile, []).append(index)
    return found


def _columns(comparison: "Comparison") -> list[Column]:
    columns = [column for column in comparison.columns() if column.key not in ELSEWHERE]
    if any(column.key == "mIoU" for column in columns):  # the status of a cell without a score stands in its place
        place = next(place for place, column in enumerate(columns) if column.key == "mIoU")
        more = [Column("interval", "95 % interval")] if any(_interval(cell) for cell in comparison.cells) else []
        if {"params", "gmacs", "latency_ms_median", "inference_memory_bytes"} & {column.key for column in columns}:
            more.append(Column("fronts", "Pareto front"))  # the script fills it: it depends on the filters
        columns = [*columns[: place + 1], *more, *columns[place + 1 :]]
        columns = [column for column in columns if column.key != "status"]
    return columns


def _interval(cell: "Cell") -> list[float] | None:
    """The ends of the mIoU's interval in per cent; of one run what its record says where the cell has none."""
    ends = cell.interval
    if ends is None and len(cell.runs) == 1:
        low, high = (as_number(cell.values.get(f"mIoU_{end}")) for end in ("low", "high"))
        ends = (low, high) if low is not None and high is not None else None
    return None if ends is None or cell.score is None else [_short(100 * end) for end in ends]


def _cell(cell: "Cell", columns: list[Column], classes: dict[str, list[str]], length: int) -> dict[str, Any]:
    first, values = cell.runs[0], cell.values
    record = first.record
    completed = record.status == "completed"
    interval = _interval(cell)
    figures = {
        axis.key: _short(number * axis.scale)
        for axis in AXES
        if completed and (number := as_number(values.get(axis.key))) is not None
    }
    ends = {
        axis.key: [_short(low * axis.scale), _short(high * axis.scale)]
        for axis in AXES
        if axis.ends is not None
        and axis.key in figures
        and (low := as_number(values.get(axis.ends[0]))) is not None
        and (high := as_number(values.get(axis.ends[1]))) is not None
    }
    spread = cell.spread
    if interval is not None:
        ends["mIoU"] = interval
    texts, order = [], []
    for column in columns:
        text, value = column.text(cell), values.get(column.key)
        if column.key == "mIoU" and not completed:
            text, value = record.status, None
        elif column.key == "interval":
            text = f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else ""
            value = interval[0] if interval else None
        texts.append(text)
        number = as_number(value)
        order.append(number if number is not None else text if value is not None and text else None)
    words = [cell.label, data_of(cell), record.status, first.values["error"] or "", *map(str, record.overrides)]
    return {
        **{"label": cell.label, "backend": record.backend, "arch": record.arch, "encoder": record.encoder},
        **{"data": data_of(cell), "status": record.status, "kind": record.kind},
        **{"rank": cell.rank, "tied": cell.tied, "n": len(cell.runs)},
        "spread": None if spread is None else _short(100 * spread),
        "seeds": [run.record.seed for run in cell.runs],
        **{"figures": figures, "ends": ends, "texts": texts, "order": order},
        "alike": _alike(first) if completed else {},
        "words": " ".join(words).lower(),
        "classes": _ious(cell, classes.get(data_of(cell), [])),
        "curves": [curve for run in cell.runs if (curve := _curve(run, length))],
    }


def _alike(run: "Run") -> dict[str, str]:
    """What decides of the figures that depend on more than the network."""
    values = run.values
    conditions = [str(values[key]) for key in CONDITIONS if values.get(key) not in (None, False)]
    return {
        "": "",
        "input": str(values.get("input") or ""),
        "profile": ", ".join([place(run), *conditions]),
        "training": ", ".join(str(values[key]) for key in ("input", "device", "precision") if values.get(key)),
    }


def _classes(cells: "Iterable[Cell]") -> dict[str, list[str]]:
    """The names of the classes by data, in the order of the first run that has them; others' own names follow."""
    names: dict[str, dict[str, None]] = {}
    for cell in cells:
        for run in cell.runs if cell.score is not None else ():
            found = names.setdefault(data_of(cell), {})
            found |= {str(entry.get("class")): None for entry in run.record.per_class or ()}
    return {name: list(found) for name, found in names.items() if found}


def _ious(cell: "Cell", classes: list[str]) -> list[float | None] | None:
    """The IoU of each class in per cent, the mean over the seeds."""
    found: dict[str, list[float]] = {}
    for run in cell.runs if cell.score is not None else ():
        for entry in run.record.per_class or ():
            if (iou := as_number(entry.get("iou"))) is not None:
                found.setdefault(str(entry.get("class")), []).append(100 * iou)
    means = {name: round(math.fsum(ious) / len(ious), 2) for name, ious in found.items()}
    return [means.get(name) for name in classes] if means else None


def _curve(run: "Run", length: int) -> dict[str, Any] | None:
    """The learning curve of a run by its columns, at most ``length`` epochs of it, the last among them."""
    entries = [entry for entry in run.record.curves or () if isinstance(entry, dict)]
    if not entries:
        return None
    last = len(entries) - 1
    places = range(last + 1) if last < length else [round(step * last / (length - 1)) for step in range(length)]
    keys = ("epoch", "seconds", "train_loss", "val_loss", "mIoU")
    columns = {key: [as_number(entries[place].get(key)) for place in places] for key in keys}
    scale = {"mIoU": 100.0}
    return {"seed": run.record.seed} | {
        key: [None if value is None else _short(value * scale.get(key, 1.0)) for value in column]
        for key, column in columns.items()
        if any(value is not None for value in column)
    }


def _profiles(comparison: "Comparison") -> list[dict[str, Any]]:
    cells = cells_of_profiles(comparison)
    profiles = comparison.profiles
    length = max(20, POINTS // max(1, len(profiles)))
    return [
        {
            **{"cells": cells[id(run)], "label": run.label, "backend": run.record.backend},
            "latency": [_number(run, f"latency_ms_{key}") for key in ("median", "p10", "p90")],
            "samples": _samples(run, length),
            "batches": _batches(run),
            "stages": {key: _number(run, f"profile_stages_ms_{key}") for key in STAGES},
            "memory": [_number(run, f"{key}_memory_bytes", 2**-30) for key in ("inference", "training")],
            "based": as_number(run.values.get("profile_base_memory_bytes")),
            "gmacs": _number(run, "gmacs"),
        }
        for run in profiles
    ]


STAGES = ("encoder", "decoder", "loss", "backward", "optimizer", "data")


def _number(run: "Run", key: str, scale: float = 1.0) -> float | None:
    value = as_number(run.values.get(key))
    return None if value is None else _short(value * scale)


def _samples(run: "Run", length: int) -> list[float]:
    """The timed passes in milliseconds, at most ``length`` of them, the fastest and the slowest among these."""
    latency = (run.record.profile or {}).get("latency_ms")
    found = latency.get("samples") if isinstance(latency, dict) else None
    samples = sorted(float(value) for value in found if as_number(value) is not None) if isinstance(found, list) else []
    if len(samples) > length:
        samples = [samples[round(step * (len(samples) - 1) / (length - 1))] for step in range(length)]
    return [_short(value) for value in samples]


def _batches(run: "Run") -> list[list[float]]:
    """The batch sizes with their images per second, by size."""
    entries = (run.record.profile or {}).get("batch_sizes")
    pairs = [
        (as_number(entry.get("batch_size")), as_number(entry.get("images_per_s")))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    ]
    return sorted([size, _short(speed)] for size, speed in pairs if size and speed is not None)


def _failures(cells: "list[Cell]") -> list[dict[str, Any]]:
    """The reasons why cells have no result, each once, the most frequent first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, cell in enumerate(cells):
        if cell.runs[0].record.status != "completed":
            for reason in dict.fromkeys(run.reason for run in cell.runs):
                groups.setdefault((cell.runs[0].record.status, reason), []).append(index)
    found = [{"status": status, "reason": reason, "cells": indices} for (status, reason), indices in groups.items()]
    return sorted(found, key=lambda group: -len(group["cells"]))


def _commands(comparison: "Comparison") -> list[dict[str, str]]:
    """The command line of each sweep that the runs belong to."""
    folders = dict.fromkeys(run.folder.parent for run in [*comparison.runs, *comparison.lent])
    found = [(folder, _sweep_command(folder)) for folder in folders if (folder / "multirun.yaml").exists()]
    return [{"folder": folder.name, "command": command} for folder, command in found if command]


def _sweep_command(folder: Path) -> str:
    """What Hydra noted of the command that started a sweep; empty where it cannot be read."""
    try:
        noted = yaml.safe_load((folder / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]
        name, task, own = str(noted["job"]["name"]), noted["overrides"]["task"], noted["overrides"]["hydra"]
        said = [str(item) for item in [*task, *own] if str(item) != "hydra.mode=MULTIRUN"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
    return shlex.join(["python", SCRIPTS.get(name, f"{name}.py"), "-m", *said])


def _runs(comparison: "Comparison") -> dict[str, Any]:
    """Where each run lies and what made it: what all share once, what differs by run."""
    cell_of = {id(run): index for index, cell in enumerate(comparison.cells) for run in cell.runs}
    for index, cell in enumerate(comparison.cells):
        cell_of |= {id(run.profile): index for run in cell.runs if run.profile is not None}
    runs = [*comparison.runs, *comparison.lent]
    shared, differing = [], []
    for key, head in ENVIRONMENT.items():
        values = {str(run.values[key]) for run in runs if run.values.get(key) is not None}
        if len(values) == 1:
            shared.append([head, _fact(key, values.pop())])
        elif values:
            differing.append((key, head))
    rows = [
        {
            "cell": cell_of.get(id(run)),
            "texts": [
                run.label,
                *(_fact(key, str(run.values.get(key) or "")) for key, _ in differing),
                run.folder.name,
                shlex.join(["python", SCRIPTS.get(run.record.kind, run.record.kind), *map(str, run.record.overrides)]),
            ],
        }
        for run in runs
    ]
    return {
        "shared": shared,
        "run_heads": ["cell", *(head for _, head in differing), "folder", "command"],
        "runs": rows,
    }


def _fact(key: str, text: str) -> str:
    return text[:12] if key == "git_sha" else text


def _short(value: float) -> float:
    """Six digits are more than a plot shows."""
    return float(f"{value:.6g}")
