"""What W&B shows of a record: figures that panels can plot, tables, pictures and, where asked for, the checkpoint."""

from pathlib import Path
from typing import Any

from seggrid.config import EvaluateConfig, ProfileConfig, TrainConfig
from seggrid.results import Record

SECTIONS = ("model", "train", "metrics", "profile", "published", "environment")
CONFUSION = "confusion"
PER_CLASS = "per_class"
PREDICTIONS = "predictions"
IGNORED = 255


def publish(config: TrainConfig | EvaluateConfig | ProfileConfig, folder: Path, record: Record) -> None:
    """Puts a filled record into the W&B run of this process; does nothing where there is none.

    Args:
        config: the run.
        folder: its folder, from which pictures and checkpoint are taken.
        record: what was measured.
    """
    import wandb

    run = wandb.run
    if run is None:
        return
    shown = tables(record)
    entries: dict[str, Any] = {name: wandb.Table(columns=rows[0], data=rows[1:]) for name, rows in shown.items()}
    if (picture := folder / "confusion.png").exists():
        entries[CONFUSION] = wandb.Image(str(picture))
    if config.dataset is not None:
        entries |= _predictions(folder, list(config.dataset.classes))
    if entries:
        run.log(entries)
    run.summary.update(figures(record))
    best = folder / "checkpoints" / "best.ckpt"
    if config.logger.artifacts and best.exists():
        artifact = wandb.Artifact(f"checkpoint-{run.id}", "model", metadata=dict(record.metrics or {}))
        artifact.add_file(str(best), policy="immutable")  # read where it lies, not copied first
        run.log_artifact(artifact, aliases=["best"])


def figures(record: Record) -> dict[str, Any]:
    """Returns the figures and words of a record as W&B's summary has them: one value a key, ``<section>/<key>``."""
    found: dict[str, Any] = {}
    for section in SECTIONS:
        for key, value in (getattr(record, section) or {}).items():
            found |= _values(f"{section}/{key}", value)
    for score, ends in (record.intervals or {}).items():
        found |= {f"metrics/{score}_low": ends[0], f"metrics/{score}_high": ends[1]}
    found |= {iou_key(row["class"]): row["iou"] for row in record.per_class or []}
    miou = (record.metrics or {}).get("mIoU")
    found[miou_key(record.arch, record.encoder)] = miou
    return {key: value for key, value in found.items() if value is not None and value == value}


def tables(record: Record) -> dict[str, list[list[Any]]]:
    """Returns by key what a record has as rows, the first of them the columns' names."""
    lists = {PER_CLASS: record.per_class}
    lists["profile/batch_sizes"] = (record.profile or {}).get("batch_sizes")
    found = {}
    for name, rows in lists.items():
        if rows:
            columns = list(rows[0])
            flat = [{key: _plain(row.get(key)) for key in columns} for row in rows]
            found[name] = [columns, *([row[key] for key in columns] for row in flat)]
    return found


def iou_key(name: str) -> str:
    """Returns the key of a class's IoU."""
    return f"iou/{_part(name)}"


def miou_key(arch: str, encoder: str) -> str:
    """Returns the key under which only the runs of this arch and encoder have their mIoU, for bars by backend."""
    return f"mIoU/{_part(arch)}/{_part(encoder)}"


def picture_keys(folder: Path) -> list[str]:
    """Returns the keys of the predictions that lie in a run's folder."""
    return [f"{PREDICTIONS}/{name}" for name in _pictures(folder)]


def _pictures(folder: Path) -> list[str]:
    ending = "_prediction.png"
    return sorted(path.name.removesuffix(ending) for path in (folder / "predictions").glob(f"*{ending}"))


def _predictions(folder: Path, classes: list[str]) -> dict[str, Any]:
    """Each picture with its label and its prediction as masks, which W&B lays over it one by one."""
    import numpy as np
    import wandb
    from PIL import Image

    names = {**dict(enumerate(classes)), IGNORED: "ignored"}
    found = {}
    for name in _pictures(folder):
        masks = {}
        for what in ("label", "prediction"):
            path = folder / "predictions" / f"{name}_{what}.png"
            masks[what] = {"mask_data": np.array(Image.open(path)), "class_labels": names}
        picture = folder / "predictions" / f"{name}_image.jpg"
        found[f"{PREDICTIONS}/{name}"] = wandb.Image(str(picture), masks=masks)
    return found


def _part(name: str) -> str:
    """A name as a part of a key: a dot would be a level of its own to W&B, and a slash to us."""
    return name.replace(".", "_").replace("/", "_")


def _values(key: str, value: Any) -> dict[str, Any]:
    """One value of a section, or those that it comes to; of samples only what sums them up."""
    if key.endswith("/input_size"):
        section = key.split("/")[0]
        return {f"{section}/input_height": value[0], f"{section}/input_width": value[1]}
    if isinstance(value, dict):
        if "median" in value:
            ends = {f"{key}_{end}": value[end] for end in ("p10", "p90")}
            return {key: value["median"], **ends}
        return {f"{key}_{part}": content for part, content in value.items() if not isinstance(content, list)}
    if isinstance(value, list):
        return {key: "; ".join(value)} if value and all(isinstance(entry, str) for entry in value) else {}
    return {key: value}


def _plain(value: Any) -> Any:
    """One field of a table: of a distribution its median; nothing for what is not a number."""
    value = value.get("median") if isinstance(value, dict) else value
    return None if value != value else value
