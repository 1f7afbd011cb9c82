"""What a sweep of Optuna's may choose, in Hydra's own words for it. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from seggrid.errors import UserError, one_line

if TYPE_CHECKING:
    import optuna

EXAMPLE = "'optimizer.lr=interval(1e-4,1e-2)'"


@dataclass
class Choice:
    """One override of the command line.

    Attributes:
        key: what it sets.
        text: the override as it was given.
        distribution: what its value is chosen from; None where it has one.
    """

    key: str
    text: str
    distribution: "optuna.distributions.BaseDistribution | None" = None


def import_optuna() -> Any:
    """Returns Optuna, which tells only what a user can do something about; raises UserError where it is not there."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna needs Optuna; say pip install 'seggrid[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def parse(arguments: Sequence[str], loader: ConfigLoader | None = None) -> list[Choice]:
    """Reads what may be chosen in Hydra's own grammar: ``a,b``, ``choice``, ``glob``, ``range``, ``interval``.

    Args:
        arguments: the overrides of the command line.
        loader: knows the choices of ``glob(...)``.

    Raises:
        UserError: nothing may be chosen, or an override is none that Optuna has a distribution for.
    """
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    choices = []
    for override in overrides:
        text, key = str(override.input_line), override.get_key_element()
        try:
            choices.append(Choice(key, text, _distribution(override) if override.is_sweep_override() else None))
        except ValueError as error:
            raise UserError(f"{text}: {one_line(error)}") from error
    if all(choice.distribution is None for choice in choices):
        raise UserError(
            f"hydra/sweeper=optuna has nothing to choose; say for example {EXAMPLE} encoder=resnet18,resnet34"
        )
    return choices


def _distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    distributions = import_optuna().distributions
    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        if isinstance(value.start, int) and isinstance(value.end, int):
            return distributions.IntDistribution(value.start, value.end, log=log)  # type: ignore[no-any-return]
        return distributions.FloatDistribution(value.start, value.end, log=log)  # type: ignore[no-any-return]
    if isinstance(value, RangeSweep) and not value.shuffle:
        points: list[Any] = list(override.sweep_iterator())
        if not points:
            raise ValueError("the range is empty")
        step = abs(value.step)
        kind = distributions.FloatDistribution
        if all(isinstance(point, int) for point in points):
            kind = distributions.IntDistribution
        return kind(min(points), max(points), step=step, log=log)  # type: ignore[no-any-return]
    texts = list(override.sweep_string_iterator())
    if not texts:
        raise ValueError("it matches nothing")
    return distributions.CategoricalDistribution(texts)  # type: ignore[no-any-return]


def filled(choices: list[Choice], values: dict[str, Any]) -> list[str]:
    """Returns the overrides of a job: those that were given, and those that have been chosen, by key."""
    return [choice.text if choice.distribution is None else f"{choice.key}={values[choice.key]}" for choice in choices]


def each_choice(choices: list[Choice]) -> list[list[str]]:
    """Returns jobs in which each word that may be chosen stands once: a misspelt one is found before any runs."""
    options = {choice.key: _options(choice) for choice in choices if choice.distribution is not None}
    first = {key: values[0] for key, values in options.items()}
    jobs = [filled(choices, first)]
    for key, values in options.items():
        jobs += [filled(choices, {**first, key: value}) for value in values[1:]]
    return jobs


def _options(choice: Choice) -> list[Any]:
    distribution: Any = choice.distribution
    return list(distribution.choices) if hasattr(distribution, "choices") else [distribution.low]
