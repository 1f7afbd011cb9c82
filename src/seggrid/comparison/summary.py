"""A comparison in the terminal: as much of its table as fits, the verdict, and where the page lies."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seggrid.comparison.cells import Cell
from seggrid.comparison.columns import PROFILE_SETTINGS, WORDS, Column
from seggrid.comparison.report import Comparison
from seggrid.comparison.tables import TIED, placed

TERMINAL = (
    *(
        "rank",
        "backend",
        "arch",
        "encoder",
        "settings",
        "dataset",
        "seed",
        "seeds",
        "kind",
        "split",
        "inference",
        "tta",
    ),
    *("precision", "channels_last", *PROFILE_SETTINGS),
    *("mIoU", "mIoU_spread", "n", "interval", "params", "published_params_difference"),
    *("gmacs", "published_gmacs_difference"),
    *("output_stride", "s_per_iter", "latency_ms_median", "profile_best_images_per_s", "inference_memory_bytes"),
    *("profile_train_s_per_iter", "published_train_s_per_iter", "training_memory_bytes", "status"),
)
# What a narrow terminal does without, one after the other; before them the status, which the reasons below say, too.
SPARED = (
    *("interval", "training_memory_bytes", "profile_best_images_per_s", "output_stride"),
    *("inference_memory_bytes", "s_per_iter", "profile_device", "published_train_s_per_iter"),
    *("profile_train_s_per_iter", "published_gmacs_difference", "published_params_difference"),
    *("gmacs", "params", "latency_ms_median"),
)
MOST = 20  # cells, and reasons, that a terminal shows

FOLDING = ("arch", "encoder", "settings", "dataset", "profile_device")  # their words go over several lines
FOLDED = 13  # characters of such a line at least: deeplabv3plus is whole


def print_summary(comparison: Comparison, console: Console) -> None:
    """Prints the table, what has to be known of it, why runs did not complete, the winner, and the path of the page.

    Args:
        comparison: what ``compare`` returned.
        console: where to print.
    """
    narrow = console.width < 96
    columns = [column for column in comparison.columns() if column.key in TERMINAL[: -1 if narrow else None]]
    cells = _shown(comparison)
    spared = [key for key in SPARED if key in {column.key for column in columns}]
    while spared and _least_width(cells, columns) > console.width:
        gone = spared.pop(0)
        columns = [column for column in columns if column.key != gone]
    console.print(_terminal_table(comparison, cells, columns))
    unfinished = comparison.unfinished
    reasons = [f"{run.label}: {run.record.status}: {run.reason}" for run in unfinished[:MOST]]
    lines = [
        _left_out(comparison, cells),
        f"=: {TIED}" if any(cell.tied for cell in cells) else "",
        comparison.shared() if comparison.profiles or len(comparison.cells) < len(comparison.runs) else "",
        *comparison.notes,
        *reasons,
        f"{len(unfinished) - MOST} more without a result" if len(unfinished) > MOST else "",
        comparison.verdict,
        f"comparison: {comparison.paths['html']}",
    ]
    for line in filter(None, lines):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _shown(comparison: Comparison) -> list[Cell]:
    """All cells where they are few, else the best of each data set."""
    if len(comparison.cells) <= MOST:
        return comparison.cells
    datasets = len({cell.data for cell in comparison.cells if cell.rank is not None}) or 1
    ranked = [cell for cell in comparison.cells if cell.rank is not None and cell.rank <= max(1, MOST // datasets)]
    return ranked or comparison.cells[:MOST]


def _left_out(comparison: Comparison, cells: list[Cell]) -> str:
    more = len(comparison.cells) - len(cells)
    return f"{more} more in {comparison.paths['csv'].name} and on the page" if more else ""


def _terminal_table(comparison: Comparison, cells: list[Cell], columns: list[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in columns:
        table.add_column(
            _head(column),
            justify="left" if column.key in WORDS else "right",
            overflow="fold",
            no_wrap=column.key not in FOLDING,
            min_width=_least_column_width(cells, column),
        )
    for cell in cells:
        best = any(run is comparison.winner for run in cell.runs)
        style = "bold" if best else "dim" if cell.status != "completed" else ""
        table.add_row(*(Text(placed(column, cell)) for column in columns), style=style)
    return table


def _least_width(cells: list[Cell], columns: list[Column]) -> int:
    """The narrowest that the table can be; rich's own measure takes a word that folds for one that does not."""
    return sum(_least_column_width(cells, column) for column in columns) + len(columns) + 1  # the gaps, the edges


def _least_column_width(cells: list[Cell], column: Column) -> int:
    longest = max(map(len, [*_head(column).split("\n"), *(placed(column, cell) for cell in cells)]))
    return min(longest, FOLDED) if column.key in FOLDING else longest


def _head(column: Column) -> str:
    return column.head if column.key == "interval" else column.head.replace(" ", "\n")
