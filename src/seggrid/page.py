"""A comparison to read: one HTML page that opens from disk and asks no address for anything, and a Markdown table."""

import base64
import re
import shlex
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from seggrid import __version__

if TYPE_CHECKING:
    from seggrid.report import Comparison, Run

# Readable on white and on near-black; the style sheet refines the colours of the axes and the text.
GREY = "#7a838d"
MARKS = {"smp": ("#3b82c4", "circle"), "torchvision": ("#d9822b", "square"), "mmseg": ("#2a9d78", "diamond")}
OTHER_MARK = ("#9b6bc4", "triangle-up")
HEAT = [[0, "rgba(59, 130, 196, 0.04)"], [1, "rgba(59, 130, 196, 0.72)"]]
VALUES_UP_TO = 24  # classes; beyond them the heat map's cells are too narrow for their values
HIGH_FIRST = ("mIoU", "mAcc", "aAcc", "mDice", "profile_images_per_s")
SCRIPTS = {"train": "train.py", "evaluate": "evaluate.py", "profile": "profile.py"}
ENVIRONMENT = {
    "seggrid": "seggrid",
    "python": "Python",
    "torch": "PyTorch",
    "backend_version": "backend version",
    "device": "device",
    "git_sha": "commit",
}


def render(comparison: "Comparison") -> str:
    """Returns the page of a comparison: table, plots, pictures and where the numbers come from.

    Args:
        comparison: the runs, named and ordered; the pictures are read from ``predictions/`` in their folders.
    """
    scored = [run for run in comparison.runs if run.score is not None]
    sections = [
        ("Results", _table(comparison)),
        ("mIoU against parameters", _scatters(scored)),
        ("IoU of each class", _heat_maps(scored)),
        ("Predictions", _pictures(scored)),
        ("Without a result", _unfinished(comparison.unfinished)),
        ("Runs", _runs(comparison.runs)),
    ]
    datasets = sorted({str(run.record.dataset) for run in comparison.runs if run.record.dataset})
    body = "\n".join(f"<section>\n<h2>{head}</h2>\n{part}\n</section>" for head, part in sections if part)
    plots = "plotly-graph-div" in body
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape("Segmentation models" + (f" on {', '.join(datasets)}" if datasets else ", compared")),
        verdict=escape(comparison.verdict),
        shared=escape(comparison.shared()),
        plotly=f"<script>{get_plotlyjs()}</script>" if plots else "",
        body=body,
        version=escape(__version__),
    )


def markdown(comparison: "Comparison") -> str:
    """Returns the comparison as a Markdown table, the verdict above it and the reasons below.

    Args:
        comparison: the runs, named and ordered.
    """
    from seggrid.report import WORDS

    columns = comparison.columns()
    lines = ["# Comparison", "", _literal(comparison.verdict), "", _literal(comparison.shared()), ""]
    lines += ["| " + " | ".join(column.head for column in columns) + " |"]
    lines += ["|" + "|".join(" --- " if column.key in WORDS else " ---: " for column in columns) + "|"]
    lines += ["| " + " | ".join(_literal(column.text(run)) for column in columns) + " |" for run in comparison.runs]
    if comparison.unfinished:
        lines += ["", "## Without a result", ""]
        lines += [
            f"- {_literal(run.label)}: {run.record.status}: {_literal(run.reason)}" for run in comparison.unfinished
        ]
    return "\n".join(lines) + "\n"


def _table(comparison: "Comparison") -> str:
    from seggrid.report import WORDS

    columns = comparison.columns()
    scores = any(column.key == "mIoU" for column in columns)
    ordered = len({run.record.dataset for run in comparison.runs if run.score is not None}) == 1
    if scores:  # the status of a run without a score stands in the score's place
        columns = [column for column in columns if column.key != "status"]
    classes = {column.key: "word" if column.key in WORDS else "number" for column in columns}
    initial = ' aria-sort="descending"'
    head = [
        f'<th scope="col" class="{classes[column.key]}"'
        f' data-first="{"descending" if column.key in HIGH_FIRST else "ascending"}"'
        f"{initial if column.key == 'mIoU' and ordered else ''}>"
        f'<button type="button">{escape(column.head)}</button></th>'
        for column in columns
    ]
    rows = []
    for run in comparison.runs:
        cells = []
        for column in columns:
            text = column.text(run)
            value = str(run.values[column.key]) if text else ""
            if column.key == "mIoU" and run.record.status != "completed":
                text, value = run.record.status, ""
            cells.append(f'<td class="{classes[column.key]}" data-value="{escape(value)}">{escape(text)}</td>')
        state = "winner" if run is comparison.winner else "" if run.record.status == "completed" else "unfinished"
        rows.append(f'<tr class="{state}" title="{escape(run.label)}">{"".join(cells)}</tr>')
    return (
        '<div class="wide"><table class="sortable" id="results">\n'
        f"<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>\n"
        '<p class="note">Click a heading to sort. Stride, depth and decoder width say what was built: '
        "the same architecture is not the same network in two libraries.</p>"
    )


