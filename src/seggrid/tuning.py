"""A sweep as a study of Optuna's: what it may choose, which trials run, what they have come to. Imports no torch."""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from seggrid import results
from seggrid.errors import UserError, one_line
from seggrid.search_space import Choice, each_choice, filled, import_optuna, parse

if TYPE_CHECKING:
    import optuna

    from hydra_plugins.seggrid_optuna import OptunaConf

JOURNAL = "optuna.journal"  # the study, in the sweep's folder
STUDY = "seggrid"
SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "hyperband", "none")
OVERRIDES, FOLDER, COMMAND, PRUNER = "overrides", "folder", "command", "pruner"  # attributes of trials and of the study


class Tuning:
    """Runs a study to its end, from wherever it is.

    Args:
        settings: of the sweeper.
        sweeper: checks that the jobs can be composed.
        launcher: runs the jobs.
        loader: knows the choices of ``glob(...)``.
        config: the composed configuration; ``hydra.sweep.dir`` gets the study.
    """

    def __init__(
        self, settings: "OptunaConf", sweeper: Sweeper, launcher: Launcher, loader: ConfigLoader, config: DictConfig
    ) -> None:
        self._settings, self._sweeper, self._launcher = settings, sweeper, launcher
        self._loader, self._config = loader, config
        self._folder = Path(config.hydra.sweep.dir)

    def run(self, arguments: list[str]) -> list[JobReturn]:
        """Runs trials until there are ``n_trials`` that have ended.

        Args:
            arguments: the overrides of the command line.

        Returns:
            What the launcher returned of each job.

        Raises:
            UserError: Optuna is not installed, or a setting or an override is not one for it, or the folder holds a
                study of another command.
        """
        optuna = import_optuna()
        settings = self._settings
        _one_of("sampler", settings.sampler, SAMPLERS)
        _one_of("pruner", settings.pruner, PRUNERS)
        for name in ("n_trials", "n_jobs"):
            if getattr(settings, name) < 1:
                raise UserError(f"hydra.sweeper.{name} is {getattr(settings, name)}; it must be at least 1")
        choices = parse(arguments, self._loader)
        self._sweeper.validate_batch_is_legal(each_choice(choices))
        self._folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._config, self._folder / "multirun.yaml")  # as Hydra's own sweeper does
        study = open_study(self._folder, new=True)
        command = sorted(arguments)
        if study.user_attrs.setdefault(COMMAND, command) != command:
            raise UserError(
                f"{self._folder / JOURNAL} is the study of another command ({' '.join(study.user_attrs[COMMAND])}); "
                "choose another hydra.sweep.dir, or delete it"
            )
        study.set_user_attr(COMMAND, command)
        study.set_user_attr(PRUNER, settings.pruner)
        # By the number of trials: a study that goes on must not draw again what it drew at its start.
        study.sampler = _sampler(settings.sampler, settings.seed + len(study.get_trials(deepcopy=False)))

        state = optuna.trial.TrialState
        returned: list[JobReturn] = []
        # Those that ran when the study ended before are run first; their cells go on where they were.
        waiting = []
        for trial in study.get_trials(states=(state.RUNNING,)):
            if OVERRIDES in trial.user_attrs:
                waiting.append(live(study, trial))
            else:
                study.tell(trial.number, state=state.FAIL)  # was not even begun
        while True:
            batch, waiting = waiting[: settings.n_jobs], waiting[settings.n_jobs :]
            twins = self._ask(study, choices, batch)
            if not batch:
                break
            interrupted = False
            for group in _consecutive(batch):
                jobs = [list(trial.user_attrs[OVERRIDES]) for trial in group]
                done = list(self._launcher.launch(jobs, initial_job_idx=group[0].number))
                returned += done
                stopped = getattr(self._launcher, "stopped", False)  # ours knows; those that were not started wait
                interrupted |= stopped
                for one, job in zip(group, done, strict=not stopped):
                    if not stopped or _record(job)[1] is not None:
                        interrupted |= _tell(study, one, job)
                if stopped:
                    break
            for twin in twins:
                _tell_as_known(study, twin)
            if interrupted:
                print(f"interrupted; the same command with hydra.sweep.dir={self._folder} goes on with the study")
                break
        _print_best(study)
        return returned

    def _ask(self, study: "optuna.Study", choices: list[Choice], batch: "list[optuna.Trial]") -> "list[optuna.Trial]":
        """Fills a batch; returns the trials in it that repeat another one of it."""
        twins: list[optuna.Trial] = []
        space = {choice.key: choice.distribution for choice in choices if choice.distribution is not None}
        while len(batch) < self._settings.n_jobs:
            trials = study.get_trials(deepcopy=False)
            ended = sum(trial.state.is_finished() and OVERRIDES in trial.user_attrs for trial in trials)
            if ended + len(batch) + len(twins) >= self._settings.n_trials:
                break
            trial = study.ask(fixed_distributions=space)
            trial.set_user_attr(OVERRIDES, filled(choices, trial.params))
            if any(trial.user_attrs[OVERRIDES] == other.user_attrs[OVERRIDES] for other in batch):
                twins.append(trial)
            elif not _tell_as_known(study, trial):
                batch.append(trial)
        return twins


