"""segmentation-models-pytorch: 12 architectures, with timm's encoders or its own, and what its users have saved."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders import encoders, get_preprocessing_params
from timm.models import load_state_dict
from torch import Tensor, nn

from seggrid.checks import ImpossibleCellError
from seggrid.config import EncoderConfig, ModelConfig
from seggrid.errors import UserError, one_line
from seggrid.models import measured, smp_saved, timm_encoder
from seggrid.models.segmenter import IMAGENET, Facts, Segmenter
from seggrid.models.smp_saved import Saved

NOT_ARGUMENTS = ("names", "encoders", "loss")  # of an arch's settings: they are ours
REFUSALS = (TypeError, ValueError, AssertionError, NotImplementedError, KeyError, IndexError, RuntimeError)
log = logging.getLogger("seggrid")


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

    ``weights`` is a file for this very model, or the folder or hub id of one that ``save_pretrained`` saved: then that
    one is built, as it was saved.

    Raises:
        ImpossibleCellError: SMP refuses the encoder for this arch, or a setting.
        UserError: weights cannot be had, or a saved model is not the cell.
    """
    saved = smp_saved.find(config)
    if saved is not None:
        return _restored(config, saved)
    if config.arch.name == "official":
        raise UserError(
            "arch=official on backend=smp is a saved model; say which: weights=<folder or hub id of SMP's "
            "save_pretrained>"
        )
    network, options = _first_accepted(config)
    if config.weights is None:
        network = _with_encoder_weights(config, network, options)
    segmenter = _segmenter(network, config.encoder, _normalization(config.encoder, _published_name(config)))
    if config.weights is not None and config.with_weights:
        smp_saved.load(network, smp_saved.file_of(config.weights), config)
    return segmenter


def _segmenter(network: Any, encoder: EncoderConfig, normalization: Any) -> SmpSegmenter:
    native = timm_encoder.native_size(encoder) if encoder.library == "timm" else (224, 224)
    strides = [stride for stride in measured.strides(network.encoder, native) if stride > 1]  # the first is the image
    if not strides:
        raise ImpossibleCellError(f"encoder={encoder.name} does not run in SMP at {native[0]}x{native[1]}")
    head = next(module for module in network.segmentation_head.modules() if isinstance(module, nn.Conv2d))
    facts = Facts(strides[-1], len(strides), head.in_channels)
    return SmpSegmenter(network, network.encoder, None, facts, native, normalization)


# --- the arch's and the user's settings, in SMP's words


