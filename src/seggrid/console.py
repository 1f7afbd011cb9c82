"""What a person sees of a run in the terminal."""

import logging
import sys
import warnings
from pathlib import Path

from pytorch_lightning.callbacks import Callback, RichProgressBar, TQDMProgressBar
from rich.console import Console
from rich.table import Table

from seggrid.results import Record


def quiet() -> None:
    """Keeps from the terminal what the libraries say that a user can do nothing about."""
    for name in ("pytorch_lightning", "lightning_fabric", "timm", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Workers are chosen by the device; a CPU has none to spare.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # EvalSampler does what the warning asks for.
    warnings.filterwarnings("ignore", message=".*recommended to use.*devices=1.*")
    # A run's own folder is where it resumes.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


def progress_bar(wanted: bool) -> list[Callback]:
    """Returns the progress bar that suits where the output goes."""
    if not wanted:
        return []
    return [RichProgressBar(leave=False)] if sys.stdout.isatty() else [TQDMProgressBar(refresh_rate=20)]


def print_start(record: Record) -> None:
    """Prints what is about to be trained."""
    model = record.model
    assert model is not None
    Console(highlight=False).print(
        f"[bold]{record.backend} / {record.arch} / {record.encoder}[/bold] on {record.dataset}: "
        f"{model['params'] / 1e6:.1f}M parameters, {model['gmacs']:.2f} GMac at "
        f"{model['input_size'][0]}x{model['input_size'][1]}, output stride {model['output_stride']}"
    )


def print_scores(record: Record, split: str, folder: Path) -> None:
    """Prints the scores of a run, by class too."""
    assert record.metrics is not None and record.per_class is not None
    title = f"{record.backend} / {record.arch} / {record.encoder} on {record.dataset} {split}"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for column in ("IoU %", "Acc %", "Dice %", "pixels"):
        table.add_column(column, justify="right")
    for row in record.per_class:
        shares = (f"{100 * row[key]:.1f}" if row[key] == row[key] else "absent" for key in ("iou", "acc", "dice"))
        table.add_row(row["class"], *shares, f"{row['pixels']:,}")
    console = Console(highlight=False)
    console.print(table)
    scores = record.metrics
    console.print(
        f"[bold]mIoU {100 * scores['mIoU']:.2f} %[/bold]  mAcc {100 * scores['mAcc']:.2f} %  "
        f"aAcc {100 * scores['aAcc']:.2f} %  mDice {100 * scores['mDice']:.2f} %"
    )
    console.print(f"record: {folder / 'result.json'}", soft_wrap=True)
