"""What is written of a job that could not say itself why it ended."""

import errno
import os
import signal
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from seggrid import results
from seggrid.grid import endings
from seggrid.grid.job import Ended, Job
from seggrid.grid.local import LocalEngine
from seggrid.grid.loop import STOPPED
from seggrid.results import Record


def _job(folder: Path, script: Path | None = None) -> Job:
    return Job(0, "train", "smp / fpn / net", "smp", script or folder / "train.py", (), folder, folder)


def _begun() -> Record:
    return Record("train", "smp", "fpn", "net", identity={"config": "a", "data": None})


def test_a_job_that_dies_before_its_record_has_one(tmp_path: Path) -> None:
    (tmp_path / "output.log").write_text("first\nthe reason\n")
    endings.settle(Ended(_job(tmp_path), 7), _begun())
    found = results.read(tmp_path)
    assert found is not None and found.status == "failed" and found.identity == {"config": "a", "data": None}
    assert found.error == {
        "type": "Exited",
        "message": "ended with exit status 7 and no result; its last line: the reason",
    }


@pytest.mark.parametrize(("status", "after"), [("failed", "interrupted"), ("completed", "completed")])
def test_what_fails_after_ctrl_c_was_interrupted(status: str, after: str, tmp_path: Path) -> None:
    record = _begun()
    record.status, record.error = status, {"type": "UserError", "message": "half"} if status == "failed" else None
    record.write(tmp_path)
    assert endings.settle(Ended(_job(tmp_path), 1, STOPPED), _begun()).status == after


def test_a_full_disk_ends_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Record, "write", full)
    assert endings.settle(Ended(_job(tmp_path), -9), _begun()).error == {
        "type": "Killed",
        "message": "killed by SIGKILL",
    }


def test_the_end_of_the_fork_server_is_that_of_its_jobs_and_they_can_go_on(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("import time; print('running', flush=True); time.sleep(60)\n")
    engine = LocalEngine(1, [], dict(os.environ))
    engine.submit([_job(tmp_path, script)])
    try:
        engine.poll(0.1)
        while not (tmp_path / "output.log").exists():
            time.sleep(0.05)
        server = forkserver._forkserver._forkserver_pid
        os.kill(server, signal.SIGTERM)  # of the whole group, say by a closing shell
        assert engine.poll(0.5) == []
        os.kill(server, signal.SIGKILL)
        (ended,) = engine.poll(20)
    finally:
        engine.close()
    assert isinstance(ended, Ended) and ended.error is not None
    assert ended.error["type"] in endings.FROM_WITHOUT
