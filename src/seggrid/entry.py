"""From the command line to one job: composition, one-line errors, and the record that every job leaves.

Only Hydra is imported before a job's configuration is known to be sound.
"""

import dataclasses
import difflib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seggrid import checks, config, results
from seggrid.data.labels import check_classes, settled
from seggrid.errors import UserError, one_line
from seggrid.help import help_text
from seggrid.hub import go_offline_if_unreachable
from seggrid.quick_import import without_garbage_collection
from seggrid.restore import expand_sweep, restore

FULL_ERROR = "HYDRA_FULL_ERROR"
KEPT = (results.FILE_NAME, results.CONFIG_NAME)
log = logging.getLogger("seggrid")


def main(kind: str, conf: Path, job: Callable[[DictConfig], None] | None = None) -> None:
    """Runs the command line of one entry point.

    Args:
        kind: ``train``, ``evaluate`` or ``profile``; or the name of another configuration with its ``job``.
        conf: the folder with the configuration groups.
        job: what is done with the configuration; None runs a cell and leaves its record.
    """
    config.register(kind)
    OmegaConf.register_new_resolver("slug", lambda text: text.replace("/", "-"), replace=True)
    OmegaConf.register_new_resolver("last", lambda path: Path(path).name if path else "weights", replace=True)
    wants_traceback = os.environ.get(FULL_ERROR) == "1"

    raised: list[UserError] = []

    def task(composed: DictConfig) -> None:
        # Hydra prints several lines of its own for an error unless it is told to raise it; processes that a job
        # starts must see the user's own choice.
        os.environ[FULL_ERROR] = "1" if wants_traceback else "0"
        try:
            if job is not None:
                job(composed)
            else:
                _job(kind, composed)
        except UserError as error:
            raised.append(error)  # Hydra would print a line of its own about it
        finally:
            os.environ[FULL_ERROR] = "1"

    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(kind, conf))
        return
    try:
        _resume(sys.argv)
        if kind == "evaluate":
            expand_sweep(sys.argv)
        os.environ[FULL_ERROR] = "1"
        try:
            hydra.main(version_base="1.3", config_path=str(conf), config_name=kind)(task)()
        except SystemExit:  # of the comparison: a job that could not even begin says more
            if not raised:
                raise
        if raised:
            raise raised[0]
    except UserError as error:
        _exit(error, one_line(error), wants_traceback)
    except (HydraException, OmegaConfBaseException) as error:
        _exit(error, _composition_error(error), wants_traceback)


def _exit(error: Exception, line: str, wants_traceback: bool) -> NoReturn:
    if wants_traceback:
        raise error
    # Every process of a distributed run meets the same error; the first one tells it.
    if _is_first_process():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _job(kind: str, composed: DictConfig) -> None:
    """Runs one job and leaves its record, whatever its end."""
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir)
    if kind == "evaluate":
        composed = restore(composed, list(hydra_config.overrides.task))
    typed = as_typed(composed)
    if not _is_first_process():
        _run(kind, typed, folder, _record(kind, typed))
        return

    record = _record(kind, typed, list(hydra_config.overrides.task))
    finished = results.read(folder)
    if finished is not None and _is_completed(finished) and not getattr(typed, "resume", None):
        if in_sweep and finished.overrides == record.overrides:
            log.info("already finished: %s", folder)
            return
        raise UserError(f"{folder} already holds a finished run; choose another hydra.run.dir, or delete it")

    # A finished run that fails to go on must stay the finished run that it was.
    kept = {name: (folder / name).read_bytes() for name in KEPT} if _is_completed(finished) else {}
    record.write(folder)  # as "interrupted": a killed process leaves this behind
    OmegaConf.save(composed, folder / results.CONFIG_NAME, resolve=True)
    if in_sweep and _is_distributed(kind, typed):
        _run_apart(folder)
        return
    try:
        _run(kind, typed, folder, record)
        record.status = "completed"
    except Exception as error:
        record.status = "skipped" if isinstance(error, checks.ImpossibleCellError) else "failed"
        record.error = {"type": type(error).__name__, "message": one_line(error)}
        if not in_sweep:
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


