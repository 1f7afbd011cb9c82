"""What a sweep says of itself while it runs."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from seggrid.errors import UserError
from seggrid.grid.durations import seconds_of, shown
from seggrid.grid.job import Job
from seggrid.grid.progress import Progress
from seggrid.grid.terminal import Terminal
from seggrid.results import Record


def _job(folder: Path, number: int) -> Job:
    return Job(number, "train", f"smp / unet / net{number}", "smp", folder / "train.py", (), folder, folder)


def _record(status: str, score: float | None = None, error: str | None = None) -> Record:
    metrics = None if score is None else {"mIoU": score}
    return Record(
        "train", "smp", "unet", "net", status=status, metrics=metrics, error={"message": error} if error else None
    )


def _progress(folder: Path, terminal: bool, total: int = 3) -> tuple[Progress, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=terminal, color_system=None, highlight=False)
    return Progress(total, 2, "multirun/x", [_record("completed", 0.25)], Terminal(console)), file


def test_a_file_gets_a_line_for_each_ending(tmp_path: Path) -> None:
    progress, file = _progress(tmp_path, terminal=False)
    with progress:
        for number, record in enumerate([_record("completed", 0.5), _record("failed", error="no luck")]):
            progress.started(_job(tmp_path, number))
            progress.show()
            progress.ended(_job(tmp_path, number), record)
    first, second = file.getvalue().splitlines()
    assert first.startswith("1 of 3  smp / unet / net0  mIoU 50.00 %  0 s  (about 0 s left)")
    assert second.startswith("2 of 3  smp / unet / net1  failed: no luck")


def test_a_terminal_sees_what_runs_and_the_best_so_far(tmp_path: Path) -> None:
    progress, file = _progress(tmp_path, terminal=True)
    (tmp_path / "output.log").write_text("epoch 1/9\nepoch 2/9  mIoU 12 %\n")
    with progress:
        progress.started(_job(tmp_path, 7))
        progress.show()
        text = file.getvalue()
    assert "multirun/x: 0 of 3 done, 1 running, best smp / unet / net 25.00 %" in text
    assert "smp / unet / net7  0 s  epoch 2/9  mIoU 12 %" in text


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, None), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172800), (" 5s ", 5)]
)
def test_durations_are_read(text: str | None, seconds: float | None) -> None:
    assert seconds_of("key", text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-3h", "0s", "3 hours", "1h30m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="say 90s, 30m, 12h or 2d"):
        seconds_of("key", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3000, "50 min"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_shown_in_two_units(seconds: float, text: str) -> None:
    assert shown(seconds) == text
