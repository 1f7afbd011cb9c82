"""A library's own model, built without seggrid, loads strictly into ours and gives the same logits."""

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import yaml
from torch import Tensor, nn
from torch.nn import functional

from seggrid.checks import ImpossibleCellError
from seggrid.counts import count
from seggrid.models import Segmenter

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
    shape = images.shape[2:]
    meta = {"ori_shape": shape, "img_shape": shape, "batch_input_shape": shape}
    return library.encode_decode(images, [meta] * len(images))


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


# The whole matrix: what our configuration makes of an arch against what each library's own way makes of it

CONF = Path(__file__).resolve().parent.parent / "conf"
ARCHS = {arch["name"]: arch["backends"] for arch in map(yaml.safe_load, (f.read_text() for f in CONF.glob("arch/*")))}
CNN, TRANSFORMER, VIT = "test_resnet", "pvt_v2_b0", "test_vit"
FIXED = {
    "beit",
    "mae",
}  # of one size, at which a comparison on the CPU takes minutes: on the meta device in test_models


def _rows(backend: str) -> list[tuple[str, str]]:
    """Every arch of ``backend``, with three encoders where it takes any."""
    takes = {arch: backends[backend].get("encoders", "any") for arch, backends in ARCHS.items() if backend in backends}
    encoders = {
        "any": (CNN, TRANSFORMER, VIT),
        "dilated": (CNN, VIT),
        "pyramid": (CNN, TRANSFORMER),
        "vit": (VIT,),
    }
    return [(arch, encoder) for arch, kind in sorted(takes.items()) for encoder in encoders.get(kind, ())]


def _own_rows() -> list[str]:
    return sorted(arch for arch, backends in ARCHS.items() if "base" in backends.get("mmseg", {}) and arch not in FIXED)


@pytest.mark.slow
@pytest.mark.parametrize("arch", _own_rows())
def test_every_arch_of_mmsegmentation_on_its_own_network_is_equal(arch: str, build_model: Any) -> None:
    build_model("mmseg", "fcn", CNN)  # makes MMSegmentation importable
    library = _published(ARCHS[arch]["mmseg"]["base"])
    head = library.decode_head[-1] if isinstance(library.decode_head, nn.ModuleList) else library.decode_head
    ours = build_model("mmseg", arch, "native", num_classes=head.num_classes)
    if arch == "san":  # without CLIP's weights MMSegmentation leaves parts of it uninitialised
        library.load_state_dict(ours.network.state_dict(), strict=True)
    _same_weights(ours, library)
    size = (128, 160)
    if ours.smallest > 128:
        size = (1024, 1024)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = _seeded(lambda: _resized_logits(library, images))
        _assert_close(_seeded(lambda: ours(images).logits), theirs)


def _seeded(run: Any) -> Tensor:
    """Runs a model whose decoder draws: SegNeXt's starts its matrix factorisation at random, in evaluation too."""
    torch.manual_seed(0)
    result: Tensor = run()
    return result


def _published(name: str) -> Any:
    """Builds a configuration of MMSegmentation as MMSegmentation does, without the weights that it names."""
    import mmengine
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS

    file = next(BASE.parent.parent.rglob(f"{name}.py"))
    config = mmengine.Config.fromfile(file)
    if config.model.type == "MultimodalEncoderDecoder":
        config.model.text_encoder.update(dataset_name=None, vocabulary=[f"class {index}" for index in range(CLASSES)])
        config.model.decode_head.num_classes = CLASSES
    config.model.pop("data_preprocessor", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return revert_sync_batchnorm(MODELS.build(config.model))


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "encoder"), _rows("mmseg"))
def test_every_arch_of_mmsegmentation_on_its_own_timm_wrapper_is_equal(
    arch: str, encoder: str, build_model: Any
) -> None:
    import mmengine

    ours = build_model("mmseg", arch, encoder)
    stride = ours.facts.output_stride
    file = next(BASE.parent.parent.rglob(f"{ARCHS[arch]['mmseg']['base']}.py"))
    model = mmengine.Config.fromfile(file).model
    own_indices = model.backbone.get("out_indices", (0, 1, 2, 3))
    own_indices = own_indices if isinstance(own_indices, tuple | list) and max(own_indices) < 4 else (0, 1, 2, 3)
    options = {"output_stride": stride} if encoder == CNN and stride != 32 else {}
    sizes = {"dynamic_img_size": True, "out_indices": (-4, -3, -2, -1)} if encoder == VIT else {}
    wrapper = {"type": "TIMMBackbone", "model_name": encoder, "pretrained": False, "features_only": True}
    served = timm.create_model(encoder, features_only=True, **options, **sizes).feature_info
    first = len(served.channels()) - 4
    indices = tuple(first + index for index in own_indices)
    channels = [served.channels()[index] for index in indices]
    if encoder != VIT:
        sizes = {"out_indices": indices}
    model.backbone = {**wrapper, **options, **sizes}
    model.pretrained = None
    model.pop("data_preprocessor", None)
    if "neck" in model:
        model.neck.in_channels = type(model.neck.in_channels)(channels)
    heads = model.decode_head if isinstance(model.decode_head, list) else [model.decode_head]
    aux = model.get("auxiliary_head") or []
    for head in [*heads, *(aux if isinstance(aux, list) else [aux])]:
        # FastFCN's neck hands on, to the auxiliary head, what it has read.
        is_read = "neck" not in model or (model.neck.type == "JPU" and head is aux)
        _fit(head, channels if is_read else None)
    if "c1_in_channels" in model.decode_head:
        model.decode_head.c1_in_channels = channels[0]
    _revert(model)
    from mmseg.registry import MODELS

    library = MODELS.build(model)
    _same_weights(ours, library)
    images = _images(64, 96)
    with torch.no_grad():
        theirs = _seeded(lambda: _resized_logits(library, images))
        _assert_close(_seeded(lambda: ours(images).logits), theirs)


