"""From the command line to one job: composition, one-line errors, and the record that every job leaves.

Only Hydra is imported before a job's configuration is known to be sound.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seggrid import config, results
from seggrid.errors import INTERRUPTED, UserError, one_line
from seggrid.grid.folder import TRACEBACK, folder_of
from seggrid.help import help_text
from seggrid.quoting import quoted
from seggrid.ranks import check_launch, is_first_process
from seggrid.restore import expand_sweep
from seggrid.run import run
from seggrid.typed import unknown_key

FULL_ERROR = "HYDRA_FULL_ERROR"


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
    OmegaConf.register_new_resolver("sweep_folder", folder_of, replace=True)
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
                run(kind, composed)
        except UserError as error:
            raised.append(error)  # Hydra would print a line of its own about it
        finally:
            os.environ[FULL_ERROR] = "1"

    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(kind, conf))
        return
    try:
        _resume(sys.argv)
        check_launch(sys.argv)
        if kind == "evaluate":
            expand_sweep(sys.argv)
        os.environ[FULL_ERROR], os.environ[TRACEBACK] = "1", "1" if wants_traceback else "0"
        try:
            hydra.main(version_base="1.3", config_path=str(conf), config_name=kind)(task)()
        except SystemExit:  # of the comparison: a job that could not even begin says more
            if not raised:
                raise
        if raised:
            raise raised[0]
    except UserError as error:
        _exit(error, one_line(error), wants_traceback)
    except KeyboardInterrupt as error:
        if wants_traceback:
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    except (HydraException, OmegaConfBaseException) as error:
        _exit(error, _composition_error(error), wants_traceback)


def _exit(error: Exception, line: str, wants_traceback: bool) -> NoReturn:
    if wants_traceback:
        raise error
    # Every process of a distributed run meets the same error; the first one tells it.
    if is_first_process():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


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
    argv[1:] = [*kept, *own, f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}"]


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
            return unknown_key(key, cause.object_type)
        return f"{key}: {text}" if key else text
    return " ".join(str(error).split())
