"""What makes a cell the cell that it is: whether a sweep has run it before. Imports no torch."""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from seggrid import results
from seggrid.config import DatasetConfig
from seggrid.data.photo_files import photo_files
from seggrid.restore import run_folder

# What changes how a run is shown, kept or sped up, and not what comes out of it.
NO_RESULT = {"sweep", "logger", "resume", "num_workers", "pictures", "worst", "progress_bar", "run", "images"}
NO_RESULT_OF = {
    "dataset": {"root", "cache", "cache_dir", "download"},  # the files themselves are in `data`
    "trainer": {"progress_bar", "log_every_n_steps", "checkpoint_every_n_steps"},
}


def identity(kind: str, typed: Any) -> dict[str, str | None]:
    """Returns what two runs have in common if, and only if, the one can stand for the other.

    Args:
        kind: ``train``, ``evaluate`` or ``profile``.
        typed: its configuration.

    Returns:
        ``config``, a digest of all settings that can change what comes out, and ``data``, one of the names, sizes and
        times of all files that are read; None where there are none.

    Raises:
        UserError: the data are not there.
    """
    files = [*_weights(typed), *_code(typed), *(_evaluated(typed) if kind == "evaluate" else [])]
    if getattr(typed, "images", None) is not None:
        files += [_status(str(path)) for path in photo_files(typed.images)]
    elif typed.dataset is not None and typed.dataset.root is not None:
        splits = (typed.split,) if kind == "evaluate" else ("train", "val") if kind == "train" else ("train",)
        files += _samples(repr(typed.dataset), typed.dataset, splits, kind != "evaluate")
    return {"config": _digest([kind, _settings(typed)]), "data": _digest(files) if files else None}


def _settings(typed: Any) -> dict[str, Any]:
    settings = {key: value for key, value in dataclasses.asdict(typed).items() if key not in NO_RESULT}
    for group, keys in NO_RESULT_OF.items():
        if settings.get(group) is not None:
            settings[group] = {key: value for key, value in settings[group].items() if key not in keys}
    # What other libraries do with the arch is theirs.
    settings["arch"]["backends"] = settings["arch"]["backends"].get(typed.backend.name)
    # Files are in `data`, wherever they lie.
    for part in (settings, settings["encoder"]):
        for key in {"weights", "checkpoint"} & part.keys():
            if part[key] is not None and Path(part[key]).expanduser().is_file():
                part[key] = Path(part[key]).name
    return settings


def _weights(typed: Any) -> list[Any]:
    """The files that a model starts from; published weights are named in the settings."""
    named = (typed.weights, typed.encoder.weights)
    return [_status(str(name)) for name in named if name is not None and Path(name).expanduser().exists()]


def _code(typed: Any) -> list[Any]:
    """The files of what a user has written: those of the modules that the arch names, found without importing them."""
    modules = [*typed.arch.imports, *([typed.arch.target.rpartition(".")[0]] if typed.arch.target else [])]
    found = []
    for module in modules:
        parts = module.split(".")
        places = [Path(root, *parts[:-1]) for root in (os.getcwd(), *sys.path)]
        candidates = [place / name for place in places for name in (f"{parts[-1]}.py", f"{parts[-1]}/__init__.py")]
        found += [_status(str(path)) for path in candidates if path.is_file()][:1]
    return found


def _evaluated(typed: Any) -> list[Any]:
    """The checkpoint that is measured."""
    run = run_folder(typed.run, typed.checkpoint)
    if run is None:
        return []
    path = Path(typed.checkpoint).expanduser()
    path = path if path.suffix else run / results.CHECKPOINT_FOLDER / f"{typed.checkpoint}.ckpt"
    return [_status(str(path)) if path.exists() else None]


def _samples(key: str, dataset: DatasetConfig, splits: tuple[str, ...], need_labels: bool) -> list[Any]:
    return _cached_samples(_ByKey(key, dataset), splits, need_labels)


@dataclasses.dataclass(frozen=True)
class _ByKey:
    """A data set by its description: the cells of a sweep share it, and listing its files takes a while."""

    key: str
    dataset: DatasetConfig = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=8)
def _cached_samples(described: _ByKey, splits: tuple[str, ...], need_labels: bool) -> list[Any]:
    from seggrid.data.pairs import find_samples  # it needs numpy; composing a configuration does not

    dataset = described.dataset
    root = Path(str(dataset.root)).expanduser()
    found = []
    for split in splits:
        for sample in find_samples(dataset, split, need_labels):
            names = (sample.image, sample.mask) if sample.mask is not None else (sample.image,)
            found += [(split, os.path.relpath(name, root), *_status(name)[1:]) for name in names]
    return found


def _status(name: str) -> tuple[str, int, int]:
    status = Path(name).expanduser().stat()
    return Path(name).name, status.st_size, status.st_mtime_ns


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
