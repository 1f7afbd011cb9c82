"""The data set checker: what it counts, what it warns of, what it refuses; and its quick form before a training."""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from command import TINY, call
from PIL import Image
from torch import Tensor

from seggrid.config import DatasetConfig
from seggrid.data import check, inspection
from seggrid.data.datamodule import open_source
from seggrid.data.labels import settled
from seggrid.entry import main
from seggrid.errors import UserError

COLOURS = np.random.default_rng(0)


def _run(*arguments: str) -> int:
    before = logging.root.handlers[:], logging.root.level
    try:
        with (
            patch.object(sys, "argv", ["check", *arguments, "progress_bar=false"]),
            patch.dict(os.environ, {"HYDRA_FULL_ERROR": "0"}),
        ):
            main("check", check.CONF, check.run)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        logging.root.handlers[:] = before[0]
        logging.root.setLevel(before[1])
    return 0


def _write(root: Path, split: str, name: str, labels: Any, image: Any = None) -> None:
    labels = np.asarray(labels, np.uint8)
    pixels = COLOURS.integers(0, 256, (*labels.shape, 3)) if image is None else np.asarray(image)
    for kind, array in (("images", pixels.astype(np.uint8)), ("masks", labels)):
        path = root / kind / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def _config(root: Path, classes: list[str], **values: Any) -> DatasetConfig:
    return settled(
        DatasetConfig(
            name="own",
            classes=classes,
            root=str(root),
            images="images/{split}/*",
            masks="masks/{split}/*",
            **values,
        )
    )


def _arguments(root: Path, classes: str, out: Path, *more: str) -> list[str]:
    patterns = ("dataset.images='images/{split}/*'", "dataset.masks='masks/{split}/*'")
    own = ("dataset=folder", f"dataset.root={root}", f"dataset.classes={classes}", *patterns)
    return [*own, f"hydra.run.dir={out}", *more]


def _report(config: DatasetConfig, split: str = "train") -> inspection.SplitReport:
    source = open_source(config, split)
    return inspection.SplitReport(split, list(inspection.look_at_all(source, 0)), len(source))


