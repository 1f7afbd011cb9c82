"""MMSegmentation: its decode heads on timm's encoders and on its own backbones."""

import logging
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from seggrid.checks import ImpossibleCellError
from seggrid.config import ModelConfig
from seggrid.errors import UserError
from seggrid.models import mmcv_ops, timm_encoder
from seggrid.models.segmenter import Facts, Segmenter

mmcv_ops.install()

from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402


class MmsegSegmenter(Segmenter):
    """An ``EncoderDecoder`` of MMSegmentation."""

    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs backbone, neck and heads."""
        network: Any = self.network
        features = network.extract_feat(images)
        aux = (network.auxiliary_head(features),) if self.training and network.with_auxiliary_head else ()
        return network.decode_head(features), aux


def build(config: ModelConfig) -> Segmenter:
    """Builds MMSegmentation's model of the cell.

    The arch's settings are the arguments of its heads and neck as in MMSegmentation's own configurations; what depends
    on the encoder and on the data set (``in_channels``, ``num_classes``) is filled in here. ``channels_of`` names
    further arguments that are the channels of one of the encoder's feature maps.

    Raises:
        ImpossibleCellError: the arch needs feature maps of several strides, and the encoder has one.
        UserError: the encoder's weights cannot be had.
    """
    _quiet()
    options = config.arch.backends["mmseg"]
    encoder: Any
    if config.encoder.library == "timm":
        encoder = timm_encoder.TimmEncoder(config.encoder, options.get("output_stride"))
        channels, strides, native = encoder.channels, encoder.strides, encoder.native_size
    else:
        encoder = _own_encoder(config, options.get("output_stride"))
        channels, strides = _pyramid(encoder)
        native = (224, 224)
    if options.get("needs_pyramid") and len(set(strides)) == 1:
        raise ImpossibleCellError(
            f"arch={config.arch.name} needs feature maps of several strides, encoder={config.encoder.name} has only "
            f"stride {strides[0]}; choose a hierarchical one, such as resnet50 or convnext_tiny"
        )

    neck = options.get("neck")
    head_channels = channels if neck is None else [neck["out_channels"]] * neck["num_outs"]
    description = {
        "type": "EncoderDecoder",
        "backbone": {"type": lambda: encoder},
        "neck": None if neck is None else {**neck, "in_channels": channels},
        "decode_head": _head(options["decode_head"], head_channels, config.num_classes),
        "auxiliary_head": _head(options["auxiliary_head"], head_channels, config.num_classes)
        if "auxiliary_head" in options
        else None,
        "test_cfg": {"mode": "whole"},
    }
    with warnings.catch_warnings():  # about its loss, which seggrid does not use
        warnings.simplefilter("ignore")
        network = MODELS.build(description)
    network.init_weights()
    if config.encoder.library == "mmseg" and config.encoder.weights is not None:
        _load(config, encoder)
    facts = Facts(strides[-1], len(strides), int(network.decode_head.channels))
    aux = getattr(network, "auxiliary_head", None)
    return MmsegSegmenter(network, encoder, aux, facts, native)


def _head(options: dict[str, Any], channels: list[int], num_classes: int) -> dict[str, Any]:
    index = options["in_index"]
    head = {key: value for key, value in options.items() if key != "channels_of"}
    return {
        "norm_cfg": {"type": "BN", "requires_grad": True},  # trainer.sync_batchnorm makes it SyncBN
        "align_corners": False,
        **head,
        "in_channels": [channels[item] for item in index] if isinstance(index, list) else channels[index],
        "num_classes": num_classes,
        **{key: channels[item] for key, item in options.get("channels_of", {}).items()},
    }


def _own_encoder(config: ModelConfig, output_stride: int | None) -> nn.Module:
    if config.encoder.pretrained and config.encoder.weights is None:
        raise UserError(
            f"encoder={config.encoder.name} has no download of its own weights; "
            "go on with encoder.pretrained=false, or with encoder.weights=<file>"
        )
    options = dict(config.encoder.options)
    by_stride = options.pop("by_output_stride", {})
    return cast(nn.Module, MODELS.build({**options, **by_stride.get(output_stride, {})}))


def _pyramid(encoder: nn.Module) -> tuple[list[int], list[int]]:
    size = 64
    encoder.eval()  # not chained: MMSegmentation's own train() returns None
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, size, size))
    encoder.train()
    return [item.shape[1] for item in features], [size // item.shape[-1] for item in features]


def _load(config: ModelConfig, encoder: nn.Module) -> None:
    from timm.models import load_state_dict

    with timm_encoder.weights_errors(config.encoder):
        state = load_state_dict(str(timm_encoder.require_file(config.encoder)))
        encoder.load_state_dict({key: value for key, value in state.items() if not key.startswith(("head.", "fc."))})


def _quiet() -> None:
    """Registers MMSegmentation's modules, and keeps its log from the terminal."""
    if DefaultScope.get_current_instance() is None or not MODELS.get("EncoderDecoder"):
        register_all_modules(init_default_scope=True)
    MMLogger.get_current_instance().setLevel(logging.ERROR)
