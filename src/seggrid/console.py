"""What a person sees of a run in the terminal."""

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table

from seggrid.results import Record


def quiet() -> None:
    """Keeps from the terminal what the libraries say that a user can do nothing about."""
    for name in ("pytorch_lightning", "lightning_fabric", "timm", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the one line about weights says it all
    # Workers are chosen by the device; a CPU has none to spare.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # EvalSampler does what the warning asks for.
    warnings.filterwarnings("ignore", message=".*recommended to use.*devices=1.*")
    # A run's own folder is where it resumes.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    # Its loader starts where the checkpoint was written.
    warnings.filterwarnings("ignore", message=".*resuming from a checkpoint that ended before the epoch ended.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


class Bar(RichProgressBar):
    """Lightning's bar without the logger's version, which says nothing here."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Returns the figures beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class EpochLines(pl.Callback):
    """A line per epoch, for output that goes to a file: a bar would fill it with control characters."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock of an epoch in whose middle the run resumes."""
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the epoch's clock."""
        self._start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the epoch's line."""
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        loss, miou = (float(trainer.callback_metrics[name]) for name in ("train/loss", "val/mIoU"))
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {trainer.global_step}  loss {loss:.3f}  "
            f"mIoU {100 * miou:.2f} %  {time.perf_counter() - self._start:.1f} s",
            flush=True,
        )


def progress(wanted: bool) -> list[pl.Callback]:
    """Returns what shows progress where the output goes: a bar in a terminal, lines in a file."""
    if not wanted:
        return []
    return [Bar(leave=False)] if sys.stdout.isatty() else [EpochLines()]


def print_start(record: Record) -> None:
    """Prints what is about to be trained."""
    model = record.model
    assert model is not None
    Console(highlight=False).print(
        f"[bold]{record.backend} / {record.arch} / {record.encoder}[/bold] on {record.dataset}: "
        f"{model['params'] / 1e6:.1f}M parameters, {model['gmacs']:.2f} GMac at "
        f"{model['input_size'][0]}x{model['input_size'][1]}, output stride {model['output_stride']}",
        soft_wrap=True,
    )
    if model["unmatched"]:
        Console(highlight=False).print(f"match=equal could not match: {'; '.join(model['unmatched'])}", soft_wrap=True)


def print_scores(record: Record, split: str, folder: Path, by_class: bool = True) -> None:
    """Prints the scores of a run."""
    assert record.metrics is not None and record.per_class is not None
    console = Console(highlight=False)
    if by_class:
        title = f"{record.backend} / {record.arch} / {record.encoder} on {record.dataset} {split}"
        table = Table(title=title, title_justify="left")
        table.add_column("class")
        keys = {"iou": "IoU %", "acc": "Acc %", "dice": "Dice %", "boundary_iou": "boundary IoU %"}
        keys = {key: head for key, head in keys.items() if key in record.per_class[0]}
        for column in (*keys.values(), "pixels"):
            table.add_column(column, justify="right")
        for row in record.per_class:
            shares = (f"{100 * row[key]:.1f}" if row[key] == row[key] else "absent" for key in keys)
            table.add_row(row["class"], *shares, f"{row['pixels']:,}")
        console.print(table)
    scores = record.metrics
    console.print(
        f"[bold]mIoU {100 * scores['mIoU']:.2f} %[/bold]  mAcc {100 * scores['mAcc']:.2f} %  "
        f"aAcc {100 * scores['aAcc']:.2f} %  mDice {100 * scores['mDice']:.2f} %"
        + (f"  boundary mIoU {100 * scores['boundary_mIoU']:.2f} %" if "boundary_mIoU" in scores else "")
        + (f"  ECE {100 * scores['ECE']:.2f} %" if "ECE" in scores else ""),
        soft_wrap=True,
    )
    if record.intervals:
        low, high = record.intervals["mIoU"]
        console.print(f"95 % interval of mIoU over images: {100 * low:.2f} to {100 * high:.2f} %")
    unlabelled = [row["class"] for row in record.per_class if row["pixels"] == 0]
    if unlabelled:
        console.print(
            f"[yellow]warning:[/yellow] no pixel in {split} is labelled {', '.join(unlabelled)}; do the masks use "
            "dataset.ignore_index for it?",
            soft_wrap=True,
        )
    published = record.published or {}
    if published.get("mIoU") is not None:
        console.print(
            f"published for {published['config']}: mIoU {100 * published['mIoU']:.2f} % on {published['dataset']}, "
            "trained with a schedule of its own",
            soft_wrap=True,
        )
    if by_class:
        console.print(f"record: {folder / 'result.json'}", soft_wrap=True)
