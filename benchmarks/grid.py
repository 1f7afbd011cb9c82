"""A grid of tiny cells by three ways of running it: by the grid launcher, in one process, and a fresh process a cell.

    OMP_NUM_THREADS=1 python benchmarks/grid.py [blocks=3] [seeds=4] [backends=smp,torchvision,mmseg]

The cells (``seeds`` of each backend) are so small that starting them is most of what they take: what is compared is the
launcher. All three end with the comparison and run one job at a time. A block runs each way once, the next block in
another order; the first block, which writes Python's caches, does not count. Prints the medians of the seconds and of
the ratios within a block, with their ranges.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CELL = (
    *("arch=deeplabv3", "encoder=resnet10t", "encoder.pretrained=false", "dataset.shapes.size=[32,32]"),
    *("dataset.shapes.train=8", "dataset.shapes.val=3", "batch_size=4", "pictures=1", "trainer=cpu"),
    *("trainer.max_epochs=1", "logger=csv"),
)
WAYS = ("grid launcher", "one process", "fresh processes")


def python(*arguments: str) -> None:
    """Runs Python in the project's folder."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def timed(way: str, backends: list[str], seeds: int, folder: Path) -> float:
    """Runs the cells in one way and returns its seconds."""
    started = time.perf_counter()
    if way == "fresh processes":
        for backend in backends:
            for seed in range(seeds):
                run = f"hydra.run.dir={folder}/{backend}_{seed}"
                python("train.py", *CELL, f"backend={backend}", f"seed={seed}", run)
        python("-m", "seggrid.sweep", str(folder))
    else:
        launcher = ("hydra/launcher=basic",) if way == "one process" else ("hydra.launcher.slots=1",)
        swept = (f"backend={','.join(backends)}", f"seed={','.join(map(str, range(seeds)))}")
        python("train.py", "-m", *CELL, *swept, *launcher, f"hydra.sweep.dir={folder}")
    return time.perf_counter() - started


def main(blocks: int, seeds: int, backends: list[str]) -> None:
    """Prints a line per way."""
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for block in range(blocks + 1):
            order = [*WAYS[block % 3 :], *WAYS[: block % 3]]
            rows.append({way: timed(way, backends, seeds, Path(scratch, f"{block}_{way[:3]}")) for way in order})
            text = ", ".join(f"{way} {rows[-1][way]:.1f} s" for way in WAYS)
            print(f"  block {block}{'' if block else ' (not counted)'}: {text}", flush=True)
    counted = rows[1:]
    cells = len(backends) * seeds
    for way in WAYS:
        print(f"{way}: {statistics.median(row[way] for row in counted):.1f} s for {cells} cells")
    for other in WAYS[1:]:
        ratios = [row[WAYS[0]] / row[other] for row in counted]
        print(
            f"{WAYS[0]} over {other}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"{len(ratios)} blocks"
        )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = dict(argument.split("=", 1) for argument in sys.argv[1:])
    names = chosen.get("backends", "smp,torchvision,mmseg").split(",")
    main(int(chosen.get("blocks", 3)), int(chosen.get("seeds", 4)), names)
