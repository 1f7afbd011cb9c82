"""A comparison as tables to paste: Markdown, and LaTeX for a paper."""

import re
import unicodedata
from typing import TYPE_CHECKING

from seggrid.comparison.cells import Cell
from seggrid.comparison.columns import WORDS, Column

if TYPE_CHECKING:
    from seggrid.comparison.report import Comparison

TIED = "cannot be told apart from the best on the same data"
# What a table of a paper has, as far as it is known; its page is not wide.
PRINTED = (
    *("backend", "arch", "encoder", "settings", "dataset", "kind", "split", "inference", "tta", "seed", "n", "mIoU"),
    *("boundary_mIoU", "params", "gmacs", "latency_ms_median", "inference_memory_bytes"),
)
SCORES = ("mIoU", "boundary_mIoU")  # the highest is the best
LATEX = {  # what TeX, or its usual font, takes for something else
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "''",
        "-": "-{}",
        "`": r"\textasciigrave{}",
    },
    **{"[": "{[}", "*": "{*}", "?": "?{}", "!": "!{}"},  # after a line's end, and before a grave accent
}


def markdown(comparison: "Comparison") -> str:
    """Returns the comparison as a Markdown table, the verdict above it and the reasons below.

    Args:
        comparison: the cells, named and ordered.
    """
    columns = comparison.columns()
    lines = ["# Comparison", "", _literal(comparison.verdict), "", _literal(comparison.shared()), ""]
    lines += [line for note in comparison.notes for line in (_literal(note), "")]
    lines += ["| " + " | ".join(column.head for column in columns) + " |"]
    lines += ["|" + "|".join(" --- " if column.key in WORDS else " ---: " for column in columns) + "|"]
    lines += [
        "| " + " | ".join(_literal(placed(column, cell)) for column in columns) + " |" for cell in comparison.cells
    ]
    if any(cell.tied for cell in comparison.cells):
        lines += ["", f"=: {TIED}."]
    if comparison.unfinished:
        lines += ["", "## Without a result", ""]
        lines += [
            f"- {_literal(run.label)}: {run.record.status}: {_literal(run.reason)}" for run in comparison.unfinished
        ]
    return "\n".join(lines) + "\n"


def latex(comparison: "Comparison") -> str:
    r"""Returns the completed cells as a ``tabular`` that needs no package but booktabs.

    The best scores on each data set are bold, ``\pm`` is the standard deviation over seeds, a dagger marks the cells
    that cannot be told apart from the best.

    Args:
        comparison: the cells, named and ordered.
    """
    columns = [column for column in comparison.columns() if column.key in PRINTED]
    columns.sort(key=lambda column: PRINTED.index(column.key))
    cells = [cell for cell in comparison.cells if cell.status == "completed"]
    best: dict[tuple[str, str], float] = {}
    for cell in cells:
        for key in SCORES:
            value = cell.values.get(key)
            if isinstance(value, float):
                best[cell.data, key] = max(value, best.get((cell.data, key), value))
    lines = [f"% {' '.join(comparison.verdict.split())}", r"% needs \usepackage{booktabs}"]
    lines += [
        rf"\begin{{tabular}}{{{''.join('l' if column.key in WORDS else 'r' for column in columns)}}}",
        r"\toprule",
    ]
    lines += [" & ".join(escaped(column.head) for column in columns) + r" \\"]
    data = None
    for cell in cells:
        if cell.data != data:
            lines.append(r"\midrule")
            data = cell.data
        lines.append(" & ".join(_printed(column, cell, best) for column in columns) + r" \\")
    lines.append(r"\bottomrule")
    if any(cell.tied for cell in cells):
        lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\footnotesize $^\dagger$ {TIED}}} \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def placed(column: Column, cell: Cell) -> str:
    """Returns what stands in a column for a cell; its rank has an equals sign where the cell is tied with the best."""
    text = column.text(cell)
    return f"= {text}" if cell.tied and column.key == "rank" else text


def escaped(text: str) -> str:
    """Returns LaTeX that shows a text as it is written, on one line; letters that are not Latin become question marks.

    Args:
        text: any text.
    """
    known = (character for character in " ".join(text.split()) if unicodedata.category(character)[0] != "C")
    shown = "".join(character if ord(character) < 0x100 else _plain(character) for character in known)
    return "".join(LATEX.get(character, character) for character in shown)


def _plain(character: str) -> str:
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


def _printed(column: Column, cell: Cell, best: dict[tuple[str, str], float]) -> str:
    text = escaped(column.text(cell))
    if text and cell.values.get(column.key) == best.get((cell.data, column.key)):
        text = rf"\textbf{{{text}}}"
    if column.key == "mIoU" and text:
        text += rf" $\pm$ {100 * cell.spread:.2f}" if cell.spread is not None else ""
        text += r"$^\dagger$" if cell.tied else ""
    return text


def _literal(text: str) -> str:
    """Markdown shows ``text`` as it is written, also inside a table."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", text)
