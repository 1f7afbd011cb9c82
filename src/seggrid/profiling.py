"""What a model costs: parameters, multiply-adds, latency, memory."""

import copy
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from seggrid import models, results
from seggrid.config import ProfileConfig, model_config
from seggrid.errors import UserError
from seggrid.models.reach import forward_on_meta
from seggrid.models.segmenter import Segmenter


def count(model: Segmenter, size: tuple[int, int]) -> dict[str, Any]:
    """Counts a model.

    Multiply-adds are half of what ``FlopCounterMode`` counts; published "GFLOPs" of vision models are multiply-adds.

    Args:
        model: the model; it is not run on data.
        size: (height, width) of one image.

    Returns:
        The section ``model`` of a record.
    """
    training = model.training
    inference_gmacs = _gmacs(model.eval(), size, batch_size=1)
    # What runs in training under a library's own loss is known to that loss alone.
    training_gmacs = _gmacs(model.train(), size, batch_size=2) / 2 if model.trains_from_logits else None
    model.train(training)
    return {
        "params": _number(model.parameters()),
        "params_encoder": _number(model.encoder_parameters()),
        "params_aux": _number(model.aux_parameters()),
        "gmacs": round(inference_gmacs, 6),
        "gmacs_aux": None if training_gmacs is None else round(max(0.0, training_gmacs - inference_gmacs), 6),
        "input_size": list(size),
        "output_stride": model.facts.output_stride,
        "encoder_depth": model.facts.encoder_depth,
        "decoder_channels": model.facts.decoder_channels,
        "unmatched": list(model.facts.unmatched),
        "mean": list(model.normalization[0]),
        "std": list(model.normalization[1]),
    }


def describe(record: results.Record, model: Segmenter, size: tuple[int, int]) -> None:
    """Fills in a record what the model is: its counts, and what its library publishes about it.

    Args:
        record: gets ``model`` and ``published``, and the arch and encoder that a saved model says it has.
        model: the model.
        size: (height, width) of its images.
    """
    record.model = count(model, size)
    record.published = model.published
    record.arch, record.encoder = model.arch or record.arch, model.encoder_name or record.encoder


def profile(config: ProfileConfig, folder: Path, record: results.Record) -> None:
    """Profiles one cell.

    Args:
        config: the cell and its input.
        folder: the run's folder.
        record: gets the sections ``model`` and, unless ``counts_only``, ``profile``.
    """
    torch.manual_seed(config.seed)
    model = models.build(model_config(config))
    height, width = config.input.size
    describe(record, model, (height, width))
    device = pick_device({"cuda": "gpu"}.get(config.device, config.device))
    record.environment = results.environment(config.backend.name, device_name(device))
    if not config.counts_only:
        record.profile = latency(model, config, device)
    print_profile(record)


def latency(model: Segmenter, config: ProfileConfig, device: torch.device) -> dict[str, Any]:
    """Times the forward pass with its argmax, one pass after the other.

    Args:
        model: the model.
        config: input, warm-up and number of samples.
        device: where it runs.

    Returns:
        The section ``profile`` of a record.
    """
    model = copy.deepcopy(model).eval().to(device)
    images = torch.randn(1, 3, *config.input.size, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    samples: list[float] = []
    with torch.inference_mode():
        for step in range(config.warmup + config.samples):
            _wait(device)
            start = time.perf_counter()
            model(images).logits.argmax(1)
            _wait(device)
            if step >= config.warmup:
                samples.append((time.perf_counter() - start) * 1000)
    deciles = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples * 9
    median = statistics.median(samples)
    return {
        "latency_ms": {"median": median, "p10": deciles[0], "p90": deciles[-1], "samples": samples},
        "images_per_s": 1000 / median,
        "train_s_per_iter": None,
        "peak_memory_bytes": peak_memory_bytes(device),
        "precision": "32-true",
        "device": device_name(device),
        "mode": "whole",
    }


def pick_device(accelerator: str) -> torch.device:
    """Turns Lightning's word for a kind of device into one; raises UserError where there is none."""
    available = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        accelerator = next(name for name, there in available.items() if there)
    if not available[accelerator]:
        raise UserError(f"accelerator={accelerator} is not available; choose one of auto, cpu")
    return torch.device({"gpu": "cuda"}.get(accelerator, accelerator))


def device_name(device: torch.device) -> str:
    """Returns the name that a reader of a record recognises."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else results.cpu_name()


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the most memory that was in use: by tensors on a GPU, by the process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def print_profile(record: results.Record) -> None:
    """Prints a record's counts, and its latency where it has one."""
    from rich.console import Console
    from rich.table import Table

    assert record.model is not None
    table = Table(title=f"{record.backend} / {record.arch} / {record.encoder}", show_header=False, title_justify="left")
    model = record.model
    aux = model["gmacs_aux"]
    rows = [
        ("parameters", f"{model['params']:,}  (encoder {model['params_encoder']:,}, aux {model['params_aux']:,})"),
        ("GMac", f"{model['gmacs']:.3f}" + (f"  (aux head {aux:.3f})" if aux is not None else "")),
        ("input", "x".join(map(str, model["input_size"]))),
        ("output stride", str(model["output_stride"])),
    ]
    if record.profile is not None:
        timing = record.profile["latency_ms"]
        rows.append(("latency", f"{timing['median']:.1f} ms  (p10 {timing['p10']:.1f}, p90 {timing['p90']:.1f})"))
        rows.append(("throughput", f"{record.profile['images_per_s']:.1f} images/s"))
        rows.append(("device", record.profile["device"]))
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _gmacs(model: Segmenter, size: tuple[int, int], batch_size: int) -> float:
    with FlopCounterMode(display=False) as counter:
        forward_on_meta(model, size, batch_size)
    return float(counter.get_total_flops() / 2e9)


def _number(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
