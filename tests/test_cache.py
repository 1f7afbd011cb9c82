"""Decoded images that are kept: equal to those that are decoded, made anew when anything changes, never half there."""

import errno
import logging
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from seggrid.config import AugmentConfig, DatasetConfig, ShapesConfig
from seggrid.data import cache
from seggrid.data.cache import with_cache
from seggrid.data.datamodule import SegmentationData
from seggrid.data.shapes import ShapesSource

SIZES = [(20, 30), (24, 16), (20, 30), (8, 8)]


class Pictures:
    """A source of files, which counts how often it decodes one."""

    def __init__(self, folder: Path, labelled: bool = True, add: int = 0) -> None:
        self.folder, self.labelled, self.add, self.decoded = folder, labelled, add, 0

    def __len__(self) -> int:
        return len(SIZES)

    def key(self, index: int) -> str:
        return f"{index}"

    def name(self, index: int) -> str:
        return str(self.paths(index)[0])

    def paths(self, index: int) -> tuple[Path, ...]:
        image, mask = self.folder / f"{index}.png", self.folder / f"{index}_mask.png"
        return (image, mask) if self.labelled else (image,)

    def read(self, index: int) -> tuple[Tensor, Tensor | None]:
        self.decoded += 1
        image, *masks = (np.array(Image.open(path)) for path in self.paths(index))
        labels = torch.from_numpy(masks[0] + np.uint8(self.add)) if masks else None
        return torch.from_numpy(image).permute(2, 0, 1), labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for index, size in enumerate(SIZES):
        Image.fromarray(random.integers(0, 256, (*size, 3)).astype(np.uint8)).save(tmp_path / f"files/{index}.png")
        Image.fromarray(random.integers(0, 3, size).astype(np.uint8)).save(tmp_path / f"files/{index}_mask.png")
    return tmp_path


def _config(folder: Path, kind: str = "disk", **values: Any) -> DatasetConfig:
    settings = {"name": "files", "classes": ["a", "b", "c"], "cache": kind, "cache_dir": str(folder / "cache")}
    return DatasetConfig(**settings | values)


def _check(cached: Any, plain: Any) -> None:
    for index in range(len(plain)):
        (image, labels), (expected, expected_labels) = cached.read(index), plain.read(index)
        assert image.dtype == torch.uint8 and torch.equal(image, expected)
        assert (labels is None) == (expected_labels is None)
        if labels is not None:
            assert labels.dtype == torch.uint8 and torch.equal(labels, expected_labels)


def _kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").iterdir())


@pytest.mark.parametrize("kind", ["disk", "ram"])
@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_kept_is_what_was_decoded_and_is_decoded_once(folder: Path, kind: str, labelled: bool) -> None:
    plain, source = Pictures(folder / "files", labelled), Pictures(folder / "files", labelled)
    (cached,) = with_cache(_config(folder, kind), [source])
    for _ in range(3):
        _check(cached, plain)
    assert source.decoded == len(SIZES)
    assert (len(cached), cached.labelled, cached.key(2), cached.name(2)) == (4, labelled, "2", plain.name(2))
    assert cached.paths(1) == plain.paths(1)


@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_writing_to_what_was_read_changes_nothing_that_is_kept(folder: Path, kind: str) -> None:
    (cached,) = with_cache(_config(folder, kind), [Pictures(folder / "files")])
    for _ in range(2):
        for part in cached.read(0):
            part.fill_(7)
    _check(cached, Pictures(folder / "files"))


def test_another_run_finds_what_is_on_disk(folder: Path) -> None:
    (first,) = with_cache(_config(folder), [Pictures(folder / "files")])
    _check(first, Pictures(folder / "files"))
    source = Pictures(folder / "files")
    (second,) = with_cache(_config(folder), [source])
    _check(second, Pictures(folder / "files"))
    assert source.decoded == 0


def test_a_file_that_changes_is_decoded_anew(folder: Path) -> None:
    source = Pictures(folder / "files")
    (cached,) = with_cache(_config(folder), [source])
    _check(cached, Pictures(folder / "files"))
    for name in ("1.png", "1_mask.png"):
        path = folder / "files" / name
        pixels = np.array(Image.open(path))
        pixels[0, 0] += 1
        Image.fromarray(pixels).save(path, compress_level=1)
        source.decoded = 0
        _check(cached, Pictures(folder / "files"))
        assert source.decoded == 1
        os.utime(path, ns=(1, 1))  # the same bytes at another time are another file, too
        cached.read(1)
        assert source.decoded == 2


