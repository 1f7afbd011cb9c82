"""How long a piece of work takes: warmed up until it gets no faster, every sample kept."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

LEAST_SAMPLES = 5  # below them deciles say nothing
WINDOW = 3  # passes whose median says whether warming up still helps
STABLE = 0.95  # it does as long as a window takes less than this share of the one before


@dataclass(frozen=True)
class Budget:
    """How much is spent on one figure.

    Attributes:
        warmup: passes at least before the first that counts.
        samples: passes that count, where ``seconds`` allow them.
        seconds: what the warm-up, and then the samples, may take; five samples are made whatever they take.
    """

    warmup: int
    samples: int
    seconds: float


class Clock:
    """Takes times on a device, in the order in which its work is done.

    On a GPU these are CUDA events, which do not make the device wait between two marks; elsewhere it is the wall clock.

    Args:
        device: whose work is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []

    def start(self) -> None:
        """Forgets earlier marks, waits until the device has nothing left to do, and makes the first mark."""
        self._marks = []
        wait(self._device)
        self.mark()

    def mark(self) -> int:
        """Marks the present moment; returns the mark's number."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            wait(self._device)  # MPS has no events of this kind
            self._marks.append(time.perf_counter())
        return len(self._marks) - 1

    def between_ms(self, first: int, last: int) -> float:
        """Returns the milliseconds from one mark to another; call :func:`wait` first."""
        start, end = self._marks[first], self._marks[last]
        return float(start.elapsed_time(end)) if self._device.type == "cuda" else (end - start) * 1000


def wait(device: torch.device) -> None:
    """Waits until a device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Times one pass of some work, from an idle device to an idle device."""
    clock = Clock(device)
    clock.start()
    work()
    last = clock.mark()
    wait(device)
    return clock.between_ms(0, last)


def sample(once: Callable[[], float], budget: Budget, when_warm: Callable[[], object] = lambda: None) -> list[float]:
    """Repeats some work until it is warm, and then for its samples.

    Args:
        once: does the work and returns its milliseconds.
        budget: how often and how long.
        when_warm: called between the two.

    Returns:
        The samples in their order, none left out.
    """
    _warm_up(once, budget)
    when_warm()
    samples: list[float] = []
    start = time.perf_counter()
    while len(samples) < budget.samples:
        if len(samples) >= LEAST_SAMPLES and time.perf_counter() - start > budget.seconds:
            break
        samples.append(once())
    return samples


def summary(samples: list[float]) -> dict[str, Any]:
    """Returns ``median``, ``p10``, ``p90`` and the ``samples`` themselves."""
    deciles = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples * 9
    return {"median": statistics.median(samples), "p10": deciles[0], "p90": deciles[-1], "samples": samples}


def _warm_up(once: Callable[[], float], budget: Budget) -> None:
    """Runs at least ``budget.warmup`` passes, and more until a window is no faster than the one before."""
    passes: list[float] = []
    start = time.perf_counter()
    while len(passes) < budget.warmup or (budget.warmup and _still_gets_faster(passes)):
        if len(passes) >= budget.warmup and time.perf_counter() - start > budget.seconds:
            return
        passes.append(once())


def _still_gets_faster(passes: list[float]) -> bool:
    if len(passes) < 2 * WINDOW:
        return True
    before, now = passes[-2 * WINDOW : -WINDOW], passes[-WINDOW:]
    return statistics.median(now) < STABLE * statistics.median(before)
