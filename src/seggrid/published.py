"""What others have published about a cell, as a record keeps it."""

from dataclasses import asdict
from typing import Any

from seggrid.config import PublishedConfig


def beside(library: dict[str, Any] | None, others: PublishedConfig) -> dict[str, Any] | None:
    """Puts what a user names as published beside what the cell's library itself publishes.

    Args:
        library: ``Segmenter.published``.
        others: figures from elsewhere.

    Returns:
        The section ``published`` of a record; None where nothing is published.
    """
    named = asdict(others)
    if all(value is None for value in named.values()):
        return library
    return {**(library or {}), **named}
