"""Decoded images and labels, kept on disk or in memory, so that a file is decoded once and not in every epoch.

Both fill as pictures are first read, and both give the memory to whoever reads as a view that can be written to
without changing what is kept. Where there is no room, reading goes on without, and one line says so.
"""

import dataclasses
import errno
import hashlib
import logging
import mmap
import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from seggrid.config import DatasetConfig

if TYPE_CHECKING:  # datamodule imports this file
    from seggrid.data.datamodule import Source

VERSION = 1  # of what is kept: raise it when the same files come to be read otherwise
RESERVE_BYTES = 2**30  # left free on the disk for checkpoints, and in memory for the training itself
STALE_S = 3600  # writing one array takes less
SAMPLED = 4  # pictures per split from which the need of memory is estimated

# The settings of a data set that do not change the labels of a file.
PLACES = (
    *("name", "root", "images", "masks", "splits", "lists", "names", "val_fraction", "split_seed", "download"),
    *("cache", "cache_dir", "shapes"),
)

log = logging.getLogger(__name__)
Array = NDArray[np.uint8]
Sample = tuple[Tensor, Tensor | None]


class Files(Protocol):
    """What the cache on disk asks of a source besides its pictures."""

    def paths(self, index: int) -> tuple[Path, ...]:
        """Returns the files that a picture is read from: that of the image, then those of the labels."""
        ...


def with_cache(config: DatasetConfig, sources: list["Source"]) -> list["Source"]:
    """Puts the cache that ``dataset.cache`` names before the sources of a run.

    Args:
        config: the data set, with everything that its labels depend on.
        sources: its splits; those of ``disk`` know the files they read.

    Returns:
        Sources of the same pictures; those given, where there is no cache or no room for one.
    """
    if config.cache == "disk":
        folder = _Folder(_cache_dir(config))
        return [_OnDisk(source, folder, config) for source in sources] if folder.path.is_dir() else sources
    if config.cache == "ram":
        return _in_memory(sources)
    return sources


class _Cached:
    """A source that asks its cache first.

    Args:
        source: the pictures.
    """

    def __init__(self, source: "Source") -> None:
        self._source = source
        self.labelled = source.labelled

    def __len__(self) -> int:
        return len(self._source)

    def paths(self, index: int) -> tuple[Path, ...]:
        """Returns the files that a picture is read from."""
        return cast(Files, self._source).paths(index)

    def key(self, index: int) -> str:
        """Names a picture in the split."""
        return self._source.key(index)

    def name(self, index: int) -> str:
        """Names a picture in messages."""
        return self._source.name(index)


