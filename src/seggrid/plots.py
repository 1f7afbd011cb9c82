"""The plots of scores on a comparison's page: mIoU against what a cell costs, and the IoU of each class."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import plotly.graph_objects as go

from seggrid.rows import as_number

if TYPE_CHECKING:
    from seggrid.report import Run

# Readable on white and on near-black; the style sheet refines the colours of the axes and the text.
GREY = "#7a838d"
MARKS = {"smp": ("#3b82c4", "circle"), "torchvision": ("#d9822b", "square"), "mmseg": ("#2a9d78", "diamond")}
OTHER_MARK = ("#9b6bc4", "triangle-up")
HEAT = [[0, "rgba(59, 130, 196, 0.04)"], [1, "rgba(59, 130, 196, 0.72)"]]
VALUES_UP_TO = 24  # classes; beyond them the heat map's cells are too narrow for their values


class Cost(NamedTuple):
    """What mIoU is plotted against: ``values[key] * scale``, with the keys of its p10 and p90 where it has some."""

    key: str
    title: str
    unit: str
    scale: float
    name: str
    spread: tuple[str, str] | None = None


COSTS = (
    Cost("params", "parameters (million)", "M parameters", 1e-6, "miou"),
    Cost("gmacs", "GMac of one image", "GMac", 1.0, "miou-gmacs"),
    Cost(
        *("latency_ms_median", "latency of one image (ms), p10 to p90", "ms", 1.0, "miou-latency"),
        spread=("latency_ms_p10", "latency_ms_p90"),
    ),
    Cost("inference_memory_bytes", "peak memory of inference (GiB)", "GiB", 2**-30, "miou-memory"),
)


def scatters(scored: list["Run"]) -> str:
    """Returns mIoU against each cost that is known, by dataset.

    Args:
        scored: the runs with an mIoU.
    """
    groups = by_dataset(scored)
    parts = []
    for number, (dataset, runs) in enumerate(groups.items()):
        plots = []
        for cost in COSTS:
            points = [run for run in runs if as_number(run.values.get(cost.key)) is not None]
            if points:
                plots.append(plot(_scatter(points, cost), f"plot-{cost.name}-{number}", min_width=420))
        if plots:
            parts.append(f"<h3>{escape(dataset)}</h3>" if len(groups) > 1 else "")
            parts.append(beside(plots))
    return "\n".join(parts)


def _scatter(points: list["Run"], cost: Cost) -> Any:
    first = {run.cell: run for run in reversed(points)}  # one name for the seeds of a cell
    figure = go.Figure()
    for backend in dict.fromkeys(run.record.backend for run in points):
        mine = [run for run in points if run.record.backend == backend]
        colour, symbol = MARKS.get(backend, OTHER_MARK)
        costs = [_scaled(run, cost.key, cost.scale) for run in mine]
        figure.add_scatter(
            x=costs,
            y=[100 * (run.score or 0) for run in mine],
            error_x=_whiskers(mine, cost),
            name=escape(backend),
            mode="markers+text" if len(points) <= 12 else "markers",
            text=[escape(run.record.arch) if run is first[run.cell] else "" for run in mine],
            textposition="top center",
            cliponaxis=False,
            customdata=[[escape(run.label), *(_said(run, other) for other in COSTS)] for run in mine],
            hovertemplate="<b>%{customdata[0]}</b><br>%{y:.2f} % mIoU"
            + "".join(f"%{{customdata[{place + 1}]}}" for place in range(len(COSTS)))
            + "<extra></extra>",
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 1, "color": "white"}},
        )
    log_axis(figure, [_scaled(run, cost.key, cost.scale) or 0 for run in points])
    figure.update_xaxes(title_text=cost.title)
    figure.update_yaxes(title_text="mIoU (%)")
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}, height=440)
    return figure


def _whiskers(runs: list["Run"], cost: Cost) -> dict[str, Any] | None:
    if cost.spread is None:
        return None
    middles, lows, highs = ([_scaled(run, key, 1) or 0 for run in runs] for key in (cost.key, *cost.spread))
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0, high - middle) if high else 0 for high, middle in zip(highs, middles, strict=True)],
        "arrayminus": [max(0, middle - low) if low else 0 for low, middle in zip(lows, middles, strict=True)],
        "thickness": 1.5,
        "width": 4,
    }


def _said(run: "Run", cost: Cost) -> str:
    value = _scaled(run, cost.key, cost.scale)
    return "" if value is None else f"<br>{value:.2f} {cost.unit}"


def _scaled(run: "Run", key: str, scale: float) -> float | None:
    number = as_number(run.values.get(key))
    return None if number is None else number * scale


def heat_maps(scored: list["Run"]) -> str:
    """Returns the IoU of each class in each run, by dataset.

    Args:
        scored: the runs with an mIoU.
    """
    groups = by_dataset([run for run in scored if run.record.per_class])
    parts = []
    for number, (dataset, runs) in enumerate(groups.items()):
        classes = classes_of(runs)
        grid = [[_iou(run, name) for name in classes] for run in runs]
        few = len(classes) <= VALUES_UP_TO and len(runs) * len(classes) <= 600
        cells = [escape(run.label) for run in runs]
        names = [escape(name) for name in classes]
        figure = go.Figure(
            go.Heatmap(
                # Positions, not names, on the axes: plotly would take names such as "1" for numbers.
                z=grid,
                x=list(range(len(names))),
                y=list(range(len(cells))),
                zmin=0,
                zmax=100,
                colorscale=HEAT,
                showscale=not few,
                xgap=2 if few else 0,
                ygap=2 if few else 0,
                hoverongaps=False,
                texttemplate="%{z:.1f}" if few else None,
                customdata=[[[cell, name] for name in names] for cell in cells],
                hovertemplate="<b>%{customdata[1]}</b> %{z:.2f} %<br>%{customdata[0]}<extra></extra>",
                colorbar={"ticksuffix": " %", "thickness": 10, "outlinewidth": 0},
            )
        )
        absent = [(x, y) for y, row in enumerate(grid) for x, value in enumerate(row) if value is None]
        for x, y in absent if few else ():
            figure.add_annotation(x=x, y=y, text="n/a", showarrow=False, font={"color": GREY, "size": 11})
        figure.update_xaxes(side="top", tickvals=list(range(len(names))), ticktext=names)
        figure.update_yaxes(autorange="reversed", tickvals=list(range(len(cells))), ticktext=cells, ticksuffix="  ")
        figure.update_xaxes(fixedrange=True, showgrid=False, ticks="")
        figure.update_yaxes(fixedrange=True, showgrid=False, ticks="")
        if not few:
            figure.update_xaxes(tickangle=-90, tickfont={"size": 11})
        figure.update_layout(height=30 * len(runs) + (110 if few else 200))
        parts.append(f"<h3>{escape(dataset)}</h3>" if len(groups) > 1 else "")
        parts.append(
            plot(figure, f"plot-classes-{number}", min_width=max(580, (46 if few else 16) * len(classes) + 320))
        )
        if absent:
            mark = "n/a" if few else "Blank"
            parts.append(f'<p class="note">{mark}: the class is in no label and in no prediction.</p>')
    return "\n".join(parts)


def plot(figure: Any, name: str, min_width: int = 580) -> str:
    """Returns a figure in the page's style as HTML.

    Args:
        figure: a figure of plotly, which is changed.
        name: the id of its element.
        min_width: pixels; a narrower window scrolls.
    """
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "family": "system-ui, sans-serif", "size": 13},
        hoverlabel={"bgcolor": "#20262c", "bordercolor": "#20262c", "font": {"color": "#ffffff"}, "align": "left"},
        margin={"l": 16, "r": 16, "t": 16, "b": 16},
        dragmode=False,
    )
    figure.update_xaxes(automargin=True, gridcolor="rgba(122,131,141,0.2)", zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor="rgba(122,131,141,0.2)", zeroline=False)
    config = {"displaylogo": False, "displayModeBar": False, "responsive": True}
    html = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return f'<div class="wide"><div class="plot" style="min-width: {min_width}px">{html}</div></div>'


def beside(plots: list[str]) -> str:
    """Returns plots in two columns where the window has room for them; one alone has the whole width."""
    return plots[0] if len(plots) == 1 else f'<div class="multiples">{"".join(plots)}</div>'


def log_axis(figure: Any, values: list[float]) -> None:
    """Makes the x axis logarithmic where the values go over more than a power of ten."""
    if min(values) > 0 and max(values) > 10 * min(values):
        ticks = [digit * 10.0**power for power in range(-3, 7) for digit in (1, 2, 5)]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks])


def by_dataset(runs: Iterable["Run"]) -> dict[str, list["Run"]]:
    """Returns the runs of each dataset, in the order of the first of each."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run.record.dataset or "no dataset"), []).append(run)
    return groups


def classes_of(runs: list["Run"]) -> list[str]:
    """Returns the names of the classes in the order of the first run that has them; other runs' own names follow."""
    return list(dict.fromkeys(str(entry.get("class")) for run in runs for entry in run.record.per_class or ()))


def _iou(run: "Run", name: str) -> float | None:
    for entry in run.record.per_class or ():
        if str(entry.get("class")) == name and entry.get("iou") is not None:
            return 100 * float(entry["iou"])
    return None
