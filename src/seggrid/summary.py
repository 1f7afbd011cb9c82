"""A comparison in the terminal: as much of its table as fits, the verdict, and where the page lies."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seggrid.columns import PROFILE_SETTINGS, WORDS, Column
from seggrid.report import Comparison

TERMINAL = (
    *("rank", "backend", "arch", "encoder", "dataset", "seed", "kind", "split", "inference", "tta"),
    *("precision", "channels_last", *PROFILE_SETTINGS),
    *("mIoU", "interval", "params", "published_params_difference", "gmacs", "published_gmacs_difference"),
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

FOLDING = ("arch", "encoder", "dataset", "profile_device")  # their words go over several lines
FOLDED = 10  # characters of such a line at least


def print_summary(comparison: Comparison, console: Console) -> None:
    """Prints the table, what has to be known of it, why runs did not complete, the winner, and the path of the page.

    Args:
        comparison: what ``compare`` returned.
        console: where to print.
    """
    narrow = console.width < 96
    columns = [column for column in comparison.columns() if column.key in TERMINAL[: -1 if narrow else None]]
    spared = [key for key in SPARED if key in {column.key for column in columns}]
    while spared and _least_width(comparison, columns) > console.width:
        gone = spared.pop(0)
        columns = [column for column in columns if column.key != gone]
    console.print(_terminal_table(comparison, columns))
    lines = [f"{run.label}: {run.record.status}: {run.reason}" for run in comparison.unfinished]
    how = [comparison.shared()] if comparison.profiles else []
    for line in [*how, *comparison.notes, *lines, comparison.verdict, f"comparison: {comparison.paths['html']}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _terminal_table(comparison: Comparison, columns: list[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in columns:
        table.add_column(
            _head(column),
            justify="left" if column.key in WORDS else "right",
            overflow="fold",
            no_wrap=column.key not in FOLDING,
            min_width=_least_column_width(comparison, column),
        )
    for run in comparison.runs:
        style = "bold" if run is comparison.winner else "dim" if run.record.status != "completed" else ""
        table.add_row(*(Text(column.text(run)) for column in columns), style=style)
    return table


def _least_width(comparison: Comparison, columns: list[Column]) -> int:
    """The narrowest that the table can be; rich's own measure takes a word that folds for one that does not."""
    return sum(_least_column_width(comparison, column) for column in columns) + len(columns) + 1  # the gaps, the edges


def _least_column_width(comparison: Comparison, column: Column) -> int:
    if column.key in FOLDING:
        return FOLDED
    return max(map(len, [*_head(column).split("\n"), *(column.text(run) for run in comparison.runs)]))


def _head(column: Column) -> str:
    return column.head if column.key == "interval" else column.head.replace(" ", "\n")
