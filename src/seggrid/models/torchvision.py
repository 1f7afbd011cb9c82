"""torchvision: FCN, DeepLabV3 and LR-ASPP, on its own backbones and on timm's encoders."""

from collections import OrderedDict
from typing import Any

import torch
from timm.models import load_state_dict
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from seggrid.config import EncoderConfig, ModelConfig
from seggrid.models import timm_encoder
from seggrid.models.segmenter import Facts, Segmenter

LOW, AUX, OUT = 1, 2, 3  # which of the four feature maps the heads read


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

    Where torchvision publishes the pair (``fcn_resnet50``, ...) its own builder is called; elsewhere its heads are put
    on the encoder's feature maps.

    Raises:
        UserError: the encoder's weights cannot be had.
        ImpossibleCellError: timm does not serve the feature maps of the encoder.
    """
    options = config.arch.backends["torchvision"]
    arch, encoder = config.arch.name, config.encoder
    native = (224, 224)
    if encoder.library == "timm":
        pyramid = timm_encoder.TimmEncoder(encoder, options["output_stride"])
        network = _assemble(arch, NamedPyramid(pyramid), pyramid.channels, config.num_classes)
        depth, stride, native = len(pyramid.strides), pyramid.strides[-1], pyramid.native_size
    else:
        published = f"{arch}_{encoder.model}"
        if published in models.list_models(module=models.segmentation):
            extra = {} if arch == "lraspp" else {"aux_loss": True}
            network = models.get_model(
                published, weights=None, weights_backbone=None, num_classes=config.num_classes, **extra
            )
            own = network.backbone
        else:
            own = OwnBackbone(encoder.model, encoder.options["nodes"], **encoder.options["dilated"])
            own.train()
            network = _assemble(arch, NamedPyramid(own), _channels(own), config.num_classes)
        _load(encoder, own)
        depth, stride = len(encoder.options["nodes"]), int(encoder.options["output_stride"])
    classifier = network.classifier
    last = classifier.high_classifier if isinstance(network, LRASPP) else list(classifier.children())[-1]
    aux = getattr(network, "aux_classifier", None)
    return TorchvisionSegmenter(network, network.backbone, aux, Facts(stride, depth, last.in_channels), native)


def _assemble(arch: str, backbone: nn.Module, channels: list[int], num_classes: int) -> Any:
    if arch == "lraspp":
        return LRASPP(backbone, channels[LOW], channels[OUT], num_classes)
    model, head = {"fcn": (FCN, FCNHead), "deeplabv3": (DeepLabV3, DeepLabHead)}[arch]
    return model(backbone, head(channels[OUT], num_classes), FCNHead(channels[AUX], num_classes))


def _channels(backbone: nn.Module) -> list[int]:
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, 64, 64))
    backbone.train(training)
    return [item.shape[1] for item in features]


def _load(encoder: EncoderConfig, backbone: nn.Module) -> None:
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
