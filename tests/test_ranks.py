"""Which process is the first, under each of those that start processes."""

from collections.abc import Callable
from typing import Any

import pytest

from seggrid import ranks
from seggrid.errors import UserError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
# What sbatch tells its script, and srun each task.
SBATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = {**SBATCH, "SLURM_STEP_NUM_TASKS": "4"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", *TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),  # Lightning's own
        ({"LOCAL_RANK": "1"}, False),
        ({**TORCHRUN, "RANK": "0"}, True),
        ({**TORCHRUN, "RANK": "2"}, False),  # the first of the second node
        (SRUN, True),
        ({**SRUN, "SLURM_PROCID": "2"}, False),
        (SBATCH, True),
        ({**SBATCH, "LOCAL_RANK": "1"}, False),  # of those that Lightning starts in an allocation
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, True),  # a step of one task
        ({**SRUN, "SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "1"}, True),  # a shell
        ({**SRUN, "SLURM_PROCID": "1", **TORCHRUN, "RANK": "0"}, True),  # torchrun started by srun
        ({**SRUN, "SLURM_PROCID": "0", **TORCHRUN, "RANK": "3"}, False),
    ],
)
def test_one_process_is_the_first(environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.is_first_process() is first


@pytest.mark.parametrize(("environment", "starter"), [({**TORCHRUN, "RANK": "1"}, "torchrun"), (SRUN, "srun")])
def test_processes_started_from_outside_share_a_folder(
    environment: dict[str, str], starter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks.check_launch(["train.py", "arch=fpn"])  # alone
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ranks.check_launch(["train.py", "hydra.run.dir=here"])
    with pytest.raises(UserError, match=rf"hydra.run.dir is not set: under {starter} each process"):
        ranks.check_launch(["train.py", "arch=fpn"])
    with pytest.raises(UserError, match=rf"-m under {starter}: each process would run the whole sweep"):
        ranks.check_launch(["train.py", "-m", "arch=fpn", "hydra.run.dir=here"])


def test_one_process_alone_may_choose_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    ranks.check_launch(["train.py", "arch=fpn"])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({**TORCHRUN, "RANK": "0"}, []),  # which Lightning recognises itself
        ({**SBATCH, "SLURM_NTASKS": "1"}, ["LightningEnvironment"]),
        (SBATCH, ["LightningEnvironment"]),  # or it would wait for three others
        ({**SRUN, "SLURM_NTASKS_PER_NODE": "4"}, ["SLURMEnvironment"]),
        ({**SRUN, **TORCHRUN, "RANK": "0"}, []),
    ],
)
def test_lightning_is_told_who_starts_the_processes(
    environment: dict[str, str], expected: list[str], compose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from seggrid.training import _processes

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert [type(item).__name__ for item in _processes(compose("train"))] == expected
