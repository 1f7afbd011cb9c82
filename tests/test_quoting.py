"""What is quoted comes back from Hydra as it was."""

import itertools

from hydra.core.override_parser.overrides_parser import OverridesParser

from seggrid.quoting import quoted


def test_every_text_survives_the_command_line() -> None:
    parser = OverridesParser.create()
    texts = ["a b", "a,b", "{x}", "[y]", "a=b", "$x", "ü%", '"q"', *map("".join, itertools.product("\\'a", repeat=4))]
    for text in texts:
        assert parser.parse_override(f"key={quoted(text)}").value() == text
