"""Which records no comparison can take: those that another program wrote, or that were edited by hand."""

from typing import Any

from seggrid.comparison.rows import SECTIONS, as_number, flatten
from seggrid.errors import one_line
from seggrid.results import Record

FRACTIONS = ("mIoU", "mAcc", "aAcc", "mDice", "boundary_mIoU", "ECE")


def fault(record: Record) -> str:
    """Returns what keeps a record from being compared, as the rest of a line that begins with its file; else nothing.

    Args:
        record: as it was read.
    """
    words = (record.kind, record.status, record.backend, record.arch, record.encoder, record.started)
    if not all(isinstance(word, str) for word in words) or not isinstance(record.dataset, str | None):
        return "is no record of a run"
    sections = (*SECTIONS, "error", "intervals", "evaluation", "identity", "logger")
    faults = [f"{name} is no section" for name in sections if not isinstance(getattr(record, name), dict | None)]
    faults += [f"{name} is no list of entries" for name in ("per_class", "curves") if not _is_list(record, name)]
    if not isinstance(record.seed, int | None) or not isinstance(record.overrides, list):
        faults.append("seed is no number, or overrides no list")
    if not faults:
        faults = _faults_within(record)
    if not faults:
        try:
            flatten(record)
        except (TypeError, ValueError, AttributeError) as error:  # deeper within a section of another program
            faults = [one_line(error)]
    return f"is no record of a run ({'; '.join(faults)})" if faults else ""


def _faults_within(record: Record) -> list[str]:
    """What cannot be so in sections that are dictionaries, and lists of these."""
    size = (record.model or {}).get("input_size")
    is_size = isinstance(size, list) and len(size) == 2 and None not in map(as_number, size)
    classes = [entry.get("class") for entry in record.per_class or ()]
    pairs = (record.intervals or {}).items()
    return [
        *([f"model.input_size is {size!r:.40}, not [height, width]"] if size is not None and not is_size else []),
        *(["per_class has an entry without the class's name"] if not all(isinstance(e, str) for e in classes) else []),
        *(f"intervals.{key} is no [low, high]" for key, ends in pairs if not isinstance(ends, list) or len(ends) != 2),
        *(f"metrics.{key} is {value!r:.40}, no fraction in [0, 1]" for key, value in _outside(record)),
    ]


def _outside(record: Record) -> list[tuple[str, Any]]:
    found = [(key, (record.metrics or {}).get(key)) for key in FRACTIONS]
    return [(key, value) for key, value in found if isinstance(value, int | float) and not 0 <= value <= 1]


def _is_list(record: Record, name: str) -> bool:
    entries = getattr(record, name)
    return entries is None or (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries))
