"""Lets MMSegmentation be imported where mmcv has no compiled operators.

No wheel of mmcv with compiled operators exists for current PyTorch, and its source build fails there. mmcv-lite has
the same Python code, and asks at import for a module ``mmcv._ext`` that has every operator as an attribute. No method
that seggrid offers calls one of them, so an empty stand-in serves; a call says what is missing. A compiled mmcv, where
a user has one, is left as it is.

This file can go when MMSegmentation runs on an mmcv that has wheels for current PyTorch.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class _MissingOperators(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"mmcv's compiled operator {name} is not installed")

        return missing


def install() -> None:
    """Puts the stand-in into ``sys.modules`` unless the real module is there."""
    name = "mmcv._ext"
    if name in sys.modules or find_spec(name) is not None:
        return
    module = _MissingOperators(name)
    module.__spec__ = ModuleSpec(name, None)
    sys.modules[name] = module
