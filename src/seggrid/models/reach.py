"""A forward pass on the meta device: no memory, little time, and the graph and the counts are the real ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seggrid.models.segmenter import FAULTS, Segmenter, SegOutput

ODD_SIZE = (129, 163)
LARGE_SIZE = (1027, 1061)


def forward_on_meta(
    segmenter: Segmenter, size: tuple[int, int], batch_size: int = 2
) -> tuple[SegOutput, dict[str, Tensor]]:
    """Runs the model without data.

    Args:
        segmenter: the model; it stays as it is, its buffers too.
        size: (height, width) of the images.
        batch_size: number of images; batch norm after global pooling needs two in training mode.

    Returns:
        The output, and the parameters it was computed from, by name; all on the meta device. Where the network looks
        at its values on the way (``runs_on_meta`` is False) it is run for real, on zeros and without a graph.
    """
    if segmenter.runs_on_meta:
        return on_meta(segmenter, size, batch_size)
    parameters: dict[str, Tensor] = dict(segmenter.named_parameters())
    buffers = {name: value.clone() for name, value in segmenter.named_buffers()}
    images = torch.zeros(batch_size, 3, *size, device=next(iter(parameters.values())).device)
    with torch.no_grad():
        output: SegOutput = functional_call(segmenter, buffers, (images,))
    return output, parameters


def on_meta(module: nn.Module, size: tuple[int, int], batch_size: int) -> tuple[Any, dict[str, Tensor]]:
    """As :func:`forward_on_meta`, of any module that takes images."""
    twins: dict[int, Tensor] = {}

    def twin(tensor: Tensor) -> Tensor:
        made = torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        return twins.setdefault(id(tensor), made)

    # Each once by the module that has it: functional_call's own way to tie weights leaves a module that stands at two
    # places with the meta tensors.
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for place, child in module.named_modules():
        prefix = f"{place}." if place else ""
        parameters |= {prefix + name: twin(weight) for name, weight in child.named_parameters(recurse=False)}
        buffers |= {prefix + name: twin(value) for name, value in child.named_buffers(recurse=False)}
    images = torch.empty(batch_size, 3, *size, device="meta")
    return functional_call(module, {**parameters, **buffers}, (images,), tie_weights=False), parameters


def find_padding(segmenter: Segmenter) -> None:
    """Sets the smallest divisor of the image size, and then the smallest size, that the model works with.

    A model that works with none of the divisors keeps 1: it has one fixed size, and smaller images are padded to it.
    """
    with _probed(segmenter):
        _find_padding(segmenter)


def nearest_size(segmenter: Segmenter, size: tuple[int, int], batch_size: int = 2) -> tuple[int, int] | None:
    """Finds the image size next to one that the model does not work with.

    Args:
        segmenter: the model, in the mode that is meant.
        size: (height, width) of the images.
        batch_size: number of images.

    Returns:
        The nearest (height, width) of those tried: multiples of 32 to 256 and of the size that the model was made for,
        and what is padded to the latter. ``size`` itself where the model does work with it; None where it works with
        none of them.
    """
    heights, widths = (_near(side, native) for side, native in zip(size, segmenter.native_size, strict=True))
    sizes = sorted(product(heights, widths), key=lambda other: abs(other[0] - size[0]) + abs(other[1] - size[1]))
    with _probed(segmenter):
        return next((other for other in [size, *sizes] if _works(segmenter, other, batch_size)), None)


def _near(side: int, native: int) -> set[int]:
    multiples = {unit * count for unit in (32, 64, 128, 256, native) for count in (side // unit, side // unit + 1)}
    return {*multiples, min(side, native)} - {0}


@contextmanager
def _probed(segmenter: Segmenter) -> Iterator[None]:
    """Has the model raise its errors as they are, in a mode in which it can be run."""
    training, explains = segmenter.training, segmenter.explains
    segmenter.train(training and segmenter.trains_from_logits)  # else the library's own loss alone knows what to run
    segmenter.explains = False
    try:
        with _QuickBatchNorm():
            yield
    finally:
        segmenter.train(training)
        segmenter.explains = explains


def _find_padding(segmenter: Segmenter) -> None:
    segmenter.smallest = 1
    try:
        on_meta(segmenter, segmenter.native_size, batch_size=2)
    except (RuntimeError, NotImplementedError) as error:
        segmenter.runs_on_meta = "meta" not in str(error)
    except FAULTS:
        pass  # another size may do
    large = LARGE_SIZE if segmenter.runs_on_meta else ODD_SIZE
    for divisor in (1, segmenter.facts.output_stride, 32):
        segmenter.divisor = divisor
        if _works(segmenter, large):
            break
    else:
        segmenter.divisor, segmenter.has_fixed_size = 1, True
        return
    # 128: SMP's PAN halves its last feature map, of stride 16, three times. 1024: MMSegmentation's LR-ASPP pools 49
    # pixels of a map of stride 16.
    for smallest in (1, 32, 64, 128, 256, 512, 1024):
        segmenter.smallest = smallest
        if _works(segmenter, (1, 1)) and _works(segmenter, ODD_SIZE):
            return


def _works(segmenter: Segmenter, size: tuple[int, int], batch_size: int = 2) -> bool:
    try:
        forward_on_meta(segmenter, size, batch_size)
    except FAULTS:
        return False
    return True


class _QuickBatchNorm(TorchFunctionMode):
    """Batch norm on the meta device as one operation of the same shape and graph.

    PyTorch's own way there takes it apart in Python, which is four fifths of the time of a pass through a ResNet.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm and len(args) >= 5:  # as nn.BatchNorm2d calls it
            images, _, _, weight, bias = args[:5]
            has_more_than_one_value = images.numel() > images.shape[1]
            if images.is_meta and weight is not None and bias is not None and has_more_than_one_value:
                shape = (1, -1, *(1 for _ in images.shape[2:]))
                return torch.addcmul(bias.view(shape), images, weight.view(shape))
        return func(*args, **kwargs)


def drop_unreached(segmenter: Segmenter) -> None:
    """Takes the parameters that no gradient can reach out of training.

    A library may build stages that its decoder never reads (SMP's PSPNet on SMP's own ResNet-18: 10.5M of 11.4M
    parameters at 21 classes). Distributed training fails on them, and a count that includes them lies. They keep
    their place in the state dict. Where the network cannot run on the meta device nothing is known, and nothing done.
    """
    if not segmenter.runs_on_meta:
        return
    with _QuickBatchNorm():
        output, parameters = forward_on_meta(segmenter, segmenter.native_size)
    reached = _leaves([output.logits, *output.aux])
    for name, weight in segmenter.named_parameters():
        if id(parameters[name]) not in reached:
            weight.requires_grad_(False)


def _leaves(outputs: list[Tensor]) -> set[int]:
    """Returns the ids of the leaf tensors that the outputs were computed from."""
    found: set[int] = set()
    seen: set[Any] = set()
    todo: list[Any] = [output.grad_fn for output in outputs]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        todo.extend(function for function, _ in node.next_functions)
    return found
