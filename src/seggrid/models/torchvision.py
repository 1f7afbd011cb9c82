"""torchvision: FCN, DeepLabV3 and LR-ASPP, on its own backbones and on timm's encoders, and its published models."""

import dataclasses
import inspect
import logging
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from seggrid.checks import ImpossibleCellError
from seggrid.config import EncoderConfig, ModelConfig
from seggrid.errors import UserError, one_line
from seggrid.models import measured, timm_encoder, weights
from seggrid.models.segmenter import IMAGENET, Facts, Segmenter

LOW, AUX, OUT = 1, 2, 3  # which of the four feature maps the heads read
SETTINGS = ("output_stride", "names", "encoders", "loss")
METHODS = {"fcn": FCN, "deeplabv3": DeepLabV3, "lraspp": LRASPP}
log = logging.getLogger("seggrid")


class TorchvisionSegmenter(Segmenter):
    """A model of ``torchvision.models.segmentation``."""

    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs backbone and heads; the library's own forward would compute the auxiliary head in eval mode too."""
        network: Any = self.network
        features = network.backbone(images)
        if isinstance(network, LRASPP):
            return network.classifier(features), ()
        aux = (network.aux_classifier(features["aux"]),) if self.training and network.aux_classifier else ()
        return network.classifier(features["out"]), aux


class NamedPyramid(nn.Module):
    """Four feature maps under the names that torchvision's heads look for."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """Returns the feature maps by name."""
        features = list(self.encoder(images))
        return OrderedDict(low=features[LOW], aux=features[AUX], out=features[OUT], high=features[OUT])


class OwnBackbone(nn.Module):
    """Four feature maps of a classification model of torchvision."""

    def __init__(self, name: str, nodes: list[str], **options: Any) -> None:
        super().__init__()
        self.model = create_feature_extractor(models.get_model(name, weights=None, **options), nodes)
        self.nodes = nodes

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the feature maps, finest first."""
        features = self.model(images)
        return [features[node] for node in self.nodes]


def build(config: ModelConfig) -> Segmenter:
    """Builds torchvision's model of the cell.

    Where torchvision publishes the pair (``fcn_resnet50``, ...) its own builder is called; elsewhere, and at another
    output stride or width than the published, its heads are put on the encoder's feature maps.

    Raises:
        UserError: weights cannot be had.
        ImpossibleCellError: timm does not serve the feature maps of the encoder.
    """
    arch, encoder = config.arch.name, config.encoder
    settings = config.settings
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise UserError(f"arch.backends.torchvision has no {', '.join(unknown)}; it takes {', '.join(SETTINGS)}")
    head_options = _head_options(config)
    native: tuple[int, int] = (224, 224)
    normalization: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    if encoder.library == "timm":
        source = encoder if config.weights is None else dataclasses.replace(encoder, pretrained=False, weights=None)
        pyramid = timm_encoder.TimmEncoder(source, config.output_stride or settings["output_stride"])
        timm_encoder.check_strides(config, pyramid.strides)
        network = _assemble(arch, NamedPyramid(pyramid), pyramid.channels, config.num_classes, head_options)
        depth = len(pyramid.strides) + (len(set(pyramid.strides)) > 1)
        native, normalization = pyramid.native_size, pyramid.normalization
    else:
        network, own = _on_own_backbone(config, head_options)
        if config.weights is None:
            _load_backbone(encoder, own)
        depth = len(encoder.options["nodes"]) + 1
    strides = measured.strides(network.backbone, native)
    if not strides:
        raise ImpossibleCellError(f"encoder={encoder.name} does not run in torchvision at {native[0]}x{native[1]}")
    classifier = network.classifier
    last = classifier.high_classifier if isinstance(network, LRASPP) else list(classifier.children())[-1]
    aux = getattr(network, "aux_classifier", None)
    facts = Facts(strides[-1], depth, last.in_channels)
    segmenter = TorchvisionSegmenter(network, network.backbone, aux, facts, native, normalization)
    if config.weights is not None and config.with_weights:
        _load(segmenter, config)
    return segmenter


def _head_options(config: ModelConfig) -> dict[str, Any]:
    """Returns the arguments of the head that were asked for and are not its own anyway."""
    names, wanted = config.settings.get("names", {}), config.decoder_channels
    if "decoder_channels" not in names or wanted is None:
        return {}
    argument = names["decoder_channels"]
    default = inspect.signature(METHODS[config.arch.name].__init__).parameters[argument].default
    return {} if wanted == default else {argument: wanted}


