"""One run through the real command: choices, resume after a kill, evaluation."""

import csv
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT, TINY, record, run, run_here, wandb_entries
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from seggrid import config, results
from seggrid.config import TrainConfig
from seggrid.errors import UserError
from seggrid.module import SegmentationModule
from seggrid.training import OUT_OF_MEMORY, _device, train

Compose = Callable[..., TrainConfig]
LONGER = (*TINY, "backend=smp", "arch=unet", "trainer.max_epochs=4", "augment=flip")


@pytest.fixture(scope="module")
def typed_train() -> Compose:
    config.register()

    def composed(*overrides: str) -> TrainConfig:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            typed = OmegaConf.to_object(compose("train", list(overrides)))
        assert isinstance(typed, TrainConfig)
        return typed

    return composed


@pytest.mark.parametrize(
    "choice",
    [
        "loss=dice", "loss=focal", "loss=lovasz", "loss=ohem", "optimizer=sgd", "schedule=cosine", "schedule=onecycle",
        "schedule=constant", "logger=tensorboard", "trainer.precision=32-true", "trainer.gradient_clip_norm=1.0",
        "trainer.deterministic=true", "trainer.channels_last=false",
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


def test_the_last_checkpoint_is_that_of_the_last_epoch(tmp_path: Path, typed_train: Compose) -> None:
    # Weights that hardly move: no epoch after the first is better.
    settings = typed_train(*TINY, "backend=smp", "trainer.max_epochs=3", "optimizer.lr=1e-12")
    train(settings, tmp_path, results.Record("train", "smp", "fpn", "resnet10t"))
    epochs = [
        torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")
    ]
    assert epochs[1] == 2 and epochs[0] <= 2
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


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

    run("train.py", f"resume={killed}", "num_workers=2")  # workers fetch ahead, and must do so from the right epoch
    assert record(killed)["metrics"] == record(whole)["metrics"]
    weights = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (whole, killed)]
    assert weights[0]["global_step"] == weights[1]["global_step"] == 8
    for name, value in weights[0]["state_dict"].items():
        assert torch.equal(value, weights[1]["state_dict"][name]), name


def test_evaluation_repeats_the_scores_of_training(tmp_path: Path) -> None:
    trained, evaluated = tmp_path / "trained", tmp_path / "evaluated"
    # In bfloat16 and channels_last: scores are of single precision all the same, and sums in the same order.
    settings = ("backend=smp", "trainer.precision=bf16-mixed", "trainer.channels_last=true")
    run_here("train.py", *TINY, *settings, f"hydra.run.dir={trained}")
    output = run_here("evaluate.py", f"run={trained}", f"hydra.run.dir={evaluated}").stdout
    first, second = record(trained), record(evaluated)
    assert (first["train"]["precision"], first["train"]["channels_last"]) == ("bf16-mixed", True)
    assert second["kind"] == "evaluate"
    assert second["metrics"].items() >= first["metrics"].items()  # the loss, too, to the last digit
    assert [row["iou"] for row in second["per_class"]] == [row["iou"] for row in first["per_class"]]
    assert (second["backend"], second["arch"], second["encoder"]) == ("smp", "fpn", "resnet10t")
    assert "background" in output

    run_here("evaluate.py", f"run={trained}", "split=train", f"hydra.run.dir={tmp_path / 'train'}")
    labelled = sum(row["pixels"] for row in record(tmp_path / "train")["per_class"])
    assert labelled > sum(row["pixels"] for row in first["per_class"])  # 8 pictures, not 3

    done = run_here("evaluate.py", f"run={trained}", "split=test", f"hydra.run.dir={tmp_path / 'none'}", expect=1)
    assert done.stderr.strip() == "error: dataset=shapes has no split test; it has train, val"


def test_a_failed_resume_leaves_the_finished_run_as_it_was(tmp_path: Path) -> None:
    run_here("train.py", *TINY, "backend=smp", f"hydra.run.dir={tmp_path}")
    before = {name: (tmp_path / name).read_bytes() for name in ("result.json", "config.yaml")}
    done = run_here("train.py", f"resume={tmp_path}", "encoder=test_resnet", "trainer.max_epochs=2", expect=1)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "checkpoint of another model" in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_sweep_goes_on_when_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, held = SegmentationModule.training_step, []

    def short(self: SegmentationModule, batch: Any, batch_idx: int) -> Tensor:
        loss = whole(self, batch, batch_idx)
        if len(batch[0]) == 2:
            assert len(held) == 2 and not any(reference() is not None for reference in held)
            return loss
        held.append(weakref.ref(loss))
        if len(batch[0]) == 3:
            torch.empty(2**48, dtype=torch.uint8)
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB of which 5.19 MiB "
            "is free. Including non-PyTorch memory, this process has 7.62 GiB memory in use."
        )

    monkeypatch.setattr(SegmentationModule, "training_step", short)
    sweep = ("-m", *_cell("backend=smp", "batch_size=4,3,2"), "hydra/launcher=basic")  # in the patched process
    run_here("train.py", *sweep, f"hydra.sweep.dir={tmp_path}", expect=2)
    gpu, cpu, fits = (record(next(tmp_path.glob(f"{job}_*"))) for job in range(3))
    assert (gpu["status"], cpu["status"], fits["status"]) == ("failed", "failed", "completed")
    assert gpu["error"] == {
        "type": "UserError",
        "message": f"out of memory on the GPU: 20.00 MiB asked for, 5.19 MiB of 7.79 GiB free; {OUT_OF_MEMORY}",
    }
    assert cpu["error"]["message"].startswith("out of memory: 256.00 TiB asked for, ")
    assert cpu["error"]["message"].endswith(f" available; {OUT_OF_MEMORY}")


