"""Measures a trained run on a split, from its checkpoint."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from seggrid import models, profiling, results
from seggrid.checks import loss_name
from seggrid.config import DatasetConfig, EvaluateConfig, TrainConfig, model_config
from seggrid.console import print_scores, progress, quiet
from seggrid.data.datamodule import SegmentationData
from seggrid.errors import UserError
from seggrid.losses import build_loss
from seggrid.module import ORIGIN, SegmentationModule
from seggrid.pictures import save_pictures

CHECKPOINTS = "checkpoints"


def restore_config(run: Path) -> TrainConfig:
    """Reads the configuration that a run was trained with.

    Raises:
        UserError: the folder is not that of a training run.
    """
    path = run / results.CONFIG_NAME
    if not path.exists():
        raise UserError(f"run={run} is not the folder of a run: {path} is missing")
    stored = OmegaConf.load(path)
    if "loss" not in stored:
        raise UserError(f"run={run} is not a training run")
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), stored))
    assert isinstance(typed, TrainConfig)
    return typed


def checkpoint_path(run: Path, which: str) -> Path:
    """Returns the path of a run's checkpoint; raises UserError where it has none."""
    path = run / CHECKPOINTS / f"{which}.ckpt"
    if not path.exists():
        raise UserError(f"{path} is missing: the run ended before its first validation; train it again")
    return path


def build_again(config: TrainConfig, checkpoint: Path) -> models.Segmenter:
    """Builds the model of a checkpoint, still without its weights, and without those that it once started from.

    Args:
        config: the run that the checkpoint is of.
        checkpoint: the file.
    """
    origin = torch.load(checkpoint, map_location="cpu", weights_only=True)[ORIGIN]
    encoder = dataclasses.replace(config.encoder, pretrained=False, weights=None)
    model = models.build(
        dataclasses.replace(model_config(config), encoder=encoder, with_weights=False, restored=origin["restored"])
    )
    model.normalization = (tuple(origin["mean"]), tuple(origin["std"]))
    model.published = origin["published"]
    return model


def load_weights(module: pl.LightningModule, path: Path) -> None:
    """Loads a checkpoint's weights into a module, strictly."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)


def evaluate(config: EvaluateConfig, folder: Path, record: results.Record) -> None:
    """Evaluates one run.

    Args:
        config: which run, split and checkpoint.
        folder: the evaluation's own folder.
        record: gets the run's cell, ``model``, ``metrics`` and ``per_class``.
    """
    quiet()
    run = Path(config.run)
    trained = restore_config(run)
    record.backend, record.arch, record.encoder = trained.backend.name, trained.arch.title, trained.encoder.name
    record.dataset, record.seed = trained.dataset.name, trained.seed
    checkpoint = checkpoint_path(run, config.checkpoint)
    data = SegmentationData(
        trained.dataset,
        trained.augment,
        eval_batch_size=config.eval_batch_size,
        num_workers=config.num_workers,
        eval_split=config.split,
        train=False,
    )
    num_classes = len(trained.dataset.classes)
    model = build_again(trained, checkpoint)
    data.normalize_for(*model.normalization)
    name = loss_name(trained)
    loss = None
    if name != "native":
        loss = build_loss(dataclasses.replace(trained.loss, name=name), trained.dataset.ignore_index)
    module = SegmentationModule(model, loss, num_classes, trained.dataset.ignore_index)
    load_weights(module, checkpoint)
    device = profiling.pick_device(config.accelerator)
    record.environment = results.environment(record.backend, profiling.device_name(device))
    profiling.describe(record, model, input_size(data))
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=progress(config.progress_bar),
        enable_progress_bar=config.progress_bar and sys.stdout.isatty(),
    )
    measure(module, data, trained.dataset, trainer, folder, config.pictures, record)
    print_scores(record, config.split, folder)


def measure(
    module: SegmentationModule,
    data: SegmentationData,
    dataset: DatasetConfig,
    trainer: pl.Trainer,
    folder: Path,
    pictures: int,
    record: results.Record,
) -> None:
    """Measures a module as it stands on the data's evaluation split.

    Args:
        module: the module with its weights.
        data: the data.
        dataset: its class names and palette.
        trainer: on whose devices it runs.
        folder: gets the pictures.
        pictures: how many.
        record: gets ``metrics`` and ``per_class``.
    """
    device = trainer.strategy.root_device
    trainer.validate(module, data, verbose=False)
    assert module.scores is not None
    record.metrics = {**module.scores.means, "loss": module.eval_loss}
    record.per_class = module.scores.per_class(list(dataset.classes))
    if trainer.is_global_zero:
        save_pictures(module.model, data, dataset, folder, pictures, device)


def input_size(data: SegmentationData) -> tuple[int, int]:
    """Returns (height, width) of the first evaluation image as the model sees it."""
    image: Any = data.eval_dataset[(0, 0)][0]
    return (int(image.shape[-2]), int(image.shape[-1]))
