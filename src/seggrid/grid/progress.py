"""A sweep as it is seen in the terminal: what has ended, what runs, what is left, and the best so far."""

import statistics
import time
from collections import Counter
from types import TracebackType

from rich.console import Group
from rich.text import Text

from seggrid.grid.durations import shown
from seggrid.grid.endings import last_line
from seggrid.grid.job import Job
from seggrid.grid.terminal import Terminal
from seggrid.results import Record

RUNNING_SHOWN = 8  # running jobs that the display has a line for
DIGITS = {"completed": "green", "failed": "red", "interrupted": "yellow", "skipped": "dim"}


class Progress:
    """Shows a sweep: live in a terminal, a line for each ending elsewhere.

    Args:
        total: jobs to be run.
        slots: jobs at once.
        folder: of the sweep, for people.
        done: records of the cells that were finished before, among which the best may be.
        terminal: where it is seen.
    """

    def __init__(self, total: int, slots: int, folder: str, done: list[Record], terminal: Terminal) -> None:
        self._total, self._slots, self._folder, self._terminal = total, slots, folder, terminal
        self._running: dict[Job, float] = {}
        self._statuses: Counter[str] = Counter()
        self._durations_s: list[float] = []
        self._best: tuple[float, str] | None = None
        for record in done:
            self._consider(record)

    def __enter__(self) -> "Progress":
        self._terminal.begin()
        self.show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._terminal.end()

    def started(self, job: Job) -> None:
        """A job has begun."""
        self._running[job] = time.monotonic()

    def ended(self, job: Job, record: Record) -> None:
        """A job has ended."""
        began = self._running.pop(job, None)
        seconds = None if began is None else time.monotonic() - began
        if seconds is not None and record.status == "completed":
            self._durations_s.append(seconds)
        self._statuses[record.status] += 1
        self._consider(record)
        line = Text(f"{sum(self._statuses.values())} of {self._total}  ")
        line.append(job.label, style="bold")
        line.append(f"  {self._result(record)}", style=DIGITS.get(record.status, ""))
        if seconds is not None:
            line.append(f"  {shown(seconds)}")
        if not self._terminal.is_live and (left := self._left()):
            line.append(f"  ({left})")
        self._terminal.print(line)

    def stopping(self, running: int, at_once: bool) -> None:
        """The user wants it to end."""
        if at_once:
            text = "stopping at once"
        elif running:
            jobs = "1 running job ends" if running == 1 else f"{running} running jobs end"
            text = f"stopping: {jobs} cleanly; Ctrl-C again ends at once"
        else:
            text = "stopping"
        self._terminal.print(text)

    def show(self) -> None:
        """Brings the live display up to date."""
        if self._terminal.is_live:
            self._terminal.show(self._display())

    def _display(self) -> Group:
        ended = sum(self._statuses.values())
        parts = [f"{ended} of {self._total} done", f"{len(self._running)} running"]
        parts += [f"{self._statuses[status]} {status}" for status in ("failed", "skipped") if self._statuses[status]]
        if left := self._left():
            parts.append(left)
        if self._best is not None:
            parts.append(f"best {self._best[1]} {100 * self._best[0]:.2f} %")
        lines = [Text(f"{self._folder}: {', '.join(parts)}", style="bold", overflow="ellipsis", no_wrap=True)]
        now = time.monotonic()
        for job, began in list(self._running.items())[:RUNNING_SHOWN]:
            line = Text(f"  {job.label}  {shown(now - began)}", overflow="ellipsis", no_wrap=True)
            line.append(f"  {last_line(job.output)}", style="dim")
            lines.append(line)
        if len(self._running) > RUNNING_SHOWN:
            lines.append(Text(f"  and {len(self._running) - RUNNING_SHOWN} more", style="dim"))
        return Group(*lines)

    def _left(self) -> str:
        """How long it will take from here, by the median of those that completed."""
        remaining = self._total - sum(self._statuses.values())
        if not remaining or not self._durations_s:
            return ""
        now = time.monotonic()
        typical = statistics.median(self._durations_s)
        running = [max(0.0, typical - (now - began)) for began in self._running.values()]
        seconds = (sum(running) + typical * (remaining - len(running))) / min(self._slots, remaining)
        return f"about {shown(seconds)} left"

    def _consider(self, record: Record) -> None:
        score = (record.metrics or {}).get("mIoU")
        if record.status == "completed" and score is not None and (self._best is None or score > self._best[0]):
            self._best = score, f"{record.backend} / {record.arch} / {record.encoder}"

    @staticmethod
    def _result(record: Record) -> str:
        if record.status != "completed":
            return f"{record.status}: {(record.error or {}).get('message') or 'no reason recorded'}"
        score = (record.metrics or {}).get("mIoU")
        return "completed" if score is None else f"mIoU {100 * score:.2f} %"
