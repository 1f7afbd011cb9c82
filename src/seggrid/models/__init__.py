"""Models of several libraries behind one interface; each file here is the only one that names its library."""

import dataclasses
from importlib import import_module

from seggrid.checks import ImpossibleCellError
from seggrid.config import ModelConfig
from seggrid.models import user_code
from seggrid.models.reach import drop_unreached, find_padding
from seggrid.models.segmenter import Facts, Segmenter, SegOutput

__all__ = ["Facts", "SegOutput", "Segmenter", "build"]


def build(config: ModelConfig) -> Segmenter:
    """Builds the model of a cell.

    Only the chosen backend is imported.

    Args:
        config: backend, arch, encoder and number of classes.

    Returns:
        The model, on the CPU, in training mode. Parameters that no gradient can reach do not require one.

    Raises:
        UserError: the encoder or its weights cannot be had.
        ImpossibleCellError: the library cannot build this cell, or not with these settings.
    """
    for module in config.arch.imports:
        user_code.imported(module, f"arch.imports={module}")
    adapter = import_module(f"seggrid.models.{config.backend.name}")
    segmenter: Segmenter = adapter.build(config)
    segmenter.facts = _settled(config, segmenter.facts)
    find_padding(segmenter.train())
    if segmenter.trains_from_logits:
        drop_unreached(segmenter)
    if config.encoder.frozen:
        _freeze(segmenter, config)
    return segmenter


def _settled(config: ModelConfig, facts: Facts) -> Facts:
    """Compares what was asked for with what was built: an explicit wish is a must, ``match=equal`` is a wish."""
    chosen = {
        "output_stride": (config.output_stride, config.arch.output_stride is not None, "arch.output_stride"),
        "decoder_channels": (
            config.decoder_channels,
            config.arch.decoder_channels is not None,
            "arch.decoder_channels",
        ),
        "encoder_depth": (config.encoder.depth, True, "encoder.depth"),
    }
    unmatched = []
    if config.match == "equal" and not config.arch.equal:
        unmatched.append(f"all: nothing is named that arch={config.arch.name} should have in every library")
    for key, (wanted, is_must, setting) in chosen.items():
        had = getattr(facts, key)
        if wanted is None or wanted == had:
            continue
        if is_must:
            what = "has no one such number" if had is None else f"gives {had}"
            can_wish = setting.startswith("arch.") and config.match == "library" and key in config.arch.equal
            raise ImpossibleCellError(
                f"{setting}={wanted} cannot be had: backend={config.backend.name} arch={config.arch.title} "
                f"encoder={config.encoder.name} {what}; leave it out{', or say match=equal' if can_wish else ''} "
                "(docs/models.md)"
            )
        unmatched.append(f"{key} {had}, not {wanted}")
    return dataclasses.replace(facts, unmatched=tuple(unmatched))


def _freeze(segmenter: Segmenter, config: ModelConfig) -> None:
    encoder = {id(weight) for weight in segmenter.encoder_parameters()}
    if not any(weight.requires_grad and id(weight) not in encoder for weight in segmenter.parameters()):
        raise ImpossibleCellError(
            f"encoder.frozen leaves nothing to train: arch={config.arch.name} on backend={config.backend.name} has no "
            "part outside its encoder"
        )
    segmenter.freeze_encoder()
