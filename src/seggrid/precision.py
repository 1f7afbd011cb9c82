"""The precision of a training: which of Lightning's words a device can serve, and which one is best on it."""

import torch

from seggrid.errors import UserError


def bf16_is_native(device: torch.device) -> bool:
    """Returns whether a device computes in bfloat16 itself, so that it is faster there than single precision.

    Args:
        device: a GPU of compute capability 8.0 or more, or a CPU with avx512_bf16, amx_bf16 or Arm's bf16.
    """
    if device.type == "cuda":
        # As torch.cuda.is_bf16_supported(including_emulation=False), which knows the current device alone.
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    # Of the instructions it is oneDNN that makes use.
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # torch below 2.12
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def training_precision(word: str, device: torch.device) -> str:
    """Settles the precision of a training.

    Args:
        word: one of ``checks.PRECISIONS``; ``auto`` is ``bf16-mixed`` where bfloat16 is native, else ``32-true``.
        device: where the training runs.

    Returns:
        The word for Lightning.

    Raises:
        UserError: the device lacks the precision, so that libraries would emulate it or take another one silently.
    """
    native = bf16_is_native(device)
    if word == "auto":
        return "bf16-mixed" if native else "32-true"
    if device.type == "cpu" and word.startswith("16"):
        # Emulated: a step of ResNet-18 takes 18 times as long as in single precision. Lightning would turn 16-mixed
        # into bf16-mixed with a warning.
        best = "bf16-mixed or 32-true" if native else "32-true"
        raise UserError(f"trainer.precision={word}: a CPU does not compute in half precision; choose {best}")
    if device.type == "cuda" and word.startswith("bf16") and not native:
        major, minor = torch.cuda.get_device_capability(device)
        raise UserError(
            f"trainer.precision={word}: {torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, "
            "and bfloat16 needs 8.0; choose 16-mixed or 32-true"
        )
    if device.type == "mps" and word == "64-true":
        raise UserError("trainer.precision=64-true: Apple's GPUs have no double precision; choose 32-true")
    return word
