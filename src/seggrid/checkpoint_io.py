"""How a run's checkpoints come onto the disk: when, and each whole or not at all."""

import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from seggrid.errors import FullDiskError, one_line
from seggrid.module import SegmentationModule
from seggrid.step_clock import StepClock

PART = ".part"  # ends the name of a file that is being written


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then renames it.

    Lightning's own writer goes through a file in the system's temporary folder: where that is another file system, the
    move from there is a copy, and a kill during the copy leaves half a file in the place of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes the file; raises UserError where the disk does not take it, and leaves what was there before."""
        path = Path(path)
        part = path.with_name(f".{path.name}{PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # else a crash of the machine could leave the new name with old contents
            part.replace(path)
        except (OSError, RuntimeError) as error:  # torch's writer makes a RuntimeError of what the disk says
            part.unlink(missing_ok=True)
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            kept = "the one before it stays" if path.exists() else "there is none before it"
            raise FullDiskError(
                f"{path} could not be written ({one_line(reason)[:160]}); {kept}: make room, and go on with "
                f"resume={path.parent.parent}"
            ) from error


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt``, of each epoch's end and if wanted of steps within, and ``best.ckpt``, by validation mIoU.

    Lightning's ModelCheckpoint forgets the best score where the run's folder has been moved, and where it does not
    validate each epoch it writes before the epoch has ended, from where Lightning does not resume exactly.

    Args:
        folder: gets the files.
        every_n_steps: how often within an epoch; None never.
        clock: is told how long writing took.
    """

    def __init__(self, folder: Path, every_n_steps: int | None, clock: StepClock) -> None:
        self._folder, self._every_n_steps, self._clock = folder, every_n_steps, clock
        self._best: float | None = None
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """Returns the best score so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the best score of the run that is resumed."""
        self._best = state_dict["best"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clears away what a kill has left half written."""
        if trainer.is_global_zero:
            for part in self._folder.glob(f".*{PART}"):
                part.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes ``last.ckpt`` every so often; the epoch's last step leaves it to the epoch's end."""
        if not self._every_n_steps or trainer.global_step % self._every_n_steps or trainer.is_last_batch:
            return
        assert isinstance(pl_module, SegmentationModule)
        started = time.perf_counter()
        pl_module.settle(check_weights=True)
        self._save(trainer, "last")
        self._clock.leave_out(time.perf_counter() - started)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes that this epoch has a score."""
        self._validated = trainer.state.fn == "fit"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes ``best.ckpt`` where this epoch is the best, and then ``last.ckpt``, which knows of it."""
        assert isinstance(pl_module, SegmentationModule)
        if self._validated:
            assert pl_module.scores is not None
            score = pl_module.scores.means["mIoU"]
            if self._best is None or score > self._best or self._best != self._best:
                self._best = score
                self._save(trainer, "best")
        else:
            pl_module.settle(check_weights=True)
        self._validated = False
        self._save(trainer, "last")

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        error = None
        try:
            trainer.save_checkpoint(self._folder / f"{name}.ckpt")
        except FullDiskError as raised:
            error = str(raised)
            trainer.strategy.barrier()  # where the others wait
        if trainer.world_size > 1:  # all processes stop together
            error = trainer.strategy.broadcast(error)
        if error is not None:
            raise FullDiskError(error)
