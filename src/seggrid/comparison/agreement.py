"""How many of a comparison's counts are those that others have published, and which is the farthest from them."""

from decimal import Decimal
from typing import TYPE_CHECKING

from seggrid.comparison.rows import as_number

if TYPE_CHECKING:
    from seggrid.comparison.report import Run

NEAR = 0.01  # of the published figure
COUNTS = {"params": "parameters", "gmacs": "GMac"}


def agreement(profiles: list["Run"]) -> str:
    """Says how many profiles have the published parameters and GMac, and the largest deviation of each.

    Args:
        profiles: completed profiles.

    Returns:
        A sentence for each count; empty where nothing is published.
    """
    said = []
    for key, name in COUNTS.items():
        found = [
            (measured, published, run.label)
            for run in profiles
            if (measured := as_number(run.values.get(f"published_{key}_measured"))) is not None
            and (published := as_number(run.values.get(f"published_{key}")))
        ]
        if not found:
            continue
        agreeing = sum(agrees(measured, published) for measured, published, _ in found)
        most, label = max(
            ((measured / published - 1, label) for measured, published, label in found), key=lambda pair: abs(pair[0])
        )
        said.append(
            f"{agreeing} of {len(found)} have the published {name}, to the published digits or within {100 * NEAR:.0f} "
            f"%; the largest deviation is {100 * most:+.1f} % ({label})."
        )
    return " ".join(said)


def agrees(measured: float, published: float) -> bool:
    """Whether a figure is a published one, as far as its digits go, or within a hundredth of it.

    A published figure of one digit (0.5e6) is taken for one of two: what was rounded so far says nothing.

    Args:
        measured: what was counted.
        published: what others say, not 0.
    """
    digits = max(2, len(Decimal(repr(published)).normalize().as_tuple().digits))
    rounded = float(f"{measured:.{digits - 1}e}") == float(f"{published:.{digits - 1}e}")
    return rounded or abs(measured / published - 1) <= NEAR
