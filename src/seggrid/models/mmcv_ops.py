"""Lets MMSegmentation run where mmcv has no compiled operators.

No wheel of mmcv with compiled operators exists for current PyTorch, and its source build fails there. mmcv-lite has
the same Python code, and asks at import for a module ``mmcv._ext`` that has every operator as an attribute. Of these
MMSegmentation's methods call two: PSANet's ``psamask``, which is here in plain PyTorch, and on a GPU the deformable
attention of Mask2Former, for which mmcv has a path in plain PyTorch that it takes on the CPU alone; here it takes it
everywhere. A call of any other operator says what is missing. A compiled mmcv, where a user has one, is left as it is.

This file can go when MMSegmentation runs on an mmcv that has wheels for current PyTorch.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


class _Operators(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"mmcv's compiled operator {name} is not installed")

        return missing


def install() -> None:
    """Puts the stand-in into ``sys.modules`` unless the real module is there."""
    name = "mmcv._ext"
    if name in sys.modules or find_spec(name) is not None:
        return
    module: Any = _Operators(name)
    module.__spec__ = ModuleSpec(name, None)
    module.psamask_forward = psamask_forward
    module.psamask_backward = psamask_backward
    sys.modules[name] = module
    # The name asks "may the compiled operator be called?", and is asked at each call.
    attention: Any = import_module("mmcv.ops.multi_scale_deform_attn")
    attention.IS_CUDA_AVAILABLE = False


def psamask_forward(masks: Tensor, output: Tensor, psa_type: int, **sizes: int) -> None:
    """Spreads each pixel's attention mask over the whole feature map (Zhao et al. 2018, PSANet).

    Args:
        masks: ``(B, h_mask * w_mask, H, W)``: for each pixel the attention around it, itself in the middle.
        output: ``(B, H * W, H, W)``, zeros, filled in place.
        psa_type: 0, ``collect``: the attention of pixel (h, w) for pixel n goes to [n, h, w]; 1, ``distribute``: to
            [(h, w), n].
        sizes: as mmcv calls them.
    """
    index, inside = _neighbours(masks.device, **sizes)
    flat = masks.flatten(2)  # (B, K, N)
    spread = torch.where(inside, flat, 0)
    target = output.flatten(2) if psa_type == 0 else output.flatten(2).transpose(1, 2)
    target.scatter_add_(1, index.expand(len(masks), -1, -1), spread)


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int, **sizes: int) -> None:
    """Fills ``grad_input``, of the shape of the masks, with the gradient of :func:`psamask_forward`."""
    index, inside = _neighbours(grad_output.device, **sizes)
    source = grad_output.flatten(2) if psa_type == 0 else grad_output.flatten(2).transpose(1, 2)
    gathered = source.gather(1, index.expand(len(grad_output), -1, -1))
    grad_input.copy_(torch.where(inside, gathered, 0).view_as(grad_input))


def _neighbours(
    device: torch.device,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
    **_: int,
) -> tuple[Tensor, Tensor]:
    """Returns for each place in the mask and each pixel the pixel it means, ``(K, N)``, and whether there is one."""
    rows = torch.arange(h_feature, device=device).view(1, 1, -1, 1) + torch.arange(h_mask, device=device).view(
        -1, 1, 1, 1
    )
    columns = torch.arange(w_feature, device=device) + torch.arange(w_mask, device=device).view(1, -1, 1, 1)
    rows, columns = rows - half_h_mask, columns - half_w_mask
    inside = (rows >= 0) & (rows < h_feature) & (columns >= 0) & (columns < w_feature)
    index = torch.where(inside, rows * w_feature + columns, 0)
    shape = (h_mask * w_mask, h_feature * w_feature)
    return index.reshape(shape), inside.reshape(shape)
