"""One call of a sweep: its plan, its jobs, its record. Imports no torch."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, flag_override

from seggrid import results
from seggrid.checks import ENGINES
from seggrid.errors import INTERRUPTED, UserError
from seggrid.grid.durations import seconds_of
from seggrid.grid.folder import TRACEBACK
from seggrid.grid.gpus import gpus_here, gpus_needed, processes
from seggrid.grid.job import Engine, Job
from seggrid.grid.lock import locked
from seggrid.grid.loop import Stop, asked_to_stop, run
from seggrid.grid.plan import Plan, Planned, subdir_of, tell_apart
from seggrid.grid.progress import Progress
from seggrid.grid.sweep_record import SweepRecord
from seggrid.grid.terminal import Terminal
from seggrid.quoting import quoted

if TYPE_CHECKING:
    from hydra_plugins.seggrid_grid import GridConf

# Of Hydra's own overrides, what a single run is told, too; a sweep's are its own.
OF_SWEEP = ("hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweep", "hydra.mode", "hydra.run.")
MANY_TO_PLAN = 50  # cells: to compose so many takes some seconds


def launch(
    context: HydraContext,
    config: DictConfig,
    settings: "GridConf",
    job_overrides: list[list[str]],
    first: int,
    sweep: SweepRecord,
) -> Sequence[JobReturn]:
    """Runs those jobs of a sweep that no record in its folder stands for.

    Args:
        context: of Hydra.
        config: of the sweep.
        settings: of the launcher.
        job_overrides: the command line of each job.
        first: the number of the first.
        sweep: gets what became of them.

    Returns:
        Per job that was planned, in ``working_dir``, the folder of its run. Whatever happens to the jobs, the sweep
        goes on to its comparison.

    Raises:
        UserError: nothing can be run.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    if not job_overrides:
        raise UserError("the sweep had no jobs: a glob(...) in it matches nothing")
    if settings.engine not in ENGINES:
        raise UserError(f"hydra.launcher.engine is {settings.engine!r}; it takes one of {', '.join(ENGINES)}")
    timeout_s = seconds_of("hydra.launcher.timeout", settings.timeout)
    if settings.slots is not None and settings.slots < 1:
        raise UserError(f"hydra.launcher.slots is {settings.slots}; it must be at least 1")
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    terminal = Terminal()
    with locked(folder), asked_to_stop() as stop:
        sweep.jobs += len(job_overrides)
        sweep.write(folder)
        kind = str(config.hydra.job.name)
        if len(job_overrides) >= MANY_TO_PLAN:
            terminal.print(f"planning {len(job_overrides)} cells")
        planned = _plan(context, config, Plan(folder, kind), job_overrides, first, stop)
        sweep.not_started += [" ".join(overrides) for overrides in job_overrides[len(planned) :]]
        not_started = _run(planned, kind, config, settings, folder, timeout_s, terminal, stop)
        sweep.not_started += [item.label for item in not_started]
        ended = [item for item in planned if item not in not_started]
        sweep.finished += sum(item.todo == "finished" for item in planned)
        sweep.completed += sum(item.record.status == "completed" for item in ended)
        sweep.failed += sum(item.record.status in ("failed", "interrupted") for item in ended)
        sweep.interrupted = stop.count > 0
        sweep.ended = results.now()
        sweep.write(folder)
        if stop.count > 1:
            sys.exit(INTERRUPTED)
    return [_returned(item) for item in planned]


def _run(
    planned: list[Planned],
    kind: str,
    config: DictConfig,
    settings: "GridConf",
    folder: Path,
    timeout_s: float | None,
    terminal: Terminal,
    stop: Stop,
) -> list[Planned]:
    """Runs what is to be run, and returns what was not started."""
    gpus = gpus_here() if settings.engine == "local" else []
    here = len(gpus) if settings.engine == "local" else None
    todo = {_job(item, kind, config, here): item for item in planned if item.runs}
    shown = str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    terminal.print(_told(planned, shown))
    not_started = list(todo.values())
    try:
        if todo and not stop.count:
            engine = _engine(settings, folder, todo, gpus, timeout_s)
            done = [item.record for item in planned if item.todo == "finished"]
            try:
                with Progress(len(todo), engine.slots, shown, done, terminal) as progress:
                    not_started = run(todo, engine, progress, stop)
            finally:
                engine.close()
    finally:
        for item in todo.values():  # of those that were not started nothing is left behind
            if item.folder.is_dir() and not any(item.folder.iterdir()):
                item.folder.rmdir()
    return not_started


