"""Where a run's curves go; W&B for one needs no account: it writes offline."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from seggrid.config import TrainConfig
from seggrid.results import in_sweep


def build_logger(config: TrainConfig, folder: Path) -> Logger:
    """Builds the configured logger.

    Args:
        config: the run, all of which W&B shows beside its curves.
        folder: the run's folder. Of a run that is one of a sweep, the sweep's name groups the runs.
    """
    if config.logger.name in ("csv", "tensorboard"):
        # A resumed run writes beside its first curves: CSVLogger would delete them.
        names = ("curves" if number == 1 else f"curves_{number}" for number in itertools.count(1))
        version = next(name for name in names if not (folder / name).exists())
        kind = CSVLogger if config.logger.name == "csv" else TensorBoardLogger
        return kind(folder, name="", version=version)

    import wandb

    # Before anything else of wandb's: it would warn about an argument that Lightning always passes.
    wandb.setup(settings=wandb.Settings(silent=True))
    cell = (config.backend.name, config.arch.name, config.encoder.name, config.dataset.name)
    return WandbLogger(
        name="/".join(cell[:3]),
        project=config.logger.project,
        group=folder.parent.name if in_sweep(folder) else None,
        job_type="train",
        tags=list(cell),
        config=dataclasses.asdict(config),
        save_dir=folder,
        # Lightning's own offline=True only sets an environment variable, which wandb may have read before.
        mode="online" if _is_online(config.logger.mode) else "offline",
        settings=wandb.Settings(silent=True, console="off"),
    )


def finish(config: TrainConfig, exit_code: int) -> None:
    """Ends the run of a logger that has to be told; without it the next run in this process joins this one."""
    if config.logger.name == "wandb":
        import wandb

        wandb.finish(exit_code=exit_code)


def _is_online(mode: str) -> bool:
    if mode != "auto":
        return mode == "online"
    import wandb

    return bool(wandb.login(prompt=False))


def summary(logger: Logger | None, values: dict[str, Any]) -> None:
    """Puts the record's figures beside the curves, where the logger has such a place."""
    if isinstance(logger, WandbLogger):
        logger.experiment.summary.update(values)
