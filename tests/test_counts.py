"""Counts: what they are made of, and that what is foretold of memory is what is used."""

import pytest
import torch

from seggrid import models
from seggrid.config import ArchConfig, BackendConfig, EncoderConfig, ModelConfig
from seggrid.counts import LiveBytes, count, inference_bytes, saved_bytes
from seggrid.models import Segmenter

SIZE = (64, 96)


def _model(backend: str = "smp", arch: str = "unet", encoder: str = "resnet10t", **settings: object) -> Segmenter:
    config = ArchConfig(arch, {backend: dict(settings)})
    return models.build(ModelConfig(BackendConfig(backend), config, EncoderConfig(encoder, pretrained=False), 5))


def test_the_parts_of_a_model_add_up_to_the_whole() -> None:
    model = _model("mmseg", "fcn", base="fcn_r50-d8")
    counted = count(model, SIZE)
    assert counted["params"] == sum(counted[f"params_{part}"] for part in ("encoder", "decoder", "aux"))
    assert min(counted[f"params_{part}"] for part in ("encoder", "decoder", "aux")) > 0
    assert counted["gmacs_aux"] > 0


def test_a_checkpoint_is_as_large_as_its_tensors(tmp_path) -> None:
    model = _model()
    path = tmp_path / "weights.pth"
    torch.save(model.network.state_dict(), path)
    counted = count(model, SIZE)["checkpoint_bytes"]
    assert counted <= path.stat().st_size <= 1.02 * counted + 50_000  # names and places


def test_activations_are_what_the_graph_keeps() -> None:
    # y = relu(conv(x)): the convolution keeps its input, the ReLU its output; the weights do not count.
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    images = torch.randn(2, 3, 16, 16)
    with saved_bytes() as sizes:
        torch.relu(layer(images)).sum()
    assert sum(sizes) == images.nbytes + 2 * 8 * 16 * 16 * 4


def test_activations_grow_with_the_image_and_not_with_the_batch() -> None:
    small, large = (count(_model(), size)["activation_bytes"] for size in ((64, 64), (128, 128)))
    assert 3.9 < large / small < 4.1


def test_live_bytes_are_those_of_the_tensors_that_are_alive() -> None:
    with LiveBytes() as live:
        first = torch.empty(1000, device="meta")
        second = first + 1
        del first
        third = second * 2
        del second, third
    assert live.peak == 2 * 4000


def test_views_are_not_counted_twice() -> None:
    with LiveBytes() as live:
        whole = torch.empty(10, 100, device="meta")
        _ = [whole[index] for index in range(10)]
        whole.view(-1).relu_()
    assert live.peak == 4000


def test_an_inference_needs_more_for_more() -> None:
    model = _model().eval()
    one, four = (inference_bytes(model, SIZE, batch_size) for batch_size in (1, 4))
    assert one is not None
    assert four is not None
    assert 3.5 < four / one <= 4.5
    logits = 5 * SIZE[0] * SIZE[1] * 4
    assert logits < one < 500 * logits
    assert all(weight.device.type == "cpu" for weight in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_model_as_it_was(training: bool) -> None:
    model = _model().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, SIZE)
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