def test_a_network_that_cannot_take_channels_last_trains_without_it(tmp_path: Path) -> None:
    run_here("train.py", *_cell("backend=mmseg", "arch=dmnet", "encoder=test_resnet"), f"hydra.run.dir={tmp_path}/run")
    first = record(tmp_path / "run")
    assert first["train"]["channels_last"] is False
    run_here("evaluate.py", f"run={tmp_path}/run", f"hydra.run.dir={tmp_path}/eval")
    assert record(tmp_path / "eval")["metrics"].items() >= first["metrics"].items()
    whole = _cell("backend=mmseg", "arch=dmnet", "encoder=test_resnet", "trainer.max_epochs=2", "schedule=constant")
    run_here("train.py", *whole, f"hydra.run.dir={tmp_path}/whole")
    run_here("train.py", *whole, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/half")
    run_here("train.py", f"resume={tmp_path}/half", "trainer.max_epochs=2")
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "half")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_gpu_that_is_not_there_is_named(typed_train: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = typed_train(*TINY, "backend=smp", "trainer.accelerator=gpu", "trainer.devices=[5]")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"trainer.devices is \[5\]; the GPUs here are 0, 1"):
        _device(settings)


def test_half_precision_on_a_cpu_is_refused_and_not_replaced(tmp_path: Path, typed_train: Compose) -> None:
    settings = typed_train(*TINY, "backend=smp", "trainer.precision=16-mixed")
    with pytest.raises(UserError, match=r"trainer.precision=16-mixed: a CPU does not compute in half precision"):
        train(settings, tmp_path, results.Record("train", "smp", "fpn", "resnet10t"))


def test_the_loss_is_logged_every_so_often(tmp_path: Path, typed_train: Compose) -> None:
    settings = typed_train(*_cell("backend=smp", "batch_size=2", "trainer.log_every_n_steps=2"))
    written = results.Record("train", "smp", "fpn", "resnet10t")
    train(settings, tmp_path, written)
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    assert [int(row["step"]) for row in rows] == [1, 3]
    assert written.train is not None
    assert 0 < written.train["data_s_per_iter"] < written.train["s_per_iter"]


