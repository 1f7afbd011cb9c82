"""Training loops to compare: seggrid's with its defaults on or off, and the bare one.

A loop takes a :class:`Case` and :class:`Settings` and returns seconds per iteration.
"""

import copy
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from seggrid import module, optim
from seggrid.config import AugmentConfig, DatasetConfig, LossConfig, OptimizerConfig, ScheduleConfig
from seggrid.data.datamodule import SegmentationData
from seggrid.losses import build_loss
from seggrid.models.segmenter import Segmenter
from seggrid.precision import training_precision
from seggrid.step_clock import StepClock

CLASSES, IGNORE, LOG_EVERY = 19, 255, 10
NAMES = [f"class {index}" for index in range(CLASSES)]
LOSS = LossConfig("cross_entropy")
OPTIMIZER = OptimizerConfig("adamw", lr=1e-4, weight_decay=0.01)
SCHEDULE = ScheduleConfig("poly", power=0.9)
SCALE, SHARE = (0.5, 2.0), 0.75


@dataclass
class Case:
    """What is trained on what.

    Attributes:
        backend: whose own loop is ``theirs``.
        model: the model; each run trains a copy of it.
        batch: images and labels in memory.
        device: ``cpu`` or ``cuda``.
        steps: of a run; the first fifth does not count.
        workers: loader processes.
        amp: the libraries' own loops train by autocast in bfloat16.
        files: a folder with ``images`` and ``masks``, as many as a run needs; None takes ``batch`` each time.
        picture: (height, width) of the files.
    """

    backend: str
    model: Segmenter
    batch: tuple[Tensor, Tensor]
    device: torch.device
    steps: int
    workers: int = 0
    amp: bool = False
    files: Path | None = None
    picture: tuple[int, int] = (512, 1024)

    @property
    def crop(self) -> tuple[int, int]:
        return (self.batch[0].shape[-2], self.batch[0].shape[-1])

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp)

    def loading(self) -> dict[str, Any]:
        return {"num_workers": self.workers, "persistent_workers": self.workers > 0}


@dataclass
class Settings:
    """What seggrid turns on by default; the fields' defaults are none of it.

    Attributes:
        precision: one of ``checks.PRECISIONS``.
        hot_path: keep seeding and logging off it.
        clip: clip gradients at this norm, which is no default.
    """

    precision: str = "32-true"
    channels_last: bool = False
    fused: bool = False
    foreach: bool = True
    hot_path: bool = True
    benchmark: bool = True
    clip: float | None = None


DEFAULTS = Settings("auto", channels_last=True, fused=True)


@dataclass
class Stopwatch:
    """Times the steps after the first fifth."""

    steps: int
    device: torch.device
    done: int = 0
    start: float = 0.0
    seconds: float = field(default=float("nan"))

    def step(self) -> None:
        self.done += 1
        skipped = max(1, self.steps // 5)
        if self.done in (skipped, self.steps):
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.seconds, self.start = (now - self.start) / (self.steps - skipped), now


class OneBatch(Dataset[Any]):
    """The same batch again and again; already a batch, so that no time goes into stacking it."""

    def __init__(self, batch: Any, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Any:
        return self.batch


class Watched(pl.Callback):
    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_batch_end(self, *_: Any) -> None:
        self.watch.step()


# seggrid


class Chatty(module.SegmentationModule):
    """Seeds every kind of device, and logs each step."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.global_step)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss, prog_bar=True)
        return loss


def ours(case: Case, settings: Settings) -> float:
    model = copy.deepcopy(case.model)
    if settings.channels_last:
        model.keep_channels_last()
    kind = module.SegmentationModule if settings.hot_path else Chatty
    trained = kind(model, build_loss(LOSS, IGNORE), NAMES, IGNORE, OPTIMIZER, SCHEDULE, log_every_n_steps=LOG_EVERY)
    clip = nn.utils.clip_grad_norm_
    with (
        patch.object(optim, "FUSED", optim.FUSED if settings.fused else ()),
        patch.object(nn.utils, "clip_grad_norm_", lambda *args: clip(*args, foreach=settings.foreach)),
    ):
        precision = training_precision(settings.precision, case.device)
        data = None if case.files is None else _data(case)
        return lightning(case, trained, precision, settings, data, StepClock())


def lightning(
    case: Case, trained: pl.LightningModule, precision: str, settings: Settings, data: Any, *callbacks: pl.Callback
) -> float:
    watch = Stopwatch(case.steps, case.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator={"cuda": "gpu"}.get(case.device.type, case.device.type),
            devices=1,
            max_steps=case.steps,
            precision=precision,  # type: ignore[arg-type]
            gradient_clip_val=settings.clip,
            benchmark=settings.benchmark,
            callbacks=[*callbacks, Watched(watch)],
            logger=CSVLogger(Path(folder)),
            log_every_n_steps=LOG_EVERY,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )
        in_memory = DataLoader(OneBatch(case.batch, case.steps), batch_size=None)
        trainer.fit(trained, in_memory if data is None else data)
    return watch.seconds


def _data(case: Case) -> SegmentationData:
    """Our data, augmented as the library that it is compared with does it."""
    dataset = DatasetConfig(
        name="benchmark", classes=NAMES, root=str(case.files), images="{split}/*", masks="masks/*",
        splits={"train": "images", "val": "val"},
    )  # fmt: skip
    recipe: dict[str, Any] = {"max_class_share": SHARE, "photometric": True} if case.backend == "mmseg" else {}
    augment = AugmentConfig(scale=list(SCALE), crop=list(case.crop), flip=0.5, **recipe)
    return SegmentationData(dataset, augment, len(case.batch[0]), num_workers=case.workers)


def bare(case: Case, settings: Settings) -> float:
    """What PyTorch alone needs, without a name for the loss."""
    network = copy.deepcopy(case.model).train().to(case.device)
    optimizer = adamw(network)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, case.steps, 0.9)
    watch = Stopwatch(case.steps, case.device)
    for images, masks in DataLoader(OneBatch(case.batch, case.steps), batch_size=None):
        images, labels = images.to(case.device), masks.to(case.device).long()
        with case.autocast():
            output = network(images)
            loss = functional.cross_entropy(output.logits, labels, ignore_index=IGNORE)
            for logits in output.aux:
                loss = loss + 0.4 * functional.cross_entropy(logits, labels, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        watch.step()
    return watch.seconds


def adamw(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.01)
