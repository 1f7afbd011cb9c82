"""Which of several profiles is the fastest, among those that were measured alike, and how sure that is."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from seggrid.comparison.rows import as_number

if TYPE_CHECKING:
    from seggrid.comparison.report import Run

NAMED = 3  # cells that a sentence names before it counts the others
# What decides of times and memory beside the network, the input and the device.
CONDITIONS = {
    "profile_precision": "precision",
    "profile_mode": "mode",
    "profile_crop": "window",
    "profile_stride": "stride",
    "profile_compile": "compile",
    "profile_channels_last": "channels_last",
}


class Taken(NamedTuple):
    """How long the passes of a run take."""

    median: float
    low: float  # p10
    high: float  # p90

    def below(self, other: "Taken") -> bool:
        """Whether this is faster beyond the scatter of both."""
        return self.high < other.low


def latency(run: "Run") -> Taken | None:
    """Returns the milliseconds of an image, where they are known."""
    return _taken(run, "latency_ms_median", "latency_ms")


def training_step(run: "Run") -> Taken | None:
    """Returns the seconds of a training step, where they are known."""
    return _taken(run, "profile_train_s_per_iter", "profile_train_s")


def place(run: "Run") -> str:
    """Returns what two costs must have in common to be compared: the input, and the device where time was taken."""
    values = run.values
    parts = [values.get("profile_input") or values.get("input"), values.get("profile_device")]
    return " on ".join(str(part) for part in parts if part is not None)


def comparable(run: "Run", other: "Run") -> bool:
    """Whether the times of two runs may be compared: same place, precision, inference, compilation and layout."""
    return place(run) == place(other) and _conditions(run) == _conditions(other)


def alike(runs: list["Run"]) -> dict[str, list["Run"]]:
    """Returns the runs of one place by what they were measured with; the names say only what is not the same in all."""
    varying = [key for key in CONDITIONS if len({str(run.values.get(key)) for run in runs}) > 1]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(", ".join(filter(None, (_said(run, key) for key in varying))), []).append(run)
    return groups


def differing(runs: list["Run"]) -> str:
    """Returns the names of the conditions that are not the same in all runs."""
    return " and ".join(name for key, name in CONDITIONS.items() if len({str(run.values.get(key)) for run in runs}) > 1)


def fastest_inference(runs: list["Run"], where: str = "") -> str:
    """Says which of two or more comparable runs has the lowest latency, as a clause.

    Args:
        runs: runs with a latency.
        where: what they were measured with, where others were measured with something else.
    """
    times = [(run, taken) for run in runs if (taken := latency(run)) is not None]
    return _fastest(f"fastest{where}", times, lambda run, taken: f"{taken.median:.2f} ms")


def fastest_training(runs: list["Run"], where: str = "") -> str:
    """Says which of two or more comparable runs has the fastest training step, as a clause.

    Steps of one batch size are compared as they are, those of several by the image.

    Args:
        runs: runs with the time of a training step.
        where: what they were measured with, where others were measured with something else.
    """
    times = [(run, taken) for run in runs if (taken := training_step(run)) is not None]
    sizes = {id(run): as_number(run.values.get("profile_train_batch_size")) or 1.0 for run, _ in times}
    if len(set(sizes.values())) == 1:
        return _fastest(f"fastest training step{where}", times, lambda run, taken: f"{taken.median:.3f} s/iter")
    by_image = [(run, Taken(*(value / sizes[id(run)] for value in taken))) for run, taken in times]
    return _fastest(
        f"fastest training{where}",
        by_image,
        lambda run, taken: f"{1 / taken.median:.1f} images/s at batch {sizes[id(run)]:g}",
    )


def published_steps(runs: list["Run"]) -> str:
    """Names the published times of a training step of these runs, the fastest first; empty where there are none."""
    known = sorted(
        (seconds, run.label, str(run.values.get("published_device") or ""))
        for run in runs
        if (seconds := as_number(run.values.get("published_train_s_per_iter"))) is not None
    )
    if not known:
        return ""
    devices = {device for *_, device in known}
    where = f" for {devices.pop()}" if len(devices) == 1 and "" not in devices else ""
    return f"published{where}: {names([f'{label} with {seconds:.3f} s/iter' for seconds, label, _ in known])}"


def names(labels: list[str]) -> str:
    """Returns the first labels and how many more there are, as they stand in a sentence."""
    rest = len(labels) - NAMED
    named = labels[:NAMED] + ([f"{rest} more"] if rest > 0 else [])
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))


def _fastest(head: str, times: list[tuple["Run", Taken]], text: Callable[["Run", Taken], str]) -> str:
    (best, least), *others = sorted(times, key=lambda pair: pair[1].median)
    second, other = others[0]
    said = f"{head}: {best.label} with {text(best, least)}"
    like = [run.label for run, taken in others if not least.below(taken)]
    if like:
        return f"{said}, but it cannot be told apart from {names(like)}: their ranges from p10 to p90 overlap"
    return f"{said}, {second.label} is {100 * (other.median / least.median - 1):.0f} % slower"


def _taken(run: "Run", middle: str, prefix: str) -> Taken | None:
    values = run.values
    median = as_number(values.get(middle))
    if not median:
        return None
    low, high = (as_number(values.get(f"{prefix}_{end}")) or median for end in ("p10", "p90"))
    return Taken(median, low, high)


def _conditions(run: "Run") -> list[str]:
    return [str(run.values.get(key)) for key in CONDITIONS]


def _said(run: "Run", key: str) -> str:
    value, name = run.values.get(key), CONDITIONS[key]
    if value is None:
        return "" if key in ("profile_crop", "profile_stride") else f"unknown {name}"
    if isinstance(value, bool):
        return {"compile": "compiled"}.get(name, name) if value else f"no {name}"
    return str(value) if key in ("profile_precision", "profile_mode") else f"{name} {'x'.join(str(value).split())}"
