"""The best cell under a budget: ``python -m seggrid.choose <sweep> [<sweep> ...] --latency-ms 20 --params-m 30``."""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seggrid.comparison import commands, ties
from seggrid.comparison.cells import Cell
from seggrid.comparison.report import gather
from seggrid.comparison.rows import as_number, flatten
from seggrid.comparison.speed import NAMED, alike, names, place
from seggrid.comparison.verdict import sureness
from seggrid.errors import UserError


class Limit(NamedTuple):
    """What may be limited: the value ``key`` of a cell, times ``scale``; GMac are those ``at`` one input."""

    option: str
    key: str
    name: str
    unit: str
    scale: float = 1.0
    at: str | None = None

    def figure(self, cell: Cell) -> float | None:
        """Returns the cell's figure in the unit of the limit; None where it was not measured."""
        if self.at is not None:
            return _gmacs(cell).get(self.at)
        number = as_number(cell.values.get(self.key))
        return None if number is None else number * self.scale


LIMITS = (
    Limit("--latency-ms", "latency_ms_median", "latency", "ms"),
    Limit("--memory-gib", "inference_memory_bytes", "memory", "GiB", 2**-30),
    Limit("--params-m", "params", "parameters", "M", 1e-6),
    Limit("--gmacs", "gmacs", "GMac", "GMac"),
)
TIMED = ("latency", "memory")  # what takes a profile; the rest is counted in every run
SINGLE_VIEW = "no profile times test-time augmentation"
Budget = dict[Limit, float]


@dataclass
class Choice:
    """What a budget leaves of the cells of one data set.

    Attributes:
        within: the cells under it, best first.
        without: those that lack a figure and are over no limit that is known.
        over: the others.
    """

    within: list[Cell]
    without: list[Cell]
    over: list[Cell]


def choose(cells: list[Cell], budget: Budget) -> Choice:
    """Sorts the cells of one data set by a budget.

    Args:
        cells: with a score, best first.
        budget: what each limited figure may be at most.
    """
    choice = Choice([], [], [])
    for cell in cells:
        shares = [None if (figure := limit.figure(cell)) is None else figure / most for limit, most in budget.items()]
        over = any(share is not None and share > 1 for share in shares)
        (choice.over if over else choice.without if None in shares else choice.within).append(cell)
    return choice


def answer(cells: list[Cell], budget: Budget, say: Callable[..., None]) -> bool:
    """Says which cell of one data set is the best under a budget, and how sure that is.

    Args:
        cells: with a score, best first.
        budget: what each limited figure may be at most.
        say: prints a line, or a table.

    Returns:
        Whether there is one.
    """
    at, inputs = _common_input(cells)
    at_one = {limit: limit if limit.name != "GMac" else limit._replace(at=at) for limit in LIMITS}
    budget = {at_one[limit]: most for limit, most in budget.items()}
    choice = choose(cells, budget)
    limits = ", ".join(f"{limit.name} at most {most:g} {limit.unit}" for limit, most in budget.items())
    where = f"{cells[0].data}, {limits or 'no limit'}"
    if len(choice.without) == len(cells):
        lacking = names([limit.name for limit in budget if any(limit.figure(cell) is None for cell in cells)])
        measurable, unclear = _lacking(cells, budget)
        command = commands.profile(measurable[0].best, None, _timed(budget)) if measurable else ""
        how = f"measure them, say by {command}" if command else unclear or SINGLE_VIEW
        say(f"{where}: no cell has all figures ({lacking}); {how}")
        return False
    if choice.within:
        best = choice.within[0]
        others = [cell for cell in choice.within[1:] if not cell.measures_again(best)][:1]
        lead = _judged(best, others)
        say(f"{where}: {best.label}")
        say(_table([best, *others], tuple(at_one.values()), budget))
        for line in (*lead, *_conditions(choice.within + choice.over, budget)):
            say(line)
        if budget:
            say(f"{len(choice.within)} of {len(cells)} cells are within the budget.")
        longer = commands.longer(best.best)
        say(f"To train it longer: {longer}" if longer else "For how long it was trained is not recorded here.")
    else:
        known = [cell for cell in choice.over if all(limit.figure(cell) is not None for limit in budget)]
        nearest = min(known or choice.over, key=lambda cell: _excess(cell, budget))
        say(f"{where}: nothing; the nearest is {nearest.label} with {_figures(nearest, budget)}")
    if inputs > 1 and any(limit.name == "GMac" for limit in budget):
        say(f"GMac are those of an input of {at}; what was counted at another alone is without.")
    _name_without(choice, cells, budget, say)
    return bool(choice.within)


