"""What W&B gets of a run, read back from its logs and from a server of the tests' own, and what happens without it."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import wandb
from command import ROOT, TINY, call, record, run_here, wandb_entries
from wandb_server import ENTITY, Server, serving

from seggrid import upload, wandb_record, wandb_run
from seggrid.errors import UserError
from seggrid.results import Record

KEY = "0" * 40
SMALL = (*(item for item in TINY if not item.startswith(("arch=", "logger="))), "trainer.log_every_n_steps=1")
OFFLINE = ("logger=wandb", "logger.mode=offline")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep of trainings in two backends, and the profile of one; all logged offline."""
    base = tmp_path_factory.mktemp("logged")
    folder, profiles = base / "grid", base / "profiles"
    cells = ("arch=deeplabv3", "backend=smp,torchvision", f"hydra.sweep.dir={folder}")
    run_here("train.py", "-m", *SMALL, *OFFLINE, "logger.artifacts=true", *cells)
    cell = ("arch=deeplabv3", "backend=smp", "encoder=resnet10t", "encoder.pretrained=false", "device=cpu")
    short = ("input.size=[32,32]", "samples=5", "warmup=0", "measure=[latency]")
    run_here("profile.py", *cell, *short, *OFFLINE, f"hydra.run.dir={profiles / '0'}")
    return folder, profiles


@cache
def summary(log: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(log)]
    values: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return values


@cache
def entries(log: Path) -> list[dict[str, Any]]:
    return wandb_entries(log)


def only_log(folder: Path) -> Path:
    (log,) = wandb_run.logs(folder)
    return log


def test_a_training_has_its_group_its_tags_its_configuration_and_all_figures(sweep: tuple[Path, Path]) -> None:
    folder = sorted(path.parent for path in sweep[0].glob("*/result.json"))[0]
    written, made = record(folder), summary(only_log(folder))
    started = next(entry["run"] for entry in entries(only_log(folder)) if entry["type"] == "run")
    assert (started["run_group"], started["job_type"]) == ("grid", "train")
    assert made["tags"] == ["smp", "deeplabv3", "resnet10t", "shapes"]
    assert made["config"]["optimizer"]["lr"] > 0
    assert made["config"]["backend"]["name"] == "smp"
    assert made["exit_code"] == 0
    values = made["summary"]
    assert values["model/params"] == written["model"]["params"]
    assert values["model/input_height"] == 32
    assert values["metrics/mIoU"] == pytest.approx(written["metrics"]["mIoU"])
    assert values["metrics/mIoU_low"] <= values["metrics/mIoU"] <= values["metrics/mIoU_high"]
    assert values["train/steps"] == 2
    assert values["mIoU/deeplabv3/resnet10t"] == values["metrics/mIoU"]
    ious = {f"iou/{row['class']}": row["iou"] for row in written["per_class"] if row["iou"] is not None}
    assert {key: value for key, value in values.items() if key.startswith("iou/")} == pytest.approx(ious)
    assert values["per_class"]["nrows"] == 6
    assert values["confusion"]["_type"] == "image-file"
    assert set(values["predictions/00000"]["masks"]) == {"label", "prediction"}
    assert written["logger"] == {
        "name": "wandb", "id": made["run_id"], "project": "seggrid", "entity": None, "group": "grid",
        "mode": "offline", "url": None,
    }  # fmt: skip


def test_the_masks_and_the_table_hold_what_the_files_of_the_run_hold(sweep: tuple[Path, Path]) -> None:
    import numpy as np
    from PIL import Image

    folder = sorted(path.parent for path in sweep[0].glob("*/result.json"))[0]
    files, values = only_log(folder).parent / "files", summary(only_log(folder))["summary"]
    for what, mask in values["predictions/00000"]["masks"].items():
        kept = np.array(Image.open(folder / "predictions" / f"00000_{what}.png"))
        assert (np.array(Image.open(files / mask["path"])) == kept).all()
    table = json.loads((files / values["per_class"]["path"]).read_text())
    rows = record(folder)["per_class"]
    assert table["columns"] == list(rows[0])
    assert [row[0] for row in table["data"]] == [row["class"] for row in rows]


def test_the_checkpoint_is_an_artifact_when_asked_for_and_else_is_not(
    sweep: tuple[Path, Path], tmp_path: Path, compose: Callable[..., Any]
) -> None:
    folder = sorted(path.parent for path in sweep[0].glob("*/result.json"))[0]
    artifacts = [entry["artifact"] for entry in entries(only_log(folder)) if entry["type"] == "artifact"]
    (model,) = (artifact for artifact in artifacts if artifact["type"] == "model")
    assert model["manifest"]["contents"][0]["local_path"] == str(folder / "checkpoints" / "best.ckpt")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    config = compose("train", *OFFLINE)
    item = Record("train", "smp", "unet", "resnet18", metrics={"mIoU": 0.5})
    wandb_run.begin(config, tmp_path, item)
    wandb_record.publish(config, tmp_path, item)
    wandb_run.finish(0, tmp_path)
    assert not [entry for entry in entries(only_log(tmp_path)) if entry["type"] == "artifact"]


