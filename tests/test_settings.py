"""The settings that have one name in all libraries reach the network; what a library cannot do is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from seggrid import models
from seggrid.checks import ImpossibleCellError
from seggrid.config import OptimizerConfig
from seggrid.errors import UserError
from seggrid.models import measured
from seggrid.optim import build_optimizer

CONF = Path(__file__).resolve().parent.parent / "conf"
ARCHS = [yaml.safe_load(file.read_text()) for file in sorted(CONF.glob("arch/*.yaml"))]
LIBRARIES = ("smp", "torchvision", "mmseg")
ROWS = {(backend, arch["name"]): arch for arch in ARCHS for backend in LIBRARIES if backend in arch["backends"]}
ROWS = {row: arch for row, arch in ROWS.items() if arch["backends"][row[0]].get("encoders") != "native"}
# Of MMSegmentation's those that another library has too: the others are built in the same way.
ROWS = {(backend, name): arch for (backend, name), arch in ROWS.items() if backend != "mmseg" or "equal" in arch}
CNN, VIT, PYRAMID = "test_resnet", "test_vit", "pvt_v2_b0"


def _encoder(arch: str) -> str:
    return VIT if arch == "dpt" else CNN


def _network_width(segmenter: models.Segmenter) -> int:
    """The channels that the head's convolution really has."""
    network: Any = segmenter.network
    if hasattr(network, "segmentation_head"):
        head = network.segmentation_head
    elif hasattr(network, "decode_head"):
        head = network.decode_head.conv_seg
    else:
        head = getattr(network.classifier, "high_classifier", None) or network.classifier[-1]
    return next(item for item in head.modules() if isinstance(item, nn.Conv2d)).weight.shape[1]


def _network_stride(segmenter: models.Segmenter) -> int:
    """The image's height over that of the last feature map, of a real pass."""
    network: Any = segmenter.eval().network
    with torch.no_grad():
        features = (network.encoder if hasattr(network, "encoder") else network.backbone)(torch.zeros(1, 3, 64, 64))
    if isinstance(features, dict):
        return 64 // list(features.values())[-1].shape[-2]
    last = features[0][-1] if isinstance(features[0], list) else features[-1]
    return 64 // last.shape[-2]


def _refused(build_model: Any, *cell: str) -> str:
    with pytest.raises(ImpossibleCellError) as error:
        build_model(*cell)
    message = str(error.value)
    assert message.isprintable() and len(message) < 500
    return message


@pytest.mark.parametrize(("backend", "arch"), ROWS)
def test_the_decoders_width_reaches_the_network_or_is_refused(backend: str, arch: str, build_model: Any) -> None:
    cell = (backend, arch, _encoder(arch), "arch.decoder_channels=96")
    if backend == "mmseg" or "decoder_channels" in ROWS[backend, arch]["backends"][backend].get("names", {}):
        segmenter = build_model(*cell)
        assert _network_width(segmenter) == segmenter.facts.decoder_channels == 96
        assert segmenter.eval()(torch.zeros(1, 3, 65, 97)).logits.shape == (1, 5, 65, 97)
    else:
        assert "arch.decoder_channels=96 cannot be had" in _refused(build_model, *cell)


@pytest.mark.parametrize("stride", [16, *(pytest.param(stride, marks=pytest.mark.slow) for stride in (8, 32))])
@pytest.mark.parametrize(("backend", "arch"), ROWS)
def test_the_output_stride_reaches_the_network_or_is_refused(
    backend: str, arch: str, stride: int, build_model: Any
) -> None:
    default = build_model(backend, arch, _encoder(arch)).facts.output_stride
    can = {
        **{("smp", name): {8, 16} for name in ("deeplabv3", "deeplabv3plus")},
        ("smp", "pan"): {16, 32},
        **{(library, name): {8, 16, 32} for library, name in ROWS if library != "smp"},
    }.get((backend, arch), {default})
    cell = (backend, arch, _encoder(arch), f"arch.output_stride={stride}")
    if stride in can:
        segmenter = build_model(*cell)
        assert _network_stride(segmenter) == segmenter.facts.output_stride == stride
    else:
        assert f"arch.output_stride={stride}" in _refused(build_model, *cell)


