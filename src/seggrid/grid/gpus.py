"""The GPUs of this machine, and how many a run needs. Initialises no CUDA: what is forked could not use it."""

import os
import subprocess
from typing import Any

from seggrid.errors import UserError


def gpus_here() -> list[str]:
    """Returns the names under which ``CUDA_VISIBLE_DEVICES`` knows the GPUs that this process may use."""
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    there = done.stdout.split()
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if said is None else [name.strip() for name in said.split(",") if name.strip() and there]


def gpus_needed(kind: str, typed: Any, here: int | None) -> int:
    """Returns how many GPUs of a machine a run needs.

    Args:
        kind: ``train``, ``evaluate`` or ``profile``.
        typed: its configuration.
        here: how many this machine has; None where the run goes to another, which is taken to have some.

    Raises:
        UserError: it needs more than there are, or names some.
    """
    if kind == "profile":
        key, word, devices = "device", typed.device, 1
    elif kind == "train":
        key, word, devices = "trainer.devices", typed.trainer.accelerator, typed.trainer.devices
    else:
        key, word, devices = "devices", typed.accelerator, typed.devices
    if word in ("cpu", "mps") or here == 0:  # a run that insists on one says itself that there is none
        return 0
    if isinstance(devices, list):
        raise UserError(
            f"{key}={devices} names GPUs, but in a sweep the launcher gives them out; say {key}={len(devices)}, and "
            "choose among the GPUs of a machine with CUDA_VISIBLE_DEVICES"
        )
    if devices in ("auto", -1):
        if here is None:
            raise UserError(f"{key}={devices}: how many GPUs another machine has is not known; say {key}=<number>")
        return here
    if here is not None and devices > here:
        raise UserError(f"{key}={devices} asks for more GPUs than there are here: {here}; say {key}={max(1, here)}")
    return int(devices)


def processes(kind: str, typed: Any, gpus: int) -> int:
    """Returns how many processes a run has on each machine."""
    devices = 1 if kind == "profile" else (typed.trainer if kind == "train" else typed).devices
    return gpus or (devices if isinstance(devices, int) and devices > 0 else 1)
