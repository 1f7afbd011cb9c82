"""One run in W&B: how it begins, also without a network, and how it ends. W&B is imported only where it is chosen."""

import dataclasses
import json
import logging
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from seggrid.config import EvaluateConfig, ProfileConfig, TrainConfig
from seggrid.errors import one_line
from seggrid.results import Record, in_sweep

log = logging.getLogger(__name__)
Mode = Literal["online", "offline"]

FOLDER = "wandb"  # W&B's own, in that of the run
LOGIN_RETRIES = 1  # of the first request: by itself W&B would ask an address that refuses for ten seconds
RETRIES = 20  # of all others, as W&B has it: a run survives minutes without a network
INIT_TIMEOUT = 30.0  # seconds
FINISH_TIMEOUT = 600.0  # seconds for what is still to be uploaded at the end; by itself W&B would wait for ever
TAG_LENGTH = 64  # characters; W&B refuses longer ones
HEADER = 7  # bytes of a log before its first entry
STEP = "trainer/global_step"  # Lightning's name of the x axis


def begin(config: TrainConfig | EvaluateConfig | ProfileConfig, folder: Path, record: Record) -> Any:
    """Begins the run, or goes on with that of a resumed training, and writes into the record where it goes.

    Where W&B cannot be used (unreachable, the key wrong, the project not this user's), one line says so and the run is
    kept offline.

    Args:
        config: the run; all of it is shown.
        folder: its folder. Of a run that is one of a sweep, the sweep's name is the group.
        record: gets ``logger``, and is written: it is there also if this process is killed.

    Returns:
        W&B's run.
    """
    import wandb

    _set_up()
    resumed = isinstance(config, TrainConfig) and config.resume is not None
    known = last_id(folder) if resumed else None
    first_step = _next_step(folder) if known else 0
    tags = [record.backend, record.arch, record.encoder, record.dataset]
    settings: dict[str, Any] = {
        "id": known or secrets.token_hex(4),
        "resume": "allow" if known else None,
        "name": f"{record.backend}/{record.arch}/{record.encoder}",
        "project": config.logger.project,
        "group": folder.parent.name if in_sweep(folder) else None,
        "job_type": record.kind,
        "tags": list(dict.fromkeys(tag[:TAG_LENGTH] for tag in tags if tag)),
        "config": dataclasses.asdict(config),
        "dir": folder,
        "settings": wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
            x_graphql_retry_max=RETRIES,
        ),
    }
    mode, trouble = _mode(config.logger.mode)
    try:
        run = wandb.init(mode=mode, **settings)
    except wandb.Error as error:
        if mode != "online":
            raise
        trouble, mode = one_line(error), "offline"
        wandb.teardown()  # else the id would be in use
        _set_up()
        run = wandb.init(mode=mode, **settings)
    if trouble is not None:
        log.warning(
            "warning: W&B: %s; the run is kept offline, upload it with: python -m seggrid.upload %s", trouble, folder
        )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    if mode == "offline" and first_step:  # online W&B itself counts on
        run.log({}, step=first_step)
    url = run.url if mode == "online" else None
    if url:
        log.info("W&B: %s", url)
    record.logger = {
        "name": "wandb",
        "id": run.id,
        "project": run.project,
        "entity": run.entity or None,
        "group": settings["group"],
        "mode": mode,
        "url": url,
    }
    record.write(folder)
    return run


def finish(exit_code: int, folder: Path) -> None:
    """Ends the run of this process, if it has one; without it the next run in this process joins this one.

    Args:
        exit_code: 0 of a run that completed; W&B shows all others as failed.
        folder: that of the run, for the message where the upload takes too long.
    """
    import wandb

    try:
        wandb.finish(exit_code=exit_code)
    except TimeoutError:
        log.warning(
            "warning: W&B: not uploaded within %.0f s; upload the rest with: wandb sync --include-online %s",
            FINISH_TIMEOUT,
            folder / FOLDER,
        )


@contextmanager
def logged(
    config: EvaluateConfig | ProfileConfig, folder: Path, record: Record, is_first: bool = True
) -> Iterator[None]:
    """Shows an evaluation or a profile in W&B, where ``logger=wandb``: its record once it is filled, or its failure.

    Args:
        config: the run.
        folder: its folder.
        record: is filled within the context.
        is_first: of several processes the first one tells of the run.
    """
    if config.logger.name != "wandb" or not is_first:
        yield
        return
    from seggrid.wandb_record import publish

    exit_code = 1
    try:
        begin(config, folder, record)
        yield
        publish(config, folder, record)
        exit_code = 0
    finally:
        finish(exit_code, folder)


def last_id(folder: Path) -> str | None:
    """Returns the id of the W&B run that was begun last in a run's folder; None where there is none.

    W&B makes a folder ``wandb/[offline-]run-<time>-<id>`` as it begins: whatever ends the process, it stays.
    """
    begun = _begun(folder)
    return begun[-1].name.rsplit("-", 1)[1] if begun else None


def logs(folder: Path) -> list[Path]:
    """Returns what W&B has written in a run's folder without a network, in the order of time."""
    return [log for run in _begun(folder) if run.name.startswith("offline-") for log in run.glob("*.wandb")]


def is_empty(log: Path) -> bool:
    """Tells whether a log has no entry: W&B writes the first after some seconds, and a killed process none."""
    return log.stat().st_size <= HEADER


def _begun(folder: Path) -> list[Path]:
    """Returns W&B's folders in that of a run, in the order of time."""
    begun = [path for path in (folder / FOLDER).glob("*run-*-*") if path.is_dir()]
    return sorted(begun, key=lambda path: path.name.split("run-", 1)[1])


def _next_step(folder: Path) -> int:
    """Returns the step of W&B's own count at which a resumed run goes on: rows of one step would be one row."""
    written = [log for log in logs(folder) if not is_empty(log)]
    if not written:
        return 0
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(written[-1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(json.loads(done.stdout).get("step") or 0) + 1 if done.returncode == 0 else 0


def _set_up() -> None:
    """Comes before anything else of W&B's, which reads it once."""
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True, x_graphql_retry_max=LOGIN_RETRIES))


def _mode(wanted: str) -> tuple[Mode, str | None]:
    """Returns ``online`` or ``offline``, and what keeps a user offline who could, or wants to, be online."""
    if wanted == "offline":
        return "offline", None
    import wandb

    try:
        logged_in = wandb.login(prompt=False)
    except wandb.Error as error:
        return "offline", one_line(error)
    if logged_in:
        return "online", None
    return "offline", "not logged in, say wandb login" if wanted == "online" else None
