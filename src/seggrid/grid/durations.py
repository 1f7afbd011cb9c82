"""Durations: as a user writes them, and as people read them."""

import re

from seggrid.errors import UserError

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(key: str, text: str | None) -> float | None:
    """Reads a duration such as ``90s``, ``30m``, ``1.5h`` or ``2d``; None stays None.

    Args:
        key: the configuration's key, for the message.
        text: the duration.

    Raises:
        UserError: it is none.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(text).strip())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"{key}={text} is no duration; say 90s, 30m, 12h or 2d")
    return float(match[1]) * UNITS_S[match[2]]


def shown(seconds: float) -> str:
    """Returns a duration in the two largest units that tell something."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