def _scatters(scored: list["Run"]) -> str:
    groups = _by_dataset([run for run in scored if _params(run) is not None])
    parts = []
    for number, (dataset, runs) in enumerate(groups.items()):
        parts.append(f"<h3>{escape(dataset)}</h3>" if len(groups) > 1 else "")
        parts.append(_plot(_scatter(runs), f"plot-miou-{number}"))
    return "\n".join(parts) or "<p>No run has an mIoU and a number of parameters to plot.</p>"


def _scatter(points: list["Run"]) -> Any:
    first = {run.cell: run for run in reversed(points)}  # one name for the seeds of a cell
    figure = go.Figure()
    for backend in dict.fromkeys(run.record.backend for run in points):
        mine = [run for run in points if run.record.backend == backend]
        colour, symbol = MARKS.get(backend, OTHER_MARK)
        figure.add_scatter(
            x=[_params(run) for run in mine],
            y=[100 * (run.score or 0) for run in mine],
            name=escape(backend),
            mode="markers+text" if len(points) <= 12 else "markers",
            text=[escape(run.record.arch) if run is first[run.cell] else "" for run in mine],
            textposition="top center",
            cliponaxis=False,
            customdata=[[escape(run.label), _dash(run.values.get("gmacs"))] for run in mine],
            hovertemplate="<b>%{customdata[0]}</b><br>%{y:.2f} % mIoU<br>%{x:.2f} M parameters"
            "<br>%{customdata[1]} GMac<extra></extra>",
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 1, "color": "white"}},
        )
    sizes = [_params(run) or 0 for run in points]
    if min(sizes) > 0 and max(sizes) > 10 * min(sizes):
        ticks = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_xaxes(title_text="parameters (million)")
    figure.update_yaxes(title_text="mIoU (%)")
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}, height=440)
    return figure


def _heat_maps(scored: list["Run"]) -> str:
    groups = _by_dataset([run for run in scored if run.record.per_class])
    parts = []
    for number, (dataset, runs) in enumerate(groups.items()):
        classes = _classes(runs)
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
        parts.append(_plot(figure, f"plot-classes-{number}", min_width=(46 if few else 16) * len(classes) + 320))
        if absent:
            mark = "n/a" if few else "Blank"
            parts.append(f'<p class="note">{mark}: the class is in no label and in no prediction.</p>')
    return "\n".join(parts)


def _plot(figure: Any, name: str, min_width: int = 0) -> str:
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
    return f'<div class="wide"><div class="plot" style="min-width: max(580px, {min_width}px)">{html}</div></div>'


def _pictures(scored: list["Run"]) -> str:
    parts = []
    groups = _by_dataset(scored)
    for dataset, runs in groups.items():
        found = sorted({path.name for run in runs for path in _folder(run).glob("*_prediction.png")})
        if not found:
            continue
        rows, labels = [], []
        for name in (file.removesuffix("_prediction.png") for file in found):
            label = _first(runs, f"{name}_label.png")
            labels += [label] if label else []
            figures = [_figure(_first(runs, f"{name}_image.jpg"), "image", f"{name}, image")]
            figures += [_figure(label, "label", f"{name}, label", mask=True)]
            for run in runs:
                path = _folder(run) / f"{name}_prediction.png"
                figures += [_figure(path if path.exists() else None, run.label, f"{name}, {run.label}", mask=True)]
            rows.append(f'<h4>{escape(name)}</h4>\n<div class="pictures">{"".join(figures)}</div>')
        parts.append(f"<h3>{escape(dataset)}</h3>" if len(groups) > 1 else "")
        parts.append(_legend(_classes(runs), [*labels, *(_folder(runs[0]) / file for file in found)]))
        parts += rows
    return "\n".join(parts)


