"""The largest batch that fits, found without breaking what comes after it."""

import gc
import weakref

import pytest
import torch

from seggrid import batch_size
from seggrid.batch_size import Fit, largest

CPU = torch.device("cpu")


@pytest.mark.parametrize("most", [2, 3, 5, 16, 17, 31, 100, 1000])
def test_the_largest_is_found_to_an_eighth(most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= most

    found = largest(fits, 2, seconds=60)
    assert found is not None
    assert found.limit == "memory"
    assert found.batch_size <= most < found.batch_size + max(1, found.batch_size // 8) + 1
    assert len(tried) == len(set(tried)) < 20


def test_nothing_fits_where_the_least_does_not() -> None:
    assert largest(lambda size: False, 2, seconds=60) is None


def test_a_pass_that_takes_too_long_ends_the_search() -> None:
    found = largest(lambda size: True, 2, seconds=0.0)
    assert found is not None
    assert tuple(found) == (2, "time")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to "
                     "allocate 99999999999 bytes. Error code 12"),
    ],
)  # fmt: skip
def test_what_did_not_fit_leaves_nothing_behind(error: RuntimeError) -> None:
    left: list[weakref.ref[torch.Tensor]] = []

    def work(size: int) -> None:
        tensor = torch.zeros(size)
        left.append(weakref.ref(tensor))
        if size > 4:
            raise type(error)(*error.args)

    fits = Fit(work, CPU)
    assert [fits(4), fits(5), fits(3)] == [True, False, True]
    gc.collect()
    assert [reference() for reference in left] == [None] * 3
    assert fits.refusal is not None
    assert "\n" not in fits.refusal


def test_an_error_of_another_kind_is_not_taken_for_a_lack_of_memory() -> None:
    def work(size: int) -> None:
        raise RuntimeError("Given groups=1, weight of size [8, 3, 3, 3]")

    with pytest.raises(RuntimeError, match="Given groups"):
        Fit(work, CPU)(1)


def test_a_kernel_that_cannot_take_a_larger_batch_ends_the_search_too() -> None:
    def work(size: int) -> None:
        if size > 4:
            raise RuntimeError("Expected tensor to have fewer than 2^31 elements")

    fits = Fit(work, CPU)
    assert largest(fits, 2, seconds=60) == (4, "memory")
    assert fits.refusal == "Expected tensor to have fewer than 2^31 elements"


def test_on_the_cpu_a_batch_that_would_end_the_process_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that asks for more than there is gets no error: the kernel ends it.
    now = {"peak": 0}
    tried: list[int] = []

    def work(size: int) -> None:
        tried.append(size)
        now["peak"] = 100 * size

    def reset(device: torch.device) -> None:
        now["peak"] = 0

    monkeypatch.setattr(batch_size, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(batch_size, "reset_peak", reset)
    monkeypatch.setattr(batch_size, "held_bytes", lambda device: 0)
    monkeypatch.setattr(batch_size, "peak_memory_bytes", lambda device: now["peak"])
    found = largest(Fit(work, CPU), 2, seconds=60)
    assert found is not None
    assert max(tried) == found.batch_size
    assert 8 <= found.batch_size <= 9  # nine tenths of 1000 bytes
