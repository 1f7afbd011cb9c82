"""What others have published about the cells of a comparison, beside what was measured here."""

from html import escape
from typing import TYPE_CHECKING

from seggrid.comparison.columns import Column
from seggrid.comparison.page_data import cells_of_profiles

if TYPE_CHECKING:
    from seggrid.comparison.report import Comparison, Run

FIGURES = (
    *(("params", "params M", 1e-6, 3), ("gmacs", "GMac", 1.0, 3)),
    ("train_s_per_iter", "s/iter", 1.0, 3),
)


def published_table(comparison: "Comparison") -> str:
    """Returns a table of the published figures, the measured ones and their differences; empty where there are none.

    Args:
        comparison: its completed profiles; ``data-cells`` of a row are the indices of the cells that have its figures.
    """
    runs = [
        run for run in comparison.profiles if any(run.values.get(f"published_{key}") is not None for key, *_ in FIGURES)
    ]
    columns: list[Column] = []
    for key, head, scale, digits in FIGURES:
        if any(run.values.get(f"published_{key}") is not None for run in runs):
            columns += [
                Column(f"published_{key}_measured", head, scale, digits),
                Column(f"published_{key}", "published", scale, digits),
                Column(f"published_{key}_difference", "difference %", 100, 2, "+"),
            ]
    if not columns:
        return ""
    heads = "".join(f'<th scope="col" class="number">{escape(column.head)}</th>' for column in columns)
    cells = cells_of_profiles(comparison)
    rows = "\n".join(_row(run, columns, cells[id(run)]) for run in runs)
    return (
        '<div class="wide"><table id="published">\n'
        f'<thead><tr><th scope="col">cell</th>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n'
        '<p class="note">The difference is that of the measured figure from the published one.</p>'
    )


def _row(run: "Run", columns: list[Column], indices: list[int]) -> str:
    values = run.values
    timed = values.get("published_train_s_per_iter_difference") is not None  # counts are of no device
    said = [
        values.get("published_note"),
        f"measured on {values.get('profile_device')}" if timed else None,
        f"published for {values['published_device']}" if timed and values.get("published_device") else None,
        f"source: {values['published_source']}" if values.get("published_source") else None,
    ]
    why = escape("; ".join(str(part) for part in said if part))
    cells = [f'<td class="prose">{escape(run.label)}{f"<p class=note>{why}</p>" if why else ""}</td>']
    for column in columns:
        counted = values.get(column.key.replace("_measured", "_counted")) if column.key.endswith("_measured") else None
        mark = f'<br><span class="status">{escape(str(counted))}</span>' if counted else ""
        cells.append(f'<td class="number">{escape(column.text(run))}{mark}</td>')
    return f'<tr data-cells="{" ".join(map(str, indices))}">{"".join(cells)}</tr>'
