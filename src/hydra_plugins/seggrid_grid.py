"""``hydra/launcher=grid``: the jobs of a sweep, each in a process of its own.

Hydra imports every plugin for every command, so what runs the jobs is imported only when there are some.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


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

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra composed."""
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs that have not been run before."""
        raise NotImplementedError
