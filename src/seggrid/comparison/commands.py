"""Command lines that follow from a run: to train it longer, and to measure what it costs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seggrid import results
from seggrid.comparison.joining import NO_NETWORK
from seggrid.comparison.rows import as_number, inference
from seggrid.errors import UserError
from seggrid.results import Record

if TYPE_CHECKING:
    from seggrid.comparison.report import Run

LONGER = 4  # times the epochs
CELL = ("backend", "arch", "encoder")
NETWORK = ("match", "weights")


def longer(run: "Run") -> str | None:
    """Returns the command that trains a run's cell for four times the epochs.

    Args:
        run: a training, or the evaluation of one.

    Returns:
        A line for the shell; None where it is not known what trained it, or for how long.
    """
    trained: Record | None = run.record
    if run.record.kind != "train":
        trained = _trained(run)
    epochs = as_number((trained.train or {}).get("epochs")) if trained is not None else None
    if trained is None or not epochs:
        return None
    kept = [str(item) for item in trained.overrides if _key(str(item)) != "trainer.max_epochs"]
    return shlex.join(["python", "train.py", *kept, f"trainer.max_epochs={LONGER * int(epochs)}"])


def _trained(evaluation: "Run") -> Record | None:
    """The record of the training that was evaluated, where it is still there."""
    folder = (evaluation.record.evaluation or {}).get("run")
    try:
        return results.read(Path(folder)) if isinstance(folder, str) else None
    except UserError:
        return None


def profile(run: "Run", like: "Run | None", timed: bool) -> str:
    """Returns the command that measures what a run's network costs.

    Args:
        run: a run of the network.
        like: a profile that the new one is to be compared with; None measures at the run's own input.
        timed: measure times and memory, not only counts.
    """
    trained = (run.record.evaluation or {}).get("trained_with")
    overrides = [str(item) for item in (trained if isinstance(trained, list) else [])]
    overrides += [str(item) for item in run.record.overrides]
    network = [item for item in overrides if _is_network(_key(item))]
    if any(_key(item) == "experiment" for item in overrides):  # which may choose what the command line does not say
        said = {_key(item) for item in network}
        cell = {"backend": run.record.backend, "arch": run.record.arch, "encoder": run.record.encoder}
        cell |= {key: value for key in NETWORK if (value := resolved(run.folder).get(key)) not in (None, "library")}
        network = [f"{key}={value}" for key, value in cell.items() if key not in said] + network
    network.sort(key=lambda item: CELL.index(_key(item)) if _key(item) in CELL else len(CELL))
    if like is not None:
        how = [str(item) for item in like.record.overrides]
        how = [
            item
            for item in how
            if not _is_network(_key(item)) and _key(item) not in ("experiment", "published", "speed")
        ]
        if timed:  # the inference is the run's own
            how = [item for item in how if not _key(item).startswith("inference")]
    else:
        size = (run.record.model or {}).get("input_size")
        how = [f"input.size=[{size[0]},{size[1]}]"] if isinstance(size, list) and len(size) == 2 else []
        how += [f"num_classes={len(run.record.per_class)}"] if run.record.per_class else []
    if timed:
        how += _inference(run.record)
    return shlex.join(["python", "profile.py", *network, *how, *([] if timed else ["counts_only=true"])])


def _inference(record: Record) -> list[str]:
    """The overrides that make a profile time the inference by which a run's scores are; whole images need none."""
    mode, crop, stride, _ = inference(record)
    sizes = {"inference.crop": crop, "inference.stride": stride}
    said = [f"{key}=[{','.join(map(str, size))}]" for key, size in sizes.items() if isinstance(size, list)]
    return [] if mode == "whole" else [f"inference={mode}", *said]


def resolved(folder: Path) -> dict[str, Any]:
    """Returns the configuration of a run, as far as it can be read.

    Args:
        folder: the run's.
    """
    try:
        stored = yaml.safe_load((folder / results.CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _is_network(key: str) -> bool:
    return key in (*CELL, *NETWORK) or (key.startswith(("arch.", "encoder.")) and key not in NO_NETWORK)


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]
