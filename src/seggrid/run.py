"""One run of one cell: its configuration is checked, its work is done, and its record is left. Imports no torch."""

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from seggrid import checks, results
from seggrid.data.labels import check_classes, settled
from seggrid.errors import PrunedError, UserError, one_line
from seggrid.hub import go_offline_if_unreachable
from seggrid.identity import identity
from seggrid.quick_import import without_garbage_collection
from seggrid.ranks import is_first_process
from seggrid.restore import restore
from seggrid.typed import as_typed

KEPT = (results.FILE_NAME, results.CONFIG_NAME)
log = logging.getLogger("seggrid")


def run(kind: str, composed: DictConfig) -> None:
    """Runs one cell and leaves its record, whatever its end.

    Args:
        kind: ``train``, ``evaluate`` or ``profile``.
        composed: what Hydra composed.

    Raises:
        UserError: the configuration is at fault, or what the cell met; in a sweep that runs in one process the record
            alone says so.
    """
    hydra_config = HydraConfig.get()
    in_this_process = hydra_config.mode == RunMode.MULTIRUN  # one of several, by a launcher other than ours
    folder = Path(hydra_config.runtime.output_dir)
    composed, typed = typed_of(kind, composed, list(hydra_config.overrides.task))
    if not is_first_process():
        check(kind, typed)
        _work(kind, typed, folder, new_record(kind, typed))
        return

    # A run that went on is still the run of its own command line.
    overrides = [item for item in hydra_config.overrides.task if not item.startswith("resume=")]
    record = new_record(kind, typed, overrides)
    finished = results.read(folder)
    if finished is not None and _is_completed(finished) and not getattr(typed, "resume", None):
        if in_this_process and finished.overrides == record.overrides:
            log.info("already finished: %s", folder)
            return
        raise UserError(f"{folder} already holds a finished run; choose another hydra.run.dir, or delete it")

    refused = None
    try:
        check(kind, typed)
        if results.in_sweep(folder):  # from the first on: whatever ends this process, the sweep knows the cell again
            record.identity = identity(kind, typed)
    except UserError as error:
        refused = error
    # A finished run that fails to go on must stay the finished run that it was.
    kept = {name: (folder / name).read_bytes() for name in KEPT} if _is_completed(finished) else {}
    record.write(folder)  # as "interrupted": a killed process leaves this behind
    OmegaConf.save(composed, folder / results.CONFIG_NAME, resolve=True)
    try:
        if in_this_process and is_distributed(kind, typed):
            # Lightning starts its other processes with this command line: each would repeat the whole sweep.
            raise UserError("a sweep of runs on several devices needs a process for each run; say hydra/launcher=grid")
        if refused is not None:
            raise refused
        _work(kind, typed, folder, record)
        record.status = "completed"
    except Exception as error:
        record.status = "skipped" if isinstance(error, checks.ImpossibleCellError | PrunedError) else "failed"
        kind_of_error = "Pruned" if isinstance(error, PrunedError) else type(error).__name__
        record.error = {"type": kind_of_error, "message": one_line(error)}
        if not in_this_process:
            raise
        # Hydra's basic launcher would end the sweep with the first error.
        log.info("%s: %s", record.status, record.error["message"])
        if not isinstance(error, UserError):
            log.error("traceback of %s", folder, exc_info=error)
    finally:
        if record.status == "failed" and kept:
            for name, content in kept.items():
                (folder / name).write_bytes(content)
        else:
            record.write(folder)


def typed_of(kind: str, composed: DictConfig, overrides: list[str]) -> tuple[DictConfig, Any]:
    """Returns a run's whole configuration, as it is kept and as the object of its schema.

    Args:
        kind: as in :func:`run`.
        composed: what Hydra composed; of an evaluation the training's configuration is put in.
        overrides: what was said on the command line.

    Raises:
        UserError: a key is missing or unknown, or the training that is evaluated is none.
    """
    if kind == "evaluate":
        composed = restore(composed, overrides)
    return composed, as_typed(composed)


def check(kind: str, typed: Any) -> None:
    """Refuses a configuration that no run could use, and settles what its labels mean.

    Raises:
        UserError: a value is impossible.
        ImpossibleCellError: the library cannot build this cell, as far as that is known without building it.
    """
    if typed.dataset is not None:
        check_classes(typed.dataset)
        typed.dataset = settled(typed.dataset)
    checks.CHECKS[kind](typed)


def new_record(kind: str, typed: Any, overrides: list[str] | None = None) -> results.Record:
    """Returns the record of a run that is about to begin."""
    return results.Record(
        kind=kind,
        backend=typed.backend.name,
        arch=typed.arch.title,
        encoder=typed.encoder.name,
        dataset=typed.dataset.name if kind != "profile" else None,
        seed=typed.seed,
        environment=results.environment(typed.backend.name),
        overrides=overrides or [],
    )


def is_distributed(kind: str, typed: Any) -> bool:
    """Tells whether Lightning may start further processes for a run."""
    if kind == "profile":
        return False
    return bool((typed.trainer if kind == "train" else typed).is_distributed)


def _is_completed(record: results.Record | None) -> bool:
    return record is not None and record.status == "completed"


def _work(kind: str, typed: Any, folder: Path, record: results.Record) -> None:
    """Imports what does the work, and has it done."""
    if kind == "train":
        if typed.encoder.pretrained and typed.encoder.weights is None:
            go_offline_if_unreachable()
        with without_garbage_collection():
            from seggrid.training import train

            import_module(f"seggrid.models.{typed.backend.name}")
        train(typed, folder, record)
    elif kind == "evaluate":
        if typed.run is None:
            go_offline_if_unreachable()
        with without_garbage_collection():
            from seggrid.evaluation import evaluate

            import_module(f"seggrid.models.{typed.backend.name}")
        evaluate(typed, folder, record)
    else:
        with without_garbage_collection():
            from seggrid.profiling import profile

            import_module(f"seggrid.models.{typed.backend.name}")
        profile(typed, folder, record)
