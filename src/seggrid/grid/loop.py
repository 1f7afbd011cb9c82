"""Runs what is planned, watches it, and lets Ctrl-C end it cleanly. Imports no torch."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from seggrid.grid import endings
from seggrid.grid.job import Ended, Engine, Job, Started
from seggrid.grid.plan import Planned
from seggrid.grid.progress import Progress

POLL_S = 0.5  # how long nothing may happen before the display moves on
STOPPED = {"type": "Interrupted", "message": "stopped by Ctrl-C"}


class Stop:
    """How often the user has asked for the end: once, and running jobs end cleanly; twice, and at once."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Is what a signal calls."""
        self.count += 1


@contextmanager
def asked_to_stop() -> Iterator[Stop]:
    """Takes Ctrl-C, and what a system sends before it ends a process, as a wish to stop."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(todo: dict[Job, Planned], engine: Engine, progress: Progress, stop: Stop) -> list[Planned]:
    """Runs jobs to their ends.

    Args:
        todo: the jobs, and what was planned of them; their records are settled here.
        engine: runs them.
        progress: is told what happens.
        stop: is asked whether to go on.

    Returns:
        Those that were never started.
    """
    waiting = dict(todo)
    running: dict[Job, Planned] = {}
    heeded = 0
    engine.submit(list(todo))
    while running or (waiting and not stop.count):
        if stop.count > heeded:
            heeded = stop.count
            progress.stopping(len(running), at_once=heeded > 1)
            if heeded > 1:
                engine.kill()
            else:
                engine.interrupt()
        for event in engine.poll(POLL_S):
            if isinstance(event, Started):
                running[event.job] = waiting.pop(event.job)
                progress.started(event.job)
            elif event.job in running or not stop.count:  # what ends before it began, ended because the user asked
                planned = running.pop(event.job, None) or waiting.pop(event.job)
                planned.record = endings.settle(_asked(event) if stop.count else event, planned.record)
                progress.ended(event.job, planned.record)
        progress.show()
    if stop.count and not heeded:
        progress.stopping(0, at_once=False)
    return list(waiting.values())


def _asked(ended: Ended) -> Ended:
    """A job that ends after the user has asked for it was interrupted, whatever its exit status."""
    return Ended(ended.job, ended.exit_code, STOPPED)
