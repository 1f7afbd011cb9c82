"""How sure the score of a cell is, and whether two cells can be told apart: over images, and over seeds.

What other images would do is drawn: the bootstrap of Efron (1979), the same draws of images for all runs, so that of
two cells on the same images the difference is drawn (the paired bootstrap), and the seeds of a cell share their images.
What other seeds would do is drawn from Student's t: the mean of n seeds lies ``t(n - 1) * s / sqrt(n)`` from that of
all. Drawing two or three seeds with replacement instead, as a hierarchical bootstrap does, gives intervals that are far
too narrow; docs/evaluation.md has the figures. The two are added; of cells without scores by image the second alone is
left, the Behrens-Fisher interval, close to that of Welch's test.
"""

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seggrid.comparison.cells import Cell, Difference
from seggrid.errors import UserError

COUNTS = "images.npz"  # in a run's folder: the counts of each image
TAIL = 0.025
DRAWS = 10_000  # of seeds; each of the draws of images stands beside several
log = logging.getLogger(__name__)

Draws = NDArray[np.float64]


@dataclass
class Evidence:
    """What is known of a cell's score beside the score.

    Attributes:
        images: what tells the images and their labels, and how many they are; None where there are no scores by image.
        drawn: the mean mIoU over the seeds in each draw of images, the same draws for the same images.
        score: the mean mIoU over the seeds.
        spread: its standard deviation over the seeds; None of a single one.
        seeds: how many there are.
        mixed: whether the seeds are known to have been measured on different images.
    """

    images: tuple[bytes, int] | None
    drawn: Draws | None
    score: float
    spread: float | None
    seeds: int
    mixed: bool = False


def judge(cells: list[Cell]) -> None:
    """Fills in the intervals of cells, how far each is behind the best on its data, and whether that is a tie.

    Args:
        cells: best first within each data set.
    """
    best: dict[str, tuple[Cell, Evidence]] = {}
    for cell in cells:
        if cell.score is None:
            continue
        own = evidence(cell)
        cell.interval = interval(cell, own)
        cell.images = None if own.images is None else own.images[0]
        winner, first = best.setdefault(cell.data, (cell, own))
        if winner is not cell and not cell.measures_again(winner):
            cell.elsewhere = apart(first, own)
            cell.behind = difference(first, own)
            cell.tied = cell.behind is not None and cell.behind.low <= 0


def evidence(cell: Cell) -> Evidence:
    """Reads the scores by image of a cell's runs; those of a damaged file are passed over with a warning.

    Args:
        cell: a cell with a score.
    """
    found = [_by_image(run.folder / COUNTS) for run in cell.runs]
    known = [each for each in found if each is not None]
    images = {each[0] for each in known}
    whole = len(known) == len(found) and len(images) == 1  # all of them, and of the same images
    drawn = np.mean([each[1] for each in known], axis=0) if whole else None
    mixed = len(images) > 1
    return Evidence(images.pop() if whole else None, drawn, cell.score or 0.0, cell.spread, len(cell.runs), mixed)


def interval(cell: Cell, own: Evidence) -> tuple[float, float] | None:
    """Returns the 95 % interval of a cell's score over images and, where there are several, seeds.

    Args:
        cell: the cell; of one run its record's interval is taken, where it has one.
        own: its evidence.
    """
    values = cell.runs[0].values
    if len(cell.runs) == 1 and "mIoU_low" in values:
        return float(values["mIoU_low"]), float(values["mIoU_high"])
    ends = None if own.drawn is None else _ends(_with_seeds(own.drawn, (own, 1)))
    return None if ends is None else (max(0.0, ends[0]), min(1.0, ends[1]))  # of a few seeds it can reach beyond


def apart(first: Evidence, second: Evidence) -> bool:
    """Tells whether two cells are known not to have been measured on the same images and labels."""
    both = first.images is not None and second.images is not None
    return first.mixed or second.mixed or (both and first.images != second.images)


def difference(first: Evidence, second: Evidence) -> Difference | None:
    """Returns the 95 % interval of how much higher the first cell's mIoU is than the second's.

    Args:
        first: of the one cell.
        second: of the other, on the same data.

    Returns:
        None where they are known to have been measured on different images: no test then says which is the better;
        or where that is not known, and one of them has a single seed.
    """
    if apart(first, second):
        return None
    seeds = (first, 1), (second, -1)
    counts = sorted({each.seeds for each in (first, second)})
    said = f"{' and '.join(str(count) for count in counts if count > 1)} seeds"
    over = [] if counts == [1] else [said] if counts[0] > 1 else [f"the {said} of one of the two"]
    if first.drawn is not None and second.drawn is not None and first.images:
        over.insert(0, f"the {first.images[1]} images")
        ends = _ends(_with_seeds(first.drawn - second.drawn, *seeds))
    elif first.spread is None or second.spread is None:
        return None
    else:
        ends = _ends(_with_seeds(np.array([first.score - second.score]), *seeds))
    return None if ends is None else Difference(*ends, " and ".join(over))


def _by_image(path: Path) -> tuple[tuple[bytes, int], Draws] | None:
    """What tells the images, and the mIoU in each draw of them."""
    if not path.exists():
        return None
    from seggrid import image_scores  # it needs torch; a comparison without scores by image does not

    try:
        keys, counts = image_scores.read(path)
    except UserError as error:
        log.warning("passed over: %s", error)
        return None
    digest = sha256("\n".join(keys).encode())
    digest.update(counts[:, 1].contiguous().numpy().tobytes())
    return (digest.digest(), len(keys)), image_scores.resampled_miou(counts).numpy()


def _with_seeds(drawn: Draws, *cells: tuple[Evidence, int]) -> Draws:
    """Adds to draws over images those over the seeds of some cells; ``drawn`` itself where each has one seed."""
    several = [(cell, sign) for cell, sign in cells if cell.spread]
    if several:
        drawn = np.resize(drawn, DRAWS)
    for place, (cell, sign) in enumerate(several):
        assert cell.spread is not None
        drawn = drawn + sign * cell.spread / math.sqrt(cell.seeds) * _student(cell.seeds - 1, place)
    return drawn


@lru_cache
def _student(freedom: int, stream: int) -> Draws:
    """Quantiles of Student's t at equal steps, in an order of chance: draws without the scatter of their own tails."""
    from scipy.special import stdtrit

    levels = (np.arange(DRAWS) + 0.5) / DRAWS
    quantiles: Draws = np.random.default_rng([freedom, stream]).permutation(stdtrit(freedom, levels))
    return quantiles


def _ends(drawn: Draws) -> tuple[float, float] | None:
    known = drawn[~np.isnan(drawn)]  # a draw without a labelled pixel has no score
    if not len(known):
        return None
    low, high = np.quantile(known, [TAIL, 1 - TAIL]).tolist()
    return low, high
