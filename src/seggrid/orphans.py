"""The processes of a distributed run do not outlive the one that started them."""

import ctypes
import os
import signal
import sys

MAIN = "SEGGRID_MAIN_PROCESS"  # its id, for those that it starts
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with_the_first() -> None:
    """Has the kernel end this process when the one that started it is gone, as far as there is such a kernel: Linux.

    After ``kill -9`` of the first process the others would wait in a collective until it times out, half an hour later,
    and hold their GPUs until then. Processes that something else has started (torchrun, SLURM) are left to it.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[MAIN] = str(os.getpid())
        return
    main = os.environ.get(MAIN)
    if main is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(main):  # it was gone before
        os._exit(1)
