"""``backend=custom``: a network of the user's own."""

import copy
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seggrid import models
from seggrid.config import ArchConfig, BackendConfig, EncoderConfig, ModelConfig
from seggrid.errors import UserError
from seggrid.models.reach import forward_on_meta

CLASSES = 5
NETWORKS = '''
import torch
from torch import nn
from torch.nn import functional


class Plain(nn.Module):
    """Logits at an eighth of the images' size."""

    def __init__(self, num_classes, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=8, padding=1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        return self.head(self.conv(images).relu())


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.BatchNorm2d(4))
        self.stage = nn.Sequential(nn.Conv2d(4, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8))

    def forward(self, images):
        first = self.stem(images)
        return [first, self.stage(first)]


class WithParts(nn.Module):
    """An encoder, an auxiliary head, and torchvision's dict."""

    def __init__(self, num_classes):
        super().__init__()
        self.backbone = Encoder()
        self.classifier = nn.Conv2d(8, num_classes, 1)
        self.aux_classifier = nn.Conv2d(4, num_classes, 1)

    def forward(self, images):
        first, last = self.backbone(images)
        return {"out": self.classifier(last), "aux": self.aux_classifier(first)}

    def native_loss(self, images, masks, ignore_index):
        logits = functional.interpolate(self(images)["out"], masks.shape[-2:])
        return {"loss_own": functional.cross_entropy(logits, masks, ignore_index=ignore_index)}


class Tuple(Plain):
    def forward(self, images):
        logits = super().forward(images)
        return (logits, logits[..., ::2, ::2]) if self.training else logits


class Looks(nn.Module):
    """Looks at its values, as no network on the meta device can."""

    def __init__(self, num_classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, num_classes, 1)

    def forward(self, images):
        return self.head(self.norm(images)) * (2.0 if images.mean().item() > 0 else 1.0)


class Of32(Plain):
    def forward(self, images):
        assert images.shape[-1] % 32 == images.shape[-2] % 32 == 0, "multiples of 32 only"
        return super().forward(images)


class NoClasses(nn.Module):
    def __init__(self, width=8):
        super().__init__()


class Wrong(Plain):
    def forward(self, images):
        return super().forward(images)[:, 1:]


class Flat(Plain):
    def forward(self, images):
        return super().forward(images).mean((2, 3))


class Nothing(Plain):
    def forward(self, images):
        return {"logits": super().forward(images)}


class Fails(Plain):
    def forward(self, images):
        raise RuntimeError("the user's own\\nfault")


class FailsAtOnce(nn.Module):
    def __init__(self, num_classes):
        raise ValueError("no licence")


def make(num_classes, **options):
    return Plain(num_classes, **options)


def number(num_classes):
    return 3


FIVE = 5
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The user's folder, which is current, and not on the path before it is needed."""
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    (tmp_path / "broken_networks.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    path = [item for item in sys.path if item not in ("", str(tmp_path))]
    monkeypatch.setattr(sys, "path", path)
    yield tmp_path
    for name in ("my_networks", "broken_networks"):
        sys.modules.pop(name, None)


def _config(
    target: str | None, weights: Any = None, encoder: EncoderConfig | None = None, **options: Any
) -> ModelConfig:
    name = target if target is None or "." in target else f"my_networks.{target}"
    arch = ArchConfig("custom", {"custom": {"encoders": "native"}}, target=name, options=options)
    chosen = encoder or EncoderConfig("native")
    return ModelConfig(
        BackendConfig("custom"), arch, chosen, CLASSES, weights=None if weights is None else str(weights)
    )


def _build(*described: Any, **options: Any) -> models.Segmenter:
    torch.manual_seed(0)
    return models.build(_config(*described, **options))


def _message(*described: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        _build(*described, **options)
    message = str(error.value)
    assert message.isprintable() and len(message) < 500, message
    return message


def _images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def test_it_is_composed_from_the_command_lines_words(compose: Any) -> None:
    config = compose("profile", "backend=custom", "arch.target=my_networks.Plain", "+arch.options.width=16")
    assert (config.arch.name, config.encoder.name) == ("custom", "native")
    segmenter = models.build(ModelConfig(config.backend, config.arch, config.encoder, CLASSES))
    assert segmenter.network.conv.weight.shape[0] == 16
    assert os.getcwd() in sys.path


@pytest.mark.parametrize("target", ["Plain", "WithParts", "Tuple", "Looks", "Of32", "make"])
@pytest.mark.parametrize("size", [(65, 97), (1, 1)])
def test_logits_are_at_the_images_size_and_every_parameter_trains(target: str, size: tuple[int, int]) -> None:
    segmenter = _build(target)
    output = segmenter.eval()(_images(*size))
    assert output.logits.shape == (2, CLASSES, *size)
    assert output.aux == ()
    output = segmenter.train()(_images(*size))
    assert [item.shape for item in output.aux] == [output.logits.shape] * (target in ("WithParts", "Tuple"))
    torch.stack([item.square().mean() for item in (output.logits, *output.aux)]).sum().backward()
    assert all(weight.requires_grad and weight.grad is not None for weight in segmenter.parameters())


def test_the_logits_are_the_networks_own() -> None:
    segmenter = _build("Plain").eval()
    images = _images(64, 96)
    wanted = functional.interpolate(segmenter.network(images), (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(segmenter(images).logits, wanted)


def test_building_leaves_batch_statistics_alone() -> None:
    segmenter = _build("Looks")
    assert not segmenter.runs_on_meta
    forward_on_meta(segmenter.train(), (32, 32))
    assert segmenter.network.norm.num_batches_tracked == 0
    assert torch.equal(segmenter.network.norm.running_mean, torch.zeros(3))


def test_its_parts_are_found_and_measured() -> None:
    segmenter = _build("WithParts")
    network: Any = segmenter.network
    assert list(segmenter.encoder_parameters()) == list(network.backbone.parameters())
    assert list(segmenter.aux_parameters()) == list(network.aux_classifier.parameters())
    facts = segmenter.facts
    assert (facts.output_stride, facts.encoder_depth, facts.decoder_channels) == (16, 2, None)
    plain = _build("Plain")
    assert (plain.facts.output_stride, plain.facts.encoder_depth) == (1, 1)
    assert not list(plain.encoder_parameters()) and not list(plain.aux_parameters())


def test_its_own_loss_can_be_had() -> None:
    segmenter = _build("WithParts")
    assert segmenter.has_native_loss
    assert not _build("Plain").has_native_loss
    images, masks = _images(65, 97), torch.randint(CLASSES, (2, 65, 97))
    parts = segmenter.native_loss(images, masks, 255)
    assert parts.keys() == {"loss_own"}
    torch.testing.assert_close(parts["loss_own"], segmenter.network.native_loss(images, masks, 255)["loss_own"])


def test_a_frozen_encoder_stays_as_it_is() -> None:
    segmenter = _build("WithParts", None, EncoderConfig("native", frozen=True)).train()
    before = copy.deepcopy(segmenter.network.backbone.state_dict())
    segmenter(_images(64, 64)).logits.square().mean().backward()
    torch.optim.SGD([weight for weight in segmenter.parameters() if weight.requires_grad], lr=1.0).step()
    assert all(torch.equal(value, before[key]) for key, value in segmenter.network.backbone.state_dict().items())
    assert "encoder.frozen has nothing to act on" in _message("Plain", None, EncoderConfig("native", frozen=True))


def test_weights_are_loaded(folder: Path) -> None:
    network: Any = _build("Plain", width=16).network
    nn.init.normal_(network.head.weight)
    torch.save(network.state_dict(), folder / "plain.pth")
    loaded: Any = _build("Plain", folder / "plain.pth", width=16).network
    assert torch.equal(loaded.head.weight, network.head.weight)
    assert "is for another model" in _message("Plain", folder / "plain.pth")
    assert "is not a file" in _message("Plain", "someone/plain")


def test_the_encoders_weights_are_loaded(folder: Path) -> None:
    encoder: Any = _build("WithParts").network.backbone
    nn.init.normal_(encoder.stem[0].weight)
    torch.save(encoder.state_dict(), folder / "encoder.pth")
    loaded: Any = _build("WithParts", None, EncoderConfig("native", weights=str(folder / "encoder.pth"))).network
    assert torch.equal(loaded.backbone.stem[0].weight, encoder.stem[0].weight)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (None, "arch.target is not set; say arch.target=my.module.Net"),
        ("no_such_module.Net", "no_such_module cannot be imported (ModuleNotFoundError"),
        ("broken_networks.Net", "broken_networks cannot be imported (ModuleNotFoundError: No module named 'no_such_"),
        ("Plane", "my_networks has no Plane; did you mean Plain"),
        ("FIVE", "is of type int; it takes a class or a function"),
        ("number", "gives an object of type int, not a torch.nn.Module"),
        ("NoClasses", "cannot be called with num_classes=5 (got an unexpected keyword argument 'num_classes')"),
        ("FailsAtOnce", "fails when called with num_classes=5 (ValueError: no licence)"),
        ("Wrong", "returns logits of shape (2, 4, 28, 28) for images of shape (2, 3, 224, 224); wanted (2, 5, h, w)"),
        ("Flat", "returns logits of shape (2, 5) for"),
        ("Nothing", "returns a dict of 'logits'; wanted (B, num_classes, h, w)"),
        ("Fails", "fails on images of shape (2, 3, 224, 224) (RuntimeError: the user's own fault)"),
    ],
)
def test_what_cannot_be_used_is_one_line(target: str | None, told: str) -> None:
    assert told in _message(target)


def test_an_option_that_it_does_not_take_is_one_line() -> None:
    assert "cannot be called with num_classes=5, depth=3 (got an unexpected keyword argument 'depth')" in _message(
        "Plain", depth=3
    )


def test_it_takes_no_other_encoder() -> None:
    assert "cannot take encoder=resnet18" in _message("Plain", None, EncoderConfig("resnet18"))