def test_labels_are_made_anew_when_their_rules_change_and_images_are_not(folder: Path) -> None:
    (cached,) = with_cache(_config(folder), [Pictures(folder / "files")])
    _check(cached, Pictures(folder / "files"))
    before = len(_kept(folder))
    for number, change in enumerate(
        (
            {"label_map": {0: 1}},
            {"classes": ["a", "b", "c", "d"]},
            {"ignore_index": 254},
            {"reduce_zero_label": True},
            {"mask_colors": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]},
            {"mat_key": "labels"},
            {"merge": {"ab": ["a", "b"]}},
            {"ignore": ["c"]},
        ),
        start=1,
    ):
        source = Pictures(folder / "files", add=number)
        (cached,) = with_cache(_config(folder, **change), [source])
        _check(cached, Pictures(folder / "files", add=number))
        assert source.decoded == len(SIZES), change
        assert len(_kept(folder)) == before + number * len(SIZES), change  # the labels alone
    source = Pictures(folder / "files")
    (cached,) = with_cache(_config(folder, root="elsewhere", name="other", split_seed=3), [source])
    _check(cached, Pictures(folder / "files"))
    assert source.decoded == 0


def test_a_picture_whose_file_is_gone_is_not_read_from_the_cache(folder: Path) -> None:
    (cached,) = with_cache(_config(folder), [Pictures(folder / "files")])
    cached.read(0)
    (folder / "files" / "0.png").unlink()
    with pytest.raises(FileNotFoundError):
        cached.read(0)


def test_the_cache_lies_in_the_users_cache_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "mine"))
    with_cache(_config(folder, cache_dir=None), [Pictures(folder / "files")])[0].read(0)
    assert len(list((folder / "mine" / "seggrid").rglob("*.npy"))) == 2
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(folder / "home"))
    with_cache(_config(folder, cache_dir=None), [Pictures(folder / "files")])[0].read(0)
    assert len(list((folder / "home" / ".cache" / "seggrid").rglob("*.npy"))) == 2


# Several processes


def _read_all(folder: Path, start: Any, results: Any) -> None:
    (cached,) = with_cache(_config(folder), [Pictures(folder / "files")])
    start.wait()
    for _ in range(20):
        for path in (folder / "cache").glob("*.npy") if os.getpid() % 2 else []:
            path.unlink(missing_ok=True)  # so that both go on writing the same names
        _check(cached, Pictures(folder / "files"))
    results.put(True)


def test_two_processes_may_build_it_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    children = [context.Process(target=_read_all, args=(folder, start, results)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert all(name.endswith(".npy") for name in _kept(folder))
    (cached,) = with_cache(_config(folder), [Pictures(folder / "files")])
    _check(cached, Pictures(folder / "files"))


def _write_half(path: Path, half: Any) -> None:
    write = np.lib.format.write_array_header_1_0

    def slow(file: Any, header: Any) -> None:
        write(file, header)
        file.write(b"some of the data")
        file.flush()
        half.set()
        time.sleep(60)

    np.lib.format.write_array_header_1_0 = slow
    cache._Folder(path).save("name", np.ones((64, 64), np.uint8))


def test_a_kill_half_way_leaves_nothing_that_would_be_read(folder: Path) -> None:
    path = folder / "cache"
    context = multiprocessing.get_context("fork")
    half = context.Event()
    child = context.Process(target=_write_half, args=(path, half))
    child.start()
    assert half.wait(60)
    child.kill()
    child.join()
    (left,) = _kept(folder)
    assert left.endswith(".tmp")
    kept = cache._Folder(path)
    assert _kept(folder) == [left]  # it may be another process's that is still writing
    assert kept.load("name") is None
    kept.save("name", np.full((64, 64), 3, np.uint8))
    array = kept.load("name")
    assert array is not None and (array == 3).all()
    os.utime(path / left, (time.time() - 2 * cache.STALE_S,) * 2)
    cache._Folder(path)
    assert _kept(folder) == ["name.npy"]


@pytest.mark.parametrize("length", [0, 60, 3000])
def test_a_damaged_entry_is_made_anew(folder: Path, length: int) -> None:
    (cached,) = with_cache(_config(folder), [Pictures(folder / "files")])
    cached.read(1)
    for path in (folder / "cache").iterdir():
        os.truncate(path, min(length, path.stat().st_size - 1))
    for _ in range(2):
        _check(cached, Pictures(folder / "files"))
    source = Pictures(folder / "files")
    _check(with_cache(_config(folder), [source])[0], Pictures(folder / "files"))
    assert source.decoded == 0


def _read_every_second(cached: Any, first: int) -> None:
    for index in range(first, len(cached), 2):
        cached.read(index)


def test_workers_share_what_each_of_them_has_decoded(folder: Path) -> None:
    """In memory, too: after an epoch in workers the process that started them decodes nothing."""
    for kind in ("ram", "disk"):
        source = Pictures(folder / "files")
        (cached,) = with_cache(_config(folder, kind), [source])
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_read_every_second, args=(cached, first)) for first in (0, 1)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        source.decoded = 0
        _check(cached, Pictures(folder / "files"))
        assert source.decoded == 0


def _spawned(cached: Any, results: Any) -> None:
    results.put([cached.read(index)[0].sum().item() for index in range(len(cached))])
    results.put(cached._source.decoded)


@pytest.mark.slow
def test_memory_is_shared_with_workers_that_are_not_forked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.multiprocessing, "Lock", multiprocessing.get_context("spawn").Lock)
    source = Pictures(folder / "files")
    (cached,) = with_cache(_config(folder, "ram"), [source])
    _check(cached, Pictures(folder / "files"))
    source.decoded = 0
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=_spawned, args=(cached, results))
    child.start()
    assert results.get(timeout=60) == [Pictures(folder / "files").read(index)[0].sum().item() for index in range(4)]
    assert results.get(timeout=60) == 0
    child.join(60)


