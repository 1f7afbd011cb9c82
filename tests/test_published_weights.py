"""Whole models' weights: what SMP's users have saved, and what torchvision publishes."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import Tensor, nn

from seggrid import models
from seggrid.config import ArchConfig, BackendConfig, EncoderConfig, ModelConfig
from seggrid.errors import UserError
from seggrid.mmseg_configs import Published
from seggrid.models.segmenter import IMAGENET

CNN, VIT = "test_resnet", "test_vit"
CLASSES = 5


def _images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def _message(config: ModelConfig) -> str:
    with pytest.raises(UserError) as error:
        models.build(config)
    message = str(error.value)
    assert message.isprintable() and len(message) < 700, message
    return message


def _official(weights: Any, num_classes: int = CLASSES, backend: str = "smp") -> ModelConfig:
    arch = ArchConfig("official", {backend: {"encoders": "native"}})
    encoder = EncoderConfig("native")
    return ModelConfig(BackendConfig(backend), arch, encoder, num_classes, weights=str(weights))


@pytest.fixture
def cell(model_config: Any) -> Any:
    """``cell("smp", "unet", "resnet18", weights=...) -> ModelConfig``."""

    def described(*cell: str, weights: Any, num_classes: int = CLASSES) -> ModelConfig:
        config = model_config(*cell, "encoder.pretrained=true", num_classes=num_classes)
        config.weights = str(weights)
        return config

    return described


@pytest.fixture(autouse=True)
def no_encoder_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole model's weights hold the encoder's: none are downloaded besides."""

    def download(*args: Any, **_: Any) -> None:
        raise AssertionError(f"downloads {args}")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", download)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)