def main(arguments: list[str]) -> None:
    """Answers a command line; exits with status 1 where no data set has a cell under the budget."""
    parser = argparse.ArgumentParser("python -m seggrid.choose", description="the best cell under a budget")
    parser.add_argument("sweep", nargs="+", type=Path, help="a folder with runs, of trainings or of profiles")
    for limit in LIMITS:
        parser.add_argument(limit.option, type=_positive, metavar=limit.unit, help=f"{limit.name} at most")
    parser.add_argument("--device", help="take the profiles on this device alone: words of its name, say H200")
    said = vars(parser.parse_args(arguments))
    asked = {limit: said[limit.option.strip("-").replace("-", "_")] for limit in LIMITS}
    budget = {limit: most for limit, most in asked.items() if most is not None}
    try:
        _, cells, notes = gather(*said["sweep"], device=said["device"])
    except UserError as error:
        sys.exit(f"error: {error}")
    console = Console()

    def say(what: str | Table) -> None:
        if isinstance(what, str):
            console.print(what, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(what)

    datasets: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.score is not None:
            datasets.setdefault(cell.data, []).append(cell)
    if not datasets:
        sys.exit(f"error: no completed run below {names(list(map(str, said['sweep'])))} has an mIoU to choose by")
    answered = []
    for place_, scored in enumerate(datasets.values()):
        if place_:
            say("")
        answered.append(answer(scored, budget, say))
    for note in notes:
        say(note)
    if not any(answered):
        sys.exit(1)


def _positive(text: str) -> float:
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return number


def _timed(budget: Budget) -> bool:
    return any(limit.name in TIMED for limit in budget)


def _gmacs(cell: Cell) -> dict[str, float]:
    """The GMac of a cell by the input that they were counted at: its own, and that of its profile."""
    run = cell.runs[0]
    rows = [flatten(each.record) for each in (run, run.profile) if each is not None]
    return {
        str(row["input"]): figure
        for row in rows
        if row.get("input") is not None and (figure := as_number(row.get("gmacs"))) is not None
    }


def _common_input(cells: list[Cell]) -> tuple[str, int]:
    """The input of which most cells have GMac, of two of them that of profiles, and how many inputs there are."""
    inputs = Counter(size for cell in reversed(cells) for size in reversed(_gmacs(cell)))
    most = max(inputs.values(), default=0)
    return next((size for size, number in inputs.items() if number == most), ""), len(inputs)


def _lacking(cells: list[Cell], budget: Budget) -> tuple[list[Cell], str]:
    """The cells of which a profile has to be made, and what to do about those that have several."""
    several = [cell for cell in cells if _timed(budget) and cell.runs[0].several]
    measurable = [cell for cell in cells if _can(cell, budget) and not any(cell is other for other in several)]
    kinds = dict.fromkeys(cell.runs[0].several for cell in several)
    option = ", or say --device" if any("device" in kind for kind in kinds) else ""
    return (
        measurable,
        f"there are several profiles, {names(list(kinds))}: give the folder of one{option}" if kinds else "",
    )


def _can(cell: Cell, budget: Budget) -> bool:
    """Whether a profile would have what the budget limits: none times several views of an image."""
    return not _timed(budget) or cell.values.get("tta") in (None, "none")


def _table(cells: list[Cell], limits: tuple[Limit, ...], budget: Budget) -> Table:
    """A column for each cell: two names side by side need less room than a row with all figures."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in ("", *("best", "runner-up")[: len(cells)]):
        table.add_column(head, overflow="fold")
    rows = {"": [cell.label for cell in cells], "mIoU %": [_score(cell) for cell in cells]}
    if any(cell.interval is not None for cell in cells):
        rows["95 % interval"] = [
            "" if cell.interval is None else " to ".join(f"{100 * end:.2f}" for end in cell.interval) for cell in cells
        ]
    for limit in limits:
        figures = [limit.figure(cell) for cell in cells]
        if limit in budget or any(figure is not None for figure in figures):
            head = limit.name if limit.name == limit.unit else f"{limit.name} {limit.unit}"
            rows[head] = ["" if figure is None else f"{figure:.2f}" for figure in figures]
    for head, texts in rows.items():
        table.add_row(head, *map(Text, texts))
    return table


def _score(cell: Cell) -> str:
    score = f"{100 * (cell.score or 0.0):.2f}"
    return score if cell.spread is None else f"{score} ± {100 * cell.spread:.2f} ({len(cell.runs)} seeds)"


def _judged(best: Cell, others: list[Cell]) -> list[str]:
    """Fills in the intervals of the two that are shown, and says whether they differ."""
    shown = [(cell, ties.evidence(cell)) for cell in (best, *others)]
    for cell, own in shown:
        cell.interval = ties.interval(cell, own)
    if not others:
        return ["There is no runner-up."]
    points = 100 * ((best.score or 0.0) - (others[0].score or 0.0))
    pair = shown[0][1], shown[1][1]
    lead = sureness(ties.difference(*pair), ties.apart(*pair))
    return [f"The best is {points:.2f} points ahead of the runner-up; {lead}."]


def _conditions(measured: list[Cell], budget: Budget) -> list[str]:
    """What has to be known of times and memory: where they were taken."""
    if not _timed(budget):
        return []
    lines = []
    runs = [cell.runs[0] for cell in measured if cell.runs[0].own_profile is not None]
    places = dict.fromkeys(place(run) for run in runs)
    ways = [name for name in alike(runs) if name] if len(places) == 1 else []
    if len(places) > 1 or len(ways) > 1:
        apart = names(list(places) if len(places) > 1 else ways)
        lines.append(f"Not all were measured alike, which the limit does not know of: {apart}.")
    elif places:
        lines.append(f"Measured at {next(iter(places))}.")
    return lines


def _excess(cell: Cell, budget: Budget) -> float:
    """How many times the limit the figure that is worst is."""
    return max((limit.figure(cell) or 0.0) / most for limit, most in budget.items())


def _figures(cell: Cell, budget: Budget) -> str:
    known = [(limit, figure) for limit in budget if (figure := limit.figure(cell)) is not None]
    said = [
        f"{figure:.2f} {limit.unit}" + (f" {limit.name}" if limit.name != limit.unit else "") for limit, figure in known
    ]
    return f"{', '.join(said)} and {100 * (cell.score or 0.0):.2f} % mIoU"


def _name_without(choice: Choice, cells: list[Cell], budget: Budget, say: Callable[..., None]) -> None:
    """Names the cells that lack a figure, and how each would get it."""
    if not choice.without:
        return
    lacking = names([limit.name for limit in budget if any(limit.figure(cell) is None for cell in choice.without)])
    like = next((cell.runs[0].own_profile for cell in cells if cell.runs[0].own_profile is not None), None)
    measurable, unclear = _lacking(choice.without, budget)
    how = dict.fromkeys(commands.profile(cell.best, like, _timed(budget)) for cell in measurable)
    number = "1 cell" if len(choice.without) == 1 else f"{len(choice.without)} cells"
    better = choice.within and (choice.without[0].score or 0.0) > (choice.within[0].score or 0.0)
    which = names([cell.label for cell in choice.without])
    then = "to measure:" if measurable else unclear or SINGLE_VIEW
    say(f"Without {lacking}: {number}{', with a higher mIoU among them' if better else ''}: {which}; {then}")
    for command in list(how)[:NAMED]:
        say(f"  {command}")
    if len(how) > NAMED:
        say(f"  and {len(how) - NAMED} more")
    if measurable and unclear:
        say(f"Of the others {unclear}")


if __name__ == "__main__":
    main(sys.argv[1:])
