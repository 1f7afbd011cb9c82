"""segmentation-models-pytorch: 12 architectures, with timm's encoders or its own."""

from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders import encoders
from timm.models import load_state_dict
from torch import Tensor, nn

from seggrid.checks import ImpossibleCellError
from seggrid.config import ModelConfig
from seggrid.errors import UserError, one_line
from seggrid.models import timm_encoder
from seggrid.models.segmenter import Facts, Segmenter


class SmpSegmenter(Segmenter):
    """A ``smp.SegmentationModel``; SMP has no auxiliary segmentation heads."""

    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs the network."""
        logits = self.network(images)
        # SMP's U-Net takes any size, and answers at another one.
        assert logits.shape[-2:] == images.shape[-2:], f"logits of {tuple(logits.shape[-2:])}"
        return logits, ()


def build(config: ModelConfig) -> Segmenter:
    """Builds SMP's model of the cell.

    Raises:
        ImpossibleCellError: SMP refuses the encoder for this arch.
        UserError: the encoder's weights cannot be had.
    """
    options = dict(config.arch.backends["smp"])
    with_weights = config.encoder.pretrained or config.encoder.weights is not None
    network = _create(config, options, weights=None)
    if with_weights:  # built without them first: what fails now is the weights
        with timm_encoder.weights_errors(config.encoder):
            network = _create(config, options, weights=_weights(config))
    if config.encoder.library == "smp" and config.encoder.weights is not None:
        with timm_encoder.weights_errors(config.encoder):
            network.encoder.load_state_dict(load_state_dict(str(timm_encoder.require_file(config.encoder))))
    elif config.encoder.weights is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() + 1)
            twin = _create(config, options, weights=_weights(config))
        timm_encoder.check_loaded(config.encoder, network.encoder, twin.encoder)

    encoder = network.encoder
    head = next(module for module in network.segmentation_head.modules() if isinstance(module, nn.Conv2d))
    stride = int(encoder.output_stride)
    native = timm_encoder.native_size(config.encoder) if config.encoder.library == "timm" else (224, 224)
    facts = Facts(stride, len(encoder.out_channels) - (0 if config.arch.name == "dpt" else 1), head.in_channels)
    return SmpSegmenter(network, encoder, None, facts, native)


def _weights(config: ModelConfig) -> str | bool | None:
    """SMP names its own encoders' weights; for timm's it takes a flag, and timm's own arguments."""
    if config.encoder.library == "timm":
        return True
    if config.encoder.weights is not None:
        return None
    known = encoders[config.encoder.model]["pretrained_settings"]
    return "imagenet" if "imagenet" in known else next(iter(known))


def _create(config: ModelConfig, options: dict[str, Any], weights: str | bool | None) -> Any:
    encoder = config.encoder
    extra: dict[str, Any] = dict(encoder.options)
    name = encoder.model
    if encoder.library == "timm":
        name = f"tu-{encoder.model}"
        extra |= timm_encoder.accepted_options(encoder)
        if weights is not None and encoder.weights is not None:
            timm_encoder.require_file(encoder)
            extra["pretrained_cfg_overlay"] = {"file": encoder.weights}
    try:
        return smp.create_model(
            config.arch.name, encoder_name=name, encoder_weights=weights, classes=config.num_classes, **options, **extra
        )
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        if weights is not None:
            raise
        if options or encoder.options:
            raise UserError(
                f"smp refuses arch={config.arch.name} on encoder={encoder.name} with arch.backends.smp={options} and "
                f"encoder.options={dict(encoder.options)} ({one_line(error)[:200]})"
            ) from error
        raise ImpossibleCellError(
            f"backend=smp cannot build arch={config.arch.name} on encoder={encoder.name} ({one_line(error)[:200]})"
        ) from error
