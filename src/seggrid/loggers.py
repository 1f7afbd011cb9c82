"""Where a training's curves go; W&B for one needs no account: it writes offline."""

import itertools
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from seggrid.config import TrainConfig
from seggrid.results import Record


def begin(config: TrainConfig, folder: Path, record: Record, is_first: bool) -> Logger | None:
    """Builds the configured logger; in W&B the run begins with it.

    Args:
        config: the run.
        folder: its folder.
        record: gets ``logger``.
        is_first: whether this is the process that keeps the run's record; the others have a logger that says nothing.

    Returns:
        The logger; None for ``logger=none``.
    """
    name = config.logger.name
    if name == "none":
        return None
    if name == "wandb":
        if not is_first:
            return WandbLogger(save_dir=folder)
        from seggrid import wandb_run

        return WandbLogger(save_dir=folder, experiment=wandb_run.begin(config, folder, record))
    record.logger = {"name": name}
    # A resumed run writes beside its first curves: CSVLogger would delete them.
    names = ("curves" if number == 1 else f"curves_{number}" for number in itertools.count(1))
    version = next(name for name in names if not (folder / name).exists())
    kind = CSVLogger if name == "csv" else TensorBoardLogger
    return kind(folder, name="", version=version)


def publish(config: TrainConfig, folder: Path, record: Record) -> None:
    """Puts the filled record beside the curves, where the logger has such a place."""
    if config.logger.name == "wandb":
        from seggrid import wandb_record

        wandb_record.publish(config, folder, record)


def finish(config: TrainConfig, folder: Path, exit_code: int) -> None:
    """Ends the run of a logger that has to be told."""
    if config.logger.name == "wandb":
        from seggrid import wandb_run

        wandb_run.finish(exit_code, folder)
