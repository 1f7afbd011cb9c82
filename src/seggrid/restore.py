"""The configuration of a trained run, and what ``evaluate.py``'s command line changes in it. Imports no torch."""

import dataclasses
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seggrid import results
from seggrid.config import EvaluateConfig, TrainConfig
from seggrid.errors import UserError, one_line
from seggrid.quoting import quoted

OWN = {"num_workers", "logger", "sweep"}  # of this machine and this sweep, not of the run
RESTORED = [
    field.name
    for field in dataclasses.fields(EvaluateConfig)
    if field.name in {known.name for known in dataclasses.fields(TrainConfig)} - OWN
]


def restore(composed: DictConfig, overrides: list[str]) -> DictConfig:
    """Puts the configuration of ``run``, or of the run that ``checkpoint`` lies in, where the command line is silent.

    Args:
        composed: what Hydra composed for ``evaluate.py``.
        overrides: what was said on the command line, which stays.

    Returns:
        The configuration of the evaluation; ``composed`` itself where there is no run.

    Raises:
        UserError: the folder is not that of a training run.
    """
    run = run_folder(composed.run, composed.checkpoint)
    if run is None:
        return composed
    stored = _read(run)
    restored: DictConfig = OmegaConf.structured(EvaluateConfig)
    OmegaConf.set_struct(restored, False)
    for name in composed:
        restored[name] = stored[name] if name in RESTORED else composed[name]
    restored.run = str(run)
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if key.split(".")[0] not in RESTORED:
            continue
        if key == "weights":
            raise UserError("weights and run are both set; a run has weights of its own: leave one out")
        if override.is_delete():
            raise UserError(f"~{key} cannot be taken from the run's configuration; set it to another value")
        OmegaConf.update(restored, key, OmegaConf.select(composed, key), merge=False)
    return restored


def run_folder(run: str | None, checkpoint: str) -> Path | None:
    """Returns the folder of the run that is evaluated; None where published weights are.

    Args:
        run: what the user said.
        checkpoint: ``best``, ``last``, or the path of a file, which lies in ``<run>/checkpoints``.
    """
    if run is not None:
        return Path(run).expanduser()
    path = Path(checkpoint).expanduser()
    return path.resolve().parent.parent if path.suffix else None


def expand_sweep(argv: list[str]) -> None:
    """Turns ``run=<folder of a sweep>`` into the runs in it: ``-m run=<first>,<second>,...``.

    Args:
        argv: the command line, which is changed.

    Raises:
        UserError: the folder holds neither a training run nor any.
    """
    position = next((place for place, argument in enumerate(argv) if argument.startswith("run=")), None)
    if position is None:
        return
    override = OverridesParser.create().parse_override(argv[position])
    named = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    runs = [run for name in named for run in _runs(str(name))]
    if len(runs) != len(named):
        argv[position] = "run=" + ",".join(map(quoted, runs))
    if len(runs) > 1 and not {"-m", "--multirun"} & set(argv):
        argv.insert(1, "-m")


def _runs(name: str) -> list[str]:
    """Returns the completed training runs in the folder of a sweep; any other folder is one run."""
    folder = Path(name.strip("'\"")).expanduser()
    if not folder.is_dir() or (folder / results.CONFIG_NAME).exists():
        return [name.strip("'\"")]
    found = (path.parent for path in folder.glob(f"*/{results.FILE_NAME}"))
    trained = [
        str(path) for path in sorted(found, key=lambda path: results.natural_order(path.name)) if _is_trained(path)
    ]
    if not trained:
        raise UserError(f"run={name} holds no completed training run; give the folder of a run or of a sweep")
    return trained


def _is_trained(folder: Path) -> bool:
    record = results.read(folder)
    return record is not None and (record.kind, record.status) == ("train", "completed")


def _read(run: Path) -> Any:
    path = run / results.CONFIG_NAME
    if not path.exists():
        raise UserError(f"run={run} is not the folder of a run: {path} is missing")
    stored = OmegaConf.load(path)
    if "optimizer" not in stored:
        raise UserError(f"run={run} is not a training run")
    try:
        return OmegaConf.merge(OmegaConf.structured(TrainConfig), stored)
    except OmegaConfBaseException as error:
        raise UserError(f"{path} is of another version of seggrid ({one_line(error)}); train the run again") from error
