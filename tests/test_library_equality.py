"""A library's own model, built without seggrid, loads strictly into ours and gives the same logits."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from seggrid.models import Segmenter
from seggrid.profiling import count

PUBLISHED = torchvision.models.list_models(module=torchvision.models.segmentation)
QUICK = {"fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"}
CLASSES = 5
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MMSegmentation's heads, about their losses


def _images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def _perturbed(model: nn.Module) -> nn.Module:
    """Gives every batch norm statistics of its own, and stops dropout: two models would draw different masks."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def _same_weights(ours: Segmenter, library: nn.Module) -> None:
    _perturbed(ours)
    ours.network.load_state_dict(_perturbed(library).state_dict(), strict=True)
    ours.eval()
    library.eval()


def _assert_close(ours: Tensor, library: Tensor) -> None:
    assert library.std() > 1e-3  # else equality says nothing
    torch.testing.assert_close(ours, library, rtol=1e-5, atol=1e-5)


# torchvision: its six published models, and the figures in its metadata


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in PUBLISHED]
)
def test_torchvisions_own_model_is_equal(name: str, build_model: Any) -> None:
    arch, _, encoder = name.partition("_")
    ours = build_model("torchvision", arch, f"torchvision/{encoder}", num_classes=21)
    extra = {} if arch == "lraspp" else {"aux_loss": True}
    library = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=21, **extra)
    _same_weights(ours, library)
    images = _images(65, 97)
    with torch.no_grad():
        _assert_close(ours(images).logits, library(images)["out"])
        ours.train()
        library.train()
        trained, output = ours(images), library(images)
    _assert_close(trained.logits, output["out"])
    assert len(trained.aux) == ("aux" in output)
    for item in trained.aux:
        _assert_close(item, output["aux"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvisions_published_figures_are_reproduced(name: str, build_model: Any) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    arch, _, encoder = name.partition("_")
    ours = build_model("torchvision", arch, f"torchvision/{encoder}", num_classes=len(published["categories"]))
    section = count(ours, (520, 520))
    assert section["params"] == published["num_params"]
    assert round(section["gmacs"] + section["gmacs_aux"], 3) == published["_ops"]


# segmentation-models-pytorch


@pytest.mark.parametrize(
    ("arch", "encoder", "model", "own_name"),
    [
        ("unet", "resnet18", smp.Unet, "tu-resnet18"),
        ("deeplabv3plus", "smp/resnet18", smp.DeepLabV3Plus, "resnet18"),
        ("segformer", "smp/mit_b0", smp.Segformer, "mit_b0"),
        ("pspnet", "smp/resnet18", smp.PSPNet, "resnet18"),
        ("dpt", "test_vit", smp.DPT, "tu-test_vit"),
    ],
)
def test_smps_own_model_is_equal(arch: str, encoder: str, model: Any, own_name: str, build_model: Any) -> None:
    ours = build_model("smp", arch, encoder)
    # A plain ViT of timm refuses other sizes than its own unless it is told not to.
    extra = {"dynamic_img_size": True} if arch == "dpt" else {}
    library = model(own_name, encoder_weights=None, classes=CLASSES, **extra)
    _same_weights(ours, library)
    images = _images(64, 96)
    with torch.no_grad():
        _assert_close(ours(images).logits, library(images))


def test_a_size_that_smp_refuses_is_padded_at_the_right_and_the_bottom(build_model: Any) -> None:
    ours = build_model("smp", "linknet", "smp/resnet18")
    library = smp.Linknet("resnet18", encoder_weights=None, classes=CLASSES)
    _same_weights(ours, library)
    images = _images(65, 97)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="Wrong input shape"):
            library(images)
        padded = functional.pad(images, (0, 31, 0, 31))
        _assert_close(ours(images).logits, library(padded)[..., :65, :97])


# MMSegmentation: the models of its published configurations, which its wheel carries


BASE = Path(find_spec("mmseg").origin).parent / ".mim" / "configs" / "_base_" / "models"
ENCODERS = {"r50": "mmseg/resnet50_v1c", "r50-d8": "mmseg/resnet50_v1c", "mit-b0": "mmseg/mit_b0"}


def _mmseg_model(file: str, **backbone: Any) -> Any:
    """Builds it as MMSegmentation does; call it after ``build_model``, which makes MMSegmentation importable."""
    import mmengine
    from mmseg.registry import MODELS

    description = mmengine.Config.fromfile(BASE / f"{file}.py").model
    description.pretrained = None
    description.decode_head.num_classes = CLASSES
    if "auxiliary_head" in description:
        description.auxiliary_head.num_classes = CLASSES
    if backbone:
        description.backbone = backbone
        channels = [64, 128, 256, 512]  # of resnet18
        description.decode_head.in_channels = channels[-1]
        description.auxiliary_head.in_channels = channels[-2]
    for part in (description.backbone, description.decode_head, description.get("auxiliary_head", {})):
        if part.get("norm_cfg", {}).get("type") == "SyncBN":
            part.norm_cfg.type = "BN"
    return MODELS.build(description)


def _resized_logits(library: Any, images: Tensor) -> Tensor:
    return library.encode_decode(images, [{"ori_shape": images.shape[2:], "img_shape": images.shape[2:]}])


@pytest.mark.parametrize(
    "file",
    [
        "segformer_mit-b0",
        "pspnet_r50-d8",
        "fpn_r50",
        "deeplabv3_r50-d8",
        "deeplabv3plus_r50-d8",
        "fcn_r50-d8",
        "upernet_r50",
    ],
)
def test_mmsegmentations_own_model_is_equal(file: str, build_model: Any) -> None:
    arch, _, encoder = file.partition("_")
    ours = build_model("mmseg", arch, ENCODERS[encoder])
    library = _mmseg_model(file)
    _same_weights(ours, library)
    images = _images(65, 97)
    with torch.no_grad():
        _assert_close(ours(images).logits, _resized_logits(library, images))


def test_mmsegmentations_model_on_its_own_timm_wrapper_is_equal_and_has_the_same_losses(build_model: Any) -> None:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    ours = build_model("mmseg", "fcn", "resnet18")
    wrapper = {"type": "TIMMBackbone", "model_name": "resnet18", "pretrained": False, "features_only": True}
    library = _mmseg_model("fcn_r50-d8", **wrapper, output_stride=8, out_indices=(1, 2, 3, 4))
    _same_weights(ours, library)
    images = _images(65, 97)
    masks = torch.randint(CLASSES, (2, 65, 97))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask[None]), metainfo={"img_shape": (65, 97)}) for mask in masks]
    with torch.no_grad():
        _assert_close(ours(images).logits, _resized_logits(library, images))
        library.train()
        losses = library.loss(images, samples)
        output = ours.train()(images)
    torch.testing.assert_close(functional.cross_entropy(output.logits, masks), losses["decode.loss_ce"])
    torch.testing.assert_close(0.4 * functional.cross_entropy(output.aux[0], masks), losses["aux.loss_ce"])
