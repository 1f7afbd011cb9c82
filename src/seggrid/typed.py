"""A composed configuration as the object of its schema. Imports no torch."""

import dataclasses
import difflib
from typing import Any

from omegaconf import DictConfig, OmegaConf

from seggrid.errors import UserError


def as_typed(composed: DictConfig) -> Any:
    """Returns a configuration as the object of its schema; raises UserError where a key is missing or unknown."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]} is not set; say {missing[0]}=<value>")
    typed: Any = OmegaConf.to_object(composed)
    _refuse_unknown(composed, typed)
    return typed


def _refuse_unknown(composed: DictConfig, typed: Any, parent: str = "") -> None:
    """Refuses a misspelt key that came with ``+``, which Hydra adds to any node."""
    known = {entry.name for entry in dataclasses.fields(typed)}
    for name in map(str, composed):
        key = f"{parent}{name}"
        if name not in known:
            raise UserError(unknown_key(key, type(typed)))
        value = getattr(typed, name)
        if dataclasses.is_dataclass(value):
            _refuse_unknown(composed[name], value, f"{key}.")


def unknown_key(key: str, schema: Any) -> str:
    """Says in one line that a key is none, and what is."""
    keys = [entry.name for entry in dataclasses.fields(schema)]
    near = difflib.get_close_matches(key.split(".")[-1], keys, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"{key} is not a key{hint} Allowed here: {', '.join(keys)}"
