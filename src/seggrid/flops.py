"""What ``FlopCounterMode`` does not count of the multiply-adds of a segmentation model.

On the meta device PyTorch takes attention apart into the two matrix products that are counted. Run for real, in
evaluation and without a graph, the same modules call one operator that PyTorch 2.15 has no formula for and counts as
nothing; 2.11 has none for attention on the CPU either. Sampling, the better part of deformable attention, is counted on
no device.

Formulas take what ``custom_mapping`` gives them, shapes in place of tensors, and return operations: two for each
multiply-add, as those of ``torch.utils.flop_counter`` do. What is done to each value by itself (norms, activations,
softmax, gates, the sum of samples by their weights, the resizing of a map) is counted by neither.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]
aten = torch.ops.aten
NEIGHBOURS = {0: 4, 1: 0, 2: 16}  # bilinear, nearest, bicubic: the values that are weighted for one sample


def multiply_adds(run: Callable[[], Any]) -> int:
    """Counts what ``run`` computes.

    Args:
        run: runs a model, on the meta device or on any other.

    Returns:
        The number of multiply-adds.
    """
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def sampling(images: Shape, grid: Shape, interpolation: int = 0, *_: Any, out_shape: Shape, **__: Any) -> int:
    """``grid_sample``: each value is the sum of its neighbours by their weights.

    fvcore counts four for a bilinear sample, too (``aten::grid_sampler`` in ``fvcore.nn.flop_count``).
    """
    return 2 * NEIGHBOURS[interpolation] * prod(out_shape)


def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Attention of ``(B, heads, length, width)``: a product for the weights, and one of these with the values."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


def multi_head_attention(query: Shape, key: Shape, value: Shape, width: int, *_: Any, **__: Any) -> int:
    """``nn.MultiheadAttention`` on ``(B, length, width)``: four projections, and attention."""
    batch, length, keys = query[0], query[1], key[1]
    projections = batch * (2 * length + 2 * keys) * width * width
    return 2 * projections + attention((batch, 1, length, width), (batch, 1, keys, width), (batch, 1, keys, width))


def transformer_layer(source: Shape, width: int, *arguments: Any, **_: Any) -> int:
    """``nn.TransformerEncoderLayer`` on ``(B, length, width)``: attention of the sequence to itself, two linear layers.

    The first linear layer's weight, ``(hidden, width)``, is the fifteenth argument.
    """
    hidden: int = arguments[FIRST_LINEAR][0]
    return multi_head_attention(source, source, source, width) + 2 * 2 * source[0] * source[1] * width * hidden


FIRST_LINEAR = 12  # of the arguments that follow the first two
FORMULAS: dict[Any, Callable[..., int]] = {
    aten.grid_sampler_2d: sampling,
    aten._scaled_dot_product_flash_attention_for_cpu: attention,
    aten._native_multi_head_attention: multi_head_attention,
    aten._transformer_encoder_layer_fwd: transformer_layer,
}