def test_a_sound_data_set_is_described(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _run("dataset.shapes.size=[24,32]", "dataset.shapes.train=5", f"hydra.run.dir={tmp_path}", "pictures=3") == 0
    said = capfd.readouterr().out
    assert "train: 5 images, all 24x32" in said and "val: 60 images" in said
    assert "background" in said and "no fault found" in said
    values = json.loads((tmp_path / "check.json").read_text())
    assert values["splits"]["train"]["images"] == 5 and values["faults"] == []
    for name in ("samples.png", "augmented.png"):
        assert Image.open(tmp_path / name).width > 600


def test_faults_are_listed_and_end_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        for name in "abc":
            _write(root, split, name, [[0, 1], [1, 0]])
    _write(root, "train", "d", [[0, 9], [9, 9]])
    (root / "images" / "val" / "b.png").write_bytes(b"")
    assert _run(*_arguments(root, "[x,y]", tmp_path / "out")) == 1
    said, error = capfd.readouterr()
    assert "the label 9 is no class: 3 pixels in 1 images" in said
    assert "val/b.png" in said
    assert error.strip() == "error: dataset=folder has 2 faults, named above; mend them before training"
    assert len(json.loads((tmp_path / "out" / "check.json").read_text())["faults"]) == 2


def test_the_figures_are_those_of_the_pixels(tmp_path: Path) -> None:
    images = [np.full((2, 4, 3), value) for value in (51, 204)]
    _write(tmp_path, "train", "a", [[0, 0, 0, 1], [0, 0, 0, 255]], images[0])
    _write(tmp_path, "train", "b", [[0, 0, 0, 0], [0, 0, 2, 2]], images[1])
    config = _config(tmp_path, ["x", "y", "z", "never"])
    report = _report(config)
    assert inspection.class_pixels(report, config) == [12, 1, 2, 0]
    assert inspection.class_images(report, config) == [2, 1, 1, 0]
    mean, std = inspection.mean_and_std(report)
    assert mean == pytest.approx([0.5] * 3) and std == pytest.approx([0.3] * 3)
    # Of the pixels of the images that show a class: 12 of 15, 1 of 7, 2 of 8; their median is 2 of 8.
    expected = [0.25 / (12 / 15), 0.25 / (1 / 7), 1.0, 0.0]
    assert inspection.class_weights(report, config) == pytest.approx(expected)
    assert any("train has no pixel of never" in line for line in inspection.doubts([report], config))


def test_several_processes_see_what_one_sees(tmp_path: Path) -> None:
    for index in range(6):
        _write(tmp_path, "train", f"{index}", [[0, 1], [1, index % 2]])
    source = open_source(_config(tmp_path, ["x", "y"]), "train")
    assert list(inspection.look_at_all(source, 2)) == list(inspection.look_at_all(source, 0))


def _doubts(root: Path, masks: list[Any], classes: list[str], **values: Any) -> str:
    for index, labels in enumerate(masks):
        _write(root, "train", f"{index}", labels)
    config = _config(root, classes, **values)
    report = _report(config)
    return " | ".join([*inspection.faults(report, config), *inspection.doubts([report], config)])


def test_black_and_white_masks_are_recognised(tmp_path: Path) -> None:
    said = _doubts(tmp_path / "a", [[[0, 255], [255, 0]]], ["background", "thing"])
    assert "0 and 255 only" in said and "dataset.label_map={255: 1}" in said
    remedy: dict[str, Any] = {"label_map": {255: 1}, "ignore_index": 254}
    assert "0 and 255 only" not in _doubts(tmp_path / "b", [[[0, 255], [255, 0]]], ["background", "thing"], **remedy)


@pytest.mark.parametrize(
    ("labels", "reduce", "fragment"),
    [
        ([[1, 2], [3, 3]], False, "look shifted by one; if 0 is no class, say dataset.reduce_zero_label=true"),
        ([[1, 2], [2, 1]], False, "no pixel has the label 0 (a): if the labels begin at 1"),
        ([[0, 1], [2, 2]], True, "is dataset.reduce_zero_label=true right?"),
        ([[0, 1], [2, 3]], True, ""),
        ([[0, 1], [2, 255]], False, ""),
    ],
)
def test_labels_that_are_shifted_by_one_are_recognised(
    labels: Any, reduce: bool, fragment: str, tmp_path: Path
) -> None:
    said = _doubts(tmp_path, [labels], ["a", "b", "c"], reduce_zero_label=reduce)
    assert fragment in said and bool(said) == bool(fragment)


def test_a_void_label_after_the_last_class_is_no_shift(tmp_path: Path) -> None:
    assert _doubts(tmp_path, [[[0, 1], [2, 3]]], ["a", "b", "c"], label_map={3: 255}) == ""


def test_a_sample_of_a_split_is_not_judged_by_what_it_lacks(tmp_path: Path) -> None:
    """A rare last class, or a rare second one beside a border of 255, is no mistake."""
    for name, labels, reduce in (("rare", [[0, 1], [2, 2]], True), ("border", [[0] * 30, [0] * 29 + [255]], False)):
        _write(tmp_path / name, "train", "a", labels)
        config = _config(tmp_path / name, ["a", "b", "c"] if reduce else ["a", "b"], reduce_zero_label=reduce)
        looks = _report(config).looks
        assert inspection.doubts([inspection.SplitReport("train", looks, 1)], config)
        assert not inspection.doubts([inspection.SplitReport("train", looks, 100)], config)


def test_a_labels_value_may_be_anything(tmp_path: Path) -> None:
    for value in (-1, 2**29):
        root = tmp_path / str(value)
        _write(root, "train", "a", [[0, 1], [1, 0]])
        Image.fromarray(np.array([[0, 1], [value, 1]], np.int32)).save(root / "masks" / "train" / "a.tif")
        (root / "masks" / "train" / "a.png").unlink()
        config = _config(root, ["x", "y"])
        assert _report(config).looks[0].labels == {0: 1, 1: 2, value: 1}
        with pytest.raises(UserError, match=rf"a\.tif has the label {value}, which is no class: .*; add the class$"):
            inspection.quick_warnings(open_source(config, "train"), config)


def test_masks_that_are_not_there_are_a_fault_of_training_splits_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for split in ("train", "val", "test"):
        _write(root, split, "a", [[0, 1], [1, 0]])
    (root / "masks" / "test" / "a.png").unlink()
    splits = ("dataset.splits={train: train, val: val, test: test}", "splits=[train,val,test]")
    assert _run(*_arguments(root, "[x,y]", tmp_path / "out", *splits)) == 0
    said = capfd.readouterr().out
    assert "test: 1 images, all 2x2, no labels" in said and "test has no pixel" not in said
    (root / "masks" / "val" / "a.png").unlink()
    assert _run(*_arguments(root, "[x,y]", tmp_path / "out", *splits)) == 1
    assert "masks/{split}" in capfd.readouterr().err


def test_names_are_printed_as_they_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        _write(root, split, "a [edited]", [[0, 1], [1, 0]])
    (root / "images" / "val" / "a [edited].png").write_bytes(b"")
    assert _run(*_arguments(root, "['a [/x]',y]", tmp_path / "out")) == 1
    said = capfd.readouterr().out
    assert "a [edited].png" in said and "a [/x]" in said


def test_a_misspelt_key_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _run("+dataset.clases=[a,b]", f"hydra.run.dir={tmp_path}") == 1
    assert "dataset.clases is not a key; did you mean classes?" in capfd.readouterr().err


def test_the_quick_form_works_out_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    _write(tmp_path, "train", "a", [[0, 1], [1, 0]])
    source = open_source(_config(tmp_path, ["x", "y"]), "train")
    quick, full = next(inspection.look_quickly(source)), inspection.look_at(source, 0)
    assert (quick.mean, quick.square, quick.digest) == ((), (), "")
    assert quick.labels == full.labels and len(full.mean) == 3 and len(full.digest) == 64


def test_an_image_in_two_splits_is_found_under_any_name(tmp_path: Path) -> None:
    same = COLOURS.integers(0, 256, (2, 2, 3))
    _write(tmp_path, "train", "a", [[0, 1], [1, 0]], same)
    _write(tmp_path, "train", "b", [[0, 1], [1, 0]])
    _write(tmp_path, "val", "z", [[0, 1], [1, 0]], same)
    config = _config(tmp_path, ["x", "y"])
    said = inspection.doubts([_report(config), _report(config, "val")], config)
    assert len(said) == 1 and "1 images are in two splits" in said[0] and "a.png, z.png" in said[0]


class Slow:
    labelled = True

    def __len__(self) -> int:
        return 1000

    def key(self, index: int) -> str:
        return str(index)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.15)
        return torch.zeros(3, 2, 2, dtype=torch.uint8), torch.tensor([[0, 1], [1, 255]], dtype=torch.uint8)


