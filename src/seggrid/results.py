"""The record of one run: what ``result.json`` holds, and how it is written and read."""

import dataclasses
import json
import math
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seggrid import __version__
from seggrid.errors import UserError

SCHEMA = 1
FILE_NAME = "result.json"
NOISY = 1.2  # 90th over 10th percentile of a profile's times; a quiet machine stays below 1.05
CONFIG_NAME = "config.yaml"  # the resolved configuration, beside the record
CHECKPOINT_FOLDER = "checkpoints"  # likewise
OUTPUT_NAME = "output.log"  # what a job of a sweep prints
BACKEND_PACKAGES = {"smp": "segmentation_models_pytorch", "torchvision": "torchvision", "mmseg": "mmsegmentation"}


@dataclass
class Record:
    """One run of one cell; ``docs/record.md`` says what each key means. A section that does not apply is None."""

    kind: str
    backend: str
    arch: str
    encoder: str
    dataset: str | None = None
    seed: int | None = None
    schema: int = SCHEMA
    status: str = "interrupted"
    error: dict[str, str] | None = None
    model: dict[str, Any] | None = None
    train: dict[str, Any] | None = None
    metrics: dict[str, float] | None = None
    per_class: list[dict[str, Any]] | None = None
    intervals: dict[str, list[float]] | None = None
    calibration: list[dict[str, Any]] | None = None
    evaluation: dict[str, Any] | None = None
    profile: dict[str, Any] | None = None
    published: dict[str, Any] | None = None
    curves: list[dict[str, Any]] | None = None
    logger: dict[str, Any] | None = None
    identity: dict[str, str | None] | None = None
    environment: dict[str, Any] | None = None
    overrides: list[str] = field(default_factory=list)
    started: str = field(default_factory=lambda: now())
    ended: str | None = None

    def write(self, folder: Path) -> Path:
        """Writes the record as ``folder/result.json``, whole or not at all.

        Args:
            folder: the run's folder; made where it is missing.

        Returns:
            The path of the file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.ended = now()
        text = json.dumps(_without_nan(dataclasses.asdict(self)), indent=1, allow_nan=False)
        temporary = folder / f".{FILE_NAME}.{os.getpid()}"
        try:
            temporary.write_text(text + "\n")
            temporary.replace(folder / FILE_NAME)
        finally:
            temporary.unlink(missing_ok=True)  # still there only if the disk is full
        return folder / FILE_NAME


def read(folder: Path) -> Record | None:
    """Reads ``folder/result.json``.

    Args:
        folder: a run's folder.

    Returns:
        The record, or None where the folder holds none. Keys this version does not know are left out.

    Raises:
        UserError: the file is damaged or is no record of ours.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        values = _printable(json.loads(path.read_text()))
        known = {entry.name for entry in dataclasses.fields(Record)}
        if values["schema"] != SCHEMA:
            raise UserError(f"{path} has schema {values['schema']}; this version of seggrid reads schema {SCHEMA}")
        return Record(**{key: value for key, value in values.items() if key in known})
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise UserError(
            f"{path} is not a readable record ({type(error).__name__}: {error}); move it away, or leave it"
        ) from error


def natural_order(name: str) -> list[tuple[int, str]]:
    """Returns what sorts the names of runs: numbers as numbers, before words, so that job 2 is before job 10."""
    return [(int(part), "") if part.isdecimal() else (10**18, part) for part in re.split(r"(\d+)", name) if part]


def in_sweep(folder: Path) -> bool:
    """Tells whether a run's folder lies in that of a sweep, in which Hydra leaves a file before the first job."""
    return (folder.parent / "multirun.yaml").exists()


def now() -> str:
    """Returns the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(backend: str, device: str | None = None) -> dict[str, Any]:
    """Returns the versions, device and commit a run was made with.

    Args:
        backend: the library whose version is recorded.
        device: the device's name, as far as it is known.
    """
    return {
        "seggrid": __version__,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "backend_version": _version(BACKEND_PACKAGES.get(backend, backend)),
        "device": device or cpu_name(),
        "git_sha": _git_sha(),
    }


def cpu_name() -> str:
    """Returns the processor's name and its number of cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # no Linux, or a processor that gives no name: the architecture has to do
    return f"{name} ({os.cpu_count()} cores)"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_sha() -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def _printable(value: Any) -> Any:
    """A file's name that is no UTF-8 has halves of characters in JSON: no file and no terminal takes them."""
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: an undefined figure (the IoU of an absent class) becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
