"""A profile in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from seggrid.memory import readable
from seggrid.results import Record


def print_profile(record: Record) -> None:
    """Prints a record's counts, and its times and memory where it has them."""
    assert record.model is not None
    table = Table(title=f"{record.backend} / {record.arch} / {record.encoder}", show_header=False, title_justify="left")
    for row in (*_counts(record.model), *_costs(record.profile or {})):
        table.add_row(*row)
    Console(highlight=False).print(table)


def _counts(model: dict[str, Any]) -> list[tuple[str, str]]:
    parts = ", ".join(f"{part} {model[f'params_{part}']:,}" for part in ("encoder", "decoder", "aux"))
    aux = model["gmacs_aux"]
    rows = [
        ("input", "x".join(map(str, model["input_size"]))),
        ("parameters", f"{model['params']:,}  ({parts})"),
        ("GMac", f"{model['gmacs']:.3f}" + (f"  (aux head {aux:.3f})" if aux else "")),
        ("checkpoint", readable(model["checkpoint_bytes"])),
        ("output stride", str(model["output_stride"])),
    ]
    if model["activation_bytes"] is not None:
        rows.append(("activations", f"{readable(model['activation_bytes'])} per training image in fp32"))
    return rows


def _costs(profile: dict[str, Any]) -> list[tuple[str, str]]:
    if not profile:
        return []
    how = [profile["precision"], profile["mode"]]
    how += ["channels_last"] * profile["channels_last"] + ["compiled"] * profile["compile"]
    rows = [("device", f"{profile['device']}, {', '.join(how)}")]
    if profile["compile_s"] is not None:
        rows.append(("compiling", f"{profile['compile_s']:.1f} s"))
    if "latency_ms" in profile:
        rows.append(("latency", _spread(profile["latency_ms"], "ms", 1)))
        rows.append(("memory", _memory(profile, "peak_memory_bytes")))
    if "best_batch_size" in profile:
        first, last = profile["batch_sizes"][0], profile["batch_sizes"][-1]
        best = f"{profile['best_images_per_s']:.1f} images/s at batch {profile['best_batch_size']}"
        said = f"{first['images_per_s']:.1f} at 1, tried up to {last['batch_size']}"
        rows.append(("throughput", f"{best}  ({said})"))
    if "train_s" in profile:
        limit = {"memory": "  (the largest that fits)", "time": "  (fits; larger ones take too long to try)"}
        size = f"{profile['train_batch_size']}{limit.get(profile.get('train_batch_size_limit', ''), '')}"
        rows.append(("training batch", size))
        rows.append(("training step", _spread(profile["train_s"], "s", 3)))
        rows.append(("training memory", _memory(profile, "train_peak_memory_bytes")))
        rows.append(("its time", _stages(profile["stages_ms"])))
    return rows


def _memory(profile: dict[str, Any], key: str) -> str:
    held = profile["base_memory_bytes"]
    return f"{readable(profile[key] - held)}" + (f"  (peak {readable(profile[key])})" if held else "")


def _spread(timing: dict[str, Any], unit: str, digits: int) -> str:
    figures = {"p10": timing["p10"], "p90": timing["p90"], "slowest": max(timing["samples"])}
    said = ", ".join(f"{name} {value:.{digits}f}" for name, value in figures.items())
    return f"{timing['median']:.{digits}f} {unit}  ({said} of {len(timing['samples'])})"


def _stages(stages: dict[str, float | None]) -> str:
    step = {name: value for name, value in stages.items() if value is not None and name != "data"}
    total = sum(step.values()) or 1.0
    said = [f"{name} {100 * value / total:.0f} %" for name, value in step.items()]
    if stages.get("data") is not None:
        said.append(f"beside it data {stages['data']:.0f} ms in one process")
    return ", ".join(said)
