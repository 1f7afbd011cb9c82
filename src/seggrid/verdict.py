"""Which run of a comparison is the best, and how sure that is."""

import logging
import statistics
from collections import Counter

from seggrid.costs import cost_verdict, trade_off
from seggrid.errors import UserError
from seggrid.report import Run, profiles

log = logging.getLogger(__name__)
COUNTS = "images.npz"  # in a run's folder: the counts of each image


def choose(runs: list[Run]) -> tuple[Run | None, str]:
    """Names the best run of a comparison.

    Args:
        runs: all of them, completed or not.

    Returns:
        The winner, None where there is none or several datasets were used, and sentences that say so: the best by mIoU
        and what a faster one would lose, or where nothing is scored what costs the least.
    """
    datasets: dict[str, list[Run]] = {}
    for run in runs:
        if run.score is not None:
            datasets.setdefault(run.data, []).append(run)
    profiled = profiles(runs)
    if not datasets:
        return None, _unscored(runs, cost_verdict(profiled))
    if len(datasets) == 1:
        winner, said, trade = _best(next(iter(datasets.values())))
        if not any(run.profile for run in runs) and len(profiled) > 1:  # nothing has both an mIoU and a latency
            trade = cost_verdict(profiled, latency_alone=True)
        return winner, " ".join(filter(None, [f"Winner: {said}.", trade]))
    parts = [_best(scored)[1] for scored in datasets.values()]
    return None, f"Winners on {len(datasets)} datasets: {'; '.join(parts)}."


def _unscored(runs: list[Run], costs: str) -> str:
    """What there is to say where no run has an mIoU."""
    completed = [run for run in runs if run.record.status == "completed"]
    predicted = [run for run in completed if (run.record.evaluation or {}).get("predicted") is not None]
    said = []
    if predicted:
        number = "1 run" if len(predicted) == 1 else f"{len(predicted)} runs"
        said.append(f"{number} made predictions of images without labels; there is no mIoU to compare.")
    if costs:
        said.append(costs)
    if said:
        return " ".join(said)
    statuses = Counter(run.record.status for run in runs)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    return f"No winner: {'no completed run has an mIoU' if completed else 'no run completed'} ({counts})."


def _best(scored: list[Run]) -> tuple[Run, str, str]:
    """The best cell of one dataset by its mean mIoU over its runs (seeds), a clause that says so, and its price."""
    cells: dict[str, list[Run]] = {}
    for run in scored:
        cells.setdefault(run.cell, []).append(run)
    means = {name: statistics.fmean(run.score or 0.0 for run in cell) for name, cell in cells.items()}
    spreads = {name: _spread(cell) for name, cell in cells.items()}
    names = {name: cell[0].label for name, cell in cells.items()}
    names |= {
        name: f"{name} (mean of {len(cell)} runs, ± {100 * spreads[name]:.2f})"
        for name, cell in cells.items()
        if len(cell) > 1
    }
    best, *others = sorted(cells, key=lambda name: (-means[name], cells[name][0].params))
    winner = cells[best][0]
    params = f" and {winner.params / 1e6:.2f} M parameters" if winner.params < float("inf") else ""
    said = f"{names[best]} with {100 * means[best]:.2f} % mIoU{params}"
    if not others:
        return winner, f"{said}; no other cell has an mIoU to compare it with", ""
    price = trade_off(winner, means, cells)
    margin = 100 * (means[best] - means[others[0]])
    if margin == 0:
        return winner, f"{said}, level with {names[others[0]]}", price
    points = f"{margin:.2f}" if margin >= 0.005 else "less than 0.01"
    within = "; the margin is within the spread of the runs" * (margin < 100 * max(spreads[best], spreads[others[0]]))
    within += _difference(cells[best], cells[others[0]])
    return winner, f"{said}, {points} points ahead of {names[others[0]]}{within}", price


def _spread(cell: list[Run]) -> float:
    return statistics.stdev(run.score or 0.0 for run in cell) if len(cell) > 1 else 0.0


def _difference(first: list[Run], second: list[Run]) -> str:
    """Says how sure the order of two cells of one run each is, where their scores by image are there."""
    if len(first) != 1 or len(second) != 1:
        return ""
    paths = [run.folder / COUNTS for run in (first[0], second[0])]
    if not all(path.exists() for path in paths):
        return ""
    from seggrid import image_scores  # it needs torch; a comparison without scores by image does not

    try:
        (keys, counts), (others, other_counts) = (image_scores.read(path) for path in paths)
    except UserError as error:
        log.warning("passed over: %s", error)
        return ""
    if keys != others or not counts[:, 1].equal(other_counts[:, 1]):  # other images, or other labels
        return ""
    low, high = (100 * end for end in image_scores.paired_difference(other_counts, counts))
    ends = f"{low:.2f} to {high:.2f} points (95 % interval over the {len(keys)} images)"
    return f"; the difference is {ends}" if low > 0 else f"; they cannot be told apart: the difference is {ends}"
