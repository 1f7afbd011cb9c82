"""The comparison of a sweep in W&B.

``python -m seggrid.panels <sweep> [<folder of profiles> ...]`` makes a workspace of the sweep's runs, and lends their
runs there the figures of the profiles. ``--dry-run`` needs no account: it writes the workspace into the sweep's folder.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seggrid.comparison import joining
from seggrid.comparison.report import Run, read_sweep
from seggrid.errors import UserError, one_line

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

FILE_NAME = "workspace.json"


def make(folder: Path, *profiles: Path, dry_run: bool = False) -> str:
    """Makes the workspace of a sweep.

    Args:
        folder: the sweep's.
        profiles: further folders, whose profiles lend their figures to the runs of the same networks.
        dry_run: write the workspace as ``folder/workspace.json``, and tell W&B nothing.

    Returns:
        The address of the workspace, or the path of the file.

    Raises:
        UserError: the extra is not installed, no run was logged to W&B, or W&B refuses.
    """
    if find_spec("wandb_workspaces") is None:
        raise UserError("wandb-workspaces is not installed; say pip install 'seggrid[panels]'")
    runs = _logged(folder, *profiles)
    logged = [run.record.logger or {} for run in runs]
    places = sorted({(str(entry.get("entity") or ""), str(entry["project"])) for entry in logged})
    if len({project for _, project in places}) > 1 or len({entity for entity, _ in places if entity}) > 1:
        names = ", ".join("/".join(place) for place in places)
        raise UserError(f"the runs of {folder} are in several projects of W&B ({names}); a workspace is of one project")
    entity, project = places[-1]  # a run made offline knows of no entity, and sorts first
    groups = sorted({str(entry["group"]) for entry in logged if entry.get("group")})
    if dry_run:
        from seggrid.workspace import as_json

        path = folder / FILE_NAME
        path.write_text(as_json(_workspace(runs, folder, entity, project, groups)) + "\n")
        return str(path)
    import wandb

    try:
        wandb.setup(settings=wandb.Settings(silent=True, x_graphql_retry_max=1))
        if not wandb.login(prompt=False):
            raise UserError("not logged in to W&B; say wandb login, or --dry-run")
        api = wandb.Api(timeout=20)
        entity = entity or str(api.default_entity or "")
        lend(runs, api, f"{entity}/{project}" if entity else project)
        return str(_workspace(runs, folder, entity, project, groups).save().url)
    except UserError:
        raise
    except wandb.errors.AuthenticationError as error:
        raise UserError(f"W&B: {one_line(error)}; say wandb login, or --dry-run") from error
    except Exception as error:  # W&B raises many kinds, one of them private
        first = f"runs that were made offline have to be there first: python -m seggrid.upload {folder}"
        raise UserError(f"W&B: {one_line(error)}; {first}") from error


def lend(runs: list[Run], api: Any, project: str) -> None:
    """Writes what profiles lend to runs into the runs' summaries in W&B: a point in a plot is one run.

    Args:
        runs: joined with their profiles.
        api: W&B's ``Api``.
        project: where the runs are, with the entity.
    """
    from seggrid.workspace import lent

    for run in runs:
        if figures := lent(run):
            entry = api.run(f"{project}/{(run.record.logger or {})['id']}")
            entry.summary.update(figures)


def _workspace(runs: list[Run], folder: Path, entity: str, project: str, groups: list[str]) -> "Workspace":
    from seggrid.workspace import build

    return build(runs, entity, project, f"seggrid {folder.resolve().name}", groups)


def _logged(folder: Path, *profiles: Path) -> list[Run]:
    """Returns the runs of a sweep that were logged to W&B, joined with the profiles."""
    runs = read_sweep(folder)
    if not runs:
        raise UserError(f"no readable result.json below {folder}; give the folder of a sweep")
    others = [run for each in profiles for run in read_sweep(each) if run.record.kind == "profile"]
    joining.join([*runs, *others])
    logged = [run for run in runs if (run.record.logger or {}).get("name") == "wandb"]
    if not logged:
        raise UserError(f"no run below {folder} was logged to W&B; run the sweep with logger=wandb")
    return logged


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m seggrid.panels", description="The comparison of a sweep in W&B.")
    parser.add_argument("sweep", type=Path, help="the folder of the sweep")
    parser.add_argument("profiles", type=Path, nargs="*", help="folders with profiles of the same cells")
    parser.add_argument("--dry-run", action="store_true", help=f"write <sweep>/{FILE_NAME} instead; needs no account")
    arguments = parser.parse_args()
    try:
        print(f"workspace: {make(arguments.sweep, *arguments.profiles, dry_run=arguments.dry_run)}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
