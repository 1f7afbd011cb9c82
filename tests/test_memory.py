"""Peaks by section, and what is said when memory runs out."""

import gc
import sys
from pathlib import Path

import pytest
import torch

from seggrid import memory
from seggrid.memory import out_of_memory, peak_memory_bytes, readable, reset_peak

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a section's peak of a process")
def test_the_peak_of_a_section_is_not_that_of_the_one_before() -> None:
    def filled(size: int) -> None:
        torch.ones(size * MIB // 4)

    gc.collect()  # what other tests have left would be freed in between
    reset_peak(CPU)
    start = peak_memory_bytes(CPU)
    filled(256)
    large = peak_memory_bytes(CPU)
    reset_peak(CPU)
    filled(64)
    small = peak_memory_bytes(CPU)
    assert 250 * MIB < large - start < 300 * MIB
    assert small < large - 128 * MIB


def test_without_linux_the_peak_is_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS", memory.STATUS / "none")
    monkeypatch.setattr(memory, "CLEAR_REFS", memory.STATUS / "none")
    reset_peak(CPU)
    assert 10 * MIB < peak_memory_bytes(CPU) < 2**40


def test_the_cpus_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48, dtype=torch.uint8)
    phrase = out_of_memory(caught.value)
    assert phrase is not None and phrase.startswith("out of memory: 256.00 TiB asked for, ")
    assert phrase.endswith(" available") and "\n" not in phrase


def test_the_gpus_allocator_is_understood() -> None:
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 5.19 GiB "
        "is free. Including non-PyTorch memory, this process has 134.62 GiB memory in use.\nOf the allocated memory"
    )
    assert out_of_memory(error) == "out of memory on the GPU: 20.00 GiB asked for, 5.19 GiB of 139.81 GiB free"
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of\nmemory")) == "CUDA out of memory"
    driver = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
    assert out_of_memory(driver) == "out of memory on the GPU, of which other processes may hold a part"
    worker = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert "the system has ended a process that loads data" in str(out_of_memory(worker))
    assert out_of_memory(MemoryError("Unable to allocate 9 GiB")) == "out of memory: Unable to allocate 9 GiB"
    library = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert out_of_memory(library) == "out of memory on the GPU, in one of NVIDIA's libraries"


def test_other_errors_are_not_taken_for_it() -> None:
    assert out_of_memory(RuntimeError("shape mismatch")) is None
    assert out_of_memory(ValueError("can't allocate memory: you tried to allocate 5 bytes")) is None


def test_sizes_are_readable() -> None:
    assert [readable(size) for size in (5, 2048, 3.5 * 2**30, 2**42)] == ["5 bytes", "2.00 KiB", "3.50 GiB", "4.00 TiB"]


def test_a_control_groups_limit_is_the_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "groups" / "job"
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/job\n")
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("700000\n")
    (group / "memory.stat").write_text("anon 500000\ninactive_file 200000\n")
    monkeypatch.setattr(memory, "GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    assert memory.available_bytes(CPU) == 500_000
    (group / "memory.max").write_text("max\n")
    assert memory.available_bytes(CPU) > 10 * MIB