def _plan(
    context: HydraContext, config: DictConfig, plan: Plan, job_overrides: list[list[str]], first: int, stop: Stop
) -> list[Planned]:
    planned: list[Planned] = []
    before = HydraConfig.instance().cfg
    try:
        for number, overrides in enumerate(job_overrides, first):
            if stop.count:
                break
            composed = context.config_loader.load_sweep_config(config, overrides)
            HydraConfig.instance().set_config(composed)  # for what looks up Hydra's settings
            task = composed.copy()
            with flag_override(task, ["readonly", "struct"], False):
                del task["hydra"]
            own = [item for item in composed.hydra.overrides.task if not item.startswith("sweep.")]
            planned.append(plan.add(number, task, own, subdir_of(composed)))
    finally:
        HydraConfig.instance().cfg = before
    if planned:
        tell_apart(planned)
    return planned


def _job(item: Planned, kind: str, config: DictConfig, here: int | None) -> Job:
    gpus = gpus_needed(kind, item.typed, here)
    arguments = [*_flags(sys.argv[1:]), *item.overrides]
    arguments += [said for said in config.hydra.overrides.hydra if not said.startswith(OF_SWEEP)]
    arguments.append(f"hydra.run.dir={quoted(item.folder)}")
    if item.todo == "resume":
        arguments.append(f"resume={quoted(item.folder)}")
    item.folder.mkdir(parents=True, exist_ok=True)
    item.record.status, item.record.error, item.record.overrides = "interrupted", None, item.overrides
    if (item.folder / results.FILE_NAME).exists():  # a process that dies at once must not leave the record before
        item.record.write(item.folder)
    return Job(
        number=item.number,
        kind=kind,
        label=item.label,
        backend=item.record.backend,
        script=Path(sys.argv[0]).resolve(),
        arguments=tuple(arguments),
        folder=item.folder,
        cwd=Path.cwd(),
        gpus=gpus,
        nodes=item.typed.trainer.num_nodes if kind == "train" else 1,
        devices=processes(kind, item.typed, gpus),
    )


def _flags(argv: list[str]) -> list[str]:
    """Those of Hydra's flags that say where configurations are found."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in (("--config-dir", "-cd"), ("--config-name", "-cn"), ("--config-path", "-cp")):
        parser.add_argument(*flag, dest=flag[0])
    known = vars(parser.parse_known_args(argv)[0])
    return [part for flag, value in known.items() if value is not None for part in (flag, value)]


def _engine(
    settings: "GridConf", folder: Path, todo: dict[Job, Planned], gpus: list[str], timeout_s: float | None
) -> Engine:
    if settings.engine == "slurm":
        from seggrid.grid.slurm import SlurmEngine

        return SlurmEngine(settings.slurm, folder, timeout_s)
    if settings.engine == "ray":
        from seggrid.grid.ray import RayEngine

        return RayEngine(settings.ray, folder, timeout_s)
    from seggrid.grid.local import LocalEngine

    most = max(job.gpus for job in todo)
    slots = settings.slots or (len(gpus) // most if most else 1)
    kinds = {"train": "seggrid.training", "evaluate": "seggrid.evaluation", "profile": "seggrid.profiling"}
    preload = [kinds[job.kind] for job in list(todo)[:1]]
    preload += sorted({f"seggrid.models.{job.backend}" for job in todo})
    if any(_uses_wandb(item.typed) for item in todo.values()):
        preload.append("wandb")
    return LocalEngine(slots, gpus, _environment(), timeout_s, preload)


def _uses_wandb(typed: Any) -> bool:
    logger = getattr(typed, "logger", None)
    return logger is not None and logger.name == "wandb"


def _environment() -> dict[str, str]:
    """That of this process, but for what Hydra was told here about tracebacks."""
    environment = dict(os.environ)
    environment["HYDRA_FULL_ERROR"] = environment.pop(TRACEBACK, "0")
    return environment


def _told(planned: list[Planned], folder: str) -> str:
    """What will be run and what not, as one line."""
    counts = Counter(item.todo for item in planned)
    words = {
        "start": "to run",
        "resume": "to go on with",
        "finished": "finished before",
        "skipped": "impossible",
        "refused": "refused",
        "left": "failed before and left",
    }
    parts = [f"{counts[todo]} {text}" for todo, text in words.items() if counts[todo]]
    cells = "1 cell" if len(planned) == 1 else f"{len(planned)} cells"
    return f"{folder}: {cells}: {', '.join(parts)}"


def _returned(item: Planned) -> JobReturn:
    returned = JobReturn()
    returned.overrides = list(filter_overrides(item.overrides))
    returned.working_dir = str(item.folder)
    returned.status = JobStatus.COMPLETED
    returned.return_value = None
    return returned
