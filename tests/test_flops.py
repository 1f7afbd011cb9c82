"""Multiply-adds, against counts made by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seggrid.counts import count
from seggrid.flops import multiply_adds

BATCH, LENGTH, WIDTH, HEADS, HIDDEN, KEYS = 2, 10, 32, 4, 64, 12
# Four projections, the product of queries and keys, and that of weights and values.
SELF_ATTENTION = BATCH * (4 * LENGTH * WIDTH * WIDTH + 2 * LENGTH * LENGTH * WIDTH)
CROSS_ATTENTION = BATCH * (2 * (LENGTH + KEYS) * WIDTH * WIDTH + 2 * LENGTH * KEYS * WIDTH)


def _sequence(device: str, length: int = LENGTH) -> Tensor:
    return torch.zeros(BATCH, length, WIDTH, device=device)


def _sdpa(device: str) -> Callable[[], Any]:
    shape = (BATCH, HEADS, LENGTH, WIDTH // HEADS)
    query, key = torch.zeros(shape, device=device), torch.zeros(*shape[:2], KEYS, shape[3], device=device)
    mask = torch.ones(LENGTH, KEYS, dtype=torch.bool, device=device)
    return lambda: functional.scaled_dot_product_attention(query, key, key, attn_mask=mask)


def _attention(device: str, keys: int, **arguments: Any) -> Callable[[], Any]:
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, device=device).eval()
    query = _sequence(device)
    others = query if keys == LENGTH else _sequence(device, keys)
    return lambda: module(query, others, others, **arguments)


def _layer(device: str) -> Callable[[], Any]:
    module = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True, device=device).eval()
    source = _sequence(device)
    return lambda: module(source)


@pytest.mark.parametrize("has_graph", [False, True])
@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (_sdpa, BATCH * 2 * LENGTH * KEYS * WIDTH),
        (lambda device: _attention(device, LENGTH), SELF_ATTENTION),
        (lambda device: _attention(device, LENGTH, need_weights=False), SELF_ATTENTION),
        (lambda device: _attention(device, KEYS), CROSS_ATTENTION),
        (_layer, SELF_ATTENTION + BATCH * 2 * LENGTH * WIDTH * HIDDEN),
    ],
    ids=["sdpa", "self-attention", "self-attention without weights", "cross-attention", "layer"],
)
def test_attention_counts_the_same_on_every_path(build: Any, expected: int, device: str, has_graph: bool) -> None:
    # Without a graph PyTorch runs these modules as one operator on the CPU, which it counts as nothing itself.
    with torch.set_grad_enabled(has_graph):
        assert multiply_adds(build(device)) == expected


def test_deformable_attention_counts_four_for_each_value_that_is_sampled(build_model: Any) -> None:
    build_model("mmseg", "fcn", "test_resnet")  # makes MMSegmentation importable
    from mmcv.ops import MultiScaleDeformableAttention

    levels, points = 2, 3
    module = MultiScaleDeformableAttention(WIDTH, HEADS, levels, points, batch_first=True).eval()
    shapes = torch.tensor([[4, 4], [2, 2]])
    values, queries = _sequence("cpu", 20), _sequence("cpu")
    arguments = {
        "value": values,
        "reference_points": torch.full((BATCH, LENGTH, levels, 2), 0.5),
        "spatial_shapes": shapes,
        "level_start_index": torch.tensor([0, 16]),
    }
    samples = LENGTH * HEADS * levels * points
    per_query = 3 * samples * WIDTH  # two offsets and a weight for each sample
    projections = 20 * WIDTH * WIDTH + LENGTH * WIDTH * WIDTH  # of the values, and of the output
    sampled = 4 * samples * (WIDTH // HEADS)
    with torch.no_grad():
        assert multiply_adds(lambda: module(queries, **arguments)) == BATCH * (per_query + projections + sampled)


def test_a_nearest_sample_is_no_multiplication() -> None:
    image, grid = torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 7, 2)
    modes = {"nearest": 0, "bilinear": 4, "bicubic": 16}
    for mode, each in modes.items():
        run = lambda: functional.grid_sample(image, grid, mode=mode, align_corners=False)  # noqa: B023, E731
        assert multiply_adds(run) == each * 3 * 5 * 7


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), 6 * 6 * 8 * 4 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), 3 * 3 * 8 * 9),
        # Each input value meets each weight of its channel, whatever the stride.
        (nn.ConvTranspose2d(4, 8, 2, stride=2), 6 * 6 * 4 * 8 * 4),
        (nn.ConvTranspose2d(4, 4, 4, stride=4, groups=4), 6 * 6 * 4 * 16),
        (nn.BatchNorm2d(4), 0),
    ],
)
def test_convolutions_count_their_products_alone(module: nn.Module, expected: int) -> None:
    assert multiply_adds(lambda: module.eval()(torch.zeros(1, 4, 6, 6))) == expected


def test_mask2former_counts_with_its_deformable_attention(build_model: Any) -> None:
    model = build_model("mmseg", "mask2former", "test_resnet").eval()
    size = 64
    samples = sum((size // stride) ** 2 for stride in (8, 16, 32)) * 8 * 3 * 4  # queries, heads, levels, points
    sampled = 6 * samples * 32 * 4 / 1e9  # layers; values a sample; 4 each
    with_sampling = count(model, (size, size))["gmacs"]
    from seggrid import flops

    formula = flops.FORMULAS.pop(torch.ops.aten.grid_sampler_2d)
    try:
        without = count(model, (size, size))["gmacs"]
    finally:
        flops.FORMULAS[torch.ops.aten.grid_sampler_2d] = formula
    assert with_sampling - without == pytest.approx(sampled, abs=2e-6)
    assert without > sampled > 0
