"""The optimiser by parameter groups, and the learning rate over the steps."""

import math
from collections.abc import Collection, Iterable
from typing import Any

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from seggrid.config import OptimizerConfig, ScheduleConfig

FUSED = ("cpu", "cuda")


def decayed_names(model: nn.Module) -> list[str]:
    """Returns the names of the parameters that decay: all but norms and biases, which have one dimension."""
    return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]


def parameter_groups(
    model: nn.Module,
    encoder_parameters: Iterable[nn.Parameter],
    config: OptimizerConfig,
    decayed: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Sorts the trained parameters by learning rate and weight decay.

    Args:
        model: all parameters.
        encoder_parameters: those that train at ``encoder_lr_scale`` of the rate.
        config: rates and decay.
        decayed: the names of those that decay, from before FSDP flattened them; None takes :func:`decayed_names`.

    Returns:
        Up to four groups with ``params``, ``lr``, ``weight_decay`` and ``name``.
    """
    encoder = {id(parameter) for parameter in encoder_parameters}
    decaying = set(decayed_names(model) if decayed is None else decayed)
    groups: dict[str, dict[str, Any]] = {}
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "encoder" if id(parameter) in encoder else "decoder"
        decays = key in decaying
        name = part if decays else f"{part}_no_decay"
        scale = config.encoder_lr_scale if part == "encoder" else 1.0
        decay = config.weight_decay if decays else 0.0
        group = {"params": [], "lr": config.lr * scale, "weight_decay": decay, "name": name}
        groups.setdefault(name, group)["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    model: nn.Module,
    encoder_parameters: Iterable[nn.Parameter],
    config: OptimizerConfig,
    fused: bool = True,
    decayed: Collection[str] | None = None,
) -> Optimizer:
    """Builds the configured optimiser over :func:`parameter_groups`.

    Args:
        model: all parameters, on their device.
        encoder_parameters: as for :func:`parameter_groups`.
        config: which one.
        fused: update all weights in one kernel, where their device has it.
        decayed: as for :func:`parameter_groups`.
    """
    groups = parameter_groups(model, encoder_parameters, config, decayed)
    extra: dict[str, Any] = {}
    if config.name == "adamw" and config.betas is not None:
        extra["betas"] = tuple(config.betas)
    if config.name == "sgd":
        extra["momentum"] = 0.0 if config.momentum is None else config.momentum
        extra["nesterov"] = False
    # torch's own default is a kernel per operation on a GPU, and on the CPU one per operation and weight.
    if fused and all(parameter.device.type in FUSED for group in groups for parameter in group["params"]):
        extra["fused"] = True
    optimizer: Optimizer = create_optimizer_v2(
        groups, opt=config.name, lr=config.lr, weight_decay=config.weight_decay, **extra
    )
    return optimizer


def build_schedule(optimizer: Optimizer, config: ScheduleConfig, total_steps: int) -> LRScheduler:
    """Builds the configured schedule; it moves once per step.

    Args:
        optimizer: whose groups' rates are the highest that the schedule reaches.
        config: which one.
        total_steps: optimiser steps of the whole run.
    """
    if config.name == "onecycle":
        return LambdaLR(optimizer, lambda step: _one_cycle(step, config.warmup_fraction, total_steps))
    warmup_steps = round(config.warmup_fraction * total_steps)
    power = 0.9 if config.power is None else config.power

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if config.name == "poly":
            return float((1 - progress) ** power)
        if config.name == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1.0

    return LambdaLR(optimizer, factor)


def _one_cycle(step: int, rise: float, total_steps: int) -> float:
    """The rates of ``torch.optim.lr_scheduler.OneCycleLR``, which leave momentum and betas as they are configured.

    That class divides by zero where the rise takes one step, and refuses a step after a resume with more epochs.
    """
    last = total_steps - 1
    peak = max(0.0, rise * total_steps - 1)
    if step < peak:
        start, end, progress = 1 / 25, 1.0, step / peak
    else:
        start, end, progress = 1.0, 1 / 25e4, min(1.0, (step - peak) / ((last - peak) or 1))
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
