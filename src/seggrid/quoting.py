"""Values as Hydra's command line reads them. Imports no torch."""

import re


def quoted(value: object) -> str:
    r"""Returns a value in quotes, so that no character of it means anything to Hydra.

    Within quotes a backslash escapes a quote, and those before a quote, and stands for itself elsewhere.
    """
    text = re.sub(r"(\\*)'", r"\1\1\'", str(value))
    return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"