def _on_own_backbone(config: ModelConfig, head_options: dict[str, Any]) -> tuple[Any, nn.Module]:
    """Returns the network and its backbone, both without weights."""
    arch, encoder = config.arch.name, config.encoder
    published = f"{arch}_{encoder.model}"
    by_stride, default = encoder.options["by_output_stride"], encoder.options["output_stride"]
    stride = config.output_stride if config.output_stride in by_stride else default
    if stride == default and not head_options and published in _published():
        extra = {} if arch == "lraspp" else {"aux_loss": True}
        network = models.get_model(
            published, weights=None, weights_backbone=None, num_classes=config.num_classes, **extra
        )
        return network, network.backbone
    own = OwnBackbone(encoder.model, encoder.options["nodes"], **by_stride[stride])
    own.train()
    return _assemble(arch, NamedPyramid(own), _channels(own), config.num_classes, head_options), own


def _assemble(
    arch: str, backbone: nn.Module, channels: list[int], num_classes: int, head_options: dict[str, Any]
) -> Any:
    if arch == "lraspp":
        return LRASPP(backbone, channels[LOW], channels[OUT], num_classes, **head_options)
    head = {"fcn": FCNHead, "deeplabv3": DeepLabHead}[arch]
    return METHODS[arch](backbone, head(channels[OUT], num_classes), FCNHead(channels[AUX], num_classes))


def _channels(backbone: nn.Module) -> list[int]:
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, 64, 64))
    backbone.train(training)
    return [item.shape[1] for item in features]


def _load_backbone(encoder: EncoderConfig, backbone: nn.Module) -> None:
    """Loads ImageNet weights into a backbone: a classification model without its classifier."""
    if encoder.weights is None and not encoder.pretrained:
        return
    with timm_encoder.weights_errors(encoder):
        if encoder.weights is not None:
            state = load_state_dict(str(timm_encoder.require_file(encoder)))
        else:
            enum: Any = models.get_model_weights(encoder.model)
            state = enum[encoder.options["weights"]].get_state_dict(progress=True, check_hash=True)
        target = backbone.model if isinstance(backbone, OwnBackbone) else backbone
        kept = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
        if not isinstance(backbone, OwnBackbone):  # the builders drop MobileNetV3's "features."
            kept = {key.removeprefix("features."): value for key, value in kept.items()}
        target.load_state_dict(kept)


# --- the whole model's weights


def _published() -> list[str]:
    return list(models.list_models(module=models.segmentation))


def _pairs() -> list[str]:
    """Returns what torchvision publishes, as ``arch=... encoder=...``."""
    named = (name.partition("_") for name in _published())
    return [f"arch={arch} encoder=torchvision/{encoder}" for arch, _, encoder in named]


def _load(segmenter: TorchvisionSegmenter, config: ModelConfig) -> None:
    """Loads ``weights``: a file, or the name of weights that torchvision publishes for the pair.

    Raises:
        UserError: there are none of this name, they cannot be had, or they are for another model.
    """
    source = str(config.weights)
    if Path(source).is_file():
        path = Path(source)
        weights.check_hash(path)
        state = weights.read(path)
    else:
        state = _download(segmenter, config)
    weights.load_model(segmenter.network, state, config)


def _download(segmenter: TorchvisionSegmenter, config: ModelConfig) -> dict[str, Tensor]:
    """Gets published weights, and tells the segmenter what is published about them."""
    source, model = str(config.weights), f"{config.arch.name}_{config.encoder.model}"
    if config.encoder.library != "torchvision" or model not in _published():
        raise UserError(
            f"weights={source} is no file, and torchvision publishes none for arch={config.arch.name} "
            f"encoder={config.encoder.name}; it does for {', '.join(_pairs())}"
        )
    enum: Any = models.get_model_weights(model)
    if source not in enum.__members__:
        raise UserError(
            f"weights={source} is no file and none of torchvision's for {model}; it has "
            f"{', '.join(name for name in enum.__members__ if name != 'DEFAULT')}"
        )
    if isinstance(getattr(segmenter.network.backbone, "encoder", None), OwnBackbone):
        raise UserError(
            f"weights={source} is published for {model} as torchvision builds it; leave arch.output_stride and "
            "arch.decoder_channels out"
        )
    chosen = enum[source]
    try:
        state: dict[str, Tensor] = chosen.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except Exception as error:  # of the network, the disk and the server
        raise UserError(
            f"weights={source} of {model} cannot be had ({type(error).__name__}: {one_line(error)[:160]}); download "
            f"{chosen.url} elsewhere and say weights=<file>"
        ) from error
    transforms = chosen.transforms()
    segmenter.normalization = (tuple(transforms.mean), tuple(transforms.std))
    dataset, metrics = next(iter(chosen.meta["_metrics"].items()))
    segmenter.published = {  # the keys of mmseg_configs.Published
        "config": f"{model}.{chosen.name}",
        "method": METHODS[config.arch.name].__name__,
        "dataset": dataset,
        "mIoU": round(metrics["miou"] / 100, 6),
        "mIoU_ms_flip": None,
        "memory_gb": None,
        "weights": chosen.url,
    }
    log.info(
        "weights=%s: the published mIoU of %s on %s was measured on images resized to %s pixels (the smaller side)",
        *(source, metrics["miou"], dataset, transforms.resize_size[0]),
    )
    return state
