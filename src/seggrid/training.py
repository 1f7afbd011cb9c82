"""Trains one cell and fills its record."""

import copy
import logging
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies import FSDPStrategy
from torch.distributed.fsdp import MixedPrecision

from seggrid import checkpoints, counts, loggers, memory, models, results
from seggrid.checkpoint_io import Checkpoints, WholeFiles
from seggrid.checkpoints import build_again, checkpoint_path, load_weights
from seggrid.checks import ImpossibleCellError, loss_name
from seggrid.config import TrainConfig, model_config
from seggrid.console import print_scores, print_start, progress, quiet
from seggrid.curves import Curves
from seggrid.data.datamodule import SegmentationData
from seggrid.data.inspection import quick_warnings
from seggrid.devices import device_name, pick_device
from seggrid.errors import UserError
from seggrid.evaluation import input_size, measure
from seggrid.losses import SegmentationLoss, loss_for
from seggrid.module import SegmentationModule
from seggrid.orphans import end_with_the_first
from seggrid.precision import training_precision
from seggrid.pruning import pruning
from seggrid.ranks import is_first_process, slurm_starts_all, torchrun_starts_all
from seggrid.step_clock import StepClock

log = logging.getLogger(__name__)
FSDP = "fsdp"

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
        record: gets ``model``, ``train``, ``curves``, ``metrics`` and ``per_class``.

    Raises:
        UserError: the data, the weights or the loss are not fit for training, or memory or the disk runs out; the
            message says what to do.
    """
    end_with_the_first()
    quiet()
    memory.give_back()  # what the run before has left in this process
    precision = training_precision(config.trainer.precision, _device(config))
    pl.seed_everything(config.seed, verbose=False)
    resume_from = checkpoint_path(Path(config.resume), "last") if config.resume else None
    data = SegmentationData(
        config.dataset, config.augment, config.batch_size, config.eval_batch_size, config.num_workers, config.seed
    )
    if resume_from is not None:
        data.first_epoch, data.first_batch = checkpoints.next_batch(resume_from)
    assert data.train_source is not None
    if is_first_process():
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
    # FSDP leaves each process a share of the weights; what is measured is whole.
    measured = copy.deepcopy(module) if config.trainer.strategy == FSDP else module
    clock, curves = StepClock(), Curves()
    record.curves = curves.entries
    keeper = Checkpoints(folder / checkpoints.FOLDER, config.trainer.checkpoint_every_n_steps, clock)
    exit_code = 1
    try:
        callbacks = [clock, curves, *pruning(folder, record.overrides), keeper]
        trainer = _trainer(config, precision, folder, [*callbacks, *progress(config.trainer.progress_bar)])
        trainer.strategy.checkpoint_io = WholeFiles()
        device = trainer.strategy.root_device
        record.environment = results.environment(config.backend.name, device_name(device))
        trainer.logger = loggers.begin(config, folder, record, trainer.is_global_zero)
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
        load_weights(measured, checkpoint_path(folder, "best"))
        measuring = trainer if measured is module else _whole(config, precision, folder)
        measure(measured, data, config.dataset, measuring, folder, config.pictures, record)
        loggers.publish(config, folder, record)
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
        loggers.finish(config, folder, exit_code)


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


def _processes(config: TrainConfig) -> list[ClusterEnvironment]:
    """Returns what Lightning would not guess about who starts the processes of a run."""
    if torchrun_starts_all():
        return []
    if slurm_starts_all():
        return [SLURMEnvironment(auto_requeue=False)]  # which writes checkpoints of its own, and takes SIGUSR1
    if config.trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={config.trainer.num_nodes}: the processes of several machines are started by torchrun "
            "or srun; docs/cluster.md has the command lines"
        )
    # Inside an allocation Lightning would expect SLURM to have started the other processes.
    return [LightningEnvironment()] if "SLURM_NTASKS" in os.environ else []


def _whole(config: TrainConfig, precision: str, folder: Path) -> pl.Trainer:
    """Returns what measures a whole model on the processes that have trained it in shares."""
    settings = config.trainer
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy="ddp",
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        plugins=list(_processes(config)),
    )


def _strategy(name: str) -> str | FSDPStrategy:
    """Returns the strategy: FSDP's checkpoints are whole, and its precision is that of the other strategies.

    Lightning would also keep the running averages of batch norm in a mixed precision's 16 bits.
    """
    return FSDPStrategy(state_dict_type="full", mixed_precision=MixedPrecision()) if name == FSDP else name


def _trainer(config: TrainConfig, precision: str, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    settings = config.trainer
    try:
        return pl.Trainer(
            max_epochs=settings.max_epochs,
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=_strategy(settings.strategy),
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
            logger=False,  # it is built once this process knows its rank
            callbacks=callbacks,
            plugins=list(_processes(config)),
        )
    except (ValueError, RuntimeError, TypeError) as error:  # Lightning's MisconfigurationException is a ValueError
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
