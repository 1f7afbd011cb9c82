"""A terminal that may be closed, or a pipe that nobody reads any more, while the sweep goes on."""

import os
import sys
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text


class Output(Console):
    """The standard output; rich would end the program where nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """Lets the program go on, and Python end without a complaint of its own."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminal:
    """Prints lines, and in a terminal a display below them, until that is gone.

    Args:
        console: where to print; None takes the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Output(highlight=False)
        self._live: Live | None = None
        self._gone = False

    @property
    def is_live(self) -> bool:
        """Whether there is a display."""
        return self._live is not None

    def begin(self) -> None:
        """Opens the display, where there is a terminal."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._try(self._live.start)

    def end(self) -> None:
        """Takes the display away."""
        live, self._live = self._live, None
        if live is not None:
            self._try(live.stop)

    def print(self, line: str | Text) -> None:
        """Prints a line."""
        self._try(lambda: self._console.print(line, markup=False, highlight=False, soft_wrap=True))

    def show(self, display: RenderableType) -> None:
        """Brings the display up to date."""
        live = self._live
        if live is not None:
            self._try(lambda: live.update(display, refresh=True))

    def _try(self, action: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            action()
        except OSError:  # a closed terminal or pipe: the jobs do not need it
            self._gone = True
