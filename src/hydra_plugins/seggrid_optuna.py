"""``hydra/sweeper=optuna``: a sweep whose cells Optuna chooses, one batch after the other.

The hydra-optuna-sweeper on PyPI needs Optuna below 3, knows neither pruning nor a study that goes on, and its jobs end
with the first that fails. Hydra imports every plugin for every command, so Optuna is imported only when it chooses.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class OptunaConf:
    """The sweeper.

    Attributes:
        n_trials: trials of the whole study; those that a run of the same command has finished before count.
        n_jobs: trials that are chosen and started together; how many of them run at once is ``hydra.launcher``'s.
        sampler: one of ``tuning.SAMPLERS``.
        pruner: one of ``tuning.PRUNERS``: gives up trials that fall behind the others.
        seed: what the sampler draws with.
    """

    _target_: str = "hydra_plugins.seggrid_optuna.OptunaSweeper"
    n_trials: int = 20
    n_jobs: int = 1
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="seggrid")


class OptunaSweeper(Sweeper):
    """Hands the sweep to :mod:`seggrid.tuning`; the arguments are those of :class:`OptunaConf`."""

    def __init__(self, **settings: Any) -> None:
        self._settings = OptunaConf(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra composed, and makes the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the study."""
        from seggrid.tuning import Tuning

        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        return Tuning(self._settings, self, self.launcher, self.hydra_context.config_loader, self.config).run(arguments)
