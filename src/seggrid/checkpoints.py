"""A run's checkpoints: where they lie, the model that one is of, and its weights."""

import dataclasses
import logging
import textwrap
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from seggrid import models, results
from seggrid.config import EvaluateConfig, TrainConfig, model_config
from seggrid.errors import UserError, one_line
from seggrid.module import ORIGIN

FOLDER = results.CHECKPOINT_FOLDER
log = logging.getLogger(__name__)


def checkpoint_path(run: Path, which: str) -> Path:
    """Returns the path of a run's checkpoint.

    Args:
        run: the run's folder.
        which: ``best``, ``last``, or the path of a file.

    Raises:
        UserError: there is none.
    """
    path = Path(which).expanduser()
    if path.suffix:
        if not path.is_file():
            raise UserError(f"checkpoint={which} is no file; it takes best, last, or the path of a checkpoint")
        return path
    path = run / FOLDER / f"{which}.ckpt"
    if not path.exists():
        raise UserError(f"{path} is missing: the run ended before its first validation; train it again")
    return path


def build_again(config: TrainConfig | EvaluateConfig, checkpoint: Path) -> models.Segmenter:
    """Builds the model of a checkpoint, still without its weights, and without those that it once started from.

    Args:
        config: the run that the checkpoint is of.
        checkpoint: the file.

    Raises:
        UserError: the file is no checkpoint of a run, or its model has another number of classes.
    """
    origin = _read(checkpoint)[ORIGIN]
    classes = list(config.dataset.classes)
    if len(origin["classes"]) != len(classes):
        raise UserError(
            f"{checkpoint} is of a model with {len(origin['classes'])} classes ({_some(origin['classes'])}), but "
            f"dataset={config.dataset.name} has {len(classes)} ({_some(classes)}); choose a data set of the same "
            "classes, or make them the same with dataset.label_map, dataset.merge and dataset.ignore"
        )
    if origin["classes"] != classes:
        here, there = next(pair for pair in zip(classes, origin["classes"], strict=True) if pair[0] != pair[1])
        log.warning("warning: the model learnt %r where dataset=%s has %r", there, config.dataset.name, here)
    encoder = dataclasses.replace(config.encoder, pretrained=False, weights=None)
    model = models.build(
        dataclasses.replace(model_config(config), encoder=encoder, with_weights=False, restored=origin["restored"])
    )
    model.normalization = (tuple(origin["mean"]), tuple(origin["std"]))
    model.published = origin["published"]
    if origin.get("channels_last"):  # the other order of sums would change the last digits
        model.keep_channels_last()
    return model


def next_batch(checkpoint: Path) -> tuple[int, int]:
    """Returns what a resumed run trains first: the epoch, from 0, and the number of its batches that are done."""
    content = _read(checkpoint)
    epoch, batches = content[ORIGIN].get("next") or (content["epoch"] + 1, 0)
    return int(epoch), int(batches)


def load_weights(module: pl.LightningModule, path: Path) -> None:
    """Loads a checkpoint's weights into a module, strictly."""
    try:
        module.load_state_dict(_read(path)["state_dict"])
    except RuntimeError as error:
        reason = textwrap.shorten(one_line(error), 160, placeholder=" ...")
        raise UserError(
            f"{path} is the checkpoint of another model ({reason}); backend, arch and encoder are the "
            "run's: leave them out"
        ) from error


def _read(path: Path) -> Any:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file breaks the reader anywhere
        raise UserError(f"{path} cannot be read as a checkpoint ({one_line(error)[:160]})") from error
    if not isinstance(content, dict) or ORIGIN not in content or "classes" not in content[ORIGIN]:
        raise UserError(f"{path} is no checkpoint of a run of this version; for other weights say weights={path}")
    return content


def _some(classes: list[str]) -> str:
    return ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
