"""``evaluate.py``: of runs, checkpoints, sweeps, published weights and pictures, with what the command line changes."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, TINY, call, record, run, run_here
from PIL import Image

from seggrid.data.photos import PhotoSource
from seggrid.inference import Predictor
from seggrid.restore import expand_sweep

CELL = (*TINY, "backend=smp")
QUICK = ("accelerator=cpu", "progress_bar=false")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert call("train", *CELL, f"hydra.run.dir={folder}") == 0
    return folder


def _evaluate(folder: Path, *arguments: str, expect: int = 0) -> Any:
    assert call("evaluate", *QUICK, *arguments, f"hydra.run.dir={folder}") == expect
    return record(folder)


def test_a_run_is_measured_under_its_own_configuration(trained: Path, tmp_path: Path) -> None:
    first, second = record(trained), _evaluate(tmp_path, f"run={trained}")
    for name in ("mIoU", "mAcc", "aAcc", "mDice", "loss"):
        assert second["metrics"][name] == pytest.approx(first["metrics"][name], abs=1e-9)
    assert second["intervals"] == first["intervals"]
    low, high = second["intervals"]["mIoU"]
    assert low <= second["metrics"]["mIoU"] <= high
    assert (second["arch"], second["encoder"], second["dataset"]) == ("fpn", "resnet10t", "shapes")
    assert second["evaluation"]["inference"] == "whole" and second["evaluation"]["split"] == "val"
    assert 0 <= second["metrics"]["ECE"] <= 1
    assert sum(row["count"] for row in second["calibration"]) == sum(row["pixels"] for row in second["per_class"])
    assert 0 <= second["metrics"]["boundary_mIoU"] < 1


def test_what_is_written_beside_the_record(trained: Path, tmp_path: Path) -> None:
    values = _evaluate(tmp_path, f"run={trained}", "worst=2")
    with (tmp_path / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert [float(row["mIoU"]) for row in rows] == sorted(float(row["mIoU"]) for row in rows)
    assert sum(int(row["pixels"]) for row in rows) == sum(row["pixels"] for row in values["per_class"])
    worst = sorted((tmp_path / "worst").iterdir())
    assert [path.name for path in worst] == [f"0{place}_{row['image']}.jpg" for place, row in enumerate(rows[:2], 1)]
    with (tmp_path / "confusion.csv").open() as file:
        matrix = [[int(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
    assert [sum(row) for row in matrix] == [row["pixels"] for row in values["per_class"]]
    assert Image.open(tmp_path / "confusion.png").width > 300


def test_saved_predictions_are_those_that_were_scored(trained: Path, tmp_path: Path) -> None:
    values = _evaluate(tmp_path / "run", f"run={trained}", f"save={tmp_path / 'saved'}")
    from seggrid.config import ShapesConfig
    from seggrid.data.shapes import ShapesSource

    source = ShapesSource(ShapesConfig(size=[32, 32], train=8, val=3), "val", 255)
    right = counted = 0
    for index in range(3):
        saved = torch.from_numpy(np.array(Image.open(tmp_path / "saved" / f"{source.key(index)}.png")))
        labels = source.read(index)[1]
        right += int((saved == labels).sum())
        counted += int((labels != 255).sum())
    assert right / counted == pytest.approx(values["metrics"]["aAcc"], abs=1e-12)


@pytest.mark.parametrize(
    "choices",
    [
        ("inference=slide", "inference.crop=[24,24]", "inference.stride=[16,16]"),
        ("tta=flip",),
        ("tta=multiscale", "tta.scales=[1.0,1.5]"),
        ("augment.resize=[64,48]",),
        ("eval_batch_size=3", "num_workers=1"),
    ],
    ids=str,
)
def test_inference_can_be_chosen(choices: tuple[str, ...], trained: Path, tmp_path: Path) -> None:
    values = _evaluate(tmp_path, f"run={trained}", *choices)
    plain = record(trained)
    assert [row["pixels"] for row in values["per_class"]] == [row["pixels"] for row in plain["per_class"]]
    same = values["metrics"]["aAcc"] == pytest.approx(plain["metrics"]["aAcc"], abs=1e-9)
    assert same == (choices[0] == "eval_batch_size=3")
    told_apart = "slide" in choices[0] or "tta" in choices[0]
    assert (values["metrics"]["loss"] is None) == told_apart


def test_the_data_can_be_changed_by_group_and_by_key(trained: Path, tmp_path: Path) -> None:
    more = _evaluate(tmp_path / "more", f"run={trained}", "dataset.shapes.val=5")
    assert len(list(csv.DictReader((tmp_path / "more" / "images.csv").open()))) == 5
    assert more["status"] == "completed"
    names = "[a,b,c,d,e,f]"
    for kind in ("images", "masks"):
        (tmp_path / "own" / kind).mkdir(parents=True)
    for index in range(4):
        Image.new("RGB", (40, 30), (index * 40, 90, 10)).save(tmp_path / "own" / "images" / f"{index}.png")
        Image.new("L", (40, 30), index).save(tmp_path / "own" / "masks" / f"{index}.png")
    own = ("dataset=folder", f"dataset.root={tmp_path / 'own'}", f"dataset.classes={names}", "dataset.val_fraction=0.5")
    values = _evaluate(tmp_path / "other", f"run={trained}", *own)
    assert values["dataset"] == "folder"
    assert [row["class"] for row in values["per_class"]] == list("abcdef")
    assert sum(row["pixels"] for row in values["per_class"]) == 2 * 40 * 30


def test_a_checkpoint_file_finds_its_run(trained: Path, tmp_path: Path) -> None:
    values = _evaluate(tmp_path, f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}")
    assert values["metrics"]["mIoU"] == pytest.approx(record(trained)["metrics"]["mIoU"], abs=1e-9)


def test_another_number_of_classes_is_one_line(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    own = ("dataset=folder", f"dataset.root={tmp_path}", "dataset.classes=[a,b]")
    _evaluate(tmp_path / "out", f"run={trained}", *own, expect=1)
    error = capfd.readouterr().err
    assert "is of a model with 6 classes (background, disk, square, ...), but dataset=folder has 2 (a, b)" in error
    assert error.count("\n") == 1


def test_nothing_to_evaluate_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, fragment in (
        ((), "nothing to evaluate: say run=<folder"),
        ((f"run={tmp_path / 'none'}",), "is not the folder of a run"),
        ((f"run={tmp_path}",), "holds no completed training run"),
        ((f"checkpoint={tmp_path / 'x.ckpt'}",), "is not the folder of a run"),
        (("checkpoint=newest",), "checkpoint is 'newest'; it takes one of best, last, <file>"),
        (("backend=torchvision", "arch=fcn", "encoder=torchvision/resnet50", "weights=none"), "weights=none"),
    ):
        assert call("evaluate", *QUICK, *arguments, f"hydra.run.dir={tmp_path / 'out'}") == 1
        error = capfd.readouterr().err
        assert fragment in error and error.count("\n") == 1, error


def test_a_damaged_checkpoint_is_one_line(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes()[:2000])
    _evaluate(tmp_path / "out", f"run={trained}", f"checkpoint={broken}", expect=1)
    assert "broken.ckpt cannot be read as a checkpoint" in capfd.readouterr().err
    torch.save({"state_dict": {}}, broken)
    _evaluate(tmp_path / "out", f"run={trained}", f"checkpoint={broken}", expect=1)
    assert "is no checkpoint of a run of this version" in capfd.readouterr().err


def test_published_weights_are_measured_whole_or_not_at_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from torchvision.models import segmentation

    file = tmp_path / "lraspp.pth"
    torch.manual_seed(0)
    own = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=6)
    torch.save(own.state_dict(), file)
    cell = ("backend=torchvision", "arch=lraspp", "encoder=torchvision/mobilenet_v3_large", f"weights={file}")
    data = ("dataset.shapes.size=[32,32]", "dataset.shapes.val=2")
    values = _evaluate(tmp_path / "fits", *cell, *data)
    assert values["evaluation"]["weights"] == str(file)
    assert (values["backend"], values["arch"]) == ("torchvision", "lraspp")
    classes = "[a,b,c]"
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for index in range(2):
            Image.new("RGB" if kind == "images" else "L", (32, 32)).save(tmp_path / kind / f"{index}.png")
    _evaluate(
        tmp_path / "not", *cell, "dataset=folder", f"dataset.root={tmp_path}", f"dataset.classes={classes}", expect=1
    )
    assert "is of a model with 6 classes, but the data set has 3" in capfd.readouterr().err


def test_pictures_are_segmented_and_a_damaged_one_is_passed_over(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(4):
        Image.new("RGB", (30 + index, 20), (60 * index, 10, 90)).save(photos / f"{index}.jpg")
    (photos / "2.jpg").write_bytes(b"no image")
    values = _evaluate(tmp_path / "out", f"run={trained}", f"images={photos}/*.jpg")
    assert values["evaluation"]["predicted"] == 3
    assert len(values["evaluation"]["passed_over"]) == 1 and "2.jpg" in values["evaluation"]["passed_over"][0]
    assert values["metrics"] is None and values["dataset"] is None
    assert "3 images predicted, 1 passed over" in capfd.readouterr().out
    for index in (0, 1, 3):
        mask = Image.open(tmp_path / "out" / "masks" / f"{index}.png")
        assert mask.size == (30 + index, 20) and mask.mode == "P" and max(np.unique(mask)) < 6
        assert Image.open(tmp_path / "out" / "overlays" / f"{index}.jpg").size == mask.size


def test_what_a_run_settles_cannot_be_said_again(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for arguments, fragment in (
        (("weights=a.pth",), "weights and run are both set"),
        (("arch=unet",), "is the checkpoint of another model"),
        (("+foo=3",), "foo is not a key"),
    ):
        assert call("evaluate", *QUICK, f"run={trained}", *arguments, f"hydra.run.dir={tmp_path / 'out'}") == 1
        error = capfd.readouterr().err
        assert fragment in error and error.count("\n") == 1, error


def test_a_run_that_is_not_there_is_said_in_a_sweep_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = (f"run={tmp_path / 'typo'}", "tta=none,flip", f"hydra.sweep.dir={tmp_path / 'out'}")
    assert call("evaluate", "-m", *QUICK, *sweep) == 1
    error = capfd.readouterr().err
    assert "typo is not the folder of a run" in error and error.count("\n") == 1


def test_names_of_pictures_stay_apart(tmp_path: Path) -> None:
    for name in ("7/a.jpg", "7/a.png", "7/a.jpg.tif", "7/b/a.jpg", "8/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    assert PhotoSource.find(str(tmp_path / "7" / "**" / "*.*")).keys == ["a.jpg", "a.jpg.tif", "a.png", "b/a.jpg"]
    assert PhotoSource.find([str(tmp_path / "7" / "b"), str(tmp_path / "8")]).keys == ["7/b/a", "8/c"]
    os.chdir(tmp_path)
    try:
        assert len(PhotoSource.find(7)) == 3  # as the command line gives images=7
    finally:
        os.chdir(ROOT)


def test_pictures_that_are_not_there_are_one_line(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _evaluate(tmp_path / "out", f"run={trained}", f"images={tmp_path}/*.jpg", expect=1)
    assert "matches no file; give files, folders, or a glob" in capfd.readouterr().err


def test_a_split_without_labels_is_predicted_in_the_data_sets_own_labels(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "images" / "test").mkdir(parents=True)
    Image.new("RGB", (40, 30), (90, 10, 10)).save(tmp_path / "images" / "test" / "a.png")
    own = (
        *("dataset=folder", f"dataset.root={tmp_path}", "dataset.classes=[a,b,c,d,e,f]", "dataset.val_fraction=null"),
        *("dataset.images='images/{split}/*'", "dataset.masks='masks/{split}/*'", "dataset.splits={test: test}"),
        *("split=test", "dataset.label_map={0:255,7:0,8:1,9:2,10:3,11:4,12:5,1:255,2:255,3:255,4:255,5:255}"),
    )
    values = _evaluate(tmp_path / "out", f"run={trained}", *own, f"save={tmp_path / 'saved'}")
    assert values["evaluation"]["predicted"] == 1 and values["metrics"] is None
    assert set(np.unique(Image.open(tmp_path / "saved" / "a.png"))) <= set(range(7, 13))


def test_a_sweeps_runs_go_in_the_order_of_their_jobs(trained: Path, tmp_path: Path) -> None:
    for job in (10, 2, 0):
        (tmp_path / "grid" / f"{job}_cell").mkdir(parents=True)
        shutil.copy(trained / "result.json", tmp_path / "grid" / f"{job}_cell")
    argv = ["evaluate.py", "tta=flip", f"run={tmp_path / 'grid'},{trained}"]
    expand_sweep(argv)
    runs = [*(tmp_path / "grid" / f"{job}_cell" for job in (0, 2, 10)), trained]
    assert argv == ["evaluate.py", "-m", "tta=flip", "run=" + ",".join(f"'{run}'" for run in runs)]


def test_a_sweep_is_evaluated_run_by_run(trained: Path, tmp_path: Path) -> None:
    grid, out = tmp_path / "grid", tmp_path / "out"
    for name in ("0_first", "1_second", "2_failed"):
        shutil.copytree(trained, grid / name)
    values = record(grid / "2_failed")
    (grid / "2_failed" / "result.json").write_text(json.dumps({**values, "status": "failed"}))
    saved = tmp_path / "saved"
    assert call("evaluate", *QUICK, f"run={grid}", "tta=flip", f"save={saved}", f"hydra.sweep.dir={out}") == 0
    assert sorted(path.parent.name for path in out.glob("*/result.json")) == ["0_0_first", "1_1_second"]
    first, second = record(out / "0_0_first"), record(out / "1_1_second")
    assert first["metrics"] == second["metrics"] and first["evaluation"]["tta_flip"]
    assert [len(list((saved / name).iterdir())) for name in ("0_0_first", "1_1_second")] == [3, 3]
    table = (out / "comparison.md").read_text()
    assert "95 % interval" in table and "TTA flip" in table and "boundary mIoU" in table


@pytest.mark.slow
def test_the_command_evaluates_on_two_processes_and_counts_each_image_once(trained: Path, tmp_path: Path) -> None:
    run("evaluate.py", f"run={trained}", "accelerator=cpu", "devices=2", f"hydra.run.dir={tmp_path}")
    first, second = record(trained), record(tmp_path)
    assert [row["pixels"] for row in second["per_class"]] == [row["pixels"] for row in first["per_class"]]
    assert second["metrics"]["mIoU"] == pytest.approx(first["metrics"]["mIoU"], abs=1e-6)
    assert second["intervals"] == first["intervals"]
    assert len(list(csv.DictReader((tmp_path / "images.csv").open()))) == 3


def test_memory_that_runs_out_in_an_evaluation_is_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Predictor, "bands", full)
    done = run_here("evaluate.py", f"run={trained}", f"hydra.run.dir={tmp_path}", expect=1)
    assert done.stderr.startswith("error: CUDA out of memory. Tried to allocate 2.00 GiB.; say inference=slide")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(trained: Path, tmp_path: Path) -> None:
    done = run_here("evaluate.py", f"run={trained}", "accelerator=gpu", f"hydra.run.dir={tmp_path}", expect=1)
    assert done.stderr.startswith("error: accelerator=gpu is not available")