def _figure(path: Path | None, caption: str, alt: str, mask: bool = False) -> str:
    said = f"<figcaption>{escape(caption).replace('/', '/<wbr>').replace('.', '.<wbr>')}</figcaption>"
    if path is None:
        return f'<figure><div class="missing">no picture</div>{said}</figure>'
    kind = "png" if path.suffix == ".png" else "jpeg"
    data = base64.b64encode(path.read_bytes()).decode()
    style = ' class="mask"' if mask else ""
    return f'<figure><img{style} src="data:image/{kind};base64,{data}" alt="{escape(alt)}">{said}</figure>'


def _legend(classes: list[str], masks: list[Path]) -> str:
    """The colours of the classes, read from the palette that the masks carry, and of ignored pixels if there are."""
    if not classes:
        return ""
    palette: list[int] = []
    ignored: set[int] = set()
    for path in masks:
        try:
            with Image.open(path) as picture:
                palette = palette or picture.getpalette() or []
                colours = picture.getcolors(256) if picture.mode == "P" else None
                ignored |= {index for _, index in colours or () if isinstance(index, int) and index >= len(classes)}
        except OSError:
            continue
    named = [*enumerate(classes), *((index, "ignored") for index in sorted(ignored)[-1:])]
    items = [
        f'<li><span class="swatch" style="background: rgb({", ".join(map(str, palette[3 * index : 3 * index + 3]))})">'
        f"</span>{escape(name)}</li>"
        for index, name in named
        if len(palette) >= 3 * index + 3
    ]
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def _unfinished(runs: list["Run"]) -> str:
    items = [
        f"<dt>{escape(run.label)} <span class='status'>{escape(run.record.status)}</span></dt>"
        f"<dd>{escape(run.reason)}</dd>"
        for run in runs
    ]
    return f'<dl class="reasons">{"".join(items)}</dl>' if items else ""


def _runs(runs: list["Run"]) -> str:
    """What all runs share is said once; what differs has a column."""
    shared, columns = [], []
    for key, head in ENVIRONMENT.items():
        values = {str(run.values[key]) for run in runs if run.values.get(key) is not None}
        if len(values) == 1:
            shared.append(f"<dt>{head}</dt><dd>{escape(_short(key, values.pop()))}</dd>")
        elif values:
            columns.append((key, head))
    rows = []
    for run in runs:
        command = shlex.join(["python", SCRIPTS.get(run.record.kind, run.record.kind), *map(str, run.record.overrides)])
        facts = "".join(f"<td>{escape(_short(key, str(run.values.get(key) or '')))}</td>" for key, _ in columns)
        folder = escape(run.folder.name)
        rows.append(
            f"<tr><td>{escape(run.label)}</td>{facts}<td>{folder}</td><td><code>{escape(command)}</code></td></tr>"
        )
    heads = "".join(
        f"<th scope='col'>{head}</th>" for head in ["cell", *(head for _, head in columns), "folder", "command"]
    )
    return (
        f'<dl class="shared">{"".join(shared)}</dl>\n<div class="wide"><table class="runs">'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _short(key: str, text: str) -> str:
    return text[:12] if key == "git_sha" else text


def _by_dataset(runs: Iterable["Run"]) -> dict[str, list["Run"]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run.record.dataset or "no dataset"), []).append(run)
    return groups


def _classes(runs: list["Run"]) -> list[str]:
    """The names of the classes in the order of the first run that has them; other runs' own names follow."""
    return list(dict.fromkeys(str(entry.get("class")) for run in runs for entry in run.record.per_class or ()))


def _iou(run: "Run", name: str) -> float | None:
    for entry in run.record.per_class or ():
        if str(entry.get("class")) == name and entry.get("iou") is not None:
            return 100 * float(entry["iou"])
    return None


def _literal(text: str) -> str:
    """Markdown shows ``text`` as it is written, also inside a table."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", text)


def _params(run: "Run") -> float | None:
    value = run.values.get("params")
    return value / 1e6 if isinstance(value, int | float) else None


def _dash(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "?"


def _folder(run: "Run") -> Path:
    return run.folder / "predictions"


def _first(runs: list["Run"], name: str) -> Path | None:
    return next((path for run in runs if (path := _folder(run) / name).exists()), None)