@pytest.mark.parametrize("depth", [3, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (4, 5))])
@pytest.mark.parametrize("arch", [arch for backend, arch in ROWS if backend == "smp" and arch != "dpt"])
def test_smps_encoder_gets_shallower_and_its_logits_stay_at_the_images_size(
    arch: str, depth: int, build_model: Any
) -> None:
    segmenter = build_model("smp", arch, CNN, f"encoder.depth={depth}")
    network: Any = segmenter.eval().network
    with torch.no_grad():
        assert len(network.encoder(torch.zeros(1, 3, 64, 64))) == depth + 1  # the image is the first
        assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 5, 256, 256)
    assert segmenter.facts.encoder_depth == depth
    assert _network_stride(segmenter) == segmenter.facts.output_stride


def test_smps_pspnet_can_have_the_depth_and_the_stride_of_the_others(build_model: Any) -> None:
    for encoder in (CNN, "smp/resnet18"):
        segmenter = build_model("smp", "pspnet", encoder, "encoder.depth=5", "arch.output_stride=8")
        assert (segmenter.facts.encoder_depth, segmenter.facts.output_stride) == (5, 8)
        assert _network_stride(segmenter) == 8
        with torch.no_grad():
            assert segmenter.network(torch.zeros(1, 3, 64, 64)).shape[-2:] == (64, 64)


@pytest.mark.parametrize(
    ("backend", "arch", "encoder", "depth"),
    [
        ("smp", "unet", "smp/resnet18", 6),
        ("smp", "fpn", CNN, 2),
        ("smp", "dpt", VIT, 3),
        ("torchvision", "fcn", CNN, 4),
    ],
)
def test_a_depth_that_cannot_be_had_is_refused(
    backend: str, arch: str, encoder: str, depth: int, build_model: Any
) -> None:
    assert f"encoder.depth={depth}" in _refused(build_model, backend, arch, encoder, f"encoder.depth={depth}")


def test_a_plain_vit_has_no_stem(build_model: Any) -> None:
    assert build_model("torchvision", "fcn", VIT).facts.encoder_depth == 4
    assert build_model("torchvision", "fcn", CNN).facts.encoder_depth == 5
    assert build_model("smp", "dpt", VIT).facts.encoder_depth == 4
    assert build_model("smp", "unet", PYRAMID).facts.encoder_depth == 5  # SMP puts an empty map where its stem would be


@pytest.mark.parametrize(
    ("encoder", "strides"),
    [
        ("torchvision/mobilenet_v3_large", (16, 32)),
        pytest.param("torchvision/resnet50", (8, 16, 32), marks=pytest.mark.slow),
    ],
)
def test_torchvisions_own_backbones_have_the_strides_that_its_constructors_give(
    encoder: str, strides: tuple[int, ...], build_model: Any
) -> None:
    for stride in (8, 16, 32):
        cell = ("torchvision", "fcn", encoder, f"arch.output_stride={stride}")
        if stride in strides:
            segmenter = build_model(*cell)
            assert _network_stride(segmenter) == segmenter.facts.output_stride == stride
        else:
            assert f"arch.output_stride={stride} cannot be had" in _refused(build_model, *cell)


def test_a_published_default_that_is_named_keeps_the_published_model(build_model: Any) -> None:
    cell = ("torchvision", "lraspp", "torchvision/mobilenet_v3_large")
    plain = build_model(*cell).network.state_dict().keys()
    named = build_model(*cell, "arch.output_stride=16", "arch.decoder_channels=128").network.state_dict().keys()
    assert named == plain


def test_a_setting_that_torchvision_does_not_have_is_refused(build_model: Any) -> None:
    with pytest.raises(UserError, match=r"has no dropout; it takes output_stride"):
        build_model("torchvision", "fcn", CNN, "+arch.backends.torchvision.dropout=0.1")