def test_a_profile_is_a_run_with_its_cost(sweep: tuple[Path, Path]) -> None:
    folder = sorted(path.parent for path in sweep[1].glob("*/result.json"))[0]
    started = next(entry["run"] for entry in entries(only_log(folder)) if entry["type"] == "run")
    assert (started.get("run_group", ""), started["job_type"]) == ("", "profile")
    values, measured = summary(only_log(folder))["summary"], record(folder)["profile"]
    assert values["profile/latency_ms"] == pytest.approx(measured["latency_ms"]["median"])
    assert values["profile/latency_ms_p10"] <= values["profile/latency_ms"] <= values["profile/latency_ms_p90"]
    sizes = [{"batch_size": 1, "latency_ms": {"median": 2.0, "samples": []}, "images_per_s": 500.0}]
    filled = Record("profile", "smp", "unet", "resnet18", profile={"batch_sizes": sizes})
    table = [["batch_size", "latency_ms", "images_per_s"], [1, 2.0, 500.0]]
    assert wandb_record.tables(filled) == {"profile/batch_sizes": table}


def test_an_evaluation_is_a_run_of_its_own_and_by_default_none(
    sweep: tuple[Path, Path], tmp_path: Path, compose: Callable[..., Any]
) -> None:
    trained = sorted(path.parent for path in sweep[0].glob("*/result.json"))[0]
    run_here("evaluate.py", f"run={trained}", *OFFLINE, "worst=0", f"hydra.run.dir={tmp_path / 'a'}")
    made = summary(only_log(tmp_path / "a"))
    assert made["exit_code"] == 0
    assert made["summary"]["metrics/boundary_mIoU"] > 0
    assert record(tmp_path / "a")["logger"]["id"] != record(trained)["logger"]["id"]
    assert {compose(kind).logger.name for kind in ("evaluate", "profile")} == {"none"}


def test_every_key_that_a_panel_names_was_logged_by_a_run(sweep: tuple[Path, Path]) -> None:
    from seggrid import panels

    path = Path(panels.make(*sweep, dry_run=True))
    assert path == sweep[0] / "workspace.json"
    made = [summary(log) for folder in sweep for log in sorted(folder.glob("*/wandb/offline-*/*.wandb"))]
    trained = next(sweep[0].glob("0_*/wandb/offline-*/*.wandb"))
    history = {key for entry in entries(trained) if entry["type"] == "history" for key in entry["history"]["item"]}
    history = {key.removesuffix("._type") for key in history}
    kept = {key for run in made for key in run["summary"]}
    configured = {
        f"{group}.value.{key}"
        for run in made
        for group, values in run["config"].items()
        if isinstance(values, dict)
        for key in values
    }
    named = _named(json.loads(path.read_text()))
    assert named["summary"] <= kept
    assert named["history"] <= history
    assert named["config"] <= configured
    # Nothing that was asked for is missing.
    scatter = {"profile/latency_ms", "model/gmacs", "model/params", "metrics/mIoU"}
    assert scatter <= named["summary"]
    assert {"mIoU/deeplabv3/resnet10t", "iou/disk"} <= named["summary"]
    assert {"val/mIoU", "train/loss", "predictions/00000", "confusion"} <= named["history"]
    assert named["config"] == {"backend.value.name", "arch.value.name", "encoder.value.name"}


def _named(specification: dict[str, Any]) -> dict[str, set[str]]:
    """The keys that the panels and the table of runs name, by where W&B looks for them."""
    found: dict[str, set[str]] = {"summary": set(), "history": set(), "config": set()}

    def add(accessor: str) -> None:
        section, _, key = accessor.partition(":")
        found[section].add(key)

    kinds = set()
    bank = specification["section"]["panelBankConfig"]
    for panel in (panel for section in bank["sections"] for panel in section["panels"]):
        settings, kind = panel["config"], panel["viewType"]
        kinds.add(kind)
        if kind == "Bar Chart":
            found["summary"] |= set(settings["metrics"])
            if "groupBy" in settings:
                found["config"].add(settings["groupBy"])
        elif kind == "Scatter Plot":
            add(settings["xAxis"])
            add(settings["yAxis"])
        elif kind == "Parallel Coordinates Plot":
            for column in settings["columns"]:
                add(column["accessor"])
        elif kind == "Run History Line Plot":
            found["history"] |= {*settings["metrics"], settings["xAxis"]}
        elif kind == "Media Browser":
            found["history"] |= set(settings["mediaKeys"])
        else:
            assert kind == "Run Comparer"
    assert len(kinds) == 6
    (runs,) = specification["section"]["runSets"]
    for column in runs["runFeed"]["columnPinned"]:
        if not column.startswith("run:"):
            add(column)
    return found


