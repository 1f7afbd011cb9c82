"""What users get wrong ends in one line that says where and what to do, and in a record that says the same.

Most cases run the entry point in this process, which saves the imports; four run the real command.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from command import ROOT, record, run
from PIL import Image

from seggrid.entry import main
from seggrid.results import Record

CELL = (
    *("backend=smp", "arch=unet", "encoder=test_resnet", "encoder.pretrained=false", "logger=csv"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=1", "batch_size=2", "pictures=1"),
    *("dataset=folder", "dataset.classes=[a,b,c]"),
    *("dataset.images='images/{split}/*'", "dataset.masks='masks/{split}/*'"),
)
SIZE = (32, 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of four training pictures and one for validation, with nothing wrong."""
    random = np.random.default_rng(0)
    for split, names in (("train", "abcd"), ("val", "v")):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for name in names:
            _save(tmp_path / "data" / "images" / split / f"{name}.png", random.integers(0, 255, (*SIZE, 3)))
            _save(tmp_path / "data" / "masks" / split / f"{name}.png", random.integers(0, 3, SIZE))
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Hydra replaces the root logger's handlers; pytest wants its own back."""
    before = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = before[0]
    logging.root.setLevel(before[1])


def _save(path: Path, pixels: object) -> None:
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def _cell(root: Path, *overrides: str) -> list[str]:
    """The arguments of a run; where two set one key, the later one is kept."""
    given = [*CELL, f"dataset.root={root}", f"hydra.run.dir={root.parent / 'run'}", *overrides]
    return list({argument.split("=", 1)[0]: argument for argument in given}.values())


def _call(kind: str, arguments: list[str], full_error: str = "0") -> int:
    """Runs an entry point in this process, and returns its exit status."""
    with (
        patch.object(sys, "argv", [f"{kind}.py", *arguments]),
        patch.dict(os.environ, {"HYDRA_FULL_ERROR": full_error}),
    ):
        try:
            main(kind, ROOT / "conf")
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def _check(folder: Path, stdout: str, stderr: str, *fragments: str) -> str:
    """Asserts one line of error, a record that says the same, and nothing half-written; returns the message."""
    assert "Traceback" not in stdout + stderr, stderr
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    message = lines[0].removeprefix("error: ")
    for fragment in fragments:
        assert fragment in message
    values = record(folder)
    assert values["status"] == "failed"
    assert values["error"] == {"type": "UserError", "message": message}
    assert values["metrics"] is None and values["ended"] is not None
    names = {path.name for path in folder.iterdir()}
    assert "result.json" in names and names <= {"result.json", "config.yaml", "train.log", "profile.log", "curves"}
    return message


def _refused(capfd: pytest.CaptureFixture[str], root: Path, *fragments: str, overrides: tuple[str, ...] = ()) -> str:
    """Trains on a data set and asserts that it is refused as :func:`_check` says."""
    capfd.readouterr()
    assert _call("train", _cell(root, *overrides)) == 1
    return _check(root.parent / "run", *capfd.readouterr(), *fragments)


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _truncated_jpeg(root: Path) -> None:
    (root / "images" / "train" / "b.png").unlink()
    path = root / "images" / "train" / "b.jpg"
    _save(path, np.random.default_rng(1).integers(0, 255, (*SIZE, 3)))
    _truncate(path)


def _empty(root: Path) -> None:
    for path in (*root.glob("*/val/*"),):
        path.unlink()


SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no root": (lambda root: root.rename(root.parent / "moved"), ("dataset.root=", "data is not a folder")),
    "image without mask": (
        lambda root: (root / "masks" / "train" / "c.png").unlink(),
        ("images/train/c.png has no mask", "name c", "masks/{split}/*", "add the mask or remove the image"),
    ),
    "mask without image": (
        lambda root: (root / "images" / "val" / "v.png").unlink() or _save(root / "images" / "val" / "w.png", [[1]]),
        ("images/val/w.png has no mask",),
    ),
    "mask too many": (
        lambda root: _save(root / "masks" / "train" / "x.png", [[1]]),
        ("masks/train/x.png has no image", "add the image or remove the mask"),
    ),
    "empty split": (_empty, ("the split val is empty", "dataset.images=images/{split}/*", "{split}=val")),
    "mask of another size": (
        lambda root: _save(root / "masks" / "train" / "b.png", np.zeros((32, 30))),
        ("masks/train/b.png is 30x32 pixels", "images/train/b.png is 32x32", "one size"),
    ),
    "mask in colours": (
        lambda root: _save(root / "masks" / "train" / "b.png", np.zeros((*SIZE, 3))),
        ("masks/train/b.png is a RGB image", "save it with one channel"),
    ),
    "folder of masks that is not there": (
        lambda root: (root / "masks").rename(root / "labels"),
        ("data/masks is not a folder", "dataset.masks=masks/{split}/*"),
    ),
    "empty image": (
        lambda root: (root / "images" / "train" / "b.png").write_bytes(b""),
        ("images/train/b.png cannot be read (it is empty)", "replace it"),
    ),
    "labels from one on": (
        lambda root: _save(root / "masks" / "train" / "b.png", np.full(SIZE, 3)),
        ("masks/train/b.png has the label 3", "dataset.reduce_zero_label=true", "map it"),
    ),
    "truncated PNG": (
        lambda root: _truncate(root / "images" / "train" / "b.png"),
        ("images/train/b.png cannot be read", "replace it"),
    ),
    "truncated mask": (
        lambda root: _truncate(root / "masks" / "train" / "b.png"),
        ("masks/train/b.png cannot be read", "replace it"),
    ),
    "truncated JPEG": (_truncated_jpeg, ("images/train/b.jpg cannot be read", "replace it")),
    "text as an image": (
        lambda root: (root / "images" / "train" / "b.png").write_text("no picture"),
        ("images/train/b.png cannot be read", "replace it"),
    ),
    "label of no class": (
        lambda root: _save(root / "masks" / "train" / "b.png", np.full(SIZE, 7)),
        ("masks/train/b.png has the label 7", "0..2 (a, b, c)", "ignore_index is 255", "add the class, or map it"),
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_data_set_is_refused(case: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spoil, fragments = SPOILT[case]
    spoil(root)
    _refused(capfd, root, *fragments)


WORKERS = ("mask of another size", "truncated JPEG")


@pytest.mark.parametrize("case", WORKERS)
def test_what_a_worker_process_meets_is_one_line_too(case: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spoil, fragments = SPOILT[case]
    spoil(root)
    _refused(capfd, root, *fragments, overrides=("num_workers=2",))


IMPOSSIBLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "no classes": ("dataset.classes=[]", ("dataset.classes is empty", "at least 1", "[a,b,c]")),
    "a large batch": ("batch_size=5", ("batch_size=5", "4 images", "set batch_size to at most 4")),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_setting_that_does_not_fit_the_data_is_refused(
    case: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    override, fragments = IMPOSSIBLE[case]
    _refused(capfd, root, *fragments, overrides=(override,))


def test_a_profile_needs_a_class(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _call("profile", ["arch=unet", "encoder=resnet10t", "num_classes=0", f"hydra.run.dir={tmp_path}"]) == 1
    _check(tmp_path, *capfd.readouterr(), "num_classes is 0; it must be at least 1")


def test_the_remedy_for_a_foreign_label_works_as_it_is_printed(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _save(root / "masks" / "train" / "b.png", np.full(SIZE, 7))
    message = _refused(capfd, root)
    remedy = message.rsplit("map it: ", 1)[1].strip("'")
    assert _call("train", [*_cell(root), remedy]) == 0
    assert record(root.parent / "run")["status"] == "completed"


def test_divergence_after_a_good_epoch_keeps_its_checkpoints(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A resumed run whose images are infinite from the second epoch on."""
    folder = root.parent / "run"
    assert _call("train", _cell(root)) == 0
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    assert set(before) == {"best.ckpt", "last.ckpt"}
    capfd.readouterr()
    assert _call("train", [f"resume={folder}", "trainer.max_epochs=2", "augment.std=[1e-40,1e-40,1e-40]"]) == 1
    stderr = capfd.readouterr().err
    assert stderr.startswith("error: the loss is not finite at step 2") and stderr.count("\n") == 1
    assert record(folder)["status"] == "completed"  # what it was: the checkpoints are those of the finished run
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())


def test_a_refused_run_leaves_the_configuration_of_the_finished_one(root: Path) -> None:
    folder = root.parent / "run"
    assert _call("train", _cell(root)) == 0
    before = {name: (folder / name).read_bytes() for name in ("config.yaml", "result.json")}
    assert _call("train", _cell(root, "arch=fpn")) == 1
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_model_that_the_last_step_of_an_epoch_kills_is_not_kept(root: Path) -> None:
    assert _call("train", _cell(root, "optimizer.lr=1e30", "batch_size=4")) == 1
    assert not (root.parent / "run" / "checkpoints").exists()


# The real command


def test_command_with_a_label_of_no_class_met_by_a_worker(root: Path) -> None:
    spoil, fragments = SPOILT["label of no class"]
    spoil(root)
    done = run("train.py", *_cell(root, "num_workers=2"), expect=1)
    _check(root.parent / "run", done.stdout, done.stderr, *fragments)


def test_command_with_a_truncated_image(root: Path) -> None:
    spoil, fragments = SPOILT["truncated PNG"]
    spoil(root)
    done = run("train.py", *_cell(root), expect=1)
    _check(root.parent / "run", done.stdout, done.stderr, *fragments)


def test_command_that_diverges(root: Path) -> None:
    done = run("train.py", *_cell(root, "optimizer.lr=1e30"), expect=1)
    remedies = ("optimizer.lr", "trainer.gradient_clip_norm", "trainer.precision")
    _check(root.parent / "run", done.stdout, done.stderr, "the loss is not finite at step 1", *remedies)


def test_command_in_the_folder_of_a_finished_run(root: Path) -> None:
    folder = root.parent / "run"
    path = Record(kind="train", backend="smp", arch="unet", encoder="resnet18", status="completed").write(folder)
    before = path.read_bytes()
    done = run("train.py", *_cell(root), expect=1)
    assert done.stderr.splitlines() == [
        f"error: {folder} already holds a finished run; choose another hydra.run.dir, or delete it"
    ]
    assert path.read_bytes() == before


def test_command_shows_the_traceback_to_who_asks(root: Path) -> None:
    done = run("train.py", *_cell(root, "dataset.classes=[]"), expect=1, HYDRA_FULL_ERROR="1")
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("seggrid.errors.UserError: dataset.classes is empty")
    assert record(root.parent / "run")["status"] == "failed"
