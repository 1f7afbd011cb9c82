"""What a model is, counted without running it on data: parameters, multiply-adds, sizes in memory and on disk."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seggrid import results
from seggrid.flops import multiply_adds
from seggrid.models.reach import forward_on_meta
from seggrid.models.segmenter import Segmenter


def count(model: Segmenter, size: tuple[int, int]) -> dict[str, Any]:
    """Counts a model.

    Published "GFLOPs" of vision models are multiply-adds.

    Args:
        model: the model; it is not run on data.
        size: (height, width) of one image.

    Returns:
        The section ``model`` of a record.
    """
    training = model.training
    inference_gmacs = _gmacs(model.eval(), size, batch_size=1)
    # What runs in training under a library's own loss is known to that loss alone.
    training_gmacs = activation_bytes = None
    if model.trains_from_logits:
        with saved_bytes() as sizes:
            training_gmacs = _gmacs(model.train(), size, batch_size=2) / 2
        activation_bytes = sum(sizes) // 2 if model.runs_on_meta else None
    model.train(training)
    params, encoder, aux = (
        _number(weights) for weights in (model.parameters(), model.encoder_parameters(), model.aux_parameters())
    )
    return {
        "params": params,
        "params_encoder": encoder,
        "params_decoder": params - encoder - aux,
        "params_aux": aux,
        "gmacs": round(inference_gmacs, 6),
        "gmacs_aux": None if training_gmacs is None else round(max(0.0, training_gmacs - inference_gmacs), 6),
        "activation_bytes": activation_bytes,
        "checkpoint_bytes": sum(value.nbytes for value in model.network.state_dict().values()),
        "input_size": list(size),
        "output_stride": model.facts.output_stride,
        "encoder_depth": model.facts.encoder_depth,
        "decoder_channels": model.facts.decoder_channels,
        "unmatched": list(model.facts.unmatched),
        "mean": list(model.normalization[0]),
        "std": list(model.normalization[1]),
    }


def describe(record: results.Record, model: Segmenter, size: tuple[int, int]) -> None:
    """Fills in a record what the model is: its counts, and what its library publishes about it.

    Args:
        record: gets ``model`` and ``published``, and the arch and encoder that a saved model says it has.
        model: the model.
        size: (height, width) of its images.
    """
    record.model = count(model, size)
    record.published = model.published
    record.arch, record.encoder = model.arch or record.arch, model.encoder_name or record.encoder


def inference_bytes(model: Segmenter, size: tuple[int, int], batch_size: int) -> int | None:
    """Returns the most bytes that one inference has in use beside the weights.

    Args:
        model: the model, in eval mode; it is not run on data.
        size: (height, width) of the images.
        batch_size: their number.

    Returns:
        The bytes in fp32; None where the network cannot be run without data.
    """
    if not model.runs_on_meta:
        return None
    live = LiveBytes()
    with torch.no_grad(), live:
        forward_on_meta(model, size, batch_size)
    twins = {id(value): value.nbytes for value in (*model.parameters(), *model.buffers())}
    return live.peak - sum(twins.values())  # the weights' twins are made within


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """Lists what the graph that is built within keeps for the backward pass: the bytes of each storage, once.

    Weights, which are there anyway, are left out: on the meta device a forward pass is made of their twins, leaves too.
    """
    sizes: list[int] = []
    seen: dict[int, Tensor] = {}  # with the tensor itself, so that no storage's address is used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen and not (tensor.is_leaf and tensor.requires_grad):
            seen[storage._cdata] = tensor
            sizes.append(storage.nbytes())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how many bytes of the tensors made within are alive; ``peak`` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return outputs

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size


def _gmacs(model: Segmenter, size: tuple[int, int], batch_size: int) -> float:
    return multiply_adds(lambda: forward_on_meta(model, size, batch_size)) / 1e9


def _number(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
