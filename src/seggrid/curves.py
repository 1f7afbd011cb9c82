"""The learning curves of a run, as its record keeps them: an entry per epoch with a validation."""

import math
import time
from typing import Any

import pytorch_lightning as pl

from seggrid.module import SegmentationModule


class Curves(pl.Callback):
    """Notes loss and score after each validation of a training; a resumed run goes on with the entries before it.

    What the run did between its last checkpoint and its end is done again, and counted once.

    Attributes:
        entries: ``epoch`` (from 1), ``step``, ``train_loss``, ``val_loss``, ``mIoU``, ``seconds``. The list stays the
            same object, so that a record that holds it is filled whatever the run's end.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._began = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Returns the entries and the seconds so far for a checkpoint."""
        return {"entries": [dict(entry) for entry in self.entries], "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint was written."""
        self.entries[:] = state_dict["entries"]
        self._began = time.perf_counter() - state_dict["seconds"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds the epoch's entry."""
        assert isinstance(pl_module, SegmentationModule)
        if trainer.state.fn != "fit":
            return
        assert pl_module.scores is not None
        loss = pl_module.eval_loss
        self.entries.append(
            {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                "train_loss": pl_module.train_loss,
                "val_loss": None if math.isnan(loss) else loss,
                "mIoU": pl_module.scores.means["mIoU"],
                "seconds": self._seconds(),
            }
        )

    def _seconds(self) -> float:
        return round(time.perf_counter() - self._began, 3)
