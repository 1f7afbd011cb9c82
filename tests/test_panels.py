"""The workspace of a sweep in W&B; that its keys are those that runs log is in ``test_wandb.py``."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_server import ENTITY, Server, serving

from seggrid import panels
from seggrid.errors import UserError
from seggrid.results import Record

GROUP = "grid"


def made(folder: Path, backend: str, miou: float | None, kind: str = "train", **logger: Any) -> str:
    """Writes the record of a run that was logged to W&B; returns its id."""
    profile = {"latency_ms": {"median": 4.0, "p10": 3.9, "p90": 4.2, "samples": []}}
    place = {"name": "wandb", "id": f"id-{backend}", "project": "seggrid", "entity": None, "group": GROUP, **logger}
    facts = {"params": 100, "gmacs": 1.5, "params_encoder": 60}
    Record(
        kind,
        backend,
        "fpn",
        "resnet18",
        "shapes" if kind == "train" else None,
        status="completed",
        model=facts,
        metrics=None if miou is None else {"mIoU": miou},
        per_class=None if miou is None else [{"class": "a/b", "iou": miou}, {"class": "v1.5", "iou": float("nan")}],
        profile=profile if kind == "profile" else None,
        logger=place,
    ).write(folder)
    return str(place["id"])


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    folder = tmp_path / GROUP
    made(folder / "0", "smp", 0.5)
    made(folder / "1", "mmseg", 0.6)
    return folder


def specification(folder: Path, *profiles: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Path(panels.make(folder, *profiles, dry_run=True)).read_text())
    return values


def titles(values: dict[str, Any]) -> dict[str, list[str]]:
    sections = values["section"]["panelBankConfig"]["sections"]
    return {item["name"]: [panel["config"].get("chartTitle") for panel in item["panels"]] for item in sections}


def test_the_workspace_shows_the_sweep_alone_the_best_run_first(grid: Path) -> None:
    (runs,) = specification(grid)["section"]["runSets"]
    assert GROUP in json.dumps(runs["filters"])
    assert '"group"' in json.dumps(runs["filters"])
    assert runs["sort"]["keys"] == [{"key": {"section": "summary", "name": "metrics/mIoU"}, "ascending": False}]


def test_backends_are_beside_each_other_only_where_arch_and_encoder_are_equal(grid: Path) -> None:
    title = "mIoU by backend, for equal arch and encoder"
    assert titles(specification(grid))[title] == ["fpn / resnet18"]
    (grid / "1" / "result.json").unlink()
    assert title not in titles(specification(grid))


def test_a_plot_against_latency_needs_a_run_that_has_both(grid: Path, tmp_path: Path) -> None:
    assert "mIoU against latency in ms" not in titles(specification(grid))["mIoU against cost"]
    made(tmp_path / "profiles" / "0", "smp", None, "profile")
    assert "mIoU against latency in ms" in titles(specification(grid, tmp_path / "profiles"))["mIoU against cost"]


def test_there_is_no_panel_for_what_was_never_logged(grid: Path) -> None:
    """A loss is logged every ten steps: of a training of four steps W&B has none, and would show an empty panel."""
    for name in ("0", "1"):
        path = grid / name / "result.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"train": {"steps": 4}}))
    assert titles(specification(grid))["Learning curves"] == ["mIoU in validation"]
    assert '"confusion"' not in json.dumps(specification(grid))
    (grid / "0" / "config.yaml").write_text("trainer: {log_every_n_steps: 2}\n")
    (grid / "1" / "confusion.png").touch()
    assert titles(specification(grid))["Learning curves"] == ["mIoU in validation", "loss in training"]
    assert '"confusion"' in json.dumps(specification(grid))


def test_what_a_profile_timed_is_not_lent_to_scores_by_another_inference(grid: Path, tmp_path: Path) -> None:
    made(tmp_path / "profiles" / "0", "smp", None, "profile", id="id-profile")
    assert "profile/latency_ms" in json.dumps(specification(grid, tmp_path / "profiles"))
    path = grid / "0" / "result.json"
    values = json.loads(path.read_text()) | {"kind": "evaluate", "evaluation": {"tta_flip": True}}
    path.write_text(json.dumps(values))
    assert "profile/latency_ms" not in json.dumps(specification(grid, tmp_path / "profiles"))


def test_a_class_that_no_run_has_an_iou_of_has_no_panel_and_names_make_plain_keys(grid: Path) -> None:
    values = specification(grid)
    assert titles(values)["IoU by class"] == ["a/b"]
    assert '"iou/a_b"' in json.dumps(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "csv"}, "no run below .* was logged to W&B; run the sweep with logger=wandb"),
        ({"project": "other"}, "several projects of W&B"),
        (None, "no readable result.json below"),
    ],
)
def test_what_cannot_be_shown_is_one_line(change: dict[str, Any] | None, message: str, grid: Path) -> None:
    for name in ("0", "1") if change is None or "name" in change else ("1",):
        path = grid / name / "result.json"
        if change is None:
            path.unlink()
            continue
        values = json.loads(path.read_text())
        values["logger"] |= change
        path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as error:
        panels.make(grid, dry_run=True)
    assert "\n" not in str(error.value)


def test_the_extra_is_named_where_it_is_not_installed(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"say pip install 'seggrid\[panels\]'"):
        panels.make(grid, dry_run=True)


def test_the_command_prints_one_line(grid: Path) -> None:
    here = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    for arguments, status, line in (
        ([str(grid), "--dry-run"], 0, f"workspace: {grid / 'workspace.json'}"),
        ([str(grid)], 1, "error: not logged in to W&B; say wandb login, or --dry-run"),
    ):
        command = [sys.executable, "-m", "seggrid.panels", *arguments]
        environment = {**here, "NETRC": str(grid / "none"), "WANDB_CONFIG_DIR": str(grid)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, (done.stdout + done.stderr).strip()) == (status, line)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as started:
        wandb.teardown()
        monkeypatch.setenv("WANDB_BASE_URL", started.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield started
        wandb.teardown()


def test_the_workspace_is_saved_and_the_runs_get_what_their_profiles_lend(
    grid: Path, tmp_path: Path, server: Server
) -> None:
    made(tmp_path / "profiles" / "0", "smp", None, "profile", id="id-profile")
    with pytest.raises(UserError, match=r"have to be there first: python -m seggrid\.upload"):
        panels.make(grid, tmp_path / "profiles")
    for id_ in ("id-smp", "id-mmseg"):
        server.runs[id_] = {"history": [], "summary": {"metrics/mIoU": 0.5}, "exit_code": 0, "project": "seggrid"}
    address = panels.make(grid, tmp_path / "profiles")
    assert address.startswith(f"{server.url}/{ENTITY}/seggrid?nw=")
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == (ENTITY, "seggrid", f"seggrid {GROUP}")
    assert "profile/latency_ms" in view["spec"]
    assert server.runs["id-smp"]["summary"]["profile/latency_ms"] == 4.0
    assert server.runs["id-smp"]["summary"]["metrics/mIoU"] == 0.5
    assert "profile/latency_ms" not in server.runs["id-mmseg"]["summary"]


def test_a_wrong_key_is_one_line(grid: Path, server: Server) -> None:
    server.refuses = (401, "user is not logged in")
    with pytest.raises(UserError, match=r"W&B: .*not logged in.*; say wandb login, or --dry-run"):
        panels.make(grid)
    assert server.views == []
