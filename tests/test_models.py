"""What every backend's model promises, for every (arch, backend) that ``conf/arch`` lists."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
import yaml
from torch import Tensor

from seggrid import models
from seggrid.checks import ImpossibleCellError, check_cell
from seggrid.counts import count
from seggrid.errors import UserError
from seggrid.models.reach import forward_on_meta

CONF = Path(__file__).resolve().parent.parent / "conf"
ARCHS = {arch["name"]: arch["backends"] for arch in map(yaml.safe_load, (f.read_text() for f in CONF.glob("arch/*")))}
UNNAMED = ("official", "custom")  # these stand for what a configuration or a user's own code names
ROWS = sorted((backend, arch) for arch, backends in ARCHS.items() for backend in backends if arch not in UNNAMED)
OWN = sorted(str(file.relative_to(CONF / "encoder").with_suffix("")) for file in CONF.glob("encoder/*/*.yaml"))

CNN, VIT = "test_resnet", "test_vit"  # timm's smallest
BIG_CNN, PYRAMID, SWIN, BIG_VIT = (
    "mobilenetv3_small_100",
    "pvt_v2_b0",
    "swin_tiny_patch4_window7_224",  # its feature maps are NHWC
    "vit_tiny_patch16_224",
)
TINY_SWIN = (
    SWIN,
    "+encoder.options.embed_dim=8",
    "+encoder.options.depths=[1,1,1,1]",
    "+encoder.options.num_heads=[1,1,2,2]",
)
# Networks of MMSegmentation's own that are small enough for the quick tests, and the others' smaller variants.
QUICK_NATIVE = {"cgnet", "erfnet", "fastscnn", "pidnet", "stdc"}
SMALLER = {"beit": "+arch.backends.mmseg.backbone.img_size=[128,160]"}
SMALLER["mae"] = SMALLER["beit"]
# MMSegmentation's archs of the quick tests: those that it shares with another library, and one of each kind of loss.
QUICK_ARCHS = {"ocrnet", "pointrend", "mask2former", "segmenter"}
QUICK_ARCHS |= {arch for arch, backends in ARCHS.items() if len(backends) > 1}
QUICK_OWN = {"smp/mit_b0", "mmseg/mit_b0", "mmseg/resnet50_v1c", "torchvision/mobilenet_v3_large"}

HEIGHT, WIDTH = SIZE = (65, 97)
CLASSES = 5


def _is_refused(backend: str, arch: str, encoder: str) -> bool:
    """What the libraries cannot do: a stride of their own in a transformer, several strides from a plain ViT."""
    takes = _takes(backend, arch)
    if takes == "native":
        return True
    if encoder in (VIT, BIG_VIT):
        return arch != "dpt" if backend == "smp" else takes == "pyramid"
    if takes == "vit" or (takes == "dilated" and encoder in (PYRAMID, SWIN)):
        return True
    return backend == "smp" and encoder in (PYRAMID, SWIN) and arch in ("deeplabv3", "deeplabv3plus", "pan")


def _takes(backend: str, arch: str) -> str:
    return ARCHS[arch][backend].get("encoders", "any")


def _cells() -> Iterator[Any]:
    for backend, arch in ROWS:
        first = VIT if arch == "dpt" or _takes(backend, arch) == "vit" else CNN
        quick = [first] if backend != "mmseg" or arch in QUICK_ARCHS else []
        slow = [encoder for encoder in (CNN, VIT, BIG_CNN, PYRAMID, SWIN, BIG_VIT) if encoder not in quick]
        if _takes(backend, arch) == "native":
            yield pytest.param(
                (backend, arch, "native"),
                id=f"{backend}-{arch}-native",
                marks=[] if arch in QUICK_NATIVE else [pytest.mark.slow],
            )
        own = ["smp/resnet18", "smp/mit_b0"] if backend == "smp" else [name for name in OWN if name.startswith(backend)]
        if arch in ("unet", "segformer", "lraspp"):
            quick += [name for name in own if name in QUICK_OWN]
        if arch in ("unet", "segformer", "lraspp", "fcn", "deeplabv3"):
            slow += [name for name in own if name not in quick]
        for encoder in quick + slow:
            if not _is_refused(backend, arch, encoder):
                marks = [pytest.mark.slow] if encoder in slow else []
                yield pytest.param((backend, arch, encoder), id=f"{backend}-{arch}-{encoder}", marks=marks)


@pytest.fixture(scope="module", params=_cells())
def cell(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    return request.param


@pytest.fixture(scope="module")
def segmenter(cell: tuple[str, str, str], build_model: Any) -> models.Segmenter:
    return build_model(*cell, *_smaller(cell))


def _smaller(cell: tuple[str, str, str]) -> list[str]:
    return [SMALLER[cell[1]]] if cell[2] == "native" and cell[1] in SMALLER else []


def _images(count: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def _masks(count: int) -> Tensor:
    masks = torch.randint(CLASSES, (count, *SIZE), generator=torch.Generator().manual_seed(1))
    masks[:, :4] = 255
    return masks


def test_evaluation_gives_logits_at_the_images_size_and_nothing_else(segmenter: models.Segmenter) -> None:
    with torch.no_grad():
        output = segmenter.eval()(_images())
        again = segmenter(_images())
    assert output.logits.shape == (1, CLASSES, HEIGHT, WIDTH)
    assert output.logits.dtype == torch.float32
    assert output.logits.isfinite().all()
    assert output.aux == ()
    assert torch.equal(output.logits, again.logits)


@pytest.mark.parametrize("size", [(1, 1), (33, 64), (98, 130)])
def test_any_size_goes_in(segmenter: models.Segmenter, size: tuple[int, int]) -> None:
    output, _ = forward_on_meta(segmenter.train(segmenter.trains_from_logits), size)
    assert output.logits.shape == (2, CLASSES, *size)


def test_training_gives_what_the_library_has_as_auxiliary_heads(
    cell: tuple[str, str, str], segmenter: models.Segmenter
) -> None:
    backend, arch, _ = cell
    number = {"smp": 0, "torchvision": int(arch != "lraspp"), "mmseg": _auxiliary_heads(segmenter)}[backend]
    output, _ = forward_on_meta(segmenter.train(segmenter.trains_from_logits), SIZE)
    assert [item.shape for item in output.aux] == [output.logits.shape] * number * segmenter.trains_from_logits
    assert bool(list(segmenter.aux_parameters())) == bool(number)
    assert segmenter.trains_from_logits == (ARCHS[arch][backend].get("loss") != "native")


def _auxiliary_heads(segmenter: models.Segmenter) -> int:
    heads = segmenter.network._modules.get("auxiliary_head", ())
    return len(heads) if isinstance(heads, torch.nn.ModuleList | tuple) else 1


def test_every_trained_parameter_gets_a_gradient_and_no_other(segmenter: models.Segmenter) -> None:
    segmenter.train().zero_grad()
    if segmenter.trains_from_logits:
        output = segmenter(_images(2))
        # Squares: the gradient of a plain sum through a batch norm is zero.
        torch.stack([item.square().mean() for item in (output.logits, *output.aux)]).sum().backward()
    else:
        torch.stack(list(segmenter.native_loss(_images(2), _masks(2), 255).values())).sum().backward()
    gradients = {name: weight.grad for name, weight in segmenter.named_parameters()}
    trained = {name for name, weight in segmenter.named_parameters() if weight.requires_grad}
    assert {name for name, gradient in gradients.items() if gradient is not None} == trained
    assert all(gradients[name].isfinite().all() for name in trained)


def test_encoder_parameters_are_some_of_all(segmenter: models.Segmenter) -> None:
    everything = {id(weight) for weight in segmenter.parameters()}
    encoder = {id(weight) for weight in segmenter.encoder_parameters()}
    aux = {id(weight) for weight in segmenter.aux_parameters()}
    assert encoder
    assert encoder < everything
    assert aux < everything
    assert not encoder & aux


def test_state_dict_holds_the_whole_model(
    cell: tuple[str, str, str], segmenter: models.Segmenter, build_model: Any, tmp_path: Path
) -> None:
    torch.save(segmenter.network.state_dict(), tmp_path / "network.pt")
    other = build_model(*cell, *_smaller(cell), seed=1).eval()
    with torch.no_grad():
        assert not torch.equal(other(_images()).logits, segmenter.eval()(_images()).logits)
        other.network.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True), strict=True)
        assert torch.equal(other(_images()).logits, segmenter(_images()).logits)


def test_facts_are_positive_and_counts_add_up(segmenter: models.Segmenter) -> None:
    facts = segmenter.facts
    assert facts.output_stride > 0 and math.log2(facts.output_stride).is_integer()
    assert facts.encoder_depth > 0
    assert facts.decoder_channels is None or facts.decoder_channels > 0
    section = count(segmenter, (64, 64))
    assert 0 < section["params_encoder"] < section["params"] - section["params_aux"]
    assert section["gmacs"] > 0
    if segmenter.trains_from_logits:
        assert (section["gmacs_aux"] > 0) == (section["params_aux"] > 0)
    else:
        assert section["gmacs_aux"] is None


@pytest.mark.parametrize(
    ("backend", "arch", "encoder"),
    [(*row, encoder) for row in ROWS for encoder in (CNN, VIT, PYRAMID) if _is_refused(*row, encoder)],
)
def test_refusal_is_one_line_that_names_the_encoder(backend: str, arch: str, encoder: str, model_config: Any) -> None:
    config = model_config(backend, arch, encoder)

    def build() -> None:
        check_cell(config.backend, config.arch, config.encoder)
        models.build(config)

    with pytest.raises(ImpossibleCellError, match=f"encoder={encoder}") as refusal:
        build()
    assert f"arch={arch}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_same_seed_same_weights(build_model: Any) -> None:
    first, second = (build_model("mmseg", "fpn", CNN, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(("backend", "arch"), [("smp", "unet"), ("torchvision", "lraspp"), ("mmseg", "upernet")])
def test_feature_maps_with_channels_last(backend: str, arch: str, build_model: Any) -> None:
    segmenter = build_model(backend, arch, *TINY_SWIN).eval()
    with torch.no_grad():
        assert segmenter(_images()).logits.shape == (1, CLASSES, HEIGHT, WIDTH)


@pytest.mark.parametrize(("encoder", "stride"), [((CNN,), 8), ((PYRAMID,), 32), (TINY_SWIN, 32)])
@pytest.mark.parametrize("backend", ["torchvision", "mmseg"])
def test_facts_report_the_stride_that_was_had(
    backend: str, encoder: tuple[str, ...], stride: int, build_model: Any
) -> None:
    segmenter = build_model(backend, "fcn", *encoder)
    assert segmenter.facts.output_stride == stride
    with torch.no_grad():
        features = segmenter.network.backbone(_images(size=(64, 64)))
    last = features["out"] if backend == "torchvision" else features[-1]
    assert last.shape[-2:] == (64 // stride, 64 // stride)


def test_parameters_that_no_gradient_reaches_are_not_counted(build_model: Any) -> None:
    # SMP's PSPNet reads three stages of SMP's ResNet, and builds five.
    segmenter = build_model("smp", "pspnet", "smp/resnet18")
    assert sum(weight.numel() for weight in segmenter.parameters()) > 11e6
    assert 0.8e6 < count(segmenter, (64, 64))["params"] < 1e6
    segmenter(_images(2)).logits.square().mean().backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in segmenter.parameters())


def test_an_encoder_of_one_size_says_so(build_model: Any) -> None:
    segmenter = build_model("mmseg", "segformer", "test_maxvit").eval()
    native = segmenter.native_size
    assert segmenter(_images(size=native)).logits.shape[-2:] == native
    assert segmenter(_images(size=(33, 65))).logits.shape[-2:] == (33, 65)  # smaller ones are padded
    with pytest.raises(UserError, match=f"cannot take images of 305x97 .* made for {native[0]}x{native[1]}"):
        segmenter(_images(size=(305, 97)))


# Weights


def _encoder_of(segmenter: models.Segmenter) -> dict[str, Tensor]:
    """The encoder's state under the names that a file of its weights has."""
    names = ("encoder.model.", "backbone.encoder.timm_model.", "backbone.timm_model.", "encoder.", "backbone.")
    state = segmenter.network.state_dict()
    prefix = next(name for name in names if any(key.startswith(name) for key in state))
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


