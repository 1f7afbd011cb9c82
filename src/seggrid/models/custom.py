"""A network of the user's own: any ``nn.Module`` that ``arch.target`` names."""

import difflib
import inspect
import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seggrid.checks import ImpossibleCellError
from seggrid.config import ModelConfig
from seggrid.errors import UserError, one_line
from seggrid.models import measured, timm_encoder, user_code, weights
from seggrid.models.segmenter import Facts, Segmenter

log = logging.getLogger("seggrid")
SIZES = ((224, 224), (256, 256), (512, 512))  # tried in this order: most networks work with all of them
WANTED = "(B, num_classes, h, w), a dict with such an 'out' and perhaps an 'aux', or a tuple of such"


class CustomSegmenter(Segmenter):
    """The user's network."""

    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs the network; the auxiliary logits count in training only."""
        logits, aux = _parts(self.network(images))
        return logits, aux if self.training else ()

    def raw_losses(self, images: Tensor, masks: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """Runs the network and its own loss."""
        network: Any = self.network
        losses: dict[str, Tensor] = network.native_loss(images, masks, ignore_index)
        return losses


def build(config: ModelConfig) -> Segmenter:
    """Builds ``arch.target(num_classes=..., **arch.options)``.

    The network takes images ``(B, 3, H, W)`` and returns logits ``(B, num_classes, h, w)`` at any resolution, or
    torchvision's dict of ``out`` and ``aux``, or a tuple of the logits and those of auxiliary heads. Of its attributes
    these mean something: ``encoder`` or ``backbone`` is what ``encoder.frozen`` and ``optimizer.encoder_lr_scale`` are
    about, ``auxiliary_head`` or ``aux_classifier`` is for training alone, and ``native_loss(images, masks,
    ignore_index)`` returns the parts of its own loss by name.

    Its facts are measured on the encoder's feature maps; where it gives none, output stride and depth are 1. The
    decoder's width is not known.

    Raises:
        UserError: the target cannot be had, does not run, or returns something else; or the weights are not for it.
        ImpossibleCellError: an encoder was chosen, or one is to be frozen that the network does not have.
    """
    target, encoder_config = config.arch.target, config.encoder
    if encoder_config.library != "native":
        raise ImpossibleCellError(
            f"backend=custom brings its own encoder and cannot take encoder={encoder_config.name}; leave encoder out"
        )
    if not target:
        raise UserError("arch.target is not set; say arch.target=my.module.Net")
    network = _constructed(_imported(target), config)
    size = _check(network, config)
    encoder, aux_heads = _part(network, "encoder", "backbone"), _part(network, "auxiliary_head", "aux_classifier")
    if encoder is None and (encoder_config.frozen or encoder_config.weights is not None):
        setting = "encoder.frozen" if encoder_config.frozen else "encoder.weights"
        raise ImpossibleCellError(
            f"{setting} has nothing to act on: {target} has no attribute encoder or backbone that is a module"
        )
    if config.weights is not None and config.with_weights:
        _load(network, config.weights, config)
    elif encoder is not None and encoder_config.weights is not None:
        timm_encoder.load_own(encoder_config, encoder, config.num_classes)
    strides = [] if encoder is None else [stride for stride in measured.strides(encoder, size) if stride > 1]
    facts = Facts(strides[-1], len(strides), None) if strides else Facts(1, 1, None)
    has_native_loss = callable(getattr(network, "native_loss", None))
    return CustomSegmenter(network, encoder, aux_heads, facts, size, has_native_loss=has_native_loss)


def _load(network: nn.Module, source: str, config: ModelConfig) -> None:
    path = Path(source)
    if not path.is_file():
        raise UserError(f"weights={source} is not a file, and backend=custom publishes none; say weights=<file>")
    weights.check_hash(path)
    weights.load_model(network, weights.read(path), config)


def _imported(target: str) -> Any:
    """Returns what ``arch.target`` names."""
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise UserError(f"arch.target={target} names no module; say arch.target=my.module.Net")
    module = user_code.imported(module_name, f"arch.target={target}")
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, dir(module), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"it is looked for in {module.__file__}"
        raise UserError(f"arch.target={target}: {module_name} has no {name}; {hint}")
    return getattr(module, name)


def _constructed(make: Any, config: ModelConfig) -> nn.Module:
    target, arguments = config.arch.target, {"num_classes": config.num_classes, **config.arch.options}
    said = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    if not callable(make):
        raise UserError(f"arch.target={target} is of type {type(make).__name__}; it takes a class or a function")
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"arch.target={target} cannot be called with {said} ({one_line(error)}); num_classes is always given, the "
            "rest is arch.options"
        ) from error
    except ValueError:
        pass  # it has no signature that can be looked at
    try:
        network = make(**arguments)
    except Exception as error:  # whatever the user's code does
        raise UserError(
            f"arch.target={target} fails when called with {said} ({_told(error)}); HYDRA_FULL_ERROR=1 shows where"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"arch.target={target} gives an object of type {type(network).__name__}, not a torch.nn.Module")
    return network


def _check(network: nn.Module, config: ModelConfig) -> tuple[int, int]:
    """Runs the network once and returns the (height, width) that it ran at."""
    target, error = config.arch.target, None
    for size in SIZES:
        try:
            output = measured.run(network, size)
        except Exception as raised:  # whatever the user's code does
            error = error or raised
            continue
        try:
            logits, aux = _parts(output)
        except TypeError as fault:
            raise UserError(f"arch.target={target} returns {fault}; wanted {WANTED}") from fault
        for item in (logits, *aux):
            if item.ndim != 4 or item.shape[:2] != (2, config.num_classes):
                raise UserError(
                    f"arch.target={target} returns logits of shape {tuple(item.shape)} for images of shape "
                    f"{(2, 3, *size)}; wanted (2, {config.num_classes}, h, w)"
                )
        return size
    assert error is not None
    raise UserError(
        f"arch.target={target} fails on images of shape {(2, 3, *SIZES[0])} ({_told(error)}); HYDRA_FULL_ERROR=1 shows "
        "where"
    ) from error


def _parts(output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Takes a network's output apart: logits, and those of the auxiliary heads.

    Raises:
        TypeError: it is nothing that we know; says what.
    """
    if isinstance(output, dict):
        if "out" not in output:
            raise TypeError(f"a dict of {', '.join(map(repr, output)) or 'nothing'}")
        output = [output["out"], *([output["aux"]] if output.get("aux") is not None else [])]
    parts = list(output) if isinstance(output, list | tuple) else [output]
    wrong = [type(item).__name__ for item in parts if not isinstance(item, Tensor)]
    if wrong or not parts:
        raise TypeError(f"a {type(output).__name__} of {wrong[0] if wrong else 'nothing'}")
    return parts[0], tuple(parts[1:])


def _part(network: nn.Module, *names: str) -> nn.Module | None:
    found = (getattr(network, name, None) for name in names)
    return next((module for module in found if isinstance(module, nn.Module)), None)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)[:200]}"