def as_typed(composed: DictConfig) -> Any:
    """Returns a configuration as the object of its schema; raises UserError where a key is missing or unknown."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]} is not set; say {missing[0]}=<value>")
    typed: Any = OmegaConf.to_object(composed)
    _refuse_unknown(composed, typed)
    return typed


def _is_completed(record: results.Record | None) -> bool:
    return record is not None and record.status == "completed"


def _is_distributed(kind: str, typed: Any) -> bool:
    if kind == "profile":
        return False
    return bool((typed.trainer if kind == "train" else typed).is_distributed)


def _record(kind: str, typed: Any, overrides: list[str] | None = None) -> results.Record:
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


def _run(kind: str, typed: Any, folder: Path, record: results.Record) -> None:
    """Checks the configuration, and only then imports what does the work."""
    if typed.dataset is not None:
        check_classes(typed.dataset)
        typed.dataset = settled(typed.dataset)
    if kind == "train":
        checks.check_train(typed)
        if typed.encoder.pretrained and typed.encoder.weights is None:
            go_offline_if_unreachable()
        with without_garbage_collection():
            from seggrid.training import train

            import_module(f"seggrid.models.{typed.backend.name}")
        train(typed, folder, record)
    elif kind == "evaluate":
        checks.check_evaluate(typed)
        if typed.run is None:
            go_offline_if_unreachable()
        with without_garbage_collection():
            from seggrid.evaluation import evaluate

            import_module(f"seggrid.models.{typed.backend.name}")
        evaluate(typed, folder, record)
    else:
        checks.check_profile(typed)
        with without_garbage_collection():
            from seggrid.profiling import profile

            import_module(f"seggrid.models.{typed.backend.name}")
        profile(typed, folder, record)


def _run_apart(folder: Path) -> None:
    """Runs a job of a sweep in a process of its own.

    Lightning starts the other processes of a distributed run with this process's command line: in a sweep they would
    each repeat the whole sweep.
    """
    command = [sys.executable, sys.argv[0], *HydraConfig.get().overrides.task, f"hydra.run.dir='{folder}'"]
    subprocess.run(command, check=False)  # its record says how it ended


def _resume(argv: list[str]) -> None:
    """Turns ``resume=<folder> <changes>`` into the command line that made the run, with the changes, in its folder."""
    folders = [argument.removeprefix("resume=") for argument in argv[1:] if argument.startswith("resume=")]
    if not folders or any(argument.startswith("hydra.run.dir=") for argument in argv):
        return
    folder = Path(folders[-1]).resolve()
    if {"-m", "--multirun"} & set(argv):
        raise UserError("resume=<folder> goes on with one run; it cannot be combined with -m")
    record = results.read(folder)
    if record is None or record.kind != "train":
        raise UserError(f"resume={folders[-1]} is not the folder of a training run: it has no record of one")
    changed = {argument.split("=", 1)[0] for argument in argv[1:]}
    kept = [item for item in record.overrides if item.split("=", 1)[0] not in changed]
    own = [argument for argument in argv[1:] if not argument.startswith("resume=")]
    argv[1:] = [*kept, *own, f"resume='{folder}'", f"hydra.run.dir='{folder}'"]


def _composition_error(error: Exception) -> str:
    """Says in one line what Hydra says in several."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.removesuffix(".yaml").partition("/")
        if choice:
            options = list(error.options or [])
            near = difflib.get_close_matches(choice, options, n=3, cutoff=0.5)
            hint = f"; did you mean {', '.join(near)}?" if near else "."
            if group == "encoder":
                allowed = "any timm model name, or a library's own as smp/<name>, torchvision/<name>, mmseg/<name>"
            else:
                allowed = ", ".join(sorted(options))
            return f"{group}={choice} is not a choice{hint} Allowed: {allowed}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        key = cause.full_key or ""
        text = str(cause.msg or cause).splitlines()[0]
        if dataclasses.is_dataclass(cause.object_type) and "not in" in text:
            return _unknown_key(key, cause.object_type)
        return f"{key}: {text}" if key else text
    return " ".join(str(error).split())


def _refuse_unknown(composed: DictConfig, typed: Any, parent: str = "") -> None:
    """Refuses a misspelt key that came with ``+``, which Hydra adds to any node."""
    known = {entry.name for entry in dataclasses.fields(typed)}
    for name in map(str, composed):
        key = f"{parent}{name}"
        if name not in known:
            raise UserError(_unknown_key(key, type(typed)))
        value = getattr(typed, name)
        if dataclasses.is_dataclass(value):
            _refuse_unknown(composed[name], value, f"{key}.")


def _unknown_key(key: str, schema: Any) -> str:
    keys = [entry.name for entry in dataclasses.fields(schema)]
    near = difflib.get_close_matches(key.split(".")[-1], keys, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"{key} is not a key{hint} Allowed here: {', '.join(keys)}"
