"""What a library has built, measured by running it: its word and its numbers for it may be others'."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from seggrid.models.reach import on_meta

MULTIPLE = (256, 256)  # of every stride there is


def run(module: nn.Module, size: tuple[int, int]) -> Any:
    """Runs a module in eval mode, on the meta device where it can be, else for real; its buffers stay as they are.

    Args:
        module: takes images ``(B, 3, H, W)``.
        size: (H, W).

    Raises:
        Exception: whatever the module raises.
    """
    training = module.training
    module.eval()
    try:
        try:
            return on_meta(module, size, batch_size=2)[0]
        except Exception:  # a network that looks at its values; what else is wrong is raised again below
            buffers = {name: value.clone() for name, value in module.named_buffers()}
            with torch.no_grad():
                return functional_call(module, buffers, (torch.zeros(2, 3, *size),))
    finally:
        module.train(training)


def strides(encoder: nn.Module, native_size: tuple[int, int]) -> list[int]:
    """Returns pixels of the image per pixel of each feature map, in the encoder's order.

    Args:
        encoder: gives feature maps ``(B, C, h, w)``, in a list, a tuple or a dict, or one.
        native_size: (height, width) that it was made for, where it takes no other.

    Returns:
        The strides; empty where the encoder runs at neither size, or gives no such maps.
    """
    for size in (MULTIPLE, native_size):
        try:
            output = run(encoder, size)
        except Exception:
            continue
        return [2 ** round(math.log2(size[0] / item.shape[-2])) for item in maps(output)]
    return []


def maps(value: Any) -> Iterator[Tensor]:
    """Yields the feature maps ``(B, C, h, w)`` in an encoder's output, which may nest them."""
    if isinstance(value, Tensor) and value.ndim == 4:
        yield value
    elif isinstance(value, dict):
        yield from maps(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from maps(item)
