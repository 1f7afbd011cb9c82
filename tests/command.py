"""Runs the entry points as a user does: in a process of their own, from the repository's folder."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from seggrid.entry import main

ROOT = Path(__file__).resolve().parents[1]

# A cell that trains in seconds: a small encoder, eight pictures of 32x32 pixels, one epoch of two steps.
TINY = (
    "arch=fpn",
    "encoder=resnet10t",
    "encoder.pretrained=false",
    "dataset.shapes.size=[32,32]",
    "dataset.shapes.train=8",
    "dataset.shapes.val=3",
    "batch_size=4",
    "pictures=1",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "logger=csv",
)


def run(script: str, *arguments: str, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python <script> <arguments>`` and asserts its exit status."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == expect, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def call(kind: str, *arguments: str, full_error: str = "0") -> int:
    """Runs an entry point in this process, which saves the imports; returns its exit status."""
    before = logging.root.handlers[:], logging.root.level  # Hydra replaces them, and pytest wants its own back
    try:
        with (
            patch.object(sys, "argv", [f"{kind}.py", *arguments]),
            patch.dict(os.environ, {"HYDRA_FULL_ERROR": full_error}),
        ):
            main(kind, ROOT / "conf")
    except SystemExit as end:
        if isinstance(end.code, str):  # as Python itself does
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    finally:
        logging.root.handlers[:] = before[0]
        logging.root.setLevel(before[1])
    return 0


def run_here(script: str, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """As ``run``, in this process: for what does not depend on a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = call(script.removesuffix(".py"), *arguments)
    assert status == expect, f"exit status {status}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess([script, *arguments], status, out.getvalue(), err.getvalue())


def record(folder: Path) -> dict[str, Any]:
    """Reads a run's record as any program would."""
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values


def wandb_entries(log: Path) -> list[dict[str, Any]]:
    """Reads back what an offline W&B run has written."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
