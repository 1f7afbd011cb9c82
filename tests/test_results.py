"""The record of a run: whole or not at all, readable by anyone, and refused in one line where it is damaged."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seggrid import results
from seggrid.errors import UserError
from seggrid.results import Record

KEYS = {
    *("schema", "kind", "status", "error", "backend", "arch", "encoder", "dataset", "seed", "model", "train"),
    *(
        "metrics",
        "per_class",
        "intervals",
        "calibration",
        "evaluation",
        "profile",
        "published",
        "curves",
        "logger",
        "identity",
        "environment",
        "overrides",
        "started",
        "ended",
    ),
}


def _record(**values: Any) -> Record:
    return Record(kind="train", backend="smp", arch="unet", encoder="resnet18", **values)


def test_a_record_has_the_fixed_keys_and_comes_back_as_it_was(tmp_path: Path) -> None:
    record = _record(status="completed", seed=3, metrics={"mIoU": 0.5}, overrides=["arch=unet"])
    path = record.write(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "result.json"
    values = json.loads(path.read_text())
    assert set(values) == KEYS
    assert values["schema"] == 1 and values["profile"] is None and values["started"] <= values["ended"]
    assert results.read(path.parent) == record


def test_a_new_record_says_interrupted() -> None:
    assert _record().status == "interrupted"


def test_writing_leaves_the_record_alone_in_its_folder(tmp_path: Path) -> None:
    for status in ("interrupted", "completed"):
        _record(status=status).write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "completed"


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    _record(status="completed").write(tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(TypeError):
        _record(metrics={"mIoU": object()}).write(tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_full_disk_leaves_the_old_record_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _record(status="completed").write(tmp_path)
    before = (tmp_path / "result.json").read_bytes()

    def half(path: Path, text: str, *_: Any, **__: Any) -> int:
        path.write_bytes(text[:20].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        _record().write(tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    rows = [{"class": "a", "iou": math.nan, "acc": math.inf, "dice": np.float64("nan"), "pixels": 0}]
    _record(per_class=rows, metrics={"mIoU": float("-inf")}, train={"samples": (1.0, math.nan)}).write(tmp_path)
    text = (tmp_path / "result.json").read_text()
    values = json.loads(text, parse_constant=pytest.fail)  # called for NaN and Infinity, which JSON does not know
    assert values["per_class"] == [{"class": "a", "iou": None, "acc": None, "dice": None, "pixels": 0}]
    assert values["metrics"] == {"mIoU": None} and values["train"] == {"samples": [1.0, None]}


def test_a_folder_without_a_record_has_none(tmp_path: Path) -> None:
    assert results.read(tmp_path) is None
    assert results.read(tmp_path / "missing") is None


def test_keys_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    path = _record().write(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    assert results.read(tmp_path) == _read_plain(path)


def _read_plain(path: Path) -> Record:
    return Record(**{key: value for key, value in json.loads(path.read_text()).items() if key in KEYS})


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = _record(schema=2).write(tmp_path)
    with pytest.raises(UserError, match=r"result\.json has schema 2; this version of seggrid reads schema 1") as caught:
        results.read(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", '{"schema": 1, "kind"', "[]", "null", "{}", '{"schema": 1}', "3", b"\xff\xfe\x00".decode("latin1")]
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text, encoding="latin1")
    with pytest.raises(UserError, match="is not a readable record") as caught:
        results.read(tmp_path)
    assert str(path) in str(caught.value) and str(caught.value).endswith("; move it away, or leave it")
    assert "\n" not in str(caught.value)


def test_a_run_is_one_of_a_sweep_where_hydra_left_the_sweeps_file(tmp_path: Path) -> None:
    folder = tmp_path / "0_smp"
    folder.mkdir()
    assert not results.in_sweep(folder)
    (tmp_path / "multirun.yaml").touch()
    assert results.in_sweep(folder)
    assert not results.in_sweep(tmp_path)


def test_the_environment_names_versions_and_device() -> None:
    found = results.environment("smp", "some device")
    assert set(found) == {"seggrid", "python", "torch", "backend_version", "device", "git_sha"}
    assert found["device"] == "some device" and found["backend_version"]
    assert results.environment("smp")["device"] == results.cpu_name()
    assert results.environment("no such library")["backend_version"] is None