def _saved(folder: Path, model: Any) -> Any:
    """Writes a model with statistics of its own as SMP does."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    model.save_pretrained(folder)
    return model.eval()


def _unet(classes: int = CLASSES, **options: Any) -> Any:
    return smp.Unet("resnet18", encoder_weights=None, classes=classes, **options)


def _assert_same_logits(segmenter: models.Segmenter, library: Any) -> None:
    with torch.no_grad():
        ours, theirs = segmenter.eval()(_images(64, 96)).logits, library(_images(64, 96))
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# segmentation-models-pytorch


@pytest.mark.parametrize(
    ("arch", "encoder", "make"),
    [
        ("unet", "smp/resnet18", lambda: _unet(decoder_channels=(64, 32, 16, 16, 16), decoder_attention_type="scse")),
        ("pspnet", CNN, lambda: smp.PSPNet(f"tu-{CNN}", encoder_weights=None, classes=CLASSES, psp_out_channels=32)),
        ("segformer", "smp/mit_b0", lambda: smp.Segformer("mit_b0", encoder_weights=None, classes=CLASSES)),
        ("dpt", VIT, lambda: smp.DPT(f"tu-{VIT}", encoder_weights=None, classes=CLASSES, dynamic_img_size=True)),
    ],
)
def test_what_smp_saved_is_restored(arch: str, encoder: str, make: Any, cell: Any, tmp_path: Path) -> None:
    library = _saved(tmp_path, make())
    official = models.build(_official(tmp_path))
    assert (official.arch, official.encoder_name) == (arch, encoder)
    _assert_same_logits(official, library)
    _assert_same_logits(models.build(cell("smp", arch, encoder, weights=tmp_path)), library)
    assert official.eval()(_images(65, 97)).logits.shape == (2, CLASSES, 65, 97)


def test_smps_own_reader_restores_the_same(tmp_path: Path) -> None:
    _saved(tmp_path, _unet())
    _assert_same_logits(models.build(_official(tmp_path)), smp.from_pretrained(str(tmp_path)).eval())


def test_the_arch_that_is_restored_is_said_only_there(build_model: Any) -> None:
    assert build_model("smp", "unet", CNN).arch is None


def test_another_number_of_classes_starts_the_classifier_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = _saved(tmp_path, _unet(classes=150, activation="sigmoid"))
    with caplog.at_level(logging.INFO, "seggrid"):
        segmenter = models.build(_official(tmp_path))
    assert "start anew: 150 classes there, 5 here" in caplog.text
    theirs, ours = library.state_dict(), segmenter.network.state_dict()
    assert {key for key in ours if not torch.equal(ours[key], theirs[key])} == {
        "segmentation_head.0.weight",
        "segmentation_head.0.bias",
    }
    assert segmenter.eval()(_images(64, 64)).logits.min() < 0  # logits, no sigmoid


def test_a_head_that_classifies_images_is_left_out(tmp_path: Path) -> None:
    library = _saved(tmp_path, _unet(aux_params={"classes": 7}))
    segmenter = models.build(_official(tmp_path))
    assert segmenter.network.classification_head is None
    with torch.no_grad():
        wanted = library(_images(64, 64))[0]
        torch.testing.assert_close(segmenter.eval()(_images(64, 64)).logits, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("arch", "encoder"), [("fpn", "smp/resnet18"), ("unet", "smp/resnet34"), ("unet", "resnet18")])
def test_another_cell_than_the_saved_is_refused(arch: str, encoder: str, cell: Any, tmp_path: Path) -> None:
    _saved(tmp_path, _unet())
    message = _message(cell("smp", arch, encoder, weights=tmp_path))
    assert "holds arch=unet encoder=smp/resnet18" in message
    assert "arch=official" in message


def test_the_tag_of_the_encoders_own_weights_does_not_count(cell: Any, tmp_path: Path) -> None:
    library = _saved(tmp_path, smp.FPN(f"tu-{CNN}.r160_in1k", encoder_weights=None, classes=CLASSES))
    _assert_same_logits(models.build(cell("smp", "fpn", CNN, weights=tmp_path)), library)


def test_a_setting_against_what_was_saved_is_refused(cell: Any, tmp_path: Path) -> None:
    _saved(tmp_path, smp.FPN(f"tu-{CNN}", encoder_weights=None, classes=CLASSES))
    config = cell("smp", "fpn", CNN, "arch.decoder_channels=64", weights=tmp_path)
    assert "arch.decoder_channels=64 cannot be had" in _message(config)


def _change(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no description of an SMP model (FileNotFoundError"),
        (lambda folder: (folder / "config.json").write_text("{"), "no description of an SMP model (JSONDecodeError"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no description of an SMP model (TypeError"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no description of an SMP model (KeyError"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights: neither model.safetensors nor"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "cannot be read as a checkpoint"),
        (_change(_model_class="Nonet"), "holds a Nonet, which SMP"),
        (_change(encoder_name="resnet19"), "has the encoder resnet19, which SMP"),
        (_change(encoder_name="resnet34"), "is for another model"),
        (_change(in_channels=4), "takes images of 4 channels"),
        (_change(decoder_channels=[8]), "SMP cannot build what it holds"),
    ],
)
def test_a_damaged_folder_is_one_line(damage: Any, told: str, tmp_path: Path) -> None:
    _saved(tmp_path, _unet())
    damage(tmp_path)
    assert told in _message(_official(tmp_path))


def test_a_pickled_file_in_the_folder_is_read_without_running_it(tmp_path: Path) -> None:
    library = _saved(tmp_path, _unet())
    (tmp_path / "model.safetensors").unlink()
    torch.save(library.state_dict(), tmp_path / "pytorch_model.bin")
    _assert_same_logits(models.build(_official(tmp_path)), library)


def test_an_id_goes_through_the_hubs_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = _saved(tmp_path, _unet())
    asked: list[str] = []

    def download(repo_id: str, **_: Any) -> str:
        asked.append(repo_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    _assert_same_logits(models.build(_official("someone/unet-resnet18")), library)
    assert asked == ["someone/unet-resnet18"]


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = _message(_official("someone/unet-resnet18"))
    assert message.startswith("weights=someone/unet-resnet18 cannot be had from the hub (")
    assert "weights=<folder>" in message


@pytest.mark.parametrize("weights", ["nowhere.pth", "/no/such/folder", "folder/nowhere.safetensors", "word"])
def test_what_is_nowhere_is_one_line(weights: str) -> None:
    assert _message(_official(weights)).startswith(f"weights={weights} is no file, no folder and no id on the hub")


def test_official_without_weights_says_what_to_say() -> None:
    config = _official("")
    config.weights = None
    assert "weights=<folder or hub id" in _message(config)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_is_loaded_whole(suffix: str, cell: Any, build_model: Any, tmp_path: Path) -> None:
    library = build_model("smp", "fpn", CNN, seed=1).network
    path = tmp_path / f"fpn{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": library.state_dict()}, path)
    else:
        safetensors.torch.save_file(library.state_dict(), path)
    ours = models.build(cell("smp", "fpn", CNN, weights=path)).network.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in library.state_dict().items())
    assert "is for another model" in _message(cell("smp", "unet", CNN, weights=path))
    assert "name arch and encoder" in _message(_official(path))


# torchvision

NAME = "COCO_WITH_VOC_LABELS_V1"
LRASPP = ("torchvision", "lraspp", "torchvision/mobilenet_v3_large")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Weights in the place of the published ones, and the addresses that were asked for."""
    torch.manual_seed(1)
    library = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=21
    )
    asked: list[str] = []

    def download(url: str, **options: Any) -> dict[str, Tensor]:
        assert options["check_hash"]
        asked.append(url)
        return library.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    return library.eval(), asked