@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_batches_are_those_without_a_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from seggrid.data import datamodule

    monkeypatch.setattr(datamodule, "open_source", lambda *_: Pictures(folder / "files"))
    augment = AugmentConfig(scale=[0.5, 2.0], crop=[12, 12], max_class_share=0.9, flip=0.5, photometric=True)
    batches = []
    for name in ("none", kind):
        data = SegmentationData(_config(folder, name), augment, batch_size=2, num_workers=2)
        data.trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        loaders = data.train_dataloader(), data.val_dataloader()
        batches.append([batch for _ in range(2) for loader in loaders for batch in loader])
    assert len(batches[0]) == len(batches[1]) == 2 * (2 + 4)
    for here, there in zip(*batches, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


# No room


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_folder_that_cannot_be_made_is_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cache").write_text("a file")
    source = Pictures(folder / "files")
    for one in with_cache(_config(folder), [source, source]):
        _check(one, Pictures(folder / "files"))
    (line,) = _warnings(caplog)
    assert "dataset.cache=disk cannot write to" in line and "File exists" in line and "dataset.cache_dir" in line
    assert (folder / "cache").read_text() == "a file"


def test_a_folder_that_is_read_only_is_read_and_not_written(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cache(_config(folder), [Pictures(folder / "files")])[0].read(0)
    before = _kept(folder)

    def refuse(*_: Any, **__: Any) -> Any:  # root may write everywhere: no mode of the folder would stop this test
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    source = Pictures(folder / "files")
    for one in with_cache(_config(folder), [source, source]):
        _check(one, Pictures(folder / "files"))
    assert source.decoded == 2 * (len(SIZES) - 1)
    assert _kept(folder) == before
    (line,) = _warnings(caplog)
    assert "Read-only file system" in line


def test_a_disk_that_fills_up_is_one_warning_and_corrupts_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The system itself refuses the bytes beyond a limit, half way through an array."""
    source = Pictures(folder / "files")
    (cached,) = with_cache(_config(folder), [source])
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        for _ in range(2):
            _check(cached, Pictures(folder / "files"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(_warnings(caplog)) == 1
    assert _kept(folder) == []
    assert source.decoded == 2 * len(SIZES)


def test_room_is_left_on_the_disk(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cached,) = with_cache(_config(folder), [Pictures(folder / "files")])
    cached.read(0)
    total, used, _ = cache.shutil.disk_usage(folder)
    usage = type(cache.shutil.disk_usage(folder))(total, used, cache.RESERVE_BYTES)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    _check(cached, Pictures(folder / "files"))
    (line,) = _warnings(caplog)
    assert "less than 1.0 GiB would be left free" in line
    assert len(_kept(folder)) == 2


def test_workers_say_once_that_the_disk_is_full(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cached,) = with_cache(_config(folder), [Pictures(folder / "files")])
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w"))
    monkeypatch.setattr(cache, "RESERVE_BYTES", 2**60)
    cache.log.addHandler(handler)
    try:
        for _ in range(2):
            child = multiprocessing.get_context("fork").Process(target=cached.read, args=(0,))
            child.start()
            child.join(60)
    finally:
        cache.log.removeHandler(handler)
    assert capfd.readouterr().err.count("cannot write to") == 1


def test_memory_that_would_not_suffice_is_refused_at_the_start(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: cache.RESERVE_BYTES + 5000)
    source = Pictures(folder / "files")
    assert with_cache(_config(folder, "ram"), [source]) == [source]
    (line,) = _warnings(caplog)
    assert "dataset.cache=ram would take about" in line and "4 pictures" in line and "dataset.cache=disk" in line


def test_memory_that_runs_out_is_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cached,) = with_cache(_config(folder, "ram"), [ShapesSource(ShapesConfig([16, 16], train=9), "train", 255)])
    cached.read(1)
    monkeypatch.setattr(cache, "available_memory", lambda: cache.RESERVE_BYTES)
    for _ in range(2):
        _check(cached, ShapesSource(ShapesConfig([16, 16], train=9), "train", 255))
    (line,) = _warnings(caplog)
    assert "dataset.cache=ram has no more memory" in line


def test_the_need_of_memory_is_said_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train, val = (
        ShapesSource(ShapesConfig([128, 128], train=16000, val=384), split, 255) for split in ("train", "val")
    )
    with_cache(_config(folder, "ram"), [train, val])
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("dataset.cache=ram: 16384 pictures take about 1.0 GiB of the")


def test_available_memory_is_some_of_the_machines() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < cache.available_memory() < whole
