"""Trains one cell and fills its record."""

import logging
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import ModelCheckpoint

from seggrid import checkpoints, counts, loggers, memory, models, results
from seggrid.checkpoints import build_again, checkpoint_path, load_weights
from seggrid.checks import ImpossibleCellError, loss_name
from seggrid.config import TrainConfig, model_config
from seggrid.console import print_scores, print_start, progress, quiet
from seggrid.data.datamodule import SegmentationData
from seggrid.data.inspection import quick_warnings
from seggrid.devices import device_name, pick_device
from seggrid.errors import UserError
from seggrid.evaluation import input_size, measure
from seggrid.losses import SegmentationLoss, loss_for
from seggrid.module import SegmentationModule
from seggrid.precision import training_precision

log = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "lower batch_size, augment.crop or augment.resize, say trainer.precision=bf16-mixed (on older GPUs 16-mixed), or "
    "choose a smaller encoder"
)


@memory.explained(OUT_OF_MEMORY)
def train(config: TrainConfig, folder: Path, record: results.Record) -> None:
    """Trains one cell and measures its best checkpoint.

    Args:
        config: the run.
        folder: gets checkpoints, curves and pictures.
        record: gets ``model``, ``train``, ``metrics`` and ``per_class``.

    Raises:
        UserError: the data, the weights or the loss are not fit for training, or memory runs out; the message says what
            to do.
    """
    quiet()
    memory.give_back()  # what the run before has left in this process
    precision = training_precision(config.trainer.precision, _device(config))
    pl.seed_everything(config.seed, verbose=False)
    resume_from = checkpoint_path(Path(config.resume), "last") if config.resume else None
    data = SegmentationData(
        config.dataset, config.augment, config.batch_size, config.eval_batch_size, config.num_workers, config.seed
    )
    if resume_from is not None:
        data.first_epoch = checkpoints.finished_epochs(resume_from)
    assert data.train_source is not None
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for line in quick_warnings(data.train_source, config.dataset):
            log.warning("warning: %s", line)
    model = models.build(model_config(config)) if resume_from is None else build_again(config, resume_from)
    if config.trainer.channels_last and resume_from is None:  # a checkpoint says what it was trained in
        model.keep_channels_last()
    data.normalize_for(*model.normalization)
    counts.describe(record, model, input_size(data))
    loss = loss_for(config, model, config.dataset.ignore_index)
    if config.trainer.compile:
        _compile(model, loss, config)
    module = SegmentationModule(
        model,
        loss,
        config.dataset.classes,
        config.dataset.ignore_index,
        config.optimizer,
        config.schedule,
        config.seed,
        config.trainer.log_every_n_steps,
    )
    clock = StepClock()
    best = ModelCheckpoint(
        folder / checkpoints.FOLDER,
        filename="best",
        monitor="val/mIoU",
        mode="max",
        enable_version_counter=False,
    )
    last = ModelCheckpoint(folder / checkpoints.FOLDER, filename="last", enable_version_counter=False)
    exit_code = 1
    try:
        trainer = _trainer(config, precision, folder, [best, last, clock, *progress(config.trainer.progress_bar)])
        device = trainer.strategy.root_device
        record.environment = results.environment(config.backend.name, device_name(device))
        if trainer.is_global_zero:
            print_start(record)
        memory.reset_peak(device)
        try:
            trainer.fit(module, data, ckpt_path=resume_from)
        except (RuntimeError, KeyError, ValueError) as error:
            if resume_from is None or not any(word in str(error) for word in ("state_dict", "parameter group")):
                raise
            raise UserError(
                f"{resume_from} is the checkpoint of another model or optimizer; resume with the run's own "
                "backend, arch, encoder, dataset.classes and optimizer"
            ) from error
        record.train = {
            "loss_name": loss_name(config),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            **clock.figures(config.batch_size * trainer.world_size),
            "precision": precision,
            "channels_last": model.channels_last,
            "peak_memory_bytes": memory.peak_memory_bytes(device),
        }
        load_weights(module, checkpoint_path(folder, "best"))
        measure(module, data, config.dataset, trainer, folder, config.pictures, record)
        loggers.summary(trainer.logger, {**(record.metrics or {}), "model": record.model, "train": record.train})
        if trainer.is_global_zero:
            print_scores(record, "val", folder, by_class=not results.in_sweep(folder))
        exit_code = 0
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise UserError(
                f"batch_size={config.batch_size}: batch norm after global pooling, which arch={config.arch.name} has, "
                "cannot train on a single image; set batch_size to at least 2"
            ) from error
        raise
    finally:
        loggers.finish(config, exit_code)