def _first_accepted(config: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """Builds the network without weights, and returns it with the arguments it was built from.

    What ``match=equal`` asks for is a wish: where SMP refuses it, the network is built without it.
    """
    settings = config.settings
    own = {key: value for key, value in settings.items() if key not in NOT_ARGUMENTS}
    names = settings.get("names", {})
    chosen = {"output_stride": config.arch.output_stride, "decoder_channels": config.arch.decoder_channels}
    wished = {"output_stride": config.output_stride, "decoder_channels": config.decoder_channels}
    musts, wishes = (
        {names[key]: value for key, value in asked.items() if key in names and value is not None}
        for asked in (chosen, wished)
    )
    said = [f"arch.{key}={value}" for key, value in chosen.items() if value is not None]
    if config.encoder.depth is not None:
        said.append(f"encoder.depth={config.encoder.depth}")
        musts = {**_depth(config, own), **musts}
        wishes = {**musts, **wishes}
    if wishes != musts:
        try:
            return _scaled(config, {**own, **wishes}, said)
        except UserError:
            pass
    return _scaled(config, {**own, **musts}, said) if musts else (_create(config, own, None, said), own)


def _depth(config: ModelConfig, own: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a shallower encoder; a decoder has one block per stage."""
    depth = config.encoder.depth
    options: dict[str, Any] = {"encoder_depth": depth}
    widths = _default(config.arch.name, "decoder_channels")
    if isinstance(widths, tuple) and "decoder_channels" not in own:
        options["decoder_channels"] = widths[:depth]
    return options


def _scaled(config: ModelConfig, options: dict[str, Any], said: list[str]) -> tuple[Any, dict[str, Any]]:
    """Builds a network that answers at the images' size: its last upsampling is made for the default depth."""
    network = _create(config, options, None, said)
    up, ratio = _default(config.arch.name, "upsampling"), _ratio(network, config, said)
    if ratio == 1 or up is None or "upsampling" in options:
        return network, options
    options = {**options, "upsampling": int(up * ratio)}
    return _create(config, options, None, said), options


def _ratio(network: Any, config: ModelConfig, said: list[str]) -> float:
    """Returns the images' height over that of the logits."""
    checks_size, network.requires_divisible_input_shape = network.requires_divisible_input_shape, False
    native = timm_encoder.native_size(config.encoder) if config.encoder.library == "timm" else (224, 224)
    error: Exception | None = None
    for size in (measured.MULTIPLE, native):
        try:
            return float(size[0] / measured.run(network, size).shape[-2])
        except Exception as refusal:
            error = refusal
        finally:
            network.requires_divisible_input_shape = checks_size
    assert error is not None
    raise _refusal(config, {}, said, error)


def _default(arch: str, argument: str) -> Any:
    found = inspect.signature(_class(arch).__init__).parameters.get(argument)
    return None if found is None else found.default


def _class(arch: str) -> Any:
    return smp.MODEL_ARCHITECTURES_MAPPING[arch]


def _create(config: ModelConfig, options: dict[str, Any], source: str | bool | None, said: list[str]) -> Any:
    encoder = config.encoder
    extra: dict[str, Any] = dict(encoder.options)
    name = encoder.model
    if encoder.library == "timm":
        name = f"tu-{encoder.model}"
        extra |= timm_encoder.accepted_options(encoder)
        if source is not None and encoder.weights is not None:
            timm_encoder.require_file(encoder)
            extra["pretrained_cfg_overlay"] = {"file": encoder.weights}
    arguments = {"encoder_name": name, "encoder_weights": source, "classes": config.num_classes}
    try:
        return smp.create_model(config.arch.name, **arguments, **options, **extra)
    except REFUSALS as error:
        if source is not None:
            raise
        if encoder.library == "timm":  # says what the arch needs, where that is why
            timm_encoder.check_strides(config, timm_encoder.strides(encoder))
        own = {key: value for key, value in config.settings.items() if key not in NOT_ARGUMENTS}
        raise _refusal(config, own, said, error) from error


def _refusal(config: ModelConfig, own: dict[str, Any], said: list[str], error: Exception) -> UserError:
    arch, encoder, reason = config.arch.name, config.encoder, one_line(error)[:200]
    if own or encoder.options:
        return UserError(
            f"smp refuses arch={arch} on encoder={encoder.name} with arch.backends.smp={own} and "
            f"encoder.options={dict(encoder.options)} ({reason})"
        )
    asked = f" with {' '.join(said)}" if said else ""
    return ImpossibleCellError(f"backend=smp cannot build arch={arch} on encoder={encoder.name}{asked} ({reason})")


# --- the encoder's weights, and the images that they were trained with


def _with_encoder_weights(config: ModelConfig, network: Any, options: dict[str, Any]) -> Any:
    """Returns the network with the encoder's weights. It is known to build without: what fails now is the weights."""
    encoder = config.encoder
    if not encoder.pretrained and encoder.weights is None:
        return network
    with timm_encoder.weights_errors(encoder):
        network = _create(config, options, _source(encoder), [])
    if encoder.library == "smp" and encoder.weights is not None:
        with timm_encoder.weights_errors(encoder):
            network.encoder.load_state_dict(load_state_dict(str(timm_encoder.require_file(encoder))))
    elif encoder.weights is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() + 1)
            twin = _create(config, options, _source(encoder), [])
        timm_encoder.check_loaded(encoder, network.encoder, twin.encoder)
    return network


def _source(encoder: EncoderConfig) -> str | bool | None:
    """SMP names its own encoders' weights; for timm's it takes a flag, and timm's own arguments."""
    if encoder.library == "timm":
        return True
    if encoder.weights is not None:
        return None
    known = encoders[encoder.model]["pretrained_settings"]
    return "imagenet" if "imagenet" in known else str(next(iter(known)))


def _published_name(config: ModelConfig) -> str | None:
    """Returns the name of the weights that an encoder of SMP's own starts from; None where it starts from no such."""
    encoder = config.encoder
    if encoder.library != "smp" or not encoder.pretrained or encoder.weights is not None or config.weights is not None:
        return None
    return str(_source(encoder))


def _normalization(encoder: EncoderConfig, published: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (means, standard deviations) of the images, in [0, 1], that the encoder's weights were trained with.

    SMP keeps those of its own encoders beside their weights, on the hub; a file of weights does not say, and is taken
    to be of ImageNet's usual ones.

    Raises:
        UserError: they cannot be had.
        ImpossibleCellError: the weights want the channels in another order.
    """
    if encoder.library == "timm":
        return timm_encoder.normalization(encoder)
    if published is None:
        return IMAGENET
    with timm_encoder.weights_errors(encoder):
        known = get_preprocessing_params(encoder.model, pretrained=published)
    if known["input_space"] != "RGB":
        raise ImpossibleCellError(
            f"the pretrained weights of encoder={encoder.name} want {known['input_space']} images, not RGB; "
            "go on with encoder.pretrained=false"
        )
    most = known["input_range"][1]  # 1 or 255
    means, deviations = (tuple(value / most for value in known[key]) for key in ("mean", "std"))
    return means, deviations


# --- a saved model


def _restored(config: ModelConfig, saved: Saved) -> SmpSegmenter:
    """Builds what SMP's ``save_pretrained`` saved, with our number of classes, and loads its weights."""
    encoder = EncoderConfig(saved.encoder, pretrained=False, options=saved.encoder_options(_class(saved.arch)))
    options = dict(saved.options)
    if config.arch.name != "official":
        options |= {key: value for key, value in config.settings.items() if key not in NOT_ARGUMENTS}
    options |= config.encoder.options
    if encoder.library == "timm":
        options |= timm_encoder.accepted_options(encoder)
    options |= {"encoder_weights": None, "classes": config.num_classes, "activation": None, "aux_params": None}
    make: Callable[..., Any] = _class(saved.arch)
    try:
        network = make(**options)
    except REFUSALS as error:
        raise UserError(
            f"weights={config.weights}: SMP cannot build what it holds ({one_line(error)[:200]})"
        ) from error
    segmenter = _segmenter(network, encoder, _saved_normalization(config, encoder, saved))
    if config.with_weights:
        assert saved.file is not None
        smp_saved.load(network, saved.file, config)
    segmenter.arch, segmenter.encoder_name, segmenter.restored = saved.arch, saved.encoder, saved.as_plain()
    return segmenter


def _saved_normalization(config: ModelConfig, encoder: EncoderConfig, saved: Saved) -> Any:
    """As for the encoder that the saved model started from; a saved model does not say what it was trained with."""
    source = saved.encoder_source
    known = encoders[encoder.model]["pretrained_settings"] if encoder.library == "smp" else {}
    try:
        return _normalization(encoder, source if source in known else None)
    except UserError as error:
        log.info("weights=%s: the images are normalised as ImageNet's usually are: %s", config.weights, error)
        return IMAGENET
