"""Uploads to W&B what was made without a network: ``python -m seggrid.upload <folder of a sweep or of a run> ...``.

It calls ``wandb sync``, which uploads the parts of a resumed run in their order, and passes over what is there already.
On its own that stops, with nothing uploaded and no error, at the log of a run that was killed before its first entry.
"""

import os
import subprocess
import sys
from pathlib import Path

from seggrid import results
from seggrid.errors import UserError, one_line
from seggrid.wandb_run import is_empty, logs

TIMEOUT = 20  # seconds for the server's first answer


def upload(*folders: Path) -> str:
    """Uploads the offline runs below some folders.

    Args:
        folders: of sweeps or of runs.

    Returns:
        What was done, as one line.

    Raises:
        UserError: there is nothing, or not all of it could be uploaded.
    """
    runs = sorted({path.parent for folder in folders for path in folder.rglob(results.FILE_NAME)})
    found = [log for run in runs for log in logs(run)]
    if not found:
        raise UserError(f"no offline run of W&B below {', '.join(map(str, folders))}")
    empty = [log for log in found if is_empty(log)]
    waiting = [log for log in found if log not in empty and not _is_uploaded(log)]
    if waiting:
        _reach()
        command = [sys.executable, "-m", "wandb", "sync", *map(str, waiting)]
        subprocess.run(command, env={**os.environ, "WANDB_DIR": str(folders[0])}, check=False)  # gets its own log
    left = [log for log in waiting if not _is_uploaded(log)]  # the command's status says nothing
    if left:
        raise UserError(
            f"{len(left)} of {len(waiting)} were not uploaded, the first is {left[0].parent}; say wandb login, or see "
            "what wandb says above, and do it again"
        )
    parts = [f"uploaded: {len(waiting)}"]
    parts += [f"there already: {len(found) - len(waiting) - len(empty)}"]
    parts += [f"without an entry, as their process was killed at the start: {len(empty)}"] if empty else []
    return ", ".join(parts)


def _reach() -> None:
    """Asks the server for the user: without an answer ``wandb sync`` would ask it again for many minutes.

    Raises:
        UserError: it does not answer, or knows no such user.
    """
    import wandb

    try:
        wandb.setup(settings=wandb.Settings(silent=True, x_graphql_retry_max=1))
        logged_in = wandb.login(prompt=False, verify=False)
        if logged_in:
            _ = wandb.Api(timeout=TIMEOUT).default_entity  # a question
    except Exception as error:  # W&B raises many kinds, one of them private
        then = "say wandb login, or do it again when the server answers"
        raise UserError(f"W&B: {one_line(error)}; nothing was uploaded: {then}") from error
    finally:
        wandb.teardown()
    if not logged_in:
        raise UserError("not logged in to W&B; say wandb login, and do it again")


def _is_uploaded(log: Path) -> bool:
    return log.with_name(f"{log.name}.synced").exists()


if __name__ == "__main__":
    if len(sys.argv) < 2 or any(argument.startswith("-") for argument in sys.argv[1:]):
        sys.exit("error: say python -m seggrid.upload <folder of a sweep or of a run> [<folder> ...]")
    try:
        print(upload(*map(Path, sys.argv[1:])))
    except UserError as error:
        sys.exit(f"error: {error}")
