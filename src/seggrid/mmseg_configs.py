"""MMSegmentation's own configurations and the figures published for them, as its wheel carries them.

Nothing here imports MMSegmentation: a name can be checked, and a table made, without it.
"""

import difflib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from seggrid.errors import UserError


@dataclass(frozen=True)
class Published:
    """What MMSegmentation publishes about one of its configurations.

    Attributes:
        config: the configuration's name.
        method: the name of the method that MMSegmentation files it under.
        dataset: the data set that it was trained and measured on.
        mIoU: fraction in [0, 1], one scale, no flip; None where none is published.
        mIoU_ms_flip: the same, with several scales and flips.
        memory_gb: of training, per GPU, in the unit of MMSegmentation's tables.
        weights: address of the checkpoint.
    """

    config: str
    method: str
    dataset: str | None
    mIoU: float | None  # noqa: N815  # the field's word
    mIoU_ms_flip: float | None  # noqa: N815
    memory_gb: float | None
    weights: str | None

    def as_record(self) -> dict[str, Any]:
        """Returns the section ``published`` of a record."""
        return asdict(self)


def config_file(name: str, setting: str = "arch.config") -> Path:
    """Finds one of MMSegmentation's configurations.

    Args:
        name: the file's name without ``.py``, or the name that MMSegmentation's tables use where those misspell it;
            or the name of a base model (``pspnet_r50-d8``).
        setting: what the user named it with, for the message.

    Raises:
        UserError: there is none of this name; the message names the nearest.
    """
    name = name.removesuffix(".py")
    found = _files().get(name) or _listed_files().get(name)
    if found is None:
        near = difflib.get_close_matches(name, {*_files(), *_listed_files()}, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "docs/models.md lists them"
        raise UserError(f"{setting}={name} is no configuration of MMSegmentation; {hint}")
    return found


def published(name: str, setting: str = "arch.config") -> Published | None:
    """Returns what is published about the configuration ``name``, None where nothing is."""
    return published_configs().get(config_file(name, setting).stem)


@cache
def published_configs() -> dict[str, Published]:
    """Returns what is published about every configuration in the wheel's tables, by the name of its file."""
    return {_listed_files()[row["Name"]].stem: _published(row) for _, row in _rows()}


def _published(row: dict[str, Any]) -> Published:
    results = row.get("Results") or {}
    if isinstance(results, list):  # one entry for each of several data sets
        results = results[0] if results else {}
    metrics, metadata = results.get("Metrics") or {}, row.get("Metadata") or {}
    return Published(
        config=_listed_files()[row["Name"]].stem,
        method=str(row.get("In Collection", "")),
        dataset=_dataset(row["Name"], results.get("Dataset")),
        mIoU=_fraction(metrics.get("mIoU")),
        mIoU_ms_flip=_fraction(metrics.get("mIoU(ms+flip)")),
        memory_gb=metadata.get("Memory (GB)"),
        weights=row.get("Weights"),
    )


def _dataset(name: str, listed: str | None) -> str | None:
    """Twelve entries have a heading, ``# HRNet backbone``, where the data set should stand: their names say it."""
    if listed is None or not listed.startswith("#"):
        return listed
    return next((known for known in sorted(_datasets()) if f"_{known.lower()}-" in name), None)


@cache
def _datasets() -> frozenset[str]:
    results = (row.get("Results") for _, row in _rows())
    listed = (result.get("Dataset") for result in results if isinstance(result, dict))
    return frozenset(dataset for dataset in listed if dataset and not dataset.startswith("#"))


def _fraction(percent: Any) -> float | None:
    return round(percent / 100, 6) if isinstance(percent, int | float) else None


@cache
def _root() -> Path:
    spec = find_spec("mmseg")
    assert spec is not None and spec.origin is not None, "mmsegmentation is a dependency of seggrid"
    return Path(spec.origin).parent / ".mim" / "configs"


@cache
def _files() -> dict[str, Path]:
    paths = [*_root().glob("_base_/models/*.py"), *_root().glob("[!_]*/*.py")]
    return {path.stem: path for path in sorted(paths)}


@cache
def _rows() -> list[tuple[Path, dict[str, Any]]]:
    """Every model of the wheel's tables, with the folder of its table."""
    files = sorted(_root().glob("*/metafile.y*ml"))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
    tables = ((file.parent, yaml.load(file.read_text(), loader).get("Models") or []) for file in files)
    return [(folder, row) for folder, rows in tables for row in rows]


@cache
def _listed_files() -> dict[str, Path]:
    """The file of every model of the tables, by its name there: three of them misspell their own file's name."""
    named = {row["Name"] for _, row in _rows()}
    found = {}
    for folder, row in _rows():
        name = row["Name"]
        if name in _files():
            found[name] = _files()[name]
            continue
        unnamed = [stem for stem, path in _files().items() if path.parent == folder and stem not in named]
        for near in difflib.get_close_matches(name, unnamed, n=1):
            found[name] = _files()[near]
    return found
