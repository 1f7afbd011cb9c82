"""``python -m seggrid.grid.leash <command>``: runs a command that does not outlive whoever started it.

It stands between a worker of Ray, which may be killed at any time, and the processes of a job, which would then go on
and hold their GPU. Orders come through its standard input: ``INTERRUPT`` is handed on as SIGINT, and the end of the
input, which comes with the death of the worker too, ends the command and all of its process group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import NoReturn

INTERRUPT = b"i"


def main(command: list[str]) -> NoReturn:
    """Runs the command in a process group of its own, and ends as it does: with its exit status or by its signal."""
    # Ray may kill a dead worker's children and process group: what has to end the command then is neither.
    if pid := os.fork():
        _end_with(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.setsid()
    # Workers of Ray block SIGINT, and what they start takes that over.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def send(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def obey() -> None:
        while os.read(sys.stdin.fileno(), 1) == INTERRUPT:
            send(signal.SIGINT)
        send(signal.SIGKILL)

    threading.Thread(target=obey, daemon=True).start()
    code = process.wait()
    send(signal.SIGKILL)  # what the command has left behind
    _end_with(code)


def _end_with(code: int) -> NoReturn:
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
