"""When two runs are the same cell."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggrid.identity import identity
from seggrid.run import check

CELL = ("backend=smp", "arch=fpn", "encoder=resnet10t")


@pytest.fixture
def of(compose: Callable[..., Any]) -> Callable[..., dict[str, str | None]]:
    def identified(*overrides: str, kind: str = "train") -> dict[str, str | None]:
        typed = compose(kind, *CELL, *overrides)
        check(kind, typed)
        return identity(kind, typed)

    return identified


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in "abcdef":
        for folder, channels in (("images", 3), ("masks", 0)):
            (tmp_path / folder).mkdir(exist_ok=True)
            shape = (8, 8, channels) if channels else (8, 8)
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / folder / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        "optimizer.lr=0.5", "seed=1", "batch_size=2", "encoder=resnet18", "backend=mmseg", "arch=unet", "loss=dice",
        "trainer.max_epochs=3", "trainer.precision=32-true", "dataset.shapes.train=9", "match=equal", "augment=none",
    ],
)  # fmt: skip
def test_what_changes_the_result_makes_another_cell(change: str, of: Callable[..., dict[str, str | None]]) -> None:
    assert of(change)["config"] != of()["config"]


@pytest.mark.parametrize(
    "change",
    [
        "num_workers=3", "logger=csv", "logger.project=other", "pictures=9", "trainer.progress_bar=false",
        "trainer.log_every_n_steps=3", "trainer.checkpoint_every_n_steps=2", "sweep.retry=false", "resume=somewhere",
    ],
)  # fmt: skip
def test_what_does_not_change_the_result_does_not(change: str, of: Callable[..., dict[str, str | None]]) -> None:
    assert of(change) == of()


def test_another_library_that_learns_the_arch_changes_nothing(compose: Callable[..., Any]) -> None:
    typed = compose("train", *CELL)
    before = identity("train", typed)
    typed.arch.backends["other"] = {"decoder": "new"}
    assert identity("train", typed) == before
    typed.arch.backends["smp"] = {**typed.arch.backends["smp"], "more": 1}
    assert identity("train", typed) != before


def test_data_are_their_names_sizes_and_times_wherever_they_lie(
    photos: Path, of: Callable[..., dict[str, str | None]]
) -> None:
    def here(root: Path) -> dict[str, str | None]:
        return of("dataset=folder", f"dataset.root={root}", "dataset.classes=[a,b]")

    before = here(photos)
    assert before["data"] is not None
    moved = photos.with_name("moved")
    photos.rename(moved)
    assert here(moved) == before
    again = moved.with_name("again")
    moved.rename(again)
    os.utime(again / "masks" / "c.png", ns=(1, 1))
    after = here(again)
    assert after["config"] == before["config"]
    assert after["data"] != before["data"]


def test_shapes_have_no_files(of: Callable[..., dict[str, str | None]]) -> None:
    assert of()["data"] is None


def test_an_evaluation_is_of_its_checkpoint(tmp_path: Path, compose: Callable[..., Any]) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"weights")

    def now() -> dict[str, str | None]:
        return identity("evaluate", compose("evaluate", *CELL, f"run={tmp_path}"))

    first = now()
    assert now() == first
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"longer weights")
    assert now()["data"] != first["data"]


def test_code_of_ones_own_is_part_of_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text("first")

    def now() -> dict[str, str | None]:
        return identity("train", compose("train", "backend=custom", "arch.target=mynet.Net"))

    first = now()
    assert now() == first
    (tmp_path / "mynet.py").write_text("another")
    assert now()["data"] != first["data"]


def test_an_evaluation_of_a_run_that_was_moved_is_the_same(tmp_path: Path, compose: Callable[..., Any]) -> None:
    found = []
    for name in ("here", "there"):
        if found:
            (tmp_path / "here").rename(tmp_path / name)
        else:
            (tmp_path / name / "checkpoints").mkdir(parents=True)
            (tmp_path / name / "checkpoints" / "last.ckpt").write_bytes(b"weights")
        runs = (f"run={tmp_path / name}", "checkpoint=last"), (f"checkpoint={tmp_path / name}/checkpoints/last.ckpt",)
        found.append([identity("evaluate", compose("evaluate", *CELL, *run)) for run in runs])
    assert found[0] == found[1]
