"""``sbatch``, ``srun``, ``sacct`` and ``scancel`` of a cluster that is this machine.

A copy of this file under each of these names, and ``end``, makes the cluster; its memory is the folder ``FAKE_SLURM``.
As SLURM with cgroups does, it hands signals to the first process of a task only, and SIGKILL to all.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

MEMORY = Path(os.environ["FAKE_SLURM"])


def sbatch(script: str) -> None:
    number = 1 + len(list(MEMORY.glob("script_*")))
    job = f"{os.environ.get('FAKE_SLURM_FIRST', '1')}{number:03}"
    text = Path(script).read_text()
    if "--partition=nowhere" in text:
        sys.exit("sbatch: error: invalid partition specified: nowhere\nsbatch: error: Batch job submission failed")
    (MEMORY / f"script_{job}").write_text(text)
    array = re.search(r"--array=0-(\d+)%(\d+)", text)
    last, at_once = map(int, array.groups()) if array else (0, 1)
    names = [f"{job}_{index}" for index in range(last + 1)] if array else [job]
    for name in names:
        (MEMORY / f"state_{name}").write_text("PENDING")
    print(f"Submitted batch job {job}", flush=True)
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    if os.fork():
        return
    os.setsid()
    running: dict[str, int] = {}
    while names or running:
        while names and len(running) < at_once:
            name = names.pop(0)
            if _state(name) != "PENDING":
                continue
            if (pid := os.fork()) == 0:
                batch(name, text)
                os._exit(0)
            running[name] = pid
        for name, pid in list(running.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del running[name]
                if _state(name) == "REQUEUED":
                    names.append(name)
                    (MEMORY / f"state_{name}").write_text("PENDING")
        time.sleep(0.02)


def batch(name: str, text: str) -> None:
    job, _, index = name.partition("_")
    flags = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", text))
    variables = {
        "SLURM_JOB_ID": str(int(job) + int(index or 0)),
        "SLURM_JOB_NAME": flags["job-name"],
        "SLURM_NTASKS": str(int(flags.get("nodes", 1)) * int(flags.get("ntasks-per-node", 1))),
        "SLURM_NTASKS_PER_NODE": flags.get("ntasks-per-node", "1"),
        "SLURM_JOB_NUM_NODES": flags.get("nodes", "1"),
        "SLURM_NNODES": flags.get("nodes", "1"),
        "SLURM_NODELIST": "127.0.0.1",
        "FAKE_NAME": name,
    }
    if index:
        variables |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": index}
    restarts = len(list(MEMORY.glob(f"begun_{name}_*")))
    if restarts:
        variables["SLURM_RESTART_COUNT"] = str(restarts)
    (MEMORY / f"begun_{name}_{restarts}").touch()
    (MEMORY / f"state_{name}").write_text("RUNNING")
    paths = [shlex.split(flags[stream])[0] for stream in ("output", "error")]
    paths = [path.replace("%A", job).replace("%a", index).replace("%j", name) for path in paths]
    with Path(paths[0]).open("ab") as out, Path(paths[1]).open("ab") as err:
        environment = {**os.environ, **variables}
        code = subprocess.run(["bash", "-c", text], env=environment, stdout=out, stderr=err, check=False).returncode
    if _state(name) == "RUNNING":
        (MEMORY / f"state_{name}").write_text("COMPLETED" if code == 0 else "FAILED")


def srun(*arguments: str) -> None:
    name = os.environ["FAKE_NAME"]
    split = next(index for index, argument in enumerate(arguments) if argument.endswith("python"))
    options, command = arguments[:split], arguments[split:]
    output = options[options.index("--output") + 1]
    job, _, index = name.partition("_")
    count = os.environ["SLURM_NTASKS"]
    tasks = []
    for rank in range(int(count)):
        path = output.replace("%A", job).replace("%a", index).replace("%j", name).replace("%t", str(rank))
        ranks = {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0",
            "SLURM_STEP_NUM_TASKS": count,
        }
        with Path(path).open("ab") as log:
            tasks.append(subprocess.Popen(command, env={**os.environ, **ranks}, stdout=log, stderr=log))
    (MEMORY / f"tasks_{name}").write_text(" ".join(str(task.pid) for task in tasks))
    while any(task.poll() is None for task in tasks):
        if "--kill-on-bad-exit=1" in options and any(task.poll() for task in tasks):
            for task in tasks:
                task.terminate()
        time.sleep(0.05)
    sys.exit(max(abs(task.returncode) for task in tasks))


def sacct(*arguments: str) -> None:
    with (MEMORY / "asked").open("a") as log:
        log.write("x")
    print("JobID|State|NodeList")
    for path in MEMORY.glob("state_*"):
        print(f"{path.name.removeprefix('state_')}|{path.read_text()}|here")


def scancel(*arguments: str) -> None:
    options = dict(argument.removeprefix("--").split("=") for argument in arguments if argument.startswith("--"))
    for name in arguments:
        if name.startswith("--") or ("state" in options and _state(name) != options["state"]):
            continue
        if "signal" in options:
            _signal(name, signal.Signals[f"SIG{options['signal']}"])
            continue
        running = _state(name) == "RUNNING"
        (MEMORY / f"state_{name}").write_text("CANCELLED by 1000")
        if running:
            _signal(name, signal.SIGTERM)


def end(name: str, state: str, number: int) -> None:
    """What a cluster does to a job by itself: say a timeout, or a preemption."""
    (MEMORY / f"state_{name}").write_text(state)
    _signal(name, number)


def _state(name: str) -> str:
    return (MEMORY / f"state_{name}").read_text()


def _signal(name: str, number: int) -> None:
    for pid in (MEMORY / f"tasks_{name}").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                children = subprocess.run(["pgrep", "-P", pid], capture_output=True, text=True, check=False).stdout
                for child in children.split():
                    os.kill(int(child), number)
            os.kill(int(pid), number)


if __name__ == "__main__":
    command, given = Path(sys.argv[0]).name, sys.argv[1:]
    if command == "end":
        end(given[0], given[1], int(given[2]))
    else:
        {"sbatch": sbatch, "srun": srun, "sacct": sacct, "scancel": scancel}[command](*given)
