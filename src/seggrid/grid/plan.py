"""Which cells of a sweep have to be run: those that no record in its folder stands for. Imports no torch."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from seggrid import results
from seggrid.checks import ImpossibleCellError
from seggrid.errors import UserError, one_line
from seggrid.grid import endings
from seggrid.identity import identity
from seggrid.results import Record
from seggrid.run import check, new_record, typed_of

LAST = f"{results.CHECKPOINT_FOLDER}/last.ckpt"


@dataclass
class Planned:
    """A cell of a sweep and what is to be done with it.

    Attributes:
        number: in the sweep, from 0.
        overrides: its command line.
        folder: of its run.
        record: as it is, or as it begins.
        typed: its configuration; None where it has none that could be run.
        todo: ``start``, ``resume``, ``finished``, ``skipped``, ``refused``: its configuration is at fault, or ``left``:
            it failed before and is not tried again.
        details: what tells it from the others of its backend, arch and encoder.
    """

    number: int
    overrides: list[str]
    folder: Path
    record: Record
    typed: Any
    todo: str
    details: str = ""

    @property
    def label(self) -> str:
        """The cell, for people."""
        return f"{self.record.backend} / {self.record.arch} / {self.record.encoder}{self.details}"

    @property
    def runs(self) -> bool:
        """Whether there is something to run."""
        return self.todo in ("start", "resume")


class Plan:
    """Goes through the jobs of a sweep, and gives each the folder that is its own.

    Args:
        folder: of the sweep.
        kind: ``train``, ``evaluate`` or ``profile``.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._known: dict[str, list[tuple[Path, Record]]] = {}
        self._taken: set[Path] = set()
        for path, record in _records(folder):
            self._taken.add(path)
            if record is not None and isinstance(record.identity, dict):
                self._known.setdefault(_key(record.identity), []).append((path, record))
        for same in self._known.values():
            same.sort(key=lambda item: item[1].status != "completed")

    def add(self, number: int, composed: DictConfig, overrides: list[str], subdir: Callable[[int], str]) -> Planned:
        """Decides about a job, and writes the record of one that cannot be run.

        Args:
            number: in the sweep.
            composed: its configuration, as Hydra composed it.
            overrides: its command line.
            subdir: the name of its folder, by a number.
        """
        composed, typed = typed_of(self._kind, composed, overrides)
        record = new_record(self._kind, typed, overrides)
        retry = typed.sweep.retry
        try:
            check(self._kind, typed)
            record.identity = identity(self._kind, typed)
        except UserError as error:
            record.identity = {"config": _described(typed), "data": None}
            record.status = "skipped" if isinstance(error, ImpossibleCellError) else "failed"
            record.error = {"type": type(error).__name__, "message": one_line(error)}
        before = self._known.get(_key(record.identity), [])
        if before:
            folder, known = before.pop(0)
            if record.error is None:
                return Planned(number, overrides, folder, known, typed, _todo(folder, known, retry))
        else:
            folder = self._free(number, subdir)
        planned = Planned(number, overrides, folder, record, typed, "start")
        if record.error is not None:
            planned.todo = "skipped" if record.status == "skipped" else "refused"
            record.write(folder)
        return planned

    def _free(self, number: int, subdir: Callable[[int], str]) -> Path:
        """A folder that no other cell has: its number's own, else that of the next free number."""
        wanted = self._folder / subdir(number)
        if wanted in self._taken:
            numbers = (int(path.name.split("_")[0]) for path in self._taken if path.name.split("_")[0].isdecimal())
            further = max(numbers, default=number) + 1
            wanted = self._folder / subdir(further)
            names = (wanted.with_name(f"{wanted.name}_{count}") for count in itertools.count(2))
            wanted = next(path for path in itertools.chain([wanted], names) if path not in self._taken)
        self._taken.add(wanted)
        return wanted


def tell_apart(planned: list[Planned]) -> None:
    """Gives the cells the settings in which they differ for ``details``."""
    shared = set.intersection(*(set(item.overrides) for item in planned))
    named = ("backend=", "arch=", "arch.target=", "arch.config=", "encoder=")
    for item in planned:
        own = [said for said in item.overrides if said not in shared and not said.startswith(named)]
        item.details = f" ({', '.join(own)})" if own else ""


def _records(folder: Path) -> Iterable[tuple[Path, Record | None]]:
    """The runs in a sweep's folder; of those without a readable record only where they lie."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir(), key=lambda path: results.natural_order(path.name)):
        if not (path / results.FILE_NAME).exists():  # nothing, or a job that died before it could say what it was
            continue
        try:
            yield path, results.read(path)
        except UserError:  # the comparison names it
            yield path, None


def _todo(folder: Path, known: Record, retry: bool) -> str:
    if known.status in ("completed", "skipped"):
        return "finished" if known.status == "completed" else "skipped"
    if known.status == "failed" and not retry:
        return "left"
    # What an error has stopped would meet it again; what was ended from without goes on where it was.
    goes_on = known.status == "interrupted" or (
        isinstance(known.error, dict) and known.error.get("type") in endings.FROM_WITHOUT
    )
    return "resume" if goes_on and (folder / LAST).exists() else "start"


def _key(identity: dict[str, str | None]) -> str:
    return f"{identity.get('config')} {identity.get('data')}"


def _described(typed: Any) -> str:
    """What stands for the digest of a configuration that was refused."""
    return repr(dataclasses.asdict(typed))


def subdir_of(config: DictConfig) -> Callable[[int], str]:
    """Returns what names a job's folder by its number.

    Args:
        config: the job's whole configuration, Hydra's part included, which is changed.
    """

    def name(number: int) -> str:
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.num = config.hydra.job.id = number
        return str(OmegaConf.select(config, "hydra.sweep.subdir"))

    return name