def test_a_run_that_fails_ends_failed_and_so_does_one_that_is_interrupted(
    tmp_path: Path, compose: Callable[..., Any]
) -> None:
    folder = tmp_path / "failed"
    run_here("train.py", *SMALL, "arch=fpn", *OFFLINE, "optimizer.lr=1e30", f"hydra.run.dir={folder}", expect=1)
    assert record(folder)["status"] == "failed"
    assert summary(only_log(folder))["exit_code"] == 1
    item, stopped = Record("profile", "smp", "unet", "resnet18"), tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt), wandb_run.logged(compose("profile", *OFFLINE), stopped, item):
        raise KeyboardInterrupt
    assert summary(only_log(stopped))["exit_code"] == 1
    assert wandb.run is None


def test_loggers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for kind, arguments, message in (
        ("profile", ("logger=csv",), "logger.name is 'csv'; it takes one of wandb, none"),
        ("profile", ("logger=wandb", "logger.artifacts=true"), "only train.py with logger=wandb has a checkpoint"),
        ("train", (*TINY, "logger.artifacts=true"), "only train.py with logger=wandb has a checkpoint"),
    ):
        done = run_here(f"{kind}.py", *arguments, f"hydra.run.dir={tmp_path / kind}", expect=1)
        assert message in done.stderr


# With a network


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as started:
        _use(monkeypatch, started.url)
        yield started
        wandb.teardown()


def _use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Has W&B talk to this address, as a user who is logged in; it reads the environment once."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)


@pytest.fixture
def begin(tmp_path: Path, compose: Callable[..., Any]) -> Iterator[Callable[..., Record]]:
    """``begin("online", resume="x")``: a training's run in ``tmp_path`` begins; returns its record."""

    def begun(mode: str = "auto", resume: str | None = None) -> Record:
        item = Record("train", "smp", "unet", "resnet18", "shapes")
        overrides = ("logger=wandb", f"logger.mode={mode}", f"resume={resume or 'null'}")
        wandb_run.begin(compose("train", *overrides), tmp_path, item)
        return item

    yield begun
    wandb.finish()


def test_who_is_logged_in_is_online_and_the_record_says_where(
    server: Server, tmp_path: Path, begin: Callable[..., Record]
) -> None:
    logged = begin().logger
    assert logged is not None
    assert record(tmp_path)["logger"] == logged  # from the start
    assert (logged["mode"], logged["entity"]) == ("online", ENTITY)
    assert logged["url"] == f"{server.url}/{ENTITY}/seggrid/runs/{logged['id']}"
    wandb_run.finish(3, tmp_path)
    assert server.runs[logged["id"]]["exit_code"] == 3
    assert server.runs[logged["id"]]["jobType"] == "train"


def test_an_upload_that_does_not_end_is_given_up_with_the_command_that_makes_up_for_it(
    server: Server,
    tmp_path: Path,
    begin: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT", 1.0)
    begin("online")
    server.refuses = (500, "out of order")
    start = time.monotonic()
    wandb_run.finish(0, tmp_path)
    assert time.monotonic() - start < 8
    (line,) = _warnings(caplog)
    assert line.endswith(f"wandb sync --include-online {tmp_path / 'wandb'}")


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a user sees: W&B's own logger writes into a file alone, though pytest listens to it."""
    seen = (entry for entry in caplog.records if entry.name.split(".")[0] != "wandb")
    return [entry.getMessage() for entry in seen if entry.levelno >= logging.WARNING]


def _closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    "trouble",
    [
        "nobody listens",
        pytest.param("nobody answers", marks=pytest.mark.slow),
        "the key is wrong",
        "the project is missing",
    ],
)
def test_a_run_that_cannot_be_online_is_kept_offline_after_one_warning_and_without_delay(
    trouble: str,
    tmp_path: Path,
    begin: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with serving() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        if trouble == "nobody listens":
            _use(monkeypatch, _closed_port())
        elif trouble == "nobody answers":
            _use(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
            monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "2")  # W&B's own variable; 10 s by default
        else:
            _use(monkeypatch, server.url)
            server.refuses = (401, "user is not logged in") if trouble == "the key is wrong" else None
            server.refuses_runs = (404, "project not found")
        start = time.monotonic()
        with caplog.at_level(logging.WARNING):
            item = begin("online")
        seconds = time.monotonic() - start
        wandb.log({"a": 1})
        wandb_run.finish(0, tmp_path)
        wandb.teardown()
    (line,) = _warnings(caplog)
    assert line.startswith("warning: W&B: ")
    assert line.endswith(f"; the run is kept offline, upload it with: python -m seggrid.upload {tmp_path}")
    assert "\n" not in line
    if trouble in ("the key is wrong", "the project is missing"):
        assert {"the key is wrong": "not logged in", "the project is missing": "project not found"}[trouble] in line
    assert capfd.readouterr() == ("", "")  # W&B itself says nothing
    assert item.logger is not None
    assert (item.logger["mode"], item.logger["url"]) == ("offline", None)
    assert summary(only_log(tmp_path))["summary"]["a"] == 1
    assert seconds < 8


def test_a_training_goes_on_without_w_and_b_and_is_the_same_run_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, _closed_port())
    done = run_here("train.py", *SMALL, "arch=fpn", "logger=wandb", f"hydra.run.dir={tmp_path}")
    assert (done.stdout + done.stderr).count("warning:") == 1
    assert record(tmp_path)["status"] == "completed"
    first = record(tmp_path)["logger"]["id"]
    assert call("train", f"resume={tmp_path}", "trainer.max_epochs=2", "logger.mode=offline") == 0
    wandb.teardown()
    assert record(tmp_path)["logger"]["id"] == first
    before, after = (summary(log)["summary"] for log in wandb_run.logs(tmp_path))
    assert (before["train/epochs"], after["train/epochs"]) == (1, 2)
    assert after["metrics/mIoU"] == pytest.approx(record(tmp_path)["metrics"]["mIoU"])


