"""From the command to the first training step, over the bare import of Lightning and of the backend: paired runs.

    python benchmarks/startup.py [pairs=7] [backend=smp,torchvision,mmseg]

Both are processes of their own, the interpreter's start included. Both end by ``os._exit``: the one at its first step,
where a training would go on, and the other so that it does not pay alone for taking the interpreter down. A pair runs
one after the other, the next pair the other way round. The first pair, which writes Python's caches, does not count.
Prints the medians of both, of the ratio of wall time, and of that of CPU time, which other programs on the machine
change less.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST_STEP = str(Path(__file__).with_name("first_step.py"))
CELL = (
    *("encoder=resnet18", "encoder.pretrained=false", "dataset.shapes.size=[64,64]", "dataset.shapes.train=8"),
    *("dataset.shapes.val=2", "batch_size=4", "trainer=cpu", "trainer.max_epochs=1", "logger=csv"),
)
# mmcv's Python code asks for its compiled part at import; what stands in for it is the backend's own affair.
STAND_IN = """
import importlib.util
spec = importlib.util.spec_from_file_location("mmcv_ops", "src/seggrid/models/mmcv_ops.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.install()
"""
BARE = {
    "smp": ("unet", "import pytorch_lightning, segmentation_models_pytorch"),
    "torchvision": ("fcn", "import pytorch_lightning, torchvision"),
    "mmseg": ("fcn", f"import pytorch_lightning\n{STAND_IN}\nimport mmseg.models"),
}
END = "\nimport os\nos._exit(0)"


def timed(*arguments: str, cache: str) -> tuple[float, float]:
    """Runs Python and returns its seconds of wall and of CPU time."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env={**environment, "PYTHONPYCACHEPREFIX": cache},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(pairs: int, backends: list[str]) -> None:
    """Prints a line per backend."""
    for backend in backends:
        arch, bare = BARE[backend]
        with tempfile.TemporaryDirectory() as folder:
            both: list[list[tuple[float, float]]] = []
            for pair in range(pairs + 1):
                run = f"hydra.run.dir={folder}/{pair}"
                commands = [("-c", bare + END), (FIRST_STEP, f"backend={backend}", f"arch={arch}", *CELL, run)]
                order = (0, 1) if pair % 2 else (1, 0)
                times = {place: timed(*commands[place], cache=f"{folder}/cache") for place in order}
                both.append([times[0], times[1]])
        wall, cpu = ([[row[0][kind], row[1][kind]] for row in both[1:]] for kind in (0, 1))
        middle = statistics.median
        print(
            f"{backend:12} bare {middle(row[0] for row in wall):.2f} s, to the first step "
            f"{middle(row[1] for row in wall):.2f} s: ratio {middle(row[1] / row[0] for row in wall):.2f}, of CPU time "
            f"{middle(row[1] / row[0] for row in cpu):.2f} ({middle(row[0] for row in cpu):.2f} and "
            f"{middle(row[1] for row in cpu):.2f} s)",
            flush=True,
        )


if __name__ == "__main__":
    chosen = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(int(chosen.get("pairs", 7)), chosen.get("backend", ",".join(BARE)).split(","))