# match=equal


def _equal(model_config: Any, *cell: str) -> models.Segmenter:
    config = model_config(*cell)
    config.match = "equal"
    return models.build(config)


@pytest.mark.parametrize(("backend", "arch"), [row for row, arch in ROWS.items() if "equal" in arch])
def test_equal_is_had_or_what_is_not_is_said(backend: str, arch: str, model_config: Any) -> None:
    segmenter = _equal(model_config, backend, arch, _encoder(arch))
    facts = segmenter.facts
    assert (_network_stride(segmenter), _network_width(segmenter)) == (facts.output_stride, facts.decoder_channels)
    wanted = ROWS[backend, arch]["equal"]
    differing = [
        f"{key} {getattr(facts, key)}, not {value}" for key, value in wanted.items() if getattr(facts, key) != value
    ]
    assert list(facts.unmatched) == differing
    assert bool(differing) == ((backend, arch) == ("torchvision", "fcn"))  # its head is a quarter of its encoder


def test_equal_gives_every_librarys_deeplabv3_the_same_facts(model_config: Any) -> None:
    smp, torchvision, mmseg = (_equal(model_config, backend, "deeplabv3", CNN).facts for backend in LIBRARIES)
    assert smp == torchvision == mmseg
    assert smp.unmatched == ()


def test_equal_is_a_wish_and_an_explicit_setting_a_must(model_config: Any) -> None:
    config = model_config("smp", "deeplabv3plus", CNN, "arch.output_stride=16")
    config.match = "equal"
    facts = models.build(config).facts
    assert (facts.output_stride, facts.unmatched) == (16, ())
    facts = _equal(model_config, "torchvision", "deeplabv3", PYRAMID).facts
    assert facts.unmatched == ("output_stride 32, not 8",)
    config = model_config("torchvision", "deeplabv3", PYRAMID, "arch.output_stride=8")
    config.match = "equal"
    with pytest.raises(ImpossibleCellError, match=r"arch\.output_stride=8 cannot be had"):
        models.build(config)


# A frozen encoder


@pytest.mark.parametrize(
    ("backend", "arch", "encoder"),
    [
        ("smp", "unet", CNN),
        ("smp", "fpn", "smp/resnet18"),
        ("torchvision", "fcn", CNN),
        ("torchvision", "lraspp", "torchvision/mobilenet_v3_large"),
        ("mmseg", "fcn", CNN),
        ("mmseg", "erfnet", "native"),
    ],
)
def test_a_frozen_encoder_stays_as_it_is(backend: str, arch: str, encoder: str, build_model: Any) -> None:
    segmenter = build_model(backend, arch, encoder, "encoder.frozen=true").train()
    config = OptimizerConfig("adamw", lr=0.1, weight_decay=0.1)
    optimizer = build_optimizer(segmenter, segmenter.encoder_parameters(), config)
    assert {group["name"] for group in optimizer.param_groups} == {"decoder", "decoder_no_decay"}
    part = "encoder." if backend == "smp" else "backbone."
    before = copy.deepcopy(segmenter.network.state_dict())
    output = segmenter(torch.randn(2, 3, 64, 64))
    torch.stack([item.square().mean() for item in (output.logits, *output.aux)]).sum().backward()
    optimizer.step()
    after = segmenter.network.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed
    assert not [key for key in changed if key.startswith(part)]


# Measuring


class _Looks(nn.Module):
    """Looks at its values, which the meta device does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = self.norm(self.conv(images))
        return [features, features[..., ::2, ::2] * (2.0 if features.sum().item() > 0 else 1.0)]


def test_an_encoder_that_looks_at_its_values_is_measured_and_left_as_it_was() -> None:
    encoder = _Looks()
    before = copy.deepcopy(encoder.state_dict())
    assert measured.strides(encoder, (224, 224)) == [4, 8]
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