def test_the_parts_of_a_resumed_run_are_uploaded_as_one(
    tmp_path: Path, server: Server, begin: Callable[..., Record]
) -> None:
    for resume, values in ((None, (1, 2)), ("this", (3, 4))):
        begin("offline", resume)
        for value in values:
            wandb.log({"a": value})
        wandb_run.finish(0, tmp_path)
        time.sleep(1.1)  # W&B's folders have their second in their name
    wandb.teardown()
    assert upload.upload(tmp_path) == "uploaded: 2, there already: 0"
    (run,) = server.runs.values()
    assert [(row["_step"], row["a"]) for row in run["history"]] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert run["exit_code"] == 0
    assert upload.upload(tmp_path) == "uploaded: 0, there already: 2"


KILLED = """
import os, sys, time
from pathlib import Path
import wandb
from seggrid import config, wandb_run
from seggrid.results import Record
item = Record("train", "smp", "unet", "resnet18", "shapes")
logger = config.LoggerConfig(name="wandb", mode="offline")
wandb_run.begin(config.ProfileConfig(logger=logger), Path(sys.argv[1]), item)
wandb.log({"a": 1})
print("begun", flush=True)
time.sleep(60)
"""


def test_a_killed_run_keeps_its_id_and_does_not_stop_the_upload_of_others(
    tmp_path: Path, server: Server, begin: Callable[..., Record], compose: Callable[..., Any]
) -> None:
    killed = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(killed)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        os.kill(process.pid, signal.SIGKILL)
    assert record(killed)["logger"]["id"] == wandb_run.last_id(killed)
    assert all(wandb_run.is_empty(log) for log in wandb_run.logs(killed))  # if not, W&B now writes at once: good
    begin("offline")
    wandb.log({"a": 1})
    wandb_run.finish(0, tmp_path)
    wandb.teardown()
    assert upload.upload(tmp_path).startswith("uploaded: 1, there already: 0, without an entry")
    assert set(server.runs) == {record(tmp_path)["logger"]["id"]}


def test_an_upload_says_what_it_could_not_do(tmp_path: Path, server: Server, begin: Callable[..., Record]) -> None:
    with pytest.raises(UserError, match="no offline run of W&B below"):
        upload.upload(tmp_path)
    begin("offline")
    wandb_run.finish(0, tmp_path)
    wandb.teardown()
    server.refuses_runs = (401, "user is not logged in")
    with pytest.raises(UserError, match="1 of 1 were not uploaded"):
        upload.upload(tmp_path)
    server.refuses = (401, "user is not logged in")
    with pytest.raises(UserError, match=r"W&B: .*user is not logged in; nothing was uploaded: say wandb login"):
        upload.upload(tmp_path)


def test_without_a_server_an_upload_ends_in_one_line_within_seconds(
    tmp_path: Path, begin: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("offline")
    wandb.log({"a": 1})
    wandb_run.finish(0, tmp_path)
    wandb.teardown()
    _use(monkeypatch, _closed_port())
    start = time.monotonic()
    with pytest.raises(UserError, match=r"refused.*; nothing was uploaded: ") as caught:
        upload.upload(tmp_path)
    assert time.monotonic() - start < 20 and "\n" not in str(caught.value)
