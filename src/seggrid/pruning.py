"""A training that is a trial of Optuna's reports its score, and ends where it falls behind the others."""

from pathlib import Path

import pytorch_lightning as pl

from seggrid.errors import PrunedError
from seggrid.module import SegmentationModule
from seggrid.tuning import JOURNAL, OVERRIDES, PRUNER, live, open_study


def pruning(folder: Path, overrides: list[str]) -> list[pl.Callback]:
    """Returns what reports a run that lies in the folder of a study; nothing elsewhere.

    Args:
        folder: of the run.
        overrides: its command line, by which it finds its trial.
    """
    return [Pruning(folder.parent, overrides)] if (folder.parent / JOURNAL).exists() else []


class Pruning(pl.Callback):
    """Reports each epoch's mIoU, and raises PrunedError, on all processes, where the study's pruner gives the trial up.

    Args:
        folder: of the study.
        overrides: of the run; on all processes but the first they do not matter.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self._folder = folder
        self._overrides = {item for item in overrides if not item.startswith("resume=")}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the trial."""
        self._trial, self._reported = None, set[int]()
        if not trainer.is_global_zero:
            return
        self._study = open_study(self._folder)
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished() and set(trial.user_attrs.get(OVERRIDES, ())) == self._overrides:
                self._trial, self._reported = live(self._study, trial), set(trial.intermediate_values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports, and asks whether to go on."""
        if trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, SegmentationModule) and pl_module.scores is not None
        reason = None
        if self._trial is not None:
            epoch, score = trainer.current_epoch + 1, pl_module.scores.means["mIoU"]
            if epoch not in self._reported:  # a resumed run comes by some epochs again
                self._trial.report(score, epoch)
            if self._trial.should_prune():
                reason = (
                    f"pruned after epoch {epoch}: mIoU {100 * score:.2f} % falls behind the other trials "
                    f"(hydra.sweeper.pruner={self._study.user_attrs.get(PRUNER)})"
                )
        if trainer.world_size > 1:
            reason = trainer.strategy.broadcast(reason)
        if reason is not None:
            raise PrunedError(reason)
