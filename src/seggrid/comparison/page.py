"""A comparison to read: one HTML page that opens from disk and asks no address for anything."""

import json
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from seggrid import __version__
from seggrid.comparison.page_data import data
from seggrid.comparison.page_pictures import pictures
from seggrid.comparison.published_table import published_table

if TYPE_CHECKING:
    from seggrid.comparison.report import Comparison

PARTS = ("page_tables.js", "page_plots.js", "page_costs.js", "page.js")  # the script, the last starts it


def render(comparison: "Comparison") -> str:
    """Returns the page of a comparison: all that is known of its cells, and the script that shows and filters it.

    Args:
        comparison: the cells, named and ordered; the pictures are read from ``predictions/`` in their folders.
    """
    drawn = data(comparison)
    datasets = sorted({str(run.record.dataset) for run in comparison.runs if run.record.dataset})
    return Template(_file("page.html")).substitute(
        title=escape("Segmentation models" + (f" on {', '.join(datasets)}" if datasets else ", compared")),
        style=_file("page.css"),
        verdict=escape(comparison.verdict),
        shared=escape(comparison.shared()),
        notes="\n".join(f'<p class="note">{escape(note)}</p>' for note in comparison.notes),
        published=published_table(comparison),
        pictures=pictures(comparison.cells),
        plotly=f"<script>{get_plotlyjs()}</script>" if _has_plots(drawn) else "",
        data=_json(drawn),
        script="\n".join(_file(name) for name in PARTS),
        version=escape(__version__),
    )


def _has_plots(drawn: dict[str, Any]) -> bool:
    """Whether there is anything to plot: without it plotly's four megabytes stay out."""
    return bool(drawn["profiles"] or any(cell["figures"] or cell["curves"] for cell in drawn["cells"]))


def _json(drawn: dict[str, Any]) -> str:
    """JSON that can stand in a script element: whatever a name holds, it does not end the element."""
    return json.dumps(drawn, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
