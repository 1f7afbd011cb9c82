"""How many jobs a sweep has, and how long it may take: a comma too many is a week of a cluster. Imports no torch."""

import math
import statistics
from datetime import datetime
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig

from seggrid import results
from seggrid.checks import MANY_JOBS
from seggrid.errors import UserError
from seggrid.grid.durations import shown

LOOKED_AT = 200  # finished runs that an estimate is made from, the newest


def confirm(context: HydraContext, config: DictConfig) -> None:
    """Refuses a sweep of more than ``MANY_JOBS`` jobs that was not confirmed.

    Hydra would compose each of its configurations before anyone could say so.

    Args:
        context: of Hydra.
        config: of the sweep.

    Raises:
        UserError: with the number of jobs, and an estimate of the time from runs that are there.
    """
    count = _jobs(context, config)
    if count <= MANY_JOBS or config.sweep.confirm:
        return
    seconds = _typical_s(Path(str(config.hydra.sweep.dir)).parent, str(config.hydra.job.name))
    slots = config.hydra.launcher.get("slots") or 1
    if seconds is None:
        estimate = "how long one takes is not known yet"
    else:
        estimate = (
            f"at {shown(seconds)} each, the median of the runs that are there, about {shown(count * seconds / slots)} "
            f"on {slots} slot{'s' * (slots > 1)}"
        )
    raise UserError(
        f"this sweep has {count} jobs ({estimate}); say sweep.confirm=true if it is meant, or leave out some choices"
    )


def _jobs(context: HydraContext, config: DictConfig) -> int:
    if config.hydra.sweeper.get("n_trials") is not None:
        return int(config.hydra.sweeper.n_trials)
    said = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    said += list(config.hydra.overrides.task)
    parsed = OverridesParser.create(config_loader=context.config_loader).parse_overrides(said)
    last = {override.get_key_element(): override for override in parsed}  # the command line goes before the file
    swept = [item for item in last.values() if item.is_sweep_override() and item.is_discrete_sweep()]
    return math.prod(sum(1 for _ in item.sweep_string_iterator()) for item in swept)


def _typical_s(folder: Path, kind: str) -> float | None:
    """How long the newest finished runs of a kind took, the median."""
    paths = sorted(folder.glob(f"*/*/{results.FILE_NAME}"), key=lambda path: path.stat().st_mtime)[-LOOKED_AT:]
    durations = []
    for path in paths:
        try:
            record = results.read(path.parent)
        except UserError:
            continue
        if record is not None and (record.kind, record.status) == (kind, "completed") and record.ended is not None:
            took = datetime.fromisoformat(record.ended) - datetime.fromisoformat(record.started)
            durations.append(took.total_seconds())
    return statistics.median(durations) if durations else None