TIMM_CELLS = [("smp", "unet", CNN), ("torchvision", "fcn", CNN), ("mmseg", "fpn", CNN)]
OWN_CELLS = [
    ("smp", "unet", "smp/resnet18"),
    ("torchvision", "lraspp", "torchvision/mobilenet_v3_large"),
    ("mmseg", "segformer", "mmseg/mit_b0"),
]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing in the cache."""
    import huggingface_hub.constants
    import torchvision.models._api

    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", no_network)


@pytest.mark.parametrize("cell", TIMM_CELLS)
def test_a_timm_checkpoint_is_loaded(cell: tuple[str, str, str], build_model: Any, tmp_path: Path) -> None:
    saved = timm.create_model(CNN).state_dict()
    saved = {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in saved.items()}
    torch.save(saved, tmp_path / "weights.pt")
    loaded = _encoder_of(build_model(*cell, f"encoder.weights={tmp_path}/weights.pt"))
    assert loaded.keys() == {key for key in saved if not key.startswith("fc.")}
    assert all(torch.equal(value, saved[key]) for key, value in loaded.items())


@pytest.mark.parametrize("cell", OWN_CELLS)
def test_a_checkpoint_of_a_librarys_own_encoder_is_loaded(
    cell: tuple[str, str, str], build_model: Any, tmp_path: Path
) -> None:
    saved = _encoder_of(build_model(*cell, seed=1))
    torch.save(saved | {"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "weights.pt")
    loaded = _encoder_of(build_model(*cell, f"encoder.weights={tmp_path}/weights.pt"))
    assert all(torch.equal(value, saved[key]) for key, value in loaded.items())


@pytest.mark.parametrize("kind", ["of another model", "corrupt", "missing"])
@pytest.mark.parametrize("cell", TIMM_CELLS + OWN_CELLS)
def test_a_file_that_does_not_fit_is_one_line(
    cell: tuple[str, str, str], kind: str, build_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "weights.pt"
    if kind == "of another model":
        torch.save(timm.create_model("test_convnext").state_dict(), file)
    elif kind == "corrupt":
        file.write_text("not weights")
    with pytest.raises(UserError, match=r"encoder\.weights=") as error:
        build_model(*cell, f"encoder.weights={file}")
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert "Unexpected keys" not in caplog.text


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("cell", TIMM_CELLS + OWN_CELLS)
def test_no_network_is_one_line_that_says_how_to_go_on(cell: tuple[str, str, str], build_model: Any) -> None:
    with pytest.raises(UserError, match=f"encoder={cell[-1]}") as error:
        build_model(*cell, "encoder.pretrained=true")
    assert "encoder.pretrained=false" in str(error.value)
    assert "encoder.weights=<file>" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arch", ["lraspp", "fcn"])  # published by torchvision with this encoder, and not
def test_torchvisions_download_is_loaded(arch: str, build_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    published = torchvision.models.mobilenet_v3_large(weights=None).state_dict()

    def download(url: str, **_: Any) -> dict[str, Tensor]:
        asked.append(url)
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    segmenter = build_model("torchvision", arch, "torchvision/mobilenet_v3_large", "encoder.pretrained=true")
    assert asked == [torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.url]
    wanted = [value for key, value in published.items() if key.startswith("features.")]
    loaded = list(_encoder_of(segmenter).values())
    assert len(loaded) == len(wanted)
    assert all(torch.equal(value, other) for value, other in zip(loaded, wanted, strict=True))
