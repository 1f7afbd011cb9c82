"""What is in a data set's files, and what of it is likely to be a mistake."""

import hashlib
import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from seggrid.config import DatasetConfig
from seggrid.data.datamodule import Source
from seggrid.errors import UserError

SHOWN = 3  # examples in a message
BORDER = 0.1  # of all pixels: more than the borders between things
FEW = 32  # images that one process has read before another has started

_own: Source | None = None  # of a process that looks for look_at_all


@runtime_checkable
class RawFiles(Source, Protocol):
    """A source that can say what stands in its files, before labels are mapped to classes."""

    def paths(self, index: int) -> tuple[Path, ...]:
        """Returns the files of a picture, that of the image first."""
        ...

    def read_image(self, index: int) -> Tensor:
        """Returns the image, uint8 ``(3, H, W)``."""
        ...

    def read_raw(self, index: int) -> NDArray[Any]:
        """Returns the labels as they stand in the file, ``(H, W)``."""
        ...


@dataclass(frozen=True)
class Look:
    """One image and its labels.

    Attributes:
        index: of the image in its split.
        name: of the image, for messages.
        fault: why it cannot be used; then nothing else is known.
        size: (height, width).
        labels: pixels by label as it stands in the file.
        mean: of the channels, for values in [0, 1].
        square: the mean of their squares.
        digest: of the image file's bytes, to find it again in another split.
    """

    index: int
    name: str
    fault: str | None = None
    size: tuple[int, int] = (0, 0)
    labels: dict[int, int] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    square: tuple[float, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        split: its name.
        looks: at its images, in order.
        total: number of its images; larger than that of the looks where only some were looked at.
    """

    split: str
    looks: list[Look]
    total: int

    @property
    def readable(self) -> list[Look]:
        """The images that can be used."""
        return [look for look in self.looks if look.fault is None]

    @property
    def is_whole(self) -> bool:
        """Whether all images of the split were looked at."""
        return len(self.looks) == self.total

    @cached_property
    def labels(self) -> Counter[int]:
        """Pixels by label as it stands in the files."""
        pixels: Counter[int] = Counter()
        for look in self.readable:
            pixels.update(look.labels)
        return pixels


def look_at(source: Source, index: int, with_figures: bool = True) -> Look:
    """Reads one image and its labels.

    Args:
        source: the images.
        index: which one.
        with_figures: work out mean, square and digest, too, which takes longer than reading.
    """
    name = source.name(index)
    try:
        if isinstance(source, RawFiles):  # a cache before them passes it on
            pixels = source.read_image(index).numpy()
            raw = source.read_raw(index) if source.labelled else None
            if raw is not None and raw.shape != pixels.shape[-2:]:
                source.read(index)  # says what is wrong
            with source.paths(index)[0].open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest() if with_figures else ""
        else:
            image, labels = source.read(index)
            pixels, raw, digest = image.numpy(), None if labels is None else labels.numpy(), ""
    except UserError as error:
        return Look(index, name, str(error))
    mean, square = _moments(pixels) if with_figures else ((), ())
    return Look(
        index,
        name,
        None,
        (pixels.shape[-2], pixels.shape[-1]),
        {} if raw is None else _count(raw),
        mean,
        square,
        digest,
    )


def look_at_all(source: Source, workers: int | None = None) -> Iterator[Look]:
    """Yields a look at each image in order, made by several processes.

    Args:
        source: the images.
        workers: number of processes; None takes the cores there are.
    """
    workers = min(os.cpu_count() or 1, len(source) // FEW) if workers is None else workers
    if workers <= 1:
        yield from (look_at(source, index) for index in range(len(source)))
        return
    with ProcessPoolExecutor(workers, initializer=_take, initargs=(source,)) as pool:
        yield from pool.map(_look_at_own, range(len(source)), chunksize=4)


def look_quickly(source: Source, seconds: float = 1.0) -> Iterator[Look]:
    """Yields looks at images spread over a split until the time is over; one at least."""
    end = time.perf_counter() + seconds
    step = max(1, len(source) // 16)
    order = sorted(range(len(source)), key=lambda index: (index % step, index))
    for index in order:
        started = time.perf_counter()
        yield look_at(source, index, with_figures=False)
        if 2 * time.perf_counter() - started > end:  # another as slow as this one would be too late
            return


def quick_warnings(source: Source, dataset: DatasetConfig, seconds: float = 1.0) -> list[str]:
    """Looks at a few images of the training split and returns what is likely to be a mistake.

    Raises:
        UserError: an image or its labels cannot be used.
    """
    looks = list(look_quickly(source, seconds))
    for look in looks:
        if not is_usable(look, dataset):
            source.read(look.index)  # says what is wrong with this one file
            raise UserError(look.fault or f"{look.name} cannot be used")
    return doubts([SplitReport("train", looks, len(source))], dataset)


def is_usable(look: Look, dataset: DatasetConfig) -> bool:
    """Whether a training can read the image: its files are whole, and every label has a meaning."""
    return look.fault is None and not _strange(look, dataset)


def faults(report: SplitReport, dataset: DatasetConfig) -> list[str]:
    """Returns what makes a split unusable, each as a line: unreadable files, and labels that are no class."""
    lines = [look.fault for look in report.looks if look.fault is not None]
    strange: dict[int, list[Look]] = defaultdict(list)
    for look in report.readable:
        for label in _strange(look, dataset):
            strange[label].append(look)
    for label, looks in sorted(strange.items()):
        pixels = sum(look.labels[label] for look in looks)
        lines.append(
            f"{report.split}: the label {label} is no class: {pixels:,} pixels in {len(looks)} images, the first "
            f"{looks[0].name}; add the class, or say dataset.label_map={{{label}: {dataset.ignore_index}}}"
        )
    return lines


def doubts(reports: list[SplitReport], dataset: DatasetConfig) -> list[str]:
    """Returns what is likely to be a mistake, though a training would run, each as a line."""
    lines: list[str] = []
    labels = sum((report.labels for report in reports), Counter())
    classes, nowhere = dataset.classes, dataset.ignore_index
    values = set(labels)
    whole = all(report.is_whole for report in reports)
    share = labels[255] / max(1, sum(labels.values()))
    is_black_and_white = values == {0, 255} and nowhere == 255 and dataset.label_map.get(255) == nowhere
    if is_black_and_white and (whole or share > BORDER):
        lines.append(
            "the masks hold 0 and 255 only, as black and white pictures do, and 255 counts nowhere: say "
            "dataset.label_map={255: 1}, and another dataset.ignore_index such as 254"
        )
    else:
        lines += _shifted(labels, dataset, whole)
    for report in reports:
        seen = class_pixels(report, dataset)
        absent = [name for name, pixels in zip(classes, seen, strict=True) if pixels == 0]
        if absent and report.labels and report.is_whole:
            more = ", ..." if len(absent) > 2 * SHOWN else ""
            lines.append(f"{report.split} has no pixel of {', '.join(absent[: 2 * SHOWN])}{more}")
        empty = [look for look in report.readable if look.labels and _counted(look, dataset) == 0]
        if empty:
            lines.append(
                f"{report.split}: {len(empty)} images have no pixel that counts, the first {empty[0].name}: nothing is "
                "learnt from them"
            )
        ignored = 1 - sum(seen) / max(1, sum(report.labels.values()))
        if report.labels and ignored > 0.5:
            lines.append(f"{report.split}: {100 * ignored:.0f} % of all pixels count nowhere")
    lines += _shared(reports)
    return lines


def class_pixels(report: SplitReport, dataset: DatasetConfig) -> list[int]:
    """Returns the pixels of each class."""
    pixels = [0] * len(dataset.classes)
    for label, count in report.labels.items():
        index = dataset.label_map.get(label, label)
        if 0 <= index < len(pixels) and index != dataset.ignore_index:
            pixels[index] += count
    return pixels


def class_images(report: SplitReport, dataset: DatasetConfig) -> list[int]:
    """Returns the number of images that show each class."""
    found = Counter(
        index for look in report.readable for index in {dataset.label_map.get(label, label) for label in look.labels}
    )
    return [found[index] for index in range(len(dataset.classes))]


def class_weights(report: SplitReport, dataset: DatasetConfig) -> list[float]:
    """Returns weights by median frequency balancing (Eigen and Fergus, ICCV 2015).

    A class's frequency is its share of the pixels of the images that show it; its weight is the median of all
    frequencies over its own. A class that is not there gets 0.
    """
    own, everywhere = [0] * len(dataset.classes), [0] * len(dataset.classes)
    for look in report.readable:
        counted = _counted(look, dataset)
        for label, count in look.labels.items():
            index = dataset.label_map.get(label, label)
            if 0 <= index < len(own) and index != dataset.ignore_index:
                own[index] += count
        for index in {dataset.label_map.get(label, label) for label in look.labels}:
            if 0 <= index < len(own) and index != dataset.ignore_index:
                everywhere[index] += counted
    frequencies = [pixels / total if total else 0.0 for pixels, total in zip(own, everywhere, strict=True)]
    median = statistics.median([value for value in frequencies if value > 0] or [0.0])
    return [median / value if value else 0.0 for value in frequencies]


def mean_and_std(report: SplitReport) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of the channels over all pixels, for values in [0, 1]."""
    weights = np.array([look.size[0] * look.size[1] for look in report.readable], dtype=np.float64)
    if not len(weights):
        return [], []
    mean = np.average([look.mean for look in report.readable], axis=0, weights=weights)
    square = np.average([look.square for look in report.readable], axis=0, weights=weights)
    return mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist()


def sizes(report: SplitReport) -> str:
    """Returns the images' sizes, height x width, as a phrase."""
    found = Counter(look.size for look in report.readable)
    if not found:
        return "none"
    if len(found) == 1:
        height, width = next(iter(found))
        return f"all {height}x{width}"
    heights, widths = (sorted(size[axis] for size in found.elements()) for axis in (0, 1))
    return (
        f"{heights[0]}x{widths[0]} to {heights[-1]}x{widths[-1]}, median {statistics.median(heights):.0f}x"
        f"{statistics.median(widths):.0f}, {len(found)} different"
    )


def _take(source: Source) -> None:
    """Gives a process the images, once, and not with each that it looks at."""
    global _own
    _own = source


def _look_at_own(index: int) -> Look:
    assert _own is not None
    return look_at(_own, index)


def _count(raw: NDArray[Any]) -> dict[int, int]:
    if raw.dtype in (np.uint8, np.uint16, np.bool_):
        return {label: count for label, count in enumerate(np.bincount(raw.ravel()).tolist()) if count}
    values, counts = np.unique(raw, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _moments(pixels: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean of the channels of uint8 ``(3, H, W)``, and of their squares, for values in [0, 1]."""
    means, deviations = cv2.meanStdDev(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    means, deviations = means.ravel() / 255, deviations.ravel() / 255
    return tuple(means.tolist()), tuple((deviations**2 + means**2).tolist())


def _strange(look: Look, dataset: DatasetConfig) -> set[int]:
    """The labels of a file that mean nothing; a settled data set of files maps all that mean something."""
    return set(look.labels) - set(dataset.label_map) if dataset.label_map else set()


def _counted(look: Look, dataset: DatasetConfig) -> int:
    return sum(
        count for label, count in look.labels.items() if dataset.label_map.get(label, label) != dataset.ignore_index
    )


def _shifted(labels: Counter[int], dataset: DatasetConfig, whole: bool) -> Iterable[str]:
    """Says where the labels look shifted by one; that a label is missing means little where only some were seen."""
    number, meaning = len(dataset.classes), dataset.label_map
    shifts = all(meaning.get(label) == label - 1 for label in range(1, number + 1))
    plain = all(meaning.get(label) == label for label in range(number))
    values = {label for label in labels if meaning.get(label, label) != dataset.ignore_index}
    if whole and shifts and meaning.get(0) == dataset.ignore_index and labels[0] and number not in values:
        share = 100 * labels[0] / max(1, sum(labels.values()))
        yield (
            f"the label 0 counts nowhere ({share:.1f} % of all pixels) and no pixel has the last class's label "
            f"{number}: the labels look as if they began at 0; is dataset.reduce_zero_label=true right?"
        )
    if plain and values and max(values) == number:
        yield (
            f"the labels go from {min(values)} to {number}, but the {number} classes from 0 to {number - 1}: they look "
            "shifted by one; if 0 is no class, say dataset.reduce_zero_label=true"
        )
    if whole and plain and values and min(values) == 1 and max(values) == number - 1 and number > 2:
        yield (
            f"no pixel has the label 0 ({dataset.classes[0]}): if the labels begin at 1, say "
            "dataset.reduce_zero_label=true"
        )


def _shared(reports: list[SplitReport]) -> Iterable[str]:
    """Says which images are in two splits, or twice in one, under whatever name."""
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for report in reports:
        for look in report.readable:
            if look.digest:
                places[look.digest].append((report.split, look.name))
    twice = [found for found in places.values() if len(found) > 1]
    across = [found for found in twice if len({split for split, _ in found}) > 1]
    if across:
        names = ", ".join(Path(name).name for _, name in across[0][:2])
        yield f"{len(across)} images are in two splits, byte by byte, the first {names}: scores on them say nothing"
    for report in reports:
        within = [found for found in twice if {split for split, _ in found} == {report.split}]
        if within:
            names = ", ".join(Path(name).name for _, name in within[0][:2])
            yield f"{len(within)} images are twice in {report.split}, byte by byte, the first {names}"
