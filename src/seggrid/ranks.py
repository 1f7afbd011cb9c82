"""Which process of a run this is, and who started it: Lightning, torchrun or SLURM. Imports no torch."""

import os
from collections.abc import Sequence

from seggrid.errors import UserError

TORCHRUN = "TORCHELASTIC_RUN_ID"  # as torch.distributed.is_torchelastic_launched asks
INTERACTIVE = ("bash", "interactive")  # jobs of these names are shells, also to Lightning


def is_first_process() -> bool:
    """Tells whether this is the process of its run that speaks and writes the record."""
    if torchrun_starts_all():
        return os.environ["RANK"] == "0"
    if slurm_starts_all():
        return os.environ["SLURM_PROCID"] == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0"  # set by Lightning for those that it starts


def torchrun_starts_all() -> bool:
    """Tells whether ``torchrun`` has started this process."""
    return TORCHRUN in os.environ


def slurm_starts_all() -> bool:
    """Tells whether ``srun`` has started this process as one of several tasks.

    A script of sbatch and a shell of salloc know the allocation's number of tasks, too, but are none of them.
    """
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return several and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def check_launch(argv: Sequence[str]) -> None:
    """Refuses a command line that several processes, started from outside, would not understand alike.

    Args:
        argv: the command line.

    Raises:
        UserError: it is a sweep, which each process would run, or has no ``hydra.run.dir``, whose default names the
            second that a process begins in.
    """
    if torchrun_starts_all() and os.environ["WORLD_SIZE"] != "1":
        starter = "torchrun"
    elif slurm_starts_all():
        starter = "srun"
    else:
        return
    if {"-m", "--multirun"} & set(argv):
        raise UserError(
            f"-m under {starter}: each process would run the whole sweep; start it without {starter}, and say "
            "hydra/launcher=grid, which starts each cell's processes itself"
        )
    if not any(argument.lstrip("+").startswith("hydra.run.dir=") for argument in argv):
        raise UserError(
            f"hydra.run.dir is not set: under {starter} each process would choose a folder of its own; say "
            "hydra.run.dir=<folder> or resume=<folder>, the same for all"
        )
