"""One run through the real command: choices, resume after a kill, evaluation."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from command import ROOT, TINY, record, run, wandb_entries
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from seggrid import config, results
from seggrid.config import TrainConfig
from seggrid.training import train

Compose = Callable[..., TrainConfig]
LONGER = (*TINY, "backend=smp", "arch=unet", "trainer.max_epochs=4", "augment=flip")


@pytest.fixture(scope="module")
def typed_train() -> Iterator[Compose]:
    config.register()

    def composed(*overrides: str) -> TrainConfig:
        typed = OmegaConf.to_object(compose("train", list(overrides)))
        assert isinstance(typed, TrainConfig)
        return typed

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield composed


@pytest.mark.parametrize(
    "choice",
    [
        "loss=dice", "loss=focal", "loss=lovasz", "loss=ohem", "optimizer=sgd", "schedule=cosine", "schedule=onecycle",
        "schedule=constant", "logger=tensorboard", "trainer.precision=bf16-mixed", "trainer.gradient_clip_norm=1.0",
        "augment.resize=[24,40]", "num_workers=2", "optimizer.encoder_lr_scale=0.1",
    ],
)  # fmt: skip
def test_every_choice_trains(choice: str, tmp_path: Path, typed_train: Compose) -> None:
    settings = typed_train(*TINY, "backend=smp", choice)
    written = results.Record("train", "smp", "fpn", "resnet10t")
    train(settings, tmp_path, written)
    assert written.train is not None and written.train["steps"] == 2
    assert written.metrics is not None and 0 <= written.metrics["mIoU"] <= 1
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert len(list((tmp_path / "predictions").iterdir())) == 3


def test_scores_are_computed_at_the_labels_own_size(tmp_path: Path, typed_train: Compose) -> None:
    settings = typed_train(*TINY, "backend=smp", "augment.resize=[16,16]")
    written = results.Record("train", "smp", "fpn", "resnet10t")
    train(settings, tmp_path, written)
    assert written.model is not None and written.model["input_size"] == [16, 16]
    assert written.per_class is not None
    assert sum(row["pixels"] for row in written.per_class) > 3 * 16 * 16  # of 3 pictures of 32x32


def test_a_killed_run_resumes_bit_equal(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("train.py", *LONGER, f"hydra.run.dir={whole}")
    process = subprocess.Popen(
        [sys.executable, "train.py", *LONGER, f"hydra.run.dir={killed}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/4"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert record(killed)["status"] == "interrupted"

    run("train.py", f"resume={killed}")
    assert record(killed)["metrics"] == record(whole)["metrics"]
    weights = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (whole, killed)]
    assert weights[0]["global_step"] == weights[1]["global_step"] == 8
    for name, value in weights[0]["state_dict"].items():
        assert torch.equal(value, weights[1]["state_dict"][name]), name


def test_evaluation_repeats_the_scores_of_training(tmp_path: Path) -> None:
    trained, evaluated = tmp_path / "trained", tmp_path / "evaluated"
    run("train.py", *TINY, "backend=smp", f"hydra.run.dir={trained}")
    output = run("evaluate.py", f"run={trained}", f"hydra.run.dir={evaluated}").stdout
    first, second = record(trained), record(evaluated)
    assert second["kind"] == "evaluate"
    assert second["metrics"]["mIoU"] == pytest.approx(first["metrics"]["mIoU"], abs=1e-12)
    assert second["per_class"] == first["per_class"]
    assert (second["backend"], second["arch"], second["encoder"]) == ("smp", "fpn", "resnet10t")
    assert "background" in output

    run("evaluate.py", f"run={trained}", "split=train", f"hydra.run.dir={tmp_path / 'train'}")
    labelled = sum(row["pixels"] for row in record(tmp_path / "train")["per_class"])
    assert labelled > sum(row["pixels"] for row in first["per_class"])  # 8 pictures, not 3

    done = run("evaluate.py", f"run={trained}", "split=test", f"hydra.run.dir={tmp_path / 'none'}", expect=1)
    assert done.stderr.strip() == "error: dataset=shapes has no split test; it has train, val"


def test_a_failed_resume_leaves_the_finished_run_as_it_was(tmp_path: Path) -> None:
    run("train.py", *TINY, "backend=smp", f"hydra.run.dir={tmp_path}")
    before = {name: (tmp_path / name).read_bytes() for name in ("result.json", "config.yaml")}
    done = run("train.py", f"resume={tmp_path}", "encoder=test_resnet", "trainer.max_epochs=2", expect=1)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "checkpoint of another model" in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_resume_of_something_else_is_one_line(tmp_path: Path) -> None:
    done = run("train.py", f"resume={tmp_path}", expect=1)
    assert done.stderr.startswith(f"error: resume={tmp_path} is not the folder of a training run")
    assert done.stderr.count("\n") == 1


def test_interrupt_leaves_a_record(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", *LONGER, "trainer.max_epochs=400", f"hydra.run.dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert record(tmp_path)["status"] == "interrupted"
    assert time.strptime(record(tmp_path)["ended"][:19], "%Y-%m-%dT%H:%M:%S")


def test_a_failed_run_ends_as_failed_in_wandb(tmp_path: Path) -> None:
    settings = ("backend=smp", "optimizer.lr=1e30", "logger=wandb", "logger.mode=offline")
    run("train.py", *TINY, *settings, f"hydra.run.dir={tmp_path}", expect=1)
    log = next(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert [entry["exit"]["exit_code"] for entry in wandb_entries(log) if entry["type"] == "exit"] == [1]