def test_torchvisions_published_model_is_had(published: Any, cell: Any, caplog: pytest.LogCaptureFixture) -> None:
    library, asked = published
    known = torchvision.models.segmentation.LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1
    with caplog.at_level(logging.INFO, "seggrid"):
        segmenter = models.build(cell(*LRASPP, weights=NAME, num_classes=21))
    assert asked == [known.url]  # and not the backbone's besides
    with torch.no_grad():
        wanted = library(_images(64, 96))["out"]
        torch.testing.assert_close(segmenter.eval()(_images(64, 96)).logits, wanted, rtol=1e-5, atol=1e-5)
    assert segmenter.normalization == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert segmenter.published == {
        "config": f"lraspp_mobilenet_v3_large.{NAME}",
        "method": "LRASPP",
        "dataset": "COCO-val2017-VOC-labels",
        "mIoU": 0.579,
        "mIoU_ms_flip": None,
        "memory_gb": None,
        "weights": known.url,
    }
    assert segmenter.published.keys() == {field.name for field in dataclasses.fields(Published)}
    assert "57.9 on COCO-val2017-VOC-labels was measured on images resized to 520" in caplog.text
    assert "anew" not in caplog.text


def test_the_weights_own_normalization_is_taken(published: Any, cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "torchvision.transforms._presets.SemanticSegmentation.__init__.__kwdefaults__",
        {
            **torchvision.transforms._presets.SemanticSegmentation.__init__.__kwdefaults__,
            "mean": (0.5, 0.4, 0.3),
        },
    )
    assert models.build(cell(*LRASPP, weights=NAME)).normalization[0] == (0.5, 0.4, 0.3)


def test_torchvisions_classifiers_start_anew(published: Any, cell: Any, caplog: pytest.LogCaptureFixture) -> None:
    library, _ = published
    with caplog.at_level(logging.INFO, "seggrid"):
        segmenter = models.build(cell(*LRASPP, weights=NAME))
    assert "start anew: 21 classes there, 5 here" in caplog.text
    theirs, ours = library.state_dict(), segmenter.network.state_dict()
    different = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    assert different == {
        f"classifier.{part}_classifier.{kind}" for part in ("low", "high") for kind in ("weight", "bias")
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", torchvision.models.list_models(module=torchvision.models.segmentation))
def test_all_six_have_published_weights(model: str, cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {} if model.startswith("lraspp") else {"aux_loss": True}
    library = torchvision.models.get_model(model, weights=None, weights_backbone=None, num_classes=21, **extra)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: library.state_dict())
    arch, _, encoder = model.partition("_")
    segmenter = models.build(cell("torchvision", arch, f"torchvision/{encoder}", weights=NAME, num_classes=21))
    assert segmenter.published["config"] == f"{model}.{NAME}"
    ours = segmenter.network.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in library.state_dict().items())


