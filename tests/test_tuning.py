"""``hydra/sweeper=optuna``: what it chooses, what it tells the study, and that a study goes on."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from command import TINY, record, run_here
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hydra_plugins.seggrid_optuna import OptunaConf
from seggrid import results, tuning
from seggrid.errors import UserError
from seggrid.search_space import parse
from seggrid.tuning import OVERRIDES, Tuning, open_study

Outcome = Callable[[Sequence[str]], dict[str, Any]]


class Launcher:
    """Leaves the record of a run without running it."""

    def __init__(self, folder: Path, outcome: Outcome) -> None:
        self.folder, self.outcome = folder, outcome
        self.launched: list[tuple[int, list[str]]] = []
        self.batches: list[int] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        returned = []
        self.batches.append(len(job_overrides))
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            self.launched.append((number, list(overrides)))
            run = results.Record("train", "smp", "unet", "resnet18")
            for key, value in self.outcome(overrides).items():
                setattr(run, key, value)
            run.write(self.folder / str(number))
            returned.append(JobReturn(working_dir=str(self.folder / str(number))))
        return returned


class Sweeper:
    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        self.batch = batch


def _study(folder: Path, arguments: list[str], outcome: Outcome, **settings: Any) -> Launcher:
    launcher, config = Launcher(folder, outcome), OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    whole: Any = Tuning
    whole(OptunaConf(**settings), Sweeper(), launcher, None, config).run(arguments)
    return launcher


def _rate(overrides: Sequence[str]) -> float:
    return float(next(item for item in overrides if item.startswith("optimizer.lr=")).split("=")[1])


def _scored(overrides: Sequence[str]) -> dict[str, Any]:
    """Best at a rate of 0.5."""
    return {"status": "completed", "metrics": {"mIoU": 1 - abs(_rate(overrides) - 0.5)}}


RATE = "optimizer.lr=interval(0,1)"


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a=1,b", CategoricalDistribution(["1", "b"])),
        ("a=choice([1,2],[3,4])", CategoricalDistribution(["[1,2]", "[3,4]"])),
        ("a=range(2,10,3)", IntDistribution(2, 8, step=3)),
        ("a=range(0.0,1.0,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("a=interval(0,2)", FloatDistribution(0, 2)),
        ("a=int(interval(1,5))", IntDistribution(1, 5)),
        ("a=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
    ],
)
def test_hydras_own_words_become_distributions(override: str, distribution: Any) -> None:
    fixed, chosen = parse(["seed=3", override])
    assert (fixed.text, fixed.distribution) == ("seed=3", None)
    assert (chosen.key, chosen.distribution) == ("a", distribution)


@pytest.mark.parametrize(
    ("override", "message"),
    [("seed=3", "nothing to choose"), ("a=tag(log,interval(0,1))", "a=tag"), ("a=range(3,3)", "the range is empty")],
)
def test_what_cannot_be_chosen_from_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse([override])
    assert "\n" not in str(error.value)


def test_a_study_of_the_same_command_goes_on_and_counts_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _study(tmp_path, ["seed=3", RATE], _scored, n_trials=5, n_jobs=2)
    assert first.batches == [2, 2, 1]
    assert [number for number, _ in first.launched] == [0, 1, 2, 3, 4]
    assert all(overrides[0] == "seed=3" for _, overrides in first.launched)
    second = _study(tmp_path, ["seed=3", RATE], _scored, n_trials=8, n_jobs=2)
    assert [number for number, _ in second.launched] == [5, 6, 7]
    rates = [_rate(overrides) for _, overrides in first.launched + second.launched]
    assert len(set(rates)) == 8  # the sampler does not begin again
    assert _study(tmp_path, ["seed=3", RATE], _scored, n_trials=8).launched == []

    best = min(rates, key=lambda rate: abs(rate - 0.5))
    printed = capsys.readouterr().out
    assert "best of 8 trials (8 completed): trial " in printed
    assert f"python train.py seed=3 optimizer.lr={best}" in printed
    with pytest.raises(UserError, match="is the study of another command"):
        _study(tmp_path, ["seed=4", RATE], _scored)


def test_failed_skipped_and_pruned_trials_are_told_as_such(tmp_path: Path) -> None:
    ends = iter(
        [
            {"status": "failed", "error": {"type": "OutOfMemory", "message": ""}},
            {"status": "skipped", "error": {"type": "ImpossibleCellError", "message": ""}},
            {"status": "skipped", "error": {"type": "Pruned", "message": ""}},
            {"status": "completed", "metrics": {"mIoU": None}},
            {"status": "completed", "metrics": {"mIoU": 0.5}},
        ]
    )
    _study(tmp_path, [RATE], lambda _: next(ends), n_trials=5)
    states = [trial.state for trial in open_study(tmp_path).trials]
    assert states == [TrialState.FAIL, TrialState.FAIL, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]


def test_a_cell_that_is_chosen_again_is_not_run_again(tmp_path: Path) -> None:
    launcher = _study(
        tmp_path, ["optimizer.lr=0.1,0.2"], _scored, n_trials=9, n_jobs=3, sampler="random", pruner="none"
    )
    assert sorted(_rate(overrides) for _, overrides in launcher.launched) == [0.1, 0.2]
    trials = open_study(tmp_path).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 9
    assert all(trial.value == _scored(trial.user_attrs[OVERRIDES])["metrics"]["mIoU"] for trial in trials)


def test_an_interrupted_study_stops_and_begins_with_what_was_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = {"status": "interrupted", "error": {"type": "Interrupted", "message": "Ctrl-C"}}
    first = _study(tmp_path, [RATE], lambda _: stopped, n_trials=4, n_jobs=2)
    assert first.batches == [2]
    assert "goes on with the study" in capsys.readouterr().out
    second = _study(tmp_path, [RATE], _scored, n_trials=4, n_jobs=2)
    assert second.launched[:2] == first.launched
    assert len(second.launched) == 4
    assert [trial.state for trial in open_study(tmp_path).trials] == [TrialState.COMPLETE] * 4


@pytest.mark.parametrize("setting", ["sampler=grid", "pruner=best", "n_trials=0", "n_jobs=0"])
def test_a_wrong_setting_is_one_line(setting: str, tmp_path: Path) -> None:
    key, value = setting.split("=")
    with pytest.raises(UserError, match=rf"^hydra\.sweeper\.{key} is .* it "):
        _study(tmp_path, [RATE], _scored, **{key: int(value) if value == "0" else value})


def test_a_damaged_study_is_one_line(tmp_path: Path) -> None:
    (tmp_path / tuning.JOURNAL).write_text("no journal\n{}\n")
    with pytest.raises(UserError, match=r"optuna\.journal cannot be read as a study \(.*\); delete it"):
        _study(tmp_path, [RATE], _scored)


def test_optuna_is_imported_only_when_it_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "import sys, hydra_plugins.seggrid_optuna, seggrid.tuning; assert not {'optuna', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", lines], check=True)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"hydra/sweeper=optuna needs Optuna; say pip install 'seggrid\[optuna\]'"):
        _study(tmp_path, [RATE], _scored)


class Always(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return len(trial.intermediate_values) == 2


def test_real_runs_report_are_taken_up_again_and_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*TINY, "backend=smp", "trainer.max_epochs=3", "optimizer.lr=tag(log,interval(1e-4,1e-3))")
    sweep = ("-m", *command, "hydra/sweeper=optuna", "hydra/launcher=basic", f"hydra.sweep.dir={tmp_path}")
    done = run_here("train.py", *sweep, "hydra.sweeper.n_trials=1")
    assert "best of 1 trials (1 completed): trial 0" in done.stdout
    study = open_study(tmp_path, new=True)
    score = record(next(tmp_path.glob("0_*")))["metrics"]["mIoU"]
    assert study.best_value == score == max(study.trials[0].intermediate_values.values())
    assert list(study.trials[0].intermediate_values) == [1, 2, 3]

    killed = study.ask()  # as if the sweep had been killed in it
    killed.set_user_attr(OVERRIDES, [*command[:-1], "optimizer.lr=0.0005"])
    monkeypatch.setattr(tuning, "build_pruner", lambda name: Always())
    done = run_here("train.py", *sweep, "hydra.sweeper.n_trials=2")
    assert "best of 2 trials (1 completed, 1 pruned): trial 0" in done.stdout
    pruned = record(next(tmp_path.glob("1_*")))
    assert pruned["overrides"][-1] == "optimizer.lr=0.0005"
    assert (pruned["status"], pruned["error"]["type"]) == ("skipped", "Pruned")
    assert pruned["error"]["message"].startswith("pruned after epoch 2: mIoU ")
    assert [entry["epoch"] for entry in pruned["curves"]] == [1, 2]

    done = run_here("train.py", *sweep[:-1], f"hydra.sweep.dir={tmp_path}/other", "encoder=resnet10t,resnt18", expect=1)
    assert done.stderr.startswith("error: encoder=resnt18 is not a choice; did you mean ")
    assert not (tmp_path / "other").exists()
