"""Seconds per iteration of seggrid's training loop over a bare PyTorch loop: same model, same batch, paired runs.

    python benchmarks/training.py [blocks=9] [steps=15]

A block runs bare, ours, ours, bare; its ratio is that of the sums. Prints every block and the median of the ratios.
What the ratio holds is the loop: Lightning, logging, the watch for a loss that is not finite. The batch lies in memory
in both.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seggrid import models
from seggrid.config import (
    ArchConfig,
    BackendConfig,
    EncoderConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from seggrid.console import quiet
from seggrid.losses import build_loss
from seggrid.module import SegmentationModule
from seggrid.optim import build_optimizer, build_schedule
from seggrid.training import StepClock

CLASSES, IGNORE, BATCH_SIZE, SIZE = 6, 255, 8, (96, 96)
MODEL = ModelConfig(
    BackendConfig("smp"), ArchConfig("unet", {"smp": {}}), EncoderConfig("resnet18", pretrained=False), CLASSES
)
LOSS = LossConfig("cross_entropy")
OPTIMIZER = OptimizerConfig("adamw", lr=1e-4, weight_decay=0.01)
SCHEDULE = ScheduleConfig("poly", power=0.9)


class OneBatch(Dataset[tuple[Tensor, Tensor]]):
    """The same batch again and again; already a batch, so that no time goes into stacking it."""

    def __init__(self, batch: tuple[Tensor, Tensor], steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batch


def bare(batch: tuple[Tensor, Tensor], steps: int) -> float:
    model = models.build(MODEL).train()
    loss = build_loss(LOSS, IGNORE)
    optimizer = build_optimizer(model, model.encoder_parameters(), OPTIMIZER)
    schedule = build_schedule(optimizer, SCHEDULE, steps)
    images, masks = batch
    start = 0.0
    for step in range(steps):
        value = loss(model(images), masks.long())
        optimizer.zero_grad()  # here, as in Lightning and in torchvision's reference script
        value.backward()
        optimizer.step()
        schedule.step()
        if step == 0:
            start = time.perf_counter()
    return (time.perf_counter() - start) / (steps - 1)


def ours(batch: tuple[Tensor, Tensor], steps: int) -> float:
    module = SegmentationModule(
        models.build(MODEL), build_loss(LOSS, IGNORE), list("abcdef"), IGNORE, OPTIMIZER, SCHEDULE
    )
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[clock],
            logger=CSVLogger(Path(folder)),
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, DataLoader(OneBatch(batch, steps), batch_size=None))
    return clock.samples[0]


def main(blocks: int = 9, steps: int = 15) -> None:
    quiet()
    torch.manual_seed(0)
    batch = (torch.randn(BATCH_SIZE, 3, *SIZE), torch.randint(0, CLASSES, (BATCH_SIZE, *SIZE), dtype=torch.uint8))
    bare(batch, 5)  # the first run of a process pays for what the library sets up once
    ratios = []
    for block in range(blocks):
        # What comes later in a block is slower, whichever it is; in this order both lose the same.
        seconds: dict[str, list[float]] = {"bare": [], "ours": []}
        for function in (bare, ours, ours, bare):
            seconds[function.__name__].append(function(batch, steps))
        ratios.append(sum(seconds["ours"]) / sum(seconds["bare"]))
        figures = "  ".join(
            f"{name} {' '.join(f'{value:.4f}' for value in values)}" for name, values in seconds.items()
        )
        print(f"block {block}: {figures} s/iter  ratio {ratios[-1]:.3f}", flush=True)
    print(f"median of {blocks} ratios: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main(**{key: int(value) for key, value in (argument.split("=") for argument in sys.argv[1:])})
