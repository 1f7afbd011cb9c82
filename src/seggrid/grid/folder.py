"""The folder of a sweep: the same command finds its own again. Imports no torch."""

import hashlib
import json
import sys
from pathlib import Path

# Where and how jobs run, and what is done with those that failed, makes no other sweep.
ELSEWHERE = ("hydra.launcher.", "hydra/launcher", "sweep.")
TRACEBACK = "SEGGRID_TRACEBACK"  # whether the user wants tracebacks: Hydra is always told so
FLAGS = ("-m", "--multirun")


def folder_of(stamp: str) -> str:
    """Returns the name of the folder of this command: the newest that this very command has made, else a new one.

    Args:
        stamp: what a new name begins with.
    """
    said = sorted(item for item in sys.argv[1:] if item not in FLAGS and not item.startswith(ELSEWHERE))
    digest = hashlib.sha256(json.dumps([Path(sys.argv[0]).name, *said]).encode()).hexdigest()[:6]
    known = sorted(path.name for path in Path("multirun").glob(f"*_{digest}") if path.is_dir())
    return known[-1] if known else f"{stamp}_{digest}"