def test_a_name_that_does_not_exist_lists_those_that_do(cell: Any) -> None:
    message = _message(cell(*LRASPP, weights="CITYSCAPES_V1"))
    assert message.startswith(
        "weights=CITYSCAPES_V1 is no file and none of torchvision's for lraspp_mobilenet_v3_large"
    )
    assert message.endswith(f"it has {NAME}")


@pytest.mark.parametrize("encoder", [CNN, "torchvision/mobilenet_v3_large"])
def test_a_pair_without_published_weights_says_which_have(encoder: str, cell: Any) -> None:
    message = _message(cell("torchvision", "fcn", encoder, weights=NAME))
    assert f"torchvision publishes none for arch=fcn encoder={encoder}" in message
    assert "arch=fcn encoder=torchvision/resnet50" in message


def test_published_weights_at_another_stride_are_refused(cell: Any, published: Any) -> None:
    message = _message(cell(*LRASPP, "arch.output_stride=32", weights=NAME))
    assert "leave arch.output_stride and arch.decoder_channels out" in message


def test_a_download_that_fails_is_one_line(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    message = _message(cell(*LRASPP, weights=NAME))
    assert "cannot be had (URLError" in message
    assert "https://download.pytorch.org/models/lraspp_mobilenet_v3_large-d234d4ea.pth elsewhere" in message


def test_torchvision_loads_a_file(cell: Any, build_model: Any, tmp_path: Path) -> None:
    saved = build_model("torchvision", "fcn", CNN, seed=1).network.state_dict()
    torch.save(saved, tmp_path / "fcn.pth")
    segmenter = models.build(cell("torchvision", "fcn", CNN, weights=tmp_path / "fcn.pth"))
    assert all(torch.equal(value, saved[key]) for key, value in segmenter.network.state_dict().items())
    assert segmenter.published is None


# The images that encoders were trained with


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}, ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))),
        (
            {"mean": [127.5, 51, 25.5], "std": [255, 51, 127.5], "input_range": [0, 255]},
            ((0.5, 0.2, 0.1), (1, 0.2, 0.5)),
        ),
    ],
)
def test_smps_own_encoders_have_the_normalization_of_their_weights(
    known: dict[str, Any], wanted: Any, build_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = ("smp", "unet", "smp/resnet18")
    state = build_model(*cell).network.encoder.state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(known))
    monkeypatch.setattr(
        "segmentation_models_pytorch.encoders.hf_hub_download", lambda _, filename, **__: str(tmp_path / filename)
    )
    means, deviations = build_model(*cell, "encoder.pretrained=true").normalization
    assert means == pytest.approx(wanted[0])
    assert deviations == pytest.approx(wanted[1])
    assert build_model(*cell).normalization == IMAGENET  # starts from no such weights
    (tmp_path / "config.json").write_text(json.dumps({**known, "input_space": "BGR"}))
    with pytest.raises(UserError, match="want BGR images"):
        build_model(*cell, "encoder.pretrained=true")


@pytest.mark.parametrize(("backend", "arch"), [("smp", "unet"), ("torchvision", "fcn")])
def test_timms_encoders_have_timms_normalization(backend: str, arch: str, build_model: Any) -> None:
    assert build_model(backend, arch, "mobilenetv3_small_050").normalization == IMAGENET
    assert build_model(backend, arch, CNN).normalization == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
