"""The one LightningModule: it trains and measures any Segmenter, and names no library of models."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from seggrid.calibration import Calibration, confidence_of
from seggrid.config import InferenceConfig, OptimizerConfig, ScheduleConfig, TtaConfig
from seggrid.errors import UserError
from seggrid.inference import Predictor, labels_of
from seggrid.losses import SegmentationLoss
from seggrid.metrics import ConfusionMatrix, Scores, scores
from seggrid.models.segmenter import Segmenter, SegOutput
from seggrid.optim import build_optimizer, build_schedule, decayed_names

Batch = tuple[Tensor, Tensor]
EvalBatch = tuple[Tensor, Tensor, Tensor]
ORIGIN = "seggrid"  # the key of a checkpoint under which on_save_checkpoint keeps what it keeps


class SegmentationModule(pl.LightningModule):
    """Training and evaluation of one model.

    Args:
        model: the model.
        loss: the training loss of the logits; None takes the library's own, which has no value in evaluation.
        classes: their names.
        ignore_index: the label that counts nowhere.
        optimizer: the optimiser; None for evaluation alone.
        schedule: its learning rate over the steps; None for evaluation alone.
        seed: of dropout and its like.
        log_every_n_steps: how often the loss is logged, and a GPU asked whether it is finite; asking makes it wait.
        predictor: how images go through the model in evaluation; None takes them whole.
        calibration: filled in evaluation where it is given.

    Attributes:
        scores: of the last evaluation.
        matrix: the confusion matrix that they come from, ``(C, C)``, rows the labels.
        eval_loss: of the last evaluation; NaN where the loss has no value in it.
    """

    def __init__(
        self,
        model: Segmenter,
        loss: SegmentationLoss | None,
        classes: Sequence[str],
        ignore_index: int,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
        seed: int = 0,
        log_every_n_steps: int = 10,
        predictor: Predictor | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.predictor = predictor or Predictor(InferenceConfig("whole"), TtaConfig())
        self.calibration = calibration
        self._classes, self._ignore_index = list(classes), ignore_index
        self.confusion = ConfusionMatrix(len(classes), ignore_index)
        self.mean_loss = MeanMetric(nan_strategy="disable")
        self.scores: Scores | None = None
        self.matrix: Tensor | None = None
        self.eval_loss = float("nan")
        self._optimizer, self._schedule, self._seed = optimizer, schedule, seed
        self._log_every_n_steps = log_every_n_steps
        self._decayed = decayed_names(model)
        self._benchmark = False
        self._losses: dict[int, Tensor] = {}  # by step: those that nobody has looked at
        self._epoch_loss, self._epoch_steps = 0.0, 0  # the sum of those of this epoch that have been looked at

    @property
    def train_loss(self) -> float:
        """The mean loss of this epoch's steps so far, and of all processes, as of the last :meth:`settle`."""
        return self._epoch_loss / max(1, self._epoch_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what is needed to build the same model again and to go on from here, without what it started from."""
        means, deviations = self.model.normalization
        origin = {"mean": list(means), "std": list(deviations), "restored": self.model.restored}
        described = {"published": self.model.published, "classes": self._classes}
        loop = self.trainer.fit_loop
        batches = loop.epoch_loop.batch_progress.current.ready % max(1, int(self.trainer.num_training_batches))
        checkpoint[ORIGIN] = {
            **origin,
            **described,
            "channels_last": self.model.channels_last,
            "next": [loop.epoch_progress.current.processed, batches],  # type: ignore[attr-defined]
            "epoch_loss": [self._epoch_loss, self._epoch_steps],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the epoch's mean loss."""
        self._epoch_loss, self._epoch_steps = checkpoint[ORIGIN].get("epoch_loss", (0.0, 0))

    def on_train_epoch_start(self) -> None:
        """Starts the epoch's mean loss; not called where a run resumes within an epoch."""
        self._epoch_loss, self._epoch_steps = 0.0, 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout by step, so that a resumed run draws what the uninterrupted one would have drawn."""
        _seed((self._seed * 1_000_003 + self.global_step) * 64 + self.global_rank, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of one batch."""
        images, masks = batch
        if self.loss is not None:
            loss: Tensor = self.loss(self.model(images), masks.long())
        else:
            loss = torch.stack(list(self.model.native_loss(images, masks.long(), self._ignore_index).values())).sum()
        self._losses[self.global_step] = loss.detach()
        # Where Lightning passes it on, and where the epoch's line shows it: each call costs as much as a small kernel.
        if (self.global_step + 1) % self._log_every_n_steps == 0 or self.trainer.is_last_batch:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> Tensor:
        """Counts hits and misses at the labels' own size; returns the label maps, uint8 ``(B, H, W)``.

        Whatever a training's mixed precision, weights in single precision are measured in it, as ``evaluate.py`` does.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._validation_step(batch)

    def _validation_step(self, batch: EvalBatch) -> Tensor:
        images, masks, _ = batch
        height, width = masks.shape[-2:]
        parts = []
        for band in self.predictor.bands(self.model, images, (height, width)):
            part = labels_of(band.scores)
            if self.calibration is not None:
                confidence = confidence_of(band.scores, self.predictor.gives_logits)
                self.calibration.update(confidence, part, masks[:, band.top : band.bottom])
            if self._loss_in_evaluation is None:  # the largest score stands for it in the watch below
                loss = band.scores.abs().max()
            else:  # whole images are one band
                loss = self._loss_in_evaluation(SegOutput(band.scores, ()), masks.long())
            self.mean_loss.update(loss, len(images))
            parts.append(part)
        predictions = torch.cat(parts, 1)
        self.confusion.update(predictions, masks)
        return predictions

    def on_validation_start(self) -> None:
        """Stops before a checkpoint is made of a model that has diverged."""
        if self.trainer.state.fn == "fit":
            self.settle()
        # Images of many sizes: cuDNN would try all its algorithms again for each.
        self._benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False

    def on_validation_end(self) -> None:
        """Goes back to what training does."""
        torch.backends.cudnn.benchmark = self._benchmark

    def on_validation_epoch_end(self) -> None:
        """Derives the scores; they are those of all processes together."""
        self.matrix = self.confusion.compute().cpu()
        self.scores = scores(self.matrix)
        self.eval_loss = float(self.mean_loss.compute())
        self.confusion.reset()
        self.mean_loss.reset()
        # The step before can have broken the weights while its own loss was still fine.
        if not math.isfinite(self.eval_loss):
            self._diverged(self.trainer.global_step)
        if self._loss_in_evaluation is None:
            self.eval_loss = float("nan")
        values = {**self.scores.means, **({} if math.isnan(self.eval_loss) else {"loss": self.eval_loss})}
        for name, value in values.items():  # equal on every process; Lightning wants to hear it
            self.log(f"val/{name}", value, prog_bar=name == "mIoU", sync_dist=True)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Looks for a loss that is not finite: each step on the CPU, now and then on a GPU."""
        if self.device.type == "cpu" or len(self._losses) >= self._log_every_n_steps:
            self._stop_if_not_finite()

    def configure_optimizers(self) -> Any:
        """Builds optimiser and schedule."""
        assert self._optimizer is not None and self._schedule is not None
        # Fused optimisers take a loss's scale back themselves, and Lightning then refuses to clip gradients.
        fused = getattr(self.trainer.precision_plugin, "scaler", None) is None
        encoder = self.model.encoder_parameters()
        optimizer = build_optimizer(self.model, encoder, self._optimizer, fused, self._decayed)
        schedule = build_schedule(optimizer, self._schedule, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as Lightning does, which in bfloat16 refuses fused optimisers although there is no scale to undo.

        FSDP has shares of the gradients on each process, and a method of its own, which Lightning does not call.
        """
        plugin, strategy = self.trainer.precision_plugin, self.trainer.strategy
        if gradient_clip_val and isinstance(strategy, FSDPStrategy):
            strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[union-attr, operator]
        elif gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            plugin.clip_grad_by_norm(optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @property
    def _loss_in_evaluation(self) -> SegmentationLoss | None:
        """A library's own loss is defined in training only, and ours for the logits of whole images."""
        return self.loss if self.predictor.gives_whole_logits else None

    def settle(self, check_weights: bool = False) -> None:
        """Looks at the losses that nobody has looked at, and makes the epoch's loss that of all processes.

        Called by all processes together, before a validation or a checkpoint.

        Args:
            check_weights: look at the weights, too, where no validation has done so.

        Raises:
            UserError: a loss or a weight is not finite.
        """
        self._stop_if_not_finite(check_weights)
        if self.trainer.world_size > 1:
            # Each goes on from the mean, so that one that resumes from the first one's checkpoint has the same sum.
            total = torch.tensor(self._epoch_loss, dtype=torch.float64, device=self.device)
            self._epoch_loss = float(self.trainer.strategy.reduce(total, reduce_op="mean"))

    def _stop_if_not_finite(self, check_weights: bool = False) -> None:
        if not self._losses and not check_weights:
            return
        step = -1
        if self._losses:
            losses = torch.stack(list(self._losses.values())).tolist()
            step = next((step for step, loss in zip(self._losses, losses, strict=True) if not math.isfinite(loss)), -1)
            self._losses.clear()
            self._epoch_loss += sum(losses)
            self._epoch_steps += len(losses)
        if check_weights and step < 0:
            norm = torch.nn.utils.get_total_norm([parameter.detach() for parameter in self.parameters()])
            step = step if bool(norm.isfinite()) else self.trainer.global_step
        if self.trainer.world_size > 1:
            # All processes stop together: one that stopped alone would leave the others waiting for its gradients.
            step = int(self.trainer.strategy.reduce(torch.tensor(step, device=self.device), reduce_op="max"))
        if step >= 0:
            self._diverged(step)

    def _diverged(self, step: int) -> NoReturn:
        raise UserError(
            f"the loss is not finite at step {step}; the checkpoints are those before it. "
            "Lower optimizer.lr, set trainer.gradient_clip_norm, or use another trainer.precision"
        )


def _seed(seed: int, device: torch.device) -> None:
    """Seeds what the training draws from: the CPU and its own device.

    ``torch.manual_seed`` seeds every kind of device there may be; for those that are not in use it keeps the call and
    the stack of its caller, each time: a quarter of a millisecond, and memory that grows with the steps.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
