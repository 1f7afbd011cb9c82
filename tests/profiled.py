"""Records of profiles for the tests of comparisons, their figures made up, and what a comparison says of them."""

import csv
import statistics
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from seggrid.comparison import report
from seggrid.comparison.summary import print_summary
from seggrid.results import Record


def timed(ms: float, spread: float = 0.05, **values: Any) -> dict[str, Any]:
    """The section ``profile``: a median of ``ms``, its samples within ``spread`` of it, but for one at 3 times that."""
    samples = [ms * (1 + spread * (step - 10) / 10) for step in range(21)] + [3 * ms]
    deciles = statistics.quantiles(samples[:-1], n=10, method="inclusive")
    latency = {"median": ms, "p10": deciles[0], "p90": deciles[-1], "samples": samples}
    batches = [
        {"batch_size": size, "latency_ms": ms * size / 2, "images_per_s": 2000 / ms, "peak_memory_bytes": size * 2**28}
        for size in (2, 4, 8)
    ]
    batches.insert(0, {"batch_size": 1, "latency_ms": ms, "images_per_s": 1000 / ms, "peak_memory_bytes": 2**28})
    stages = {"data": None, "encoder": ms, "decoder": ms / 2, "loss": ms / 8, "backward": 3 * ms, "optimizer": ms / 4}
    return {
        "latency_ms": latency,
        "images_per_s": 1000 / ms,
        "peak_memory_bytes": int(ms * 2**27),
        **{"precision": "fp32", "channels_last": False, "compile": False, "compile_s": None},
        **{"device": "a GPU", "mode": "whole", "crop": None, "stride": None},
        "batch_sizes": batches,
        **{"best_batch_size": 8, "best_images_per_s": 2000 / ms},
        **{"train_batch_size": 2, "train_s_per_iter": ms / 100, "train_images_per_s": 200 / ms},
        "train_peak_memory_bytes": int(ms * 2**29),
        "train_s": {"median": ms / 100, "p10": ms / 101, "p90": ms / 99, "samples": [ms / 100] * 3},
        "stages_ms": stages,
        "noise": deciles[-1] / deciles[0],
    } | values


def counted(params: int = 4_000_000, gmacs: float = 20.0, **values: Any) -> dict[str, Any]:
    """The section ``model`` at 512x1024."""
    return {
        **{"params": params, "params_encoder": 3_000_000, "params_decoder": 900_000, "params_aux": 100_000},
        **{"gmacs": gmacs, "gmacs_aux": 2.0, "input_size": [512, 1024], "output_stride": 16, "encoder_depth": 5},
        **{"decoder_channels": 256, "activation_bytes": 2**28, "checkpoint_bytes": 4 * params},
    } | values


def write_profile(folder: Path, arch: str = "unet", overrides: tuple[str, ...] = (), **values: Any) -> None:
    """Writes a completed profile of SMP's ``arch`` on ResNet-18 that took 10 ms."""
    values = {"model": counted(), "profile": timed(10.0), "status": "completed"} | values
    cell = {"backend": "smp", "encoder": "resnet18"} | {
        key: values.pop(key) for key in ("backend", "encoder") & values.keys()
    }
    Record(kind="profile", arch=arch, seed=0, overrides=[f"arch={arch}", *overrides], **cell, **values).write(folder)


def write_training(
    folder: Path, score: float, arch: str = "unet", overrides: tuple[str, ...] = (), **values: Any
) -> None:
    """Writes a completed training of SMP's ``arch`` on ResNet-18, at 96x128."""
    values = {
        **{"kind": "train", "backend": "smp", "encoder": "resnet18", "dataset": "streets", "seed": 0},
        **{"status": "completed", "metrics": {"mIoU": score}, "train": {"s_per_iter": 0.25, "images_per_s": 32.0}},
        "model": counted(gmacs=1.5, input_size=[96, 128]) | {"activation_bytes": None},
        "environment": {"device": "a CPU", "torch": "2.15"},
    } | values
    Record(arch=arch, overrides=[f"arch={arch}", "dataset=streets", *overrides], **values).write(folder)


def rows(folder: Path, name: str = "comparison.csv") -> list[dict[str, str]]:
    """The rows of ``comparison.csv``, or of ``runs.csv``."""
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary(comparison: report.Comparison, width: int) -> list[str]:
    """The lines in a terminal of that width."""
    console = Console(file=StringIO(), width=width)
    print_summary(comparison, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")


def cells(folder: Path) -> list[str]:
    """The rows of the Markdown table, its head first."""
    return [line.strip("| ") for line in (folder / "comparison.md").read_text().splitlines() if line.startswith("|")]
