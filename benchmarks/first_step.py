"""Runs ``train.py`` with the arguments given until its first training step begins, and prints what is imported by then.

One line of JSON. The training step is replaced as ``seggrid.module`` is imported, so that nothing is imported for that,
or earlier than it would be.
"""

import json
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
MODULE = "seggrid.module"


class StopsAtFirstStep:
    """A finder that gives ``SegmentationModule`` another training step."""

    @staticmethod
    def find_spec(name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Finds ``seggrid.module`` where Python would, and changes it once it has run."""
        spec = PathFinder.find_spec(name, path) if name == MODULE else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: Any) -> None:
                execute(module)
                module.SegmentationModule.training_step = stop

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def stop(*_: Any) -> NoReturn:
    """Prints the line and ends the process."""
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    sys.meta_path.insert(0, StopsAtFirstStep)  # type: ignore[arg-type]
    from seggrid.entry import main

    main("train", ROOT / "conf")