def open_study(folder: Path, new: bool = False) -> "optuna.Study":
    """Opens the study of a sweep's folder.

    Args:
        folder: of the sweep.
        new: begin one where there is none.

    Raises:
        UserError: its file is damaged.
    """
    optuna = import_optuna()
    from optuna.storages.journal import JournalFileBackend

    path = folder / JOURNAL
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study: Any
        if new:
            study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True)
        else:
            # This process draws nothing: it reports.
            study = optuna.load_study(storage=storage, study_name=STUDY, sampler=optuna.samplers.RandomSampler())
            study.pruner = build_pruner(study.user_attrs.get(PRUNER, "none"))
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as a study ({one_line(error)[:160]}); delete it") from error
    return study  # type: ignore[no-any-return]


def live(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> "optuna.Trial":
    """Returns a trial of the storage as one that can be reported to."""
    return import_optuna().trial.Trial(study, trial._trial_id)  # type: ignore[no-any-return]


def build_pruner(name: str) -> "optuna.pruners.BasePruner":
    """Builds a pruner by its name in ``hydra.sweeper.pruner``."""
    pruners = import_optuna().pruners
    kinds = {"median": pruners.MedianPruner, "hyperband": pruners.HyperbandPruner, "none": pruners.NopPruner}
    return kinds[name]()  # type: ignore[no-any-return]


def _sampler(name: str, seed: int) -> "optuna.samplers.BaseSampler":
    samplers = import_optuna().samplers
    if name == "random":
        return samplers.RandomSampler(seed=seed)  # type: ignore[no-any-return]
    # The liar keeps the trials of one batch apart from each other.
    return samplers.TPESampler(seed=seed, constant_liar=True)  # type: ignore[no-any-return]


def _consecutive(batch: "list[optuna.Trial]") -> "list[list[optuna.Trial]]":
    """Groups trials by consecutive numbers: a launcher numbers jobs, and so their folders, from the first on."""
    groups: list[list[optuna.Trial]] = []
    for trial in sorted(batch, key=lambda trial: trial.number):
        if groups and groups[-1][-1].number == trial.number - 1:
            groups[-1].append(trial)
        else:
            groups.append([trial])
    return groups


def _tell(study: "optuna.Study", trial: "optuna.Trial", job: JobReturn) -> bool:
    """Tells the study what became of a trial; returns whether a user has interrupted it, which leaves it as it is."""
    state = import_optuna().trial.TrialState
    folder, record = _record(job)
    error = (record.error if record else None) or {}
    if record is not None and record.status == "interrupted" and error.get("type") in (None, "Interrupted"):
        return True
    if folder is not None:
        trial.set_user_attr(FOLDER, str(folder))
    score = ((record.metrics if record else None) or {}).get("mIoU")
    if record is not None and record.status == "completed" and score is not None and math.isfinite(score):
        study.tell(trial, score)
    elif error.get("type") == "Pruned":
        study.tell(trial, state=state.PRUNED)
    else:
        study.tell(trial, state=state.FAIL)
    return False


def _tell_as_known(study: "optuna.Study", trial: "optuna.Trial") -> bool:
    """Tells a trial what another one with the same overrides has come to; False where there is none."""
    state = import_optuna().trial.TrialState
    for other in study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED)):
        if other.user_attrs.get(OVERRIDES) == trial.user_attrs[OVERRIDES]:
            trial.set_user_attr(FOLDER, other.user_attrs.get(FOLDER))
            if other.state == state.COMPLETE:
                study.tell(trial, other.value)
            else:
                study.tell(trial, state=state.PRUNED)
            return True
    return False


def _record(job: JobReturn) -> tuple[Path | None, results.Record | None]:
    """Returns the folder and the record of a job: Hydra's own launcher gives the one, ours the other."""
    folders = [job.hydra_cfg.hydra.runtime.get("output_dir")] if job.hydra_cfg is not None else []
    for folder in (*folders, job.working_dir):
        if folder and (Path(folder) / results.FILE_NAME).exists():
            try:
                return Path(folder), results.read(Path(folder))
            except UserError:  # damaged: a trial without a result
                return Path(folder), None
    return None, None


def _print_best(study: "optuna.Study") -> None:
    state = import_optuna().trial.TrialState
    trials = study.get_trials(deepcopy=False)
    words = {state.COMPLETE: "completed", state.PRUNED: "pruned", state.FAIL: "failed", state.RUNNING: "unfinished"}
    counted = [(sum(trial.state == kind for trial in trials), word) for kind, word in words.items()]
    told = ", ".join(f"{count} {word}" for count, word in counted if count)
    completed = [trial for trial in trials if trial.state == state.COMPLETE]
    if not completed:
        print(f"no trial has a score ({told})")
        return
    best = study.best_trial
    print(f"best of {len(trials)} trials ({told}): trial {best.number}, mIoU {100 * best.value:.2f} %")  # type: ignore[operator]
    print(f"record: {best.user_attrs.get(FOLDER)}/{results.FILE_NAME}")
    print(f"python train.py {' '.join(map(shlex.quote, best.user_attrs[OVERRIDES]))}")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"hydra.sweeper.{key} is {value!r}; it takes one of {', '.join(allowed)}")
