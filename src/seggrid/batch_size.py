"""The largest batch that fits into memory."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from seggrid.errors import one_line
from seggrid.memory import (
    available_bytes,
    give_back,
    held_bytes,
    out_of_memory,
    peak_memory_bytes,
    readable,
    reset_peak,
)

MARGIN = 0.9  # of the CPU's memory, where what does not fit is not refused but ends the process


class Found(NamedTuple):
    """A batch size that fits.

    Attributes:
        batch_size: the largest that was run.
        limit: why it is the largest: ``memory``, or ``time`` where a pass took longer than it may.
    """

    batch_size: int
    limit: str


class Fit:
    """Tells whether work on a batch fits, by doing it; on the CPU it is foretold from the batches that were done.

    After a batch that did not fit the memory of what was begun is free again. Once one has fitted, any error of a
    larger one is taken for its size.

    Args:
        work: done with a batch of this size.
        device: where.
        bytes_per_image: what is foretold before a batch was done.
    """

    def __init__(self, work: Callable[[int], object], device: torch.device, bytes_per_image: float = 0.0) -> None:
        self._work, self._device = work, device
        self._bytes_per_image = bytes_per_image
        self._has_worked = False
        self.refusal: str | None = None  # the last, as a phrase

    def __call__(self, batch_size: int) -> bool:
        """Does the work with a batch; returns whether it fitted."""
        give_back()
        if self._device.type != "cuda":
            needed, there = batch_size * self._bytes_per_image, available_bytes(self._device)
            if needed > MARGIN * there:
                self.refusal = f"out of memory: about {readable(needed)} needed, {readable(there)} available"
                return False
        reset_peak(self._device)
        before = held_bytes(self._device)
        try:
            self._work(batch_size)
        except RuntimeError as error:
            self.refusal = out_of_memory(error)
            if self.refusal is None and not self._has_worked:
                raise
            self.refusal = self.refusal or one_line(error)  # some kernels cannot take 2^31 values and more
        else:
            self._has_worked = True
            used = peak_memory_bytes(self._device) - before
            self._bytes_per_image = used / batch_size
            return True
        give_back()  # only now: the error held on to what had been made
        return False


def largest(fits: Callable[[int], bool], least: int, seconds: float) -> Found | None:
    """Finds the largest batch that fits: by doubling, then by halving the gap down to an eighth.

    Args:
        fits: whether a batch of this size does.
        least: the smallest batch that makes sense.
        seconds: no larger batch is tried than one that takes longer than this.

    Returns:
        The batch size; None where not even ``least`` fits.
    """
    good, size = 0, least
    start = time.perf_counter()
    while fits(size):
        good = size
        if time.perf_counter() - start > seconds:
            return Found(good, "time")
        size *= 2
        start = time.perf_counter()
    if good == 0:
        return None
    bad = size
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return Found(good, "memory")
