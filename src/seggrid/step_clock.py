"""How long a training step takes, while it trains."""

import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch


class StepClock(pl.Callback):
    """Measures seconds per iteration, data loading included, once per epoch and without its first step.

    A resumed run keeps the samples; of an epoch in whose middle it resumes, the sample is of the steps after that.

    Attributes:
        samples: of each epoch.
        waits: of each epoch, the part of it that passes between the end of a step and the start of the next.
    """

    def __init__(self) -> None:
        self.samples: list[float] = []
        self.waits: list[float] = []
        self._started, self._steps = 0.0, 0
        self._ended, self._waited = 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns the samples for a checkpoint."""
        return {"samples": list(self.samples), "waits": list(self.waits)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the samples of the run that is resumed."""
        self.samples, self.waits = list(state_dict["samples"]), list(state_dict["waits"])

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

    def leave_out(self, seconds: float) -> None:
        """Takes back the time since the last step's end: a checkpoint was written in it."""
        self._started += seconds
        self._ended += seconds

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
