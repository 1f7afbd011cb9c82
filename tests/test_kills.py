"""Runs that are killed with SIGKILL, again and again, end bit-equal to one that never was."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT, TINY, call, record, run, run_here

from seggrid import checkpoint_io, module
from seggrid.checkpoint_io import WholeFiles
from seggrid.errors import UserError
from seggrid.orphans import MAIN, end_with_the_first

# 10 images in batches of 2: 5 steps an epoch, of which the second and fourth leave a checkpoint.
CELL = [
    *(item for item in TINY if not item.startswith(("dataset.shapes.train", "batch_size", "trainer.max_epochs"))),
    *("backend=smp", "dataset.shapes.train=10", "batch_size=2", "trainer.max_epochs=2", "augment=flip"),
    *("trainer.checkpoint_every_n_steps=2", "trainer.progress_bar=false"),
]
# Jobs in processes of their own that can be killed, and that need not import everything anew.
servers = multiprocessing.get_context("forkserver")
servers.set_forkserver_preload(["seggrid.training", "seggrid.models.smp", "command"])


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_at(arguments: list[str], phase: str | None, count: int) -> None:
    """Trains, and dies the ``count``-th time that it comes to ``phase``."""
    left = [count]

    def dying(whole: Callable[..., Any]) -> Callable[..., Any]:
        def hook(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                _die()
            return whole(*arguments, **named)

        return hook

    def half_written(content: Any, file: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            file.write(b"PK\x03\x04 the first bytes of a checkpoint")
            file.flush()
            _die()
        save(content, file)

    save = torch.save
    if phase == "writing":
        checkpoint_io.torch.save = half_written  # type: ignore[assignment]
    elif phase is not None:
        setattr(module.SegmentationModule, phase, dying(getattr(module.SegmentationModule, phase)))
    os.chdir(ROOT)
    sys.exit(call("train", *arguments))


def _train(arguments: list[str], phase: str | None = None, count: int = 1) -> None:
    process = servers.Process(target=_killed_at, args=(arguments, phase, count))
    process.start()
    process.join(280)
    assert process.exitcode == (0 if phase is None else -signal.SIGKILL)


def _equal_records(whole: Path, killed: Path) -> list[dict[str, Any]]:
    """Asserts that two runs have come to the same, bit by bit; returns their records."""
    for name in ("best", "last"):
        one, other = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (whole, killed))
        assert one["global_step"] == other["global_step"]
        assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
        assert str(one["optimizer_states"]) == str(other["optimizer_states"])
        assert one["lr_schedulers"] == other["lr_schedulers"]
    records = [record(folder) for folder in (whole, killed)]
    assert records[0]["metrics"] == records[1]["metrics"]
    curves = [[{**entry, "seconds": 0} for entry in item["curves"]] for item in records]
    assert curves[0] == curves[1] != []
    return records


def test_a_run_killed_within_an_epoch_while_writing_and_in_validation_ends_bit_equal(tmp_path: Path) -> None:
    whole, killed, draw = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    cell = [*CELL, "trainer.precision=bf16-mixed", "schedule=onecycle"]
    _train([*cell, f"hydra.run.dir={whole}"])
    _train([*cell, f"hydra.run.dir={killed}"], "on_train_batch_start", draw.randint(4, 5))  # past the second step
    first = (killed / "checkpoints" / "last.ckpt").read_bytes()
    assert torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] in (2, 4)
    _train([f"resume={killed}"], "writing", 1)
    assert [path.suffix for path in (killed / "checkpoints").glob(".*")] == [".part"]
    assert (killed / "checkpoints" / "last.ckpt").read_bytes() == first  # not touched by what was half written
    _train([f"resume={killed}"], "on_validation_epoch_end", draw.randint(1, 2))
    assert record(killed)["status"] == "interrupted"
    _train([f"resume={killed}", "num_workers=2"])  # which fetch ahead, and must do so from the right batch

    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    records = _equal_records(whole, killed)
    assert [(entry["epoch"], entry["step"]) for entry in records[0]["curves"]] == [(1, 5), (2, 10)]
    seconds = [entry["seconds"] for entry in records[1]["curves"]]
    assert 0 < seconds[0] < seconds[1]
    assert records[1]["train"]["s_per_iter"] is not None  # of what was timed before the last kill


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fourth file of the run is the first epoch's last.ckpt, after those of two steps and best.ckpt.
    whole, left = torch.save, [4]

    def full(content: Any, file: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            with open("/dev/full", "wb", buffering=0) as device:
                whole(content, device)
        whole(content, file)

    monkeypatch.setattr(checkpoint_io.torch, "save", full)
    done = run_here("train.py", *CELL, f"hydra.run.dir={tmp_path}", expect=1)
    assert done.stderr.startswith(f"error: {tmp_path}/checkpoints/last.ckpt could not be written ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert record(tmp_path)["status"] == "failed"
    run_here("train.py", *CELL, f"resume={tmp_path}", f"hydra.run.dir={tmp_path}")  # as a sweep's launcher says it
    assert record(tmp_path)["train"]["steps"] == 10


def test_a_checkpoint_is_written_beside_its_place(tmp_path: Path) -> None:
    WholeFiles().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    before = os.stat(tmp_path / "last.ckpt").st_ino
    WholeFiles().save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert os.stat(tmp_path / "last.ckpt").st_ino != before  # another file, renamed; not the same, overwritten
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"step": 2}
    (tmp_path / "last.ckpt").unlink()
    (tmp_path / ".last.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left on device.*there is none before it"):
        WholeFiles().save_checkpoint({"step": torch.zeros(10000)}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_moved_run_still_knows_its_best_score_and_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    run_here("train.py", *CELL, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run")
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    best, last = (moved / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    content = torch.load(last, weights_only=True)
    assert content["callbacks"]["Checkpoints"]["best"] == record(moved)["curves"][0]["mIoU"]
    content["callbacks"]["Checkpoints"]["best"] = 1.5  # which no epoch can reach
    torch.save(content, last)
    before = best.read_bytes()
    run_here("train.py", f"resume={moved}", "trainer.max_epochs=2")
    assert best.read_bytes() == before
    assert len(record(moved)["curves"]) == 2

    last.write_bytes(last.read_bytes()[:5000])
    done = run_here("train.py", f"resume={moved}", "trainer.max_epochs=3", expect=1)
    assert done.stderr.startswith(f"error: {last} cannot be read as a checkpoint")
    assert done.stderr.count("\n") == 1


def test_a_broken_weight_is_not_saved_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = checkpoint_io.Checkpoints.on_train_batch_end

    def breaks(self: Any, trainer: Any, pl_module: module.SegmentationModule, *arguments: Any) -> None:
        if trainer.global_step == 4:  # as the step itself could have done, whose own loss was fine
            next(iter(pl_module.parameters())).data.fill_(float("nan"))
        whole(self, trainer, pl_module, *arguments)

    monkeypatch.setattr(checkpoint_io.Checkpoints, "on_train_batch_end", breaks)
    done = run_here("train.py", *CELL, f"hydra.run.dir={tmp_path}/run", expect=1)
    assert "the loss is not finite at step 4; the checkpoints are those before it" in done.stderr
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    done = run_here("train.py", *CELL, "trainer.checkpoint_every_n_steps=0", f"hydra.run.dir={tmp_path}/no", expect=1)
    assert done.stderr == "error: trainer.checkpoint_every_n_steps is 0; it must be at least 1\n"


def test_the_processes_of_a_run_end_with_the_one_that_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv(MAIN, raising=False)
    end_with_the_first()
    assert os.environ[MAIN] == str(os.getpid())
    ends = "from seggrid.orphans import end_with_the_first as end; end()"
    waits = f"{ends}; print('up', flush=True); import time; time.sleep(60)"
    starts = (
        "import os, subprocess, sys; os.environ['SEGGRID_MAIN_PROCESS'] = str(os.getpid());"
        f"child = subprocess.Popen([sys.executable, '-c', {waits!r}], env={{**os.environ, 'LOCAL_RANK': '1'}},"
        " stdout=subprocess.PIPE); child.stdout.readline(); print(child.pid, flush=True); import time; time.sleep(60)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "LOCAL_RANK"}
    first = subprocess.Popen([sys.executable, "-c", starts], env=environment, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    second = int(first.stdout.readline())
    first.kill()
    first.wait()
    deadline = time.monotonic() + 10
    while _is_alive(second) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_alive(second)


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 5, 6, 9, 10])
@pytest.mark.parametrize(
    "settings",
    [
        ("trainer.val_every_n_epochs=2", "optimizer=sgd", "schedule=cosine", "trainer.gradient_clip_norm=0.5"),
        ("num_workers=2", "trainer.log_every_n_steps=4", "trainer.checkpoint_every_n_steps=1"),
        ("backend=torchvision", "arch=deeplabv3", "schedule=poly", "trainer.checkpoint_every_n_steps=3"),
    ],
)
def test_every_step_resumes_bit_equal_under_other_settings(
    settings: tuple[str, ...], step: int, tmp_path: Path
) -> None:
    named = {setting.split("=", 1)[0] for setting in settings}
    cell = [*(item for item in CELL if item.split("=", 1)[0] not in named), *settings]
    _train([*cell, f"hydra.run.dir={tmp_path}/whole"])
    _train([*cell, f"hydra.run.dir={tmp_path}/killed"], "on_train_batch_start", step)
    anew = not (tmp_path / "killed" / "checkpoints" / "last.ckpt").exists()
    _train([*cell, f"hydra.run.dir={tmp_path}/killed"] if anew else [f"resume={tmp_path}/killed"])
    _equal_records(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["1", "2"])
def test_a_campaign_of_kills_ends_bit_equal(devices: str) -> None:
    command = [sys.executable, "benchmarks/kills.py", "kills=4", "per_run=4", f"devices={devices}", "seed=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 runs bit-equal, 0 processes left behind" in done.stdout


@pytest.mark.slow
def test_two_processes_stop_together_where_a_checkpoint_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "last.ckpt").mkdir(parents=True)  # which no file can take the place of
    two = ("trainer.devices=2", "trainer.strategy=ddp", f"hydra.run.dir={tmp_path}")
    done = run("train.py", *CELL, *two, expect=1)
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    assert f"error: {tmp_path}/checkpoints/last.ckpt could not be written " in done.stderr
    assert record(tmp_path)["status"] == "failed"
