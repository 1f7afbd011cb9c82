"""What jobs are forked from has imported what they need and has left every GPU alone."""

import subprocess
import sys

BACKENDS = ("smp", "torchvision", "mmseg")


def test_the_imports_of_a_job_do_not_ask_cuda() -> None:
    # torch.cuda.is_available() calls it unless it is told to ask the driver's library: then no fork could use a GPU.
    kinds = ("training", "evaluation", "profiling")
    modules = " ".join(
        [*(f"seggrid.{kind}" for kind in kinds), *(f"seggrid.models.{backend}" for backend in BACKENDS), "wandb"]
    )
    program = f"""
import os, sys, threading
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
import torch
from unittest.mock import patch
def asked(*_): raise SystemExit("CUDA was asked")
with patch.object(torch._C, "_cuda_getDeviceCount", asked), patch.object(torch.cuda, "_device_count_nvml", lambda: 0):
    os.environ["SEGGRID_PRELOAD"] = {modules!r}
    import seggrid.grid.preload
assert not torch.cuda.is_initialized()
assert {modules!r}.split()[0] in sys.modules
assert threading.active_count() == 1, threading.enumerate()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
