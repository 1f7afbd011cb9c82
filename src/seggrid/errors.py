"""The exceptions that are meant for a user's eyes."""

INTERRUPTED = 130  # the exit status, as a shell says it of a command that Ctrl-C has ended


class UserError(Exception):
    """Something the user can put right.

    Its message is one line: what is wrong, where, what is allowed, what to do. The entry points print it
    without a traceback and exit with status 1; ``HYDRA_FULL_ERROR=1`` shows the traceback too.
    """


class PrunedError(UserError):
    """A trial that the sweeper has given up; its record is that of a skipped run, with what it has trained so far."""


class FullDiskError(UserError):
    """A checkpoint could not be written: the run can go on from the one before once there is room."""


def one_line(error: BaseException) -> str:
    """Returns the message of ``error`` as one line.

    A data loader's worker wraps an exception's message in its traceback; the last line holds the message itself.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, UserError):
        return lines[-1].removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
    if "Original Traceback" in str(error):
        return lines[-1]
    return " ".join(lines)
