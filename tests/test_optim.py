"""Which parameter learns at which rate, and how the rate runs over a training."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from seggrid.config import OptimizerConfig, ScheduleConfig
from seggrid.optim import build_optimizer, build_schedule, decayed_names, parameter_groups


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.decoder = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.Linear(4, 2))


ADAMW = OptimizerConfig(name="adamw", lr=0.01, encoder_lr_scale=0.1, weight_decay=0.05, betas=[0.8, 0.99])
SGD = OptimizerConfig(name="sgd", lr=0.5, encoder_lr_scale=0.2, weight_decay=0.001, momentum=0.7)


# Groups


def test_groups_have_their_own_rate_and_decay() -> None:
    model = Tiny()
    groups = {group["name"]: group for group in parameter_groups(model, model.encoder.parameters(), ADAMW)}
    settings = {name: (group["lr"], group["weight_decay"], len(group["params"])) for name, group in groups.items()}
    assert settings == {
        "encoder": (pytest.approx(0.001), 0.05, 2),
        "encoder_no_decay": (pytest.approx(0.001), 0.0, 4),
        "decoder": (0.01, 0.05, 2),
        "decoder_no_decay": (0.01, 0.0, 4),
    }


def test_norms_and_biases_are_not_decayed_and_all_else_is() -> None:
    model = Tiny()
    groups = parameter_groups(model, model.encoder.parameters(), ADAMW)
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert decayed == {id(module.weight) for module in convolutions}


def test_flattened_weights_keep_their_groups() -> None:
    model = Tiny()
    expected = [(group["name"], len(group["params"])) for group in parameter_groups(model, [], ADAMW)]
    decayed = decayed_names(model)
    for parameter in model.parameters():  # as FSDP does
        parameter.data = parameter.data.flatten()
    groups = parameter_groups(model, [], ADAMW, decayed)
    assert [(group["name"], len(group["params"])) for group in groups] == expected


def test_every_trained_parameter_is_in_one_group_and_frozen_ones_in_none() -> None:
    model = Tiny()
    model.decoder[0].weight = model.encoder[2].weight  # shared: still once, and the encoder's
    for parameter in model.encoder[0].parameters():
        parameter.requires_grad_(False)
    optimizer = build_optimizer(model, model.encoder.parameters(), ADAMW)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("config", [ADAMW, SGD], ids=lambda config: config.name)
def test_the_optimizer_is_torchs_with_the_configured_settings(config: OptimizerConfig) -> None:
    model = Tiny()
    optimizer = build_optimizer(model, model.encoder.parameters(), config)
    assert type(optimizer) is {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[config.name]
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    expected = parameter_groups(model, model.encoder.parameters(), config)
    assert rates == {group["name"]: (group["lr"], group["weight_decay"]) for group in expected}
    for group in optimizer.param_groups:
        if config.name == "adamw":
            assert (group["betas"], group["eps"], group["amsgrad"]) == ((0.8, 0.99), 1e-8, False)
        else:
            assert (group["momentum"], group["nesterov"], group["dampening"]) == (0.7, False, 0)


@pytest.mark.parametrize("config", [ADAMW, SGD], ids=lambda config: config.name)
def test_it_is_fused_where_all_weights_are_on_a_device_that_has_it(config: OptimizerConfig) -> None:
    model = Tiny()
    assert build_optimizer(model, model.encoder.parameters(), config).defaults["fused"] is True
    assert not build_optimizer(model, model.encoder.parameters(), config, fused=False).defaults["fused"]
    assert not build_optimizer(model.to("meta"), model.encoder.parameters(), config).defaults["fused"]


def test_a_step_moves_the_encoder_by_its_share() -> None:
    """Plain gradient descent on a gradient of one moves every parameter by its rate."""
    config = OptimizerConfig(name="sgd", lr=0.5, encoder_lr_scale=0.1, weight_decay=0.0, momentum=0.0)
    model = Tiny()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, model.encoder.parameters(), config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        step = 0.05 if name.startswith("encoder") else 0.5
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, step))


# Schedules


def _rates(schedule: ScheduleConfig, steps: int, config: OptimizerConfig = ADAMW) -> list[list[float]]:
    """The rate of every group at every step of a run."""
    model = Tiny()
    optimizer = build_optimizer(model, model.encoder.parameters(), config)
    scheduler = build_schedule(optimizer, schedule, steps)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


FORMULAS: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "poly": lambda t: (1 - t) ** 0.9,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_a_schedule_is_its_formula_in_every_group(name: str, warmup: float) -> None:
    steps, rise = 50, round(50 * warmup)
    rates = _rates(ScheduleConfig(name=name, warmup_fraction=warmup), steps)
    full = {"encoder": 0.001, "decoder": 0.01}
    for step, groups in enumerate(rates):
        factor = (step + 1) / (rise + 1) if step < rise else FORMULAS[name]((step - rise) / (steps - rise))
        assert groups == pytest.approx([full["encoder"] * factor] * 2 + [full["decoder"] * factor] * 2)
    assert rates[rise][2] == pytest.approx(0.01)  # the full rate, right after the warm-up
    assert all(rate > 0 for groups in rates for rate in groups)


def test_the_power_of_poly_is_a_setting() -> None:
    rates = _rates(ScheduleConfig(name="poly", power=2.0), 10)
    assert rates[5][2] == pytest.approx(0.01 * 0.25)


@pytest.mark.parametrize("config", [ADAMW, SGD], ids=lambda config: config.name)
@pytest.mark.parametrize(("steps", "rise"), [(40, 0.3), (7, 0.5), (10, 0.25)])
def test_onecycle_has_torchs_rates(config: OptimizerConfig, steps: int, rise: float) -> None:
    rates = _rates(ScheduleConfig(name="onecycle", warmup_fraction=rise), steps, config)
    model = Tiny()
    optimizer = build_optimizer(model, model.encoder.parameters(), config)
    highest = [group["lr"] for group in optimizer.param_groups]
    scheduler = OneCycleLR(optimizer, highest, total_steps=steps, pct_start=rise)
    for groups in rates:
        assert groups == pytest.approx([group["lr"] for group in optimizer.param_groups])
        assert groups[2] / groups[0] == pytest.approx(1 / config.encoder_lr_scale)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("steps", "rise"), [(10, 0.1), (1, 0.3), (2, 0.5), (5, 0.0), (5, 1.0)])
def test_onecycle_takes_any_length_and_rise(steps: int, rise: float) -> None:
    rates = [groups[2] for groups in _rates(ScheduleConfig(name="onecycle", warmup_fraction=rise), steps)]
    assert max(rates) == pytest.approx(0.01)
    assert min(rates) > 0
    if rise == 0:
        assert rates == sorted(rates, reverse=True)
    if rise == 1:
        assert rates == sorted(rates)


def test_onecycle_leaves_momentum_as_configured() -> None:
    model = Tiny()
    optimizer = build_optimizer(model, model.encoder.parameters(), SGD)
    scheduler = build_schedule(optimizer, ScheduleConfig(name="onecycle", warmup_fraction=0.3), 10)
    optimizer.step()
    scheduler.step()
    assert {group["momentum"] for group in optimizer.param_groups} == {0.7}


@pytest.mark.parametrize("name", [*FORMULAS, "onecycle"])
def test_a_run_that_is_resumed_for_longer_follows_the_longer_schedule(name: str) -> None:
    config = ScheduleConfig(name=name, warmup_fraction=0.2)
    model = Tiny()
    optimizer = build_optimizer(model, model.encoder.parameters(), ADAMW)
    short = build_schedule(optimizer, config, 10)
    for _ in range(10):
        optimizer.step()
        short.step()
    longer = build_schedule(optimizer, config, 30)
    longer.load_state_dict(short.state_dict())
    optimizer.step()
    longer.step()
    assert optimizer.param_groups[2]["lr"] == pytest.approx(_rates(config, 30)[11][2])