def _fit(head: Any, channels: list[int] | None) -> None:
    """Writes into a head's configuration what a user of MMSegmentation would: classes, and channels by feature map."""
    for part in [head, head.get("kernel_generate_head", {}), *head.get("kernel_update_head", [])]:
        if "num_classes" in part:
            part.num_classes = CLASSES
    if "loss_cls" in head:
        head.loss_cls.class_weight = [1.0] * CLASSES + [0.1]
    target = head.get("kernel_generate_head", head)
    if channels is None or "in_channels" not in target:
        return
    index = target.get("in_index", -1)
    if isinstance(index, int) and not isinstance(target.in_channels, list | tuple):
        target.in_channels = channels[index]
    else:
        target.in_channels = [channels[item] for item in (index if not isinstance(index, int) else range(4))]


def _revert(value: Any) -> None:
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict):
            item.pop("class_weight", None) if item.get("type") == "CrossEntropyLoss" and len(
                item.get("class_weight") or []
            ) != CLASSES + 1 else None
            if item.get("type") == "SyncBN":
                item["type"] = "BN"
            if "checkpoint" in (item.get("init_cfg") or {}):
                item["init_cfg"] = None
        if isinstance(item, dict | list | tuple):
            _revert(item)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "encoder"), _rows("smp"))
def test_every_arch_of_smp_is_equal(arch: str, encoder: str, build_model: Any) -> None:
    try:
        ours = build_model("smp", arch, encoder)
    except ImpossibleCellError as refusal:
        with pytest.raises(Exception):  # noqa: B017, PT011  # SMP's own refusals are of many kinds
            smp.create_model(arch, f"tu-{encoder}", encoder_weights=None, classes=CLASSES)
        pytest.skip(str(refusal))
    extra = {"dynamic_img_size": True} if encoder == VIT else {}
    library = smp.create_model(arch, f"tu-{encoder}", encoder_weights=None, classes=CLASSES, **extra)
    _same_weights(ours, library)
    images = _images(128, 160)
    with torch.no_grad():
        _assert_close(ours(images).logits, library(images))


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "encoder"), _rows("torchvision"))
def test_every_arch_of_torchvision_is_equal(arch: str, encoder: str, build_model: Any) -> None:
    from torchvision.models.segmentation import deeplabv3, fcn, lraspp

    ours = build_model("torchvision", arch, encoder)
    backbone = copy.deepcopy(ours.network.backbone)
    with torch.no_grad():
        maps = {name: value.shape[1] for name, value in backbone.eval()(torch.zeros(1, 3, 64, 64)).items()}
    if arch == "lraspp":
        library = lraspp.LRASPP(backbone, maps["low"], maps["high"], CLASSES)
    else:
        model, head = {"fcn": (fcn.FCN, fcn.FCNHead), "deeplabv3": (deeplabv3.DeepLabV3, deeplabv3.DeepLabHead)}[arch]
        library = model(backbone, head(maps["out"], CLASSES), fcn.FCNHead(maps["aux"], CLASSES))
    _same_weights(ours, library)
    images = _images(64, 96)
    with torch.no_grad():
        _assert_close(ours(images).logits, library(images)["out"])
