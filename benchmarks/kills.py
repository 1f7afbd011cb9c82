"""A campaign of ``kill -9``: does a run that is killed again and again end bit-equal to one that never was?

    python benchmarks/kills.py [kills=40] [seed=0] [devices=1,2] [per_run=5] [every=2] [<override> ...]

The real command trains a small cell in a process of its own and is killed at random moments, drawn from ``seed``, in
each of the phases below, ``per_run`` times at most; each time it goes on with ``resume=<folder>``, or from the start
where there is no checkpoint yet. Then weights, optimiser, scores and curves are compared bit by bit with those of a run
that nobody killed. Of two processes the first alone, the second alone or both are killed, in turn. ``every`` is
``trainer.checkpoint_every_n_steps``; further overrides go to the runs. Prints a line per run, then the kills by phase.
Exits with status 1 where a run differs or leaves processes behind.

Where a run is, it says itself: a ``sitecustomize`` on its path, which changes nothing else, writes it into a file.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, IMAGES = 3, 20
CELL = (
    *("backend=smp", "arch=unet", "encoder=resnet10t", "encoder.pretrained=false", "dataset.shapes.size=[32,32]"),
    *(f"dataset.shapes.train={IMAGES}", "dataset.shapes.val=4", "batch_size=2", "pictures=1", "trainer=cpu"),
    *(f"trainer.max_epochs={EPOCHS}", "logger=csv"),
)
OBSERVER = """
import importlib.util, os, sys

NAME, PATH = "seggrid.checkpoint_io", os.environ["KILLS_PHASE"]

def phased(owner, name, phase):
    whole = getattr(owner, name)
    def told(self, *arguments, **named):
        fit = name != "on_validation_start" or self.trainer.state.fn == "fit"
        count[0] += 1
        where = phase if fit else "measurement"
        os.pwrite(file, f"{where} {count[0]}".ljust(40).encode(), 0)
        done = whole(self, *arguments, **named)
        if phase == "checkpoint":
            os.pwrite(file, f"epoch {count[0]}".ljust(40).encode(), 0)
        return done
    setattr(owner, name, told)

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            phased(module.SegmentationModule, "on_train_batch_start", "epoch")
            phased(module.SegmentationModule, "on_validation_start", "validation")
            phased(module.WholeFiles, "save_checkpoint", "checkpoint")
        spec.loader.exec_module = exec_module
        return spec

if os.environ.get("LOCAL_RANK", "0") == "0":
    count, file = [0], os.open(PATH, os.O_RDWR | os.O_CREAT)
    sys.meta_path.insert(0, Watch())
