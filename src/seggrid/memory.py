"""Memory: the peak of a section, what is available, and what an allocator says when it has no more."""

import contextlib
import ctypes
import gc
import re
import resource
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from seggrid.errors import UserError

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux: proc(5)
RESET_PEAK = "5"
GROUP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
CPU_ERROR = re.compile(r"can't allocate memory: you tried to allocate (\d+) bytes")
LIBRARY_ERROR = re.compile(r"CU(BLAS|DNN|SPARSE|SOLVER)_STATUS_ALLOC_FAILED")
DRIVER_ERROR = re.compile(r"CUDA error: out of memory")
MPS_ERROR = "MPS backend out of memory"
WORKER_ERROR = re.compile(r"DataLoader worker .* is killed by signal: Killed")
GPU_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")
GPU_THERE = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")


def reset_peak(device: torch.device) -> None:
    """Starts a section whose peak :func:`peak_memory_bytes` tells.

    On a GPU that is the allocator's, on Linux that of the process, which starts at what it holds at this moment.
    Elsewhere, and where the kernel refuses it, the peak stays that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # no Linux, or a sandbox without this file
            CLEAR_REFS.write_text(RESET_PEAK)


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the most memory in use since :func:`reset_peak`: by tensors on a GPU, by the process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if STATUS.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())):
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def explained(remedy: str, asked: str = "") -> Iterator[None]:
    """Turns an error for want of memory into one line; for functions, as a decorator.

    Args:
        remedy: what to do.
        asked: what was to be done, where that is to be said first.

    Raises:
        UserError: memory ran out. What the function held is free again before anything else runs.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        phrase = out_of_memory(error)
        if phrase is None:
            raise
        # Frames that ended with the error hold their tensors as long as it is known.
        chained: BaseException | None = error
        while chained is not None:
            traceback.clear_frames(chained.__traceback__)
            chained = chained.__cause__ or chained.__context__
        give_back()
        raise UserError(f"{asked}{phrase}; {remedy}") from error


def give_back() -> None:
    """Frees what only reference cycles hold, as a trainer and its module do, and returns it to driver and system."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc, which keeps freed memory for itself
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def held_bytes(device: torch.device) -> int:
    """Returns what is in use at this moment, as :func:`peak_memory_bytes` counts it."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    import psutil

    return int(psutil.Process().memory_info().rss)


def available_bytes(device: torch.device) -> int:
    """Returns the memory that can still be had: on a GPU what its driver calls free, on the CPU without swapping.

    On a CPU that is no more than what the process's control group, such as a container's or a SLURM job's, has left.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # needed where memory is short, not at each start

    return min([int(psutil.virtual_memory().available), *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Yields what the process's control group, as far as it has a limit, has left; cgroups(7), version 2."""
    try:
        own = GROUP.read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return
    for folder in {GROUPS / own, GROUPS}:  # within a container its own group is the root
        with contextlib.suppress(OSError, ValueError, KeyError):
            most = int((folder / "memory.max").read_text())  # "max" where there is no limit
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / "memory.current").read_text()) - int(stat["inactive_file"])  # which would be given up
            yield max(0, most - used)


def out_of_memory(error: BaseException) -> str | None:
    """Says what was asked for and what is there.

    Args:
        error: any error.

    Returns:
        A phrase of one line; None where the error is not an allocator's.
    """
    text = str(error)
    if isinstance(error, RuntimeError) and (asked := CPU_ERROR.search(text)):
        there = available_bytes(torch.device("cpu"))
        return f"out of memory: {readable(int(asked[1]))} asked for, {readable(there)} available"
    if isinstance(error, RuntimeError) and LIBRARY_ERROR.search(text):
        return "out of memory on the GPU, in one of NVIDIA's libraries"
    if isinstance(error, RuntimeError) and DRIVER_ERROR.search(text):
        return "out of memory on the GPU, of which other processes may hold a part"
    if isinstance(error, RuntimeError) and MPS_ERROR in text:
        return " ".join(text.split())[:200]
    if isinstance(error, RuntimeError) and WORKER_ERROR.search(text):
        return "the system has ended a process that loads data, most likely for want of memory"
    if isinstance(error, MemoryError):
        return f"out of memory: {' '.join(text.split())[:160] or 'no more can be had'}"
    if not isinstance(error, torch.OutOfMemoryError):
        return None
    wanted, there_on_gpu = GPU_ASKED.search(text), GPU_THERE.search(text)
    if wanted is None or there_on_gpu is None:
        return " ".join(text.split())[:200]
    return f"out of memory on the GPU: {wanted[1]} asked for, {there_on_gpu[2]} of {there_on_gpu[1]} free"


def readable(size: float) -> str:
    """Writes a number of bytes for a person, in units of 1024, as PyTorch does."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.2f} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1024
    return f"{size:.2f} TiB"
