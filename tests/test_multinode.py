"""Two "nodes" that are this machine, by torchrun, and FSDP on the CPU."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import ROOT, TINY, record, run, run_here

TWO = (*TINY, "backend=smp", "dataset.shapes.train=16", "dataset.shapes.val=5", "trainer.strategy=ddp")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def torchrun(*arguments: str, nodes: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Runs ``train.py`` as the first and the second node would, at the same time; returns both."""
    port = str(free_port())
    place = ("--master_addr", "127.0.0.1", "--master_port", port, "--nproc_per_node", "1", "--nnodes", str(nodes))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *place, "--node_rank", str(rank), "train.py", *arguments],
            cwd=ROOT,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(nodes)
    ]
    done = []
    for process in started:
        out, err = process.communicate(timeout=280)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(run_folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return content


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_train_what_one_node_with_two_processes_trains_also_in_two_halves(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    cell = (*TWO, "schedule=constant")  # whose rates do not depend on the number of epochs
    run("train.py", *cell, "trainer.devices=2", "trainer.max_epochs=2", f"hydra.run.dir={one}", GLOO_SOCKET_IFNAME="lo")
    for more in (("trainer.max_epochs=1",), ("trainer.max_epochs=2", f"resume={two}")):
        first, second = torchrun(*cell, "trainer.num_nodes=2", f"hydra.run.dir={two}", *more)
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        assert "mIoU" in first.stdout and "mIoU" not in second.stdout
    assert record(two)["status"] == "completed"
    assert record(two)["train"]["steps"] == record(one)["train"]["steps"] == 4
    assert record(two)["metrics"] == record(one)["metrics"]
    expected, got = weights(one), weights(two)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_error_under_torchrun_is_one_line_of_the_first_process(tmp_path: Path) -> None:
    first, second = torchrun(*TWO, "trainer.num_nodes=2", "optimizer.lr=-1", f"hydra.run.dir={tmp_path}")
    assert first.stderr.count("error: optimizer.lr is -1") == 1 and "error: optimizer.lr" not in second.stderr
    assert record(tmp_path)["status"] == "failed"


def test_several_machines_need_a_launcher(tmp_path: Path) -> None:
    done = run_here("train.py", *TWO, "trainer.num_nodes=2", f"hydra.run.dir={tmp_path}", expect=1)
    assert (
        "error: trainer.num_nodes=2: the processes of several machines are started by torchrun or srun" in done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fsdp_trains_what_ddp_trains_and_its_checkpoint_is_whole(tmp_path: Path) -> None:
    sharded, evaluated, whole = tmp_path / "fsdp", tmp_path / "evaluated", tmp_path / "ddp"
    # A norm that clips each step, and an optimizer that does not make small differences large.
    cell = (*TWO, "trainer.devices=2", "trainer.precision=32-true", "trainer.gradient_clip_norm=0.01", "optimizer=sgd")
    run("train.py", *cell, f"hydra.run.dir={whole}", GLOO_SOCKET_IFNAME="lo")
    launcher = ("torch.distributed.run", "--master_port", str(free_port()), "--nproc_per_node", "2")
    fsdp = ("tests/fsdp_on_cpu.py", *cell, "trainer.strategy=fsdp", f"hydra.run.dir={sharded}")
    run("-m", *launcher, *fsdp, GLOO_SOCKET_IFNAME="lo")
    expected, got = weights(whole), weights(sharded)
    assert expected.keys() == got.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-6)
    assert record(sharded)["metrics"] == pytest.approx(record(whole)["metrics"], abs=1e-4)

    run("evaluate.py", f"run={sharded}", "accelerator=cpu", f"hydra.run.dir={evaluated}")  # one process
    assert record(evaluated)["metrics"]["mIoU"] == pytest.approx(record(sharded)["metrics"]["mIoU"], abs=1e-6)
