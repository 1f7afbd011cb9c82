"""``profile.py`` is a command of seggrid, and to whoever imports ``profile`` the standard library's module."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["-c", "import cProfile; cProfile.run('1 + 1')"], "function calls in"),
        (["-c", "import profile; profile.run('1 + 1')"], "function calls in"),
        (["-m", "cProfile", "-h"], "cProfile.py"),
        (["-m", "pytest", "--version"], "pytest"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_standard_module_is_found_from_the_root(arguments: list[str], answer: str) -> None:
    run = _python(*arguments)
    assert run.returncode == 0, run.stderr
    assert answer in run.stdout


def test_a_spawned_worker_of_the_command_finds_it_too() -> None:
    # The worker runs profile.py once more, as __mp_main__: it must not start the command.
    program = """
import multiprocessing, runpy
import seggrid.entry
def start_a_worker(kind, conf):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(exec, ("import cProfile",))
        print("the worker has imported cProfile")
seggrid.entry.main = start_a_worker
runpy.run_path("profile.py", run_name="__main__")
"""
    run = _python("-c", program)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "the worker has imported cProfile\n"


def test_the_command_counts_a_model_without_timing_it(tmp_path: Path) -> None:
    cell = ("backend=smp", "arch=unet", "encoder=resnet18", "counts_only=true", "input.size=[64,64]")
    run = _python("profile.py", *cell, f"hydra.run.dir={tmp_path}")
    assert run.returncode == 0, run.stderr
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["kind"], record["status"], record["error"]) == ("profile", "completed", None)
    assert (record["backend"], record["arch"], record["encoder"]) == ("smp", "unet", "resnet18")
    assert record["model"]["input_size"] == [64, 64]
    assert record["model"]["params"] > record["model"]["params_encoder"] > 11e6
    assert record["model"]["gmacs"] > 0
    assert record["profile"] is None
    assert f"{record['model']['params']:,}" in run.stdout