def test_resume_of_something_else_is_one_line(tmp_path: Path) -> None:
    done = run_here("train.py", f"resume={tmp_path}", expect=1)
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


def _cell(*choices: str) -> list[str]:
    """``TINY`` with other choices."""
    named = {choice.split("=", 1)[0] for choice in choices}
    return [*(item for item in TINY if item.split("=", 1)[0] not in named), *choices]


def test_a_run_by_the_librarys_own_loss_resumes_and_is_evaluated(tmp_path: Path) -> None:
    # knet: its logits alone do not train all of it, so loss=auto is the library's own.
    run_here("train.py", *_cell("backend=mmseg", "arch=knet"), f"hydra.run.dir={tmp_path}/run")
    first = record(tmp_path / "run")
    assert first["status"] == "completed"
    assert first["train"]["loss_name"] == "native"
    assert first["metrics"]["loss"] is None
    assert first["model"]["gmacs_aux"] is None
    run_here("evaluate.py", f"run={tmp_path}/run", f"hydra.run.dir={tmp_path}/eval")
    assert record(tmp_path / "eval")["metrics"].items() >= first["metrics"].items()
    run_here("train.py", f"resume={tmp_path}/run", "trainer.max_epochs=2")
    assert record(tmp_path / "run")["train"]["epochs"] == 2


def test_another_loss_is_refused_where_it_cannot_train_the_model(tmp_path: Path) -> None:
    done = run_here(
        "train.py", *_cell("backend=mmseg", "arch=knet", "loss=dice"), f"hydra.run.dir={tmp_path}/dice", expect=1
    )
    assert "arch=knet cannot be trained with loss=dice" in done.stderr
    done = run_here(
        "train.py", *_cell("backend=smp", "arch=unet", "loss=native"), f"hydra.run.dir={tmp_path}/smp", expect=1
    )
    assert "backend=smp arch=unet has no loss of its own" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_outlives_the_saved_model_that_it_started_from(tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    saved = tmp_path / "saved"
    smp.Unet("tu-resnet10t", encoder_weights=None, classes=6, decoder_channels=(32, 32, 16, 16, 16)).save_pretrained(
        saved
    )
    cell = [item for item in TINY if not item.startswith(("arch=", "encoder"))]
    run_here("train.py", *cell, "backend=smp", "arch=official", f"weights={saved}", f"hydra.run.dir={tmp_path}/run")
    first = record(tmp_path / "run")
    assert (first["arch"], first["encoder"]) == ("unet", "resnet10t")
    saved.rename(tmp_path / "gone")
    run_here("evaluate.py", f"run={tmp_path}/run", f"hydra.run.dir={tmp_path}/eval")
    assert record(tmp_path / "eval")["metrics"].items() >= first["metrics"].items()
    run_here("train.py", f"resume={tmp_path}/run", "trainer.max_epochs=2")
    assert record(tmp_path / "run")["train"]["epochs"] == 2


def test_a_published_configuration_stands_beside_what_is_measured(tmp_path: Path) -> None:
    name = "fast_scnn_8xb4-160k_cityscapes-512x1024"
    cell = [item for item in TINY if not item.startswith(("arch=", "encoder"))]
    own = ("backend=mmseg", "arch=official", f"arch.config={name}", "encoder.pretrained=false")
    run_here("train.py", "-m", *cell, *own, "seed=0", f"hydra.sweep.dir={tmp_path}")
    values = record(next(tmp_path.glob("0_*")))
    assert values["arch"] == name
    assert values["published"]["dataset"] == "Cityscapes"
    assert values["published"]["mIoU"] == pytest.approx(0.7096)
    assert "70.96" in (tmp_path / "comparison.md").read_text()
    assert values["published"]["weights"] in (tmp_path / "comparison.csv").read_text()