class StepClock(pl.Callback):
    """Measures seconds per iteration, data loading included, once per epoch and without its first step.

    Attributes:
        samples: of each epoch.
        waits: of each epoch, the part of it that passes between the end of a step and the start of the next.
    """

    def __init__(self) -> None:
        self.samples: list[float] = []
        self.waits: list[float] = []
        self._started, self._steps = 0.0, 0
        self._ended, self._waited = 0.0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the steps of the last epoch."""
        self._steps, self._waited = 0, 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts the wait for the batch, which has just come."""
        if self._steps:
            self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock after the epoch's first step."""
        self._steps += 1
        if self._steps == 1:
            self._started = self._now(pl_module)
        elif trainer.is_last_batch:
            self.samples.append((self._now(pl_module) - self._started) / (self._steps - 1))
            self.waits.append(self._waited / (self._steps - 1))
        self._ended = time.perf_counter()

    def figures(self, images_per_step: int) -> dict[str, Any]:
        """Returns the median over the epochs; None where no epoch had two steps."""
        seconds = statistics.median(self.samples) if self.samples else None
        return {
            "s_per_iter": seconds,
            "s_per_iter_samples": self.samples,
            "data_s_per_iter": statistics.median(self.waits) if self.waits else None,
            "images_per_s": images_per_step / seconds if seconds else None,
        }

    @staticmethod
    def _now(module: pl.LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        return time.perf_counter()


def _device(config: TrainConfig) -> torch.device:
    """Returns the device that the training, or its first process, runs on."""
    device = pick_device("trainer.accelerator", config.trainer.accelerator)
    devices = config.trainer.devices
    if device.type != "cuda" or not isinstance(devices, list):
        return device
    if max(devices) >= torch.cuda.device_count():
        there = ", ".join(map(str, range(torch.cuda.device_count())))
        raise UserError(f"trainer.devices is {devices}; the GPUs here are {there}")
    return torch.device("cuda", devices[0])


def _one_size(config: TrainConfig) -> bool:
    """Whether all training images have one size."""
    return config.augment.crop is not None or config.augment.resize is not None


def _compile(model: models.Segmenter, loss: SegmentationLoss | None, config: TrainConfig) -> None:
    if loss is None:
        raise ImpossibleCellError(
            f"trainer.compile=true compiles the way from images to logits, but backend={config.backend.name} "
            f"arch={config.arch.name} trains with the library's own loss, which takes another; leave it out"
        )
    model.compile_forward()


def _trainer(config: TrainConfig, precision: str, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    settings = config.trainer
    # Inside a SLURM allocation of one task Lightning would expect SLURM to start the other processes.
    one_task = "SLURM_NTASKS" in os.environ and os.environ["SLURM_NTASKS"] == "1"
    try:
        return pl.Trainer(
            max_epochs=settings.max_epochs,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=settings.strategy,
            precision=precision,  # type: ignore[arg-type]  # checked against Lightning's words in checks.py
            gradient_clip_val=settings.gradient_clip_norm,
            sync_batchnorm=settings.sync_batchnorm,
            check_val_every_n_epoch=settings.val_every_n_epochs,
            deterministic=settings.deterministic,
            benchmark=settings.benchmark and not settings.deterministic and _one_size(config),
            log_every_n_steps=settings.log_every_n_steps,
            enable_progress_bar=settings.progress_bar and sys.stdout.isatty(),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=folder,
            logger=loggers.build_logger(config, folder),
            callbacks=callbacks,
            plugins=[LightningEnvironment()] if one_task else None,
        )
    except (ValueError, RuntimeError, TypeError) as error:  # Lightning's MisconfigurationException is a ValueError
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