def test_the_quick_form_ends_in_time_and_looks_all_over_the_split() -> None:
    start = time.perf_counter()
    looks = list(inspection.look_quickly(Slow(), 0.6))
    assert time.perf_counter() - start < 0.75
    assert 2 <= len(looks) <= 4
    seen = [int(look.name) for look in looks]
    assert len(set(seen)) == len(seen) and max(seen) > 50


def test_a_training_warns_and_refuses_before_a_model_is_built(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for index in range(4):
            _write(tmp_path / "data", split, f"{index}", np.eye(32) * 255)
    cell = [item for item in TINY if "shapes" not in item and "encoder=" not in item]
    own = _arguments(tmp_path / "data", "[x,y]", tmp_path / "out")
    assert call("train", *cell, "encoder=resnet10t", "backend=smp", *own) == 0
    assert "warning: the masks hold 0 and 255 only" in capfd.readouterr().out
    _write(tmp_path / "data", "train", "2", np.eye(32) * 7)
    # An encoder that cannot be built: what is wrong with the data is said before that is noticed.
    assert call("train", *cell, "encoder=resnet10t.none", "backend=smp", *own[:-1], f"hydra.run.dir={tmp_path}/2") == 1
    assert "2.png has the label 7, which is no class" in capfd.readouterr().err


def test_a_fault_stops_the_quick_form(tmp_path: Path) -> None:
    _write(tmp_path, "train", "a", [[0, 5], [1, 1]])
    config = _config(tmp_path, ["x", "y"])
    with pytest.raises(UserError, match=r"a\.png has the label 5, which is no class"):
        inspection.quick_warnings(open_source(config, "train"), config)
