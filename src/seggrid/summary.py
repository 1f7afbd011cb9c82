"""A comparison in the terminal: as much of its table as fits, the verdict, and where the page lies."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seggrid.report import WORDS, Column, Comparison

TERMINAL = (
    *("rank", "backend", "arch", "encoder", "dataset", "seed", "kind", "split", "inference", "tta"),
    *("mIoU", "interval", "params", "gmacs"),
    *("output_stride", "s_per_iter", "latency_ms_median", "status"),
)
# What a narrow terminal does without, one after the other; before them the status, which the reasons below say, too.
SPARED = ("interval", "output_stride", "s_per_iter", "gmacs", "latency_ms_median", "params")


def print_summary(comparison: Comparison, console: Console) -> None:
    """Prints the table, the reasons of what did not complete, the winner, and last the path of the page.

    Args:
        comparison: what ``compare`` returned.
        console: where to print.
    """
    narrow = console.width < 96
    columns = [column for column in comparison.columns() if column.key in TERMINAL[: -1 if narrow else None]]
    spared = [key for key in SPARED if key in {column.key for column in columns}]
    table = _terminal_table(comparison, columns)
    unbounded = console.options.update(max_width=1000)  # a measure is cut to the width that it is told
    while spared and console.measure(table, options=unbounded).minimum > console.width:
        gone = spared.pop(0)
        columns = [column for column in columns if column.key != gone]
        table = _terminal_table(comparison, columns)
    console.print(table)
    lines = [f"{run.label}: {run.record.status}: {run.reason}" for run in comparison.unfinished]
    for line in [*lines, comparison.verdict, f"comparison: {comparison.paths['html']}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _terminal_table(comparison: Comparison, columns: list[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in columns:
        head = column.head if column.key == "interval" else column.head.replace(" ", "\n")
        folds = column.key in ("arch", "encoder", "dataset")
        texts = [*head.split("\n"), *(column.text(run) for run in comparison.runs)]
        table.add_column(
            head,
            justify="left" if column.key in WORDS else "right",
            overflow="fold",
            no_wrap=not folds,
            min_width=10 if folds else max(map(len, texts)),
        )
    for run in comparison.runs:
        style = "bold" if run is comparison.winner else "dim" if run.record.status != "completed" else ""
        table.add_row(*(Text(column.text(run)) for column in columns), style=style)
    return table
