"""What a comparison says of costs: which cell is the fastest, the smallest, and how sure that is."""

from collections.abc import Callable
from typing import Any

from seggrid.comparison.agreement import agreement
from seggrid.comparison.cells import Cell
from seggrid.comparison.report import Run
from seggrid.comparison.rows import as_number
from seggrid.comparison.speed import (
    alike,
    comparable,
    differing,
    fastest_inference,
    fastest_training,
    latency,
    names,
    place,
    published_steps,
    training_step,
)

MEMORY = "inference_memory_bytes"
WITHIN = 0.01  # of mIoU: what a faster cell may lose and still be worth naming


def cost_verdict(profiles: list[Run], latency_alone: bool = False) -> str:
    """Says which profiles are the cheapest, among those of one input on one device.

    Args:
        profiles: completed profiles.
        latency_alone: leave out multiply-adds and memory.

    Returns:
        A sentence for each input and device that has several, and what there is to say of published counts; empty
        where there are no figures at all. Times and memory are compared among those that were measured alike.
    """
    figures = ("params", "latency_ms_median", "profile_train_s_per_iter")
    known = [run for run in profiles if any(_figure(run, key) is not None for key in figures)]
    published = "" if latency_alone else agreement(known)
    if published and not any(latency(run) or training_step(run) for run in known):
        return published  # a sweep that was made to check counts
    places: dict[str, list[Run]] = {}
    for run in known:
        places.setdefault(place(run), []).append(run)
    several = {name: runs for name, runs in places.items() if len(runs) > 1}
    said = []
    if len(known) == 1:
        said = [f"{known[0].label}: {_alone(known[0])}; no other profile to compare it with."]
    elif known and not several:
        said = ["No two profiles have the same input and device: their costs are not compared."]
    for name, runs in several.items():
        what = _cheapest(runs, latency_alone)
        said.append(f"At {name}: {what}." if len(places) > 1 else f"{what[:1].upper()}{what[1:]}.")
    return " ".join(filter(None, [*said, published]))


def trade_off(winner: Cell, others: list[Cell]) -> str:
    """Says which cell is the fastest of those whose mIoU is within a point of the winner's.

    Args:
        winner: the best cell.
        others: those on the same data.

    Returns:
        A sentence; empty where the winner, or every other cell, has no latency that was measured in the same way.
    """
    first = winner.runs[0]
    own, score = latency(first), winner.score or 0.0
    timed = [
        (cell, cell.score or 0.0, taken)
        for cell in others
        if (taken := latency(cell.runs[0])) is not None and comparable(cell.runs[0], first)
    ]
    if own is None or not timed:
        return ""
    near = [entry for entry in timed if score - entry[1] <= WITHIN and entry[2].below(own)]
    if not near:
        return f"No cell within 1 point of it is faster than its {own.median:.2f} ms."
    cell, lower, taken = min(near, key=lambda entry: (entry[2].median, -entry[1]))
    return (
        f"The fastest within 1 point of it is {cell.label}: {100 * lower:.2f} % mIoU in "
        f"{taken.median:.2f} ms instead of {own.median:.2f} ms."
    )


def _cheapest(runs: list[Run], latency_alone: bool) -> str:
    timed, trained = ([run for run in runs if taken(run) is not None] for taken in (latency, training_step))
    compared = timed if timed or not trained else trained
    parts = _by_conditions(compared, fastest_inference if timed else fastest_training)
    if len(compared) > 1 and not parts:
        parts = [f"no two have the same {differing(compared)}: their times are not compared"]
    if not timed:
        parts += filter(None, [published_steps(trained)])
    if latency_alone and parts:
        return "; ".join(parts)
    parts += [_least("smallest", runs, "params", lambda value: f"{value / 1e6:.2f} M parameters")] if not parts else []
    parts += [_least("fewest GMac", runs, "gmacs", lambda value: f"{value:.2f}")]
    parts += _by_conditions(runs, _smallest_memory)
    return "; ".join(filter(None, parts)) or "all cost the same"


def _by_conditions(runs: list[Run], clause: Callable[[list[Run], str], str]) -> list[str]:
    """A clause for those of the runs that were measured alike, where they are several."""
    groups = alike(runs)
    return [clause(group, f" ({name})" if name else "") for name, group in groups.items() if len(group) > 1]


def _smallest_memory(runs: list[Run], where: str) -> str:
    bases = [_figure(run, "profile_base_memory_bytes") for run in runs if _figure(run, MEMORY) is not None]
    if None in bases and any(bases):  # of some the peak is that of the whole process, of others not
        return ""
    return _least(f"smallest peak memory{where}", runs, MEMORY, lambda value: f"{value / 2**30:.2f} GiB")


def _least(head: str, runs: list[Run], key: str, text: Callable[[float], str]) -> str:
    known = {id(run): figure for run in runs if (figure := _figure(run, key)) is not None}
    if len(set(known.values())) < 2:  # nothing to tell
        return ""
    least = min(known.values())
    level = [run for run in runs if known.get(id(run)) == least]
    others = {run.model for run in runs if known.get(id(run)) != least}
    # Of a cell whose settings make no difference here the name is enough.
    labels = dict.fromkeys(run.label if run.model in others else run.model for run in level)
    return f"{head}: {names(list(labels))} with {text(least)}"


def _alone(run: Run) -> str:
    time, params, gmacs = (_figure(run, key) for key in ("latency_ms_median", "params", "gmacs"))
    memory, step = _figure(run, MEMORY), training_step(run)
    parts = [
        f"{time:.2f} ms" if time is not None else "",
        f"{step.median:.3f} s/iter" if step is not None and time is None else "",
        f"{params / 1e6:.2f} M parameters" if params is not None else "",
        f"{gmacs:.2f} GMac" if gmacs is not None else "",
        f"{_memory(memory)} peak memory" if memory is not None else "",
    ]
    return ", ".join(filter(None, parts))


def _memory(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def _figure(run: Run, key: str) -> float | None:
    value: Any = run.values.get(key)
    return as_number(value)