"""
PHASES = ("start", "epoch", "validation", "checkpoint", "measurement")
MOST = {"start": 1, "epoch": 8, "validation": 1, "checkpoint": 4, "measurement": 1}  # times that a phase is let pass
LONGEST_DELAY = {"start": 0.0, "epoch": 0.1, "validation": 0.15, "checkpoint": 0.015, "measurement": 0.5}


class Campaign:
    """Runs and kills cells on a number of devices."""

    def __init__(self, folder: Path, devices: int, seed: int, settings: list[str]) -> None:
        self.folder, self.devices, self.draw = folder, devices, random.Random(f"{seed} {devices}")
        parallel = ["trainer.devices=2", "trainer.strategy=ddp"] if devices > 1 else []
        self.cell = [*CELL, *parallel, *settings]
        self.phases: Counter[str] = Counter()
        self.victims: Counter[str] = Counter()
        self.before_first = self.orphans = 0
        self.start_s = 0.0
        self.phase_file = folder / "phase"
        (folder / "sitecustomize.py").write_text(OBSERVER)

    def start(self, run: Path, resumed: bool) -> subprocess.Popen[bytes]:
        """Starts the command, anew or from its last checkpoint."""
        self.phase_file.write_bytes(b"start 0".ljust(40))
        arguments = [f"resume={run}"] if resumed else [*self.cell, f"hydra.run.dir={run}"]
        path = f"{self.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        with (self.folder / f"{run.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", "train.py", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, "KILLS_PHASE": str(self.phase_file)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def phase(self) -> tuple[str, int]:
        """Where the run is, and how many times it has said so."""
        name, count = self.phase_file.read_bytes().split()
        return name.decode(), int(count)

    def whole(self) -> Path:
        """Trains the run that nobody kills."""
        run, started = self.folder / "whole", time.perf_counter()
        process = self.start(run, resumed=False)
        while self.phase()[0] == "start" and process.poll() is None:
            time.sleep(0.01)
        self.start_s = time.perf_counter() - started
        assert process.wait() == 0, (self.folder / "whole.log").read_text()
        return run

    def killed(self, run: Path, process: subprocess.Popen[bytes], last: bool) -> bool:
        """Kills the run at a random moment; False where it has come to its end before.

        The measurement comes after everything else, so that only a run's last kill aims at it.
        """
        wanted = self.draw.choice(PHASES[2:] if last else PHASES[:4])
        occurrence = self.draw.randint(1, MOST[wanted])
        delay = self.draw.uniform(0, LONGEST_DELAY[wanted] or self.start_s)
        victim = self.draw.choice(["first", "second", "all"]) if self.devices > 1 else "all"
        seen, before = 0, 0
        while wanted != "start" and process.poll() is None:
            name, count = self.phase()
            if name == wanted and count != before:
                seen, before = seen + 1, count
            if seen >= occurrence or name == "measurement":  # which is the end: now or never
                break
            time.sleep(0.0005)
        time.sleep(delay)
        if process.poll() is not None:
            return False
        others = psutil.Process(process.pid).children(recursive=True)
        if victim == "second" and others:
            os.kill(others[0].pid, signal.SIGKILL)
        elif victim == "first":
            os.kill(process.pid, signal.SIGKILL)
        else:
            victim = "all"
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(120)
        _, alive = psutil.wait_procs(others, timeout=20)
        self.orphans += len(alive)
        for orphan in alive:
            orphan.kill()
        first = not (run / "checkpoints" / "last.ckpt").exists()
        self.phases[self.phase()[0]] += 1
        self.victims[victim] += 1
        self.before_first += first
        return True

    def run(self, number: int, kills: int) -> tuple[Path, int]:
        """Trains a run to its end over some kills; returns their number."""
        run, done = self.folder / f"run_{number}", 0
        while True:
            resumed = (run / "checkpoints" / "last.ckpt").exists()
            process = self.start(run, resumed)
            if done < kills and self.killed(run, process, last=done == kills - 1):
                done += 1
                continue
            assert process.wait() == 0, (self.folder / f"{run.name}.log").read_text()
            return run, done


def differences(one: Path, other: Path) -> list[str]:
    """Names what is not bit-equal in two finished runs."""
    found = []
    for name in ("best", "last"):
        a, b = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (one, other))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "loops"):
            if not equal(a[part], b[part]):
                found.append(f"{name}.ckpt {part}")
    first, second = (json.loads((run / "result.json").read_text()) for run in (one, other))
    for section in ("status", "metrics", "per_class", "intervals"):
        if first[section] != second[section]:
            found.append(section)
    curves = [[{**entry, "seconds": 0} for entry in record["curves"]] for record in (first, second)]
    seconds = [entry["seconds"] for entry in second["curves"]]
    if curves[0] != curves[1] or len(curves[0]) != EPOCHS or seconds != sorted(seconds):
        found.append("curves")
    if first["train"]["steps"] != second["train"]["steps"]:
        found.append("steps")
    return found


def equal(one: Any, other: Any) -> bool:
    """Whether two nested values are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def campaign(folder: Path, devices: int, kills: int, seed: int, per_run: int, settings: list[str]) -> bool:
    """Kills runs until there are so many kills; returns whether all ended as they should."""
    self = Campaign(folder, devices, seed, settings)
    whole, done, number, unequal = self.whole(), 0, 0, 0
    while done < kills:
        run, more = self.run(number, min(per_run, kills - done))
        done, number = done + more, number + 1
        found = differences(whole, run)
        unequal += bool(found)
        print(f"run {number} on {devices}: {more} kills, {'not equal: ' + ', '.join(found) if found else 'equal'}")
        sys.stdout.flush()
    by_phase = ", ".join(f"{name} {self.phases[name]}" for name in PHASES)
    by_victim = f"; killed: {', '.join(f'{who} {count}' for who, count in self.victims.items())}" if devices > 1 else ""
    print(
        f"devices={devices}: {done} kills in {number} runs ({by_phase}; {self.before_first} of them before the first "
        f"checkpoint{by_victim}): {number - unequal} of {number} runs bit-equal, {self.orphans} processes left behind",
        flush=True,
    )
    return unequal == 0 and self.orphans == 0


def main(arguments: list[str]) -> None:
    """Runs a campaign for each number of devices."""
    own = ("kills", "seed", "devices", "per_run", "every")
    chosen = {key: value for key, value in (item.split("=", 1) for item in arguments) if key in own}
    settings = [item for item in arguments if item.split("=", 1)[0] not in own]
    settings.append(f"trainer.checkpoint_every_n_steps={chosen.get('every', 2)}")
    fine = True
    for devices in chosen.get("devices", "1").split(","):
        with tempfile.TemporaryDirectory() as folder:
            numbers = [int(chosen.get(key, default)) for key, default in (("kills", 40), ("seed", 0), ("per_run", 5))]
            fine &= campaign(Path(folder), int(devices), *numbers, settings)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
