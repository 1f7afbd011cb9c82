"""``hydra/launcher=grid``: the jobs of a sweep, each in a process of its own.

Hydra imports every plugin for every command, so what runs the jobs is imported only when there are some.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from seggrid.grid.sweep_record import SweepRecord


@dataclass
class SlurmConf:
    """``engine=slurm``, in the words of submitit; what is None is left to the cluster.

    Attributes:
        partition: where jobs are queued.
        account: whom they are charged to.
        qos: quality of service.
        constraint: features that a node must have.
        array_parallelism: jobs of the array that may run at once.
        cpus_per_gpu: cores for each GPU; of a job without, its cores.
        mem_gb: memory of a node.
        setup: shell lines before the job, say to load modules.
        additional_parameters: further parameters of ``sbatch``.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    array_parallelism: int = 256
    cpus_per_gpu: int | None = None
    mem_gb: float | None = None
    setup: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class RayConf:
    """``engine=ray``.

    Attributes:
        address: of a running cluster; None starts one on this machine.
        cpus_per_job: cores that a job reserves.
        resources: further resources that a job reserves, by name.
    """

    address: str | None = None
    cpus_per_job: float = 1
    resources: dict[str, float] = field(default_factory=dict)


@dataclass
class GridConf:
    """The launcher.

    Attributes:
        engine: one of ``checks.ENGINES``.
        slots: jobs at once on this machine; None takes one per GPU, or one where the jobs run on the CPU.
        timeout: a job that runs longer is ended, such as 90s, 30m, 12h, 2d; None waits.
        slurm: settings of ``engine=slurm``.
        ray: settings of ``engine=ray``.
    """

    _target_: str = "hydra_plugins.seggrid_grid.GridLauncher"
    engine: str = "local"
    slots: int | None = None
    timeout: str | None = None
    slurm: SlurmConf = field(default_factory=SlurmConf)
    ray: RayConf = field(default_factory=RayConf)


ConfigStore.instance().store(group="hydra/launcher", name="grid", node=GridConf, provider="seggrid")


class GridLauncher(Launcher):
    """Hands the jobs of a sweep to :mod:`seggrid.grid`; the arguments are those of :class:`GridConf`."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._sweep: SweepRecord | None = None  # of all batches that a sweeper hands over

    @property
    def stopped(self) -> bool:
        """Whether the user has asked for the end."""
        return self._sweep is not None and self._sweep.interrupted

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra composed, and refuses a sweep that is larger than it was meant to be."""
        from seggrid.grid.size import confirm

        self._context, self._config = hydra_context, config
        confirm(hydra_context, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs that have not been run before."""
        from seggrid.grid.launch import launch  # not for a command that launches nothing
        from seggrid.grid.sweep_record import SweepRecord, command_line

        if self.stopped:  # a sweeper that hands over its jobs in batches
            return []
        if self._sweep is None:
            self._sweep = SweepRecord(command_line(sys.argv))
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GridConf), self._settings))
        assert isinstance(settings, GridConf)
        overrides = [list(items) for items in job_overrides]
        return launch(self._context, self._config, settings, overrides, initial_job_idx, self._sweep)