class _Folder:
    """Arrays by name in a folder that any number of processes read and write at once.

    An array is written under another name and renamed when it is whole. A folder that cannot be written to is read.

    Args:
        path: the folder; it is made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_full = _shared(False)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _remove_stale(path)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            self._stop(error)

    def load(self, name: str) -> Array | None:
        """Maps an array into memory; None where there is none, or a damaged one, which goes."""
        path = self.path / f"{name}.npy"
        try:
            return cast(Array, np.lib.format.open_memmap(path, mode="c"))
        except OSError:
            return None
        except (ValueError, EOFError):  # a machine that lost its power has left half of it
            with suppress(OSError):
                path.unlink()
            return None

    def save(self, name: str, array: Array) -> None:
        """Writes an array, unless it is there or there is no room."""
        path = self.path / f"{name}.npy"
        if self._is_full or path.exists():
            return
        temporary = self.path / f"{name}.{secrets.token_hex(8)}.tmp"
        try:
            if shutil.disk_usage(self.path).free - array.nbytes < RESERVE_BYTES:
                raise OSError(errno.ENOSPC, f"less than {_gigabytes(RESERVE_BYTES)} would be left free")
            with temporary.open("xb") as file:
                # Not np.save: it does not notice when the last bytes do not fit on the disk.
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(array.data)
            temporary.replace(path)
        except OSError as error:
            self._stop(error)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _stop(self, error: OSError) -> None:
        if not self._is_full:
            self._is_full.fill_(True)
            _warn(
                "warning: dataset.cache=disk cannot write to %s (%s): what is not kept there is decoded each time it "
                "is read; make room, or set dataset.cache_dir",
                self.path,
                error.strerror or error,
            )


class _OnDisk(_Cached):
    """A source that keeps its pictures in a folder, under names that change with the files and with the labels' rules.

    Args:
        source: the pictures.
        folder: where they are kept.
        config: what their labels mean.
    """

    def __init__(self, source: "Source", folder: _Folder, config: DatasetConfig) -> None:
        super().__init__(source)
        self._folder, self._rules = folder, _label_rules(config)

    def read(self, index: int) -> Sample:
        """Returns the picture from the folder, or else decodes it and keeps it there."""
        try:
            identities = [_identity(path) for path in self.paths(index)]
        except OSError:
            return self._source.read(index)  # which knows how to say that a file is not there
        # Taken before reading: a file that changes meanwhile is then kept under a name that nobody asks for again.
        # The image goes by the mask's file, too: an EXIF orientation is passed over where the mask does not follow it.
        image_name, labels_name = _digest("image", identities), _digest("labels", identities, self._rules)
        pixels = self._folder.load(image_name)
        classes = self._folder.load(labels_name) if self.labelled and pixels is not None else None
        if pixels is not None and (classes is not None or not self.labelled):
            return torch.from_numpy(pixels).permute(2, 0, 1), None if classes is None else torch.from_numpy(classes)
        image, labels = self._source.read(index)
        self._folder.save(image_name, np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        if labels is not None:
            self._folder.save(labels_name, np.ascontiguousarray(labels.numpy()))
        return image, labels


class _Memory:
    """Bytes that the processes of one training share, and that end with them.

    The operating system gives the memory as it is written to, and says so with an error where there is none: a file in
    memory that is written with ``write`` and read by mapping.
    """

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file: IO[bytes] = os.fdopen(os.memfd_create("seggrid"), "r+b", buffering=0)
        else:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # it stays open as long as this object
        self._end = _shared(0)
        self._is_full = _shared(False)
        self._lock: Any = torch.multiprocessing.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": DupFd(self._file.fileno())}  # for workers that are not forked

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = os.fdopen(state["_file"].detach(), "r+b", buffering=0)

    def add(self, arrays: list[Array]) -> int | None:
        """Appends arrays, one after the other, and returns where they begin; None where there is no room."""
        if self._is_full:
            return None
        size = sum(array.nbytes for array in arrays)
        try:
            if available_memory() - size < RESERVE_BYTES:
                raise OSError(errno.ENOMEM, f"less than {_gigabytes(RESERVE_BYTES)} would be left free")
            with self._lock:
                start = position = int(self._end)
                self._end += size
            for array in arrays:
                rest = memoryview(array.reshape(-1).data)
                while len(rest):
                    written = os.pwrite(self._file.fileno(), rest, position)
                    rest, position = rest[written:], position + written
        except OSError as error:
            if not self._is_full:
                self._is_full.fill_(True)
                _warn(
                    "warning: dataset.cache=ram has no more memory (%s): what is not kept yet is decoded each time it "
                    "is read; dataset.cache=disk keeps it on disk",
                    error.strerror or error,
                )
            return None
        return start

    def view(self, start: int, size: int) -> Array:
        """Maps bytes; writing to them changes this view alone."""
        offset = start % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._file.fileno(), offset + size, access=mmap.ACCESS_COPY, offset=start - offset)
        return np.frombuffer(mapped, np.uint8, size, offset)


class _InMemory(_Cached):
    """A source that keeps its pictures in memory.

    Args:
        source: the pictures.
        memory: where they are kept.
    """

    def __init__(self, source: "Source", memory: _Memory) -> None:
        super().__init__(source)
        self._memory = memory
        self._places = _shared([[-1, -1, -1]] * len(source))  # start, height, width

    def read(self, index: int) -> Sample:
        """Returns the picture from memory, or else decodes it and keeps it there."""
        start, height, width = self._places[index].tolist()
        if min(start, height, width) >= 0:
            pixels = height * width
            flat = self._memory.view(start, pixels * (4 if self.labelled else 3))
            image = torch.from_numpy(flat[: 3 * pixels].reshape(height, width, 3)).permute(2, 0, 1)
            return image, torch.from_numpy(flat[3 * pixels :].reshape(height, width)) if self.labelled else None
        image, labels = self._source.read(index)
        arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy())]
        if labels is not None:
            arrays.append(np.ascontiguousarray(labels.numpy()))
        found = self._memory.add(arrays)
        if found is not None:
            # Two that decode the same picture at once write two whole copies, of which either will do.
            self._places[index] = torch.tensor([found, *image.shape[-2:]])
        return image, labels


def _in_memory(sources: list["Source"]) -> list["Source"]:
    memory = _Memory()
    kept = [_InMemory(source, memory) for source in sources]
    need = sum(_estimate(source) for source in kept)
    free = available_memory() - RESERVE_BYTES
    number = sum(len(source) for source in kept)
    if need > free:
        _warn(
            "warning: dataset.cache=ram would take about %s for %d pictures, and %s are free: they are decoded each "
            "time they are read; dataset.cache=disk keeps them on disk",
            _gigabytes(need),
            number,
            _gigabytes(max(0, free)),
        )
        return sources
    _say(f"dataset.cache=ram: {number} pictures take about {_gigabytes(need)} of the {_gigabytes(free)} that are free")
    return list(kept)


def _estimate(source: _InMemory) -> int:
    """Returns the bytes that a source takes, as a few of its pictures have it."""
    indices = sorted({position * len(source) // SAMPLED for position in range(SAMPLED)})
    sizes = [sum(part.numel() for part in source.read(index) if part is not None) for index in indices]
    return sum(sizes) * len(source) // len(sizes)


def available_memory() -> int:
    """Returns the bytes that can still be had: of the machine, or of the container where that is less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # no Linux: a guess
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(stat["inactive_file"]))  # files that were read count as used
    except (OSError, ValueError, KeyError):  # "max" is no number: there is no limit
        return free


def _cache_dir(config: DatasetConfig) -> Path:
    if config.cache_dir is not None:
        return Path(config.cache_dir).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seggrid" / "decoded"


def _label_rules(config: DatasetConfig) -> list[tuple[str, Any]]:
    """Returns all settings but those that only say where files lie: what else there is, labels may depend on."""
    settings = dataclasses.asdict(config)
    settings["label_map"] = sorted(config.label_map.items())
    return sorted((key, value) for key, value in settings.items() if key not in PLACES)


def _identity(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()[:40]


def _remove_stale(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".tmp"):
                with suppress(OSError):  # another process does the same
                    if time.time() - entry.stat().st_mtime > STALE_S:
                        os.unlink(entry.path)


def _shared(value: Any) -> Tensor:
    """Makes a tensor that all workers see change: what one of them has kept, and that one has said there is no room."""
    tensor: Tensor = torch.tensor(value).share_memory_()  # type: ignore[no-untyped-call]
    return tensor


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


@rank_zero_only
def _warn(line: str, *values: object) -> None:
    log.warning(line, *values)


@rank_zero_only
def _say(line: str) -> None:
    log.info(line)
