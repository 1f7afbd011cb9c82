"""The number formats that a profile can be made in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from seggrid.errors import UserError
from seggrid.precision import bf16_is_native

NAMES = {"cpu": "CPU", "cuda": "GPU", "mps": "GPU"}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses a precision that the hardware has no instructions for: its times would be those of an emulation.

    Args:
        precision: one of ``checks.PROFILE_PRECISIONS``.
        device: where the model runs.

    Raises:
        UserError: the device lacks it; the message names those that it has.
    """
    there = precisions_of(device)
    if precision not in there:
        raise UserError(
            f"precision={precision}: this {NAMES[device.type]} has no {precision}; it has {', '.join(there)}"
        )


def precisions_of(device: torch.device) -> list[str]:
    """Returns the precisions that a device has instructions for."""
    has = {"fp32": True, "tf32": False, "bf16": bf16_is_native(device), "fp16": device.type == "mps"}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        has |= {"tf32": major >= 8 and torch.version.hip is None, "fp16": (major, minor) >= (5, 3)}
    elif device.type == "cpu":
        known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        has["fp16"] = bool(known.get("avx512_fp16") or known.get("amx_fp16") or known.get("fp16_arith"))
    return [name for name, there in has.items() if there]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Returns the context of a forward pass and its loss: ``bf16`` and ``fp16`` are autocast, as in mixed training."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


@contextmanager
def single_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Sets what single precision is within, on a GPU, and leaves it as it was.

    With ``fp32`` it is IEEE's throughout, also where PyTorch's own default is TF32 (convolutions); else convolutions
    and matrix products may use TF32. As in training at one size, cuDNN looks for its fastest algorithms.

    Args:
        precision: one of ``checks.PROFILE_PRECISIONS``.
        device: where the model runs.
    """
    tf32 = device.type == "cuda" and precision != "fp32"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
