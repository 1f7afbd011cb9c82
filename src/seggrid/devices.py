"""The device that a model runs on."""

import torch

from seggrid import results
from seggrid.errors import UserError


def pick_device(key: str, word: str) -> torch.device:
    """Turns a word for a kind of device into one.

    Args:
        key: the configuration's key, for the message.
        word: ``auto``, ``cpu``, ``cuda``, ``mps`` or, Lightning's word for either of these, ``gpu``.

    Raises:
        UserError: there is none of this kind.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = word
    if word in ("auto", "gpu"):
        kind = next(name for name, there in available.items() if there or name == "cpu")
        kind = "cuda" if (word, kind) == ("gpu", "cpu") else kind
    if not available[kind]:
        why = {"cuda": f"PyTorch {torch.__version__} finds no GPU and driver", "mps": "this is no Mac with its GPU"}
        raise UserError(f"{key}={word} is not available: {why[kind]}; say {key}=cpu, or auto for what there is")
    return torch.device(kind)


def device_name(device: torch.device) -> str:
    """Returns the name that a reader of a record recognises."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else results.cpu_name()
