"""Which cell of a comparison is the best, and how sure that is."""

from collections import Counter

from seggrid.comparison.cells import Cell, Difference
from seggrid.comparison.costs import cost_verdict, trade_off
from seggrid.comparison.report import Run, profiles
from seggrid.comparison.speed import names


def choose(cells: list[Cell]) -> tuple[Run | None, str]:
    """Names the best cell of a comparison.

    Args:
        cells: all of them, best first, judged by ``ties.judge``.

    Returns:
        The winner, the best run of the best cell, None where there is none or several datasets were used; and
        sentences that say so: the best by mIoU and what a faster one would lose, or where nothing is scored what costs
        the least.
    """
    datasets: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.score is not None:
            datasets.setdefault(cell.data, []).append(cell)
    runs = [run for cell in cells for run in cell.runs]
    profiled = profiles(runs)
    if not datasets:
        return None, _unscored(runs, cost_verdict(profiled))
    if len(datasets) == 1:
        scored = next(iter(datasets.values()))
        trade = trade_off(scored[0], scored[1:])
        if not any(run.profile for run in runs) and len(profiled) > 1:  # nothing has both an mIoU and a latency
            trade = cost_verdict(profiled, latency_alone=True)
        return scored[0].best, " ".join(filter(None, [f"Winner: {_best(scored)}.", trade]))
    parts = [_best(scored) for scored in datasets.values()]
    return None, f"Winners on {len(datasets)} datasets: {'; '.join(parts)}."


def named(cell: Cell) -> str:
    """Returns a cell's name, and of several runs how many they are and their spread."""
    if cell.spread is None:
        return cell.label
    return f"{cell.label} (mean of {len(cell.runs)} runs, ± {100 * cell.spread:.2f})"


def sureness(lead: Difference | None, elsewhere: bool = False) -> str:
    """Returns a clause about how far one cell is ahead of another.

    Args:
        lead: None says that it is not known.
        elsewhere: they are known to have been measured on different images.
    """
    if elsewhere:
        return "they were not measured on the same images and labels, and cannot be compared"
    if lead is None:
        return "whether that is more than chance is not known"
    said = f"the difference is {100 * lead.low:.2f} to {100 * lead.high:.2f} points (95 % interval over {lead.over})"
    return said if lead.low > 0 else f"they cannot be told apart: {said}"


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


def _best(scored: list[Cell]) -> str:
    """A clause that says which is the best of the cells of one dataset, and by how much."""
    best, *others = scored
    others = [cell for cell in others if not cell.measures_again(best)]
    params = best.runs[0].params
    size = f" and {params / 1e6:.2f} M parameters" if params < float("inf") else ""
    said = f"{named(best)} with {100 * (best.score or 0.0):.2f} % mIoU{size}"
    if not others:
        return f"{said}; no other cell has an mIoU to compare it with"
    second = others[0]
    margin = 100 * ((best.score or 0.0) - (second.score or 0.0))
    points = f"{margin:.2f}" if margin >= 0.005 else "less than 0.01"
    lead = f"level with {named(second)}" if margin == 0 else f"{points} points ahead of {named(second)}"
    known = margin or second.behind is not None or second.elsewhere
    sure = f"; {sureness(second.behind, second.elsewhere)}" if known else ""
    tied = [cell.label for cell in others if cell.tied]
    if tied and tied != [second.label]:
        sure += f"; tied with {len(tied)} other{'s' * (len(tied) > 1)}: {names(tied)}"
    return f"{said}, {lead}{sure}"
