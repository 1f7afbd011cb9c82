"""A comparison to read: one HTML page that opens from disk and asks no address for anything, and a Markdown table."""

import base64
import re
import shlex
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from PIL import Image
from plotly.offline import get_plotlyjs

from seggrid import __version__, cost_plots
from seggrid.columns import WORDS
from seggrid.plots import by_dataset, classes_of, heat_maps, scatters
from seggrid.published_table import published_table

if TYPE_CHECKING:
    from seggrid.report import Comparison, Run

HIGH_FIRST = ("mIoU", "mAcc", "aAcc", "mDice", "profile_images_per_s", "profile_best_images_per_s")
# They have a section of their own, with its reasons.
ELSEWHERE = (
    *("published_params", "published_params_difference", "published_gmacs", "published_gmacs_difference"),
    *("published_train_s_per_iter", "published_train_s_per_iter_difference", "published_device", "published_note"),
)
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
        ("mIoU against cost", scatters(scored)),
        ("IoU of each class", heat_maps(scored)),
        *cost_plots.sections(comparison.profiles),
        ("Published and measured", published_table(comparison.profiles)),
        ("Predictions", _pictures(scored)),
        ("Without a result", _unfinished(comparison.unfinished)),
        ("Runs", _runs([*comparison.runs, *comparison.lent])),
    ]
    if not scored and not comparison.profiles:
        sections.insert(1, ("Plots", "<p>No run has an mIoU or a profile to plot.</p>"))
    datasets = sorted({str(run.record.dataset) for run in comparison.runs if run.record.dataset})
    body = "\n".join(f"<section>\n<h2>{head}</h2>\n{part}\n</section>" for head, part in sections if part)
    plots = "plotly-graph-div" in body
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape("Segmentation models" + (f" on {', '.join(datasets)}" if datasets else ", compared")),
        verdict=escape(comparison.verdict),
        shared=escape(comparison.shared()),
        notes="\n".join(f'<p class="note">{escape(note)}</p>' for note in comparison.notes),
        plotly=f"<script>{get_plotlyjs()}</script>" if plots else "",
        body=body,
        version=escape(__version__),
    )


def markdown(comparison: "Comparison") -> str:
    """Returns the comparison as a Markdown table, the verdict above it and the reasons below.

    Args:
        comparison: the runs, named and ordered.
    """
    columns = comparison.columns()
    lines = ["# Comparison", "", _literal(comparison.verdict), "", _literal(comparison.shared()), ""]
    lines += [line for note in comparison.notes for line in (_literal(note), "")]
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
    columns = comparison.columns()
    scores = any(column.key == "mIoU" for column in columns)
    ordered = len({run.record.dataset for run in comparison.runs if run.score is not None}) == 1
    columns = [column for column in columns if column.key not in ELSEWHERE]
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


def _pictures(scored: list["Run"]) -> str:
    parts = []
    groups = by_dataset(scored)
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
        parts.append(_legend(classes_of(runs), [*labels, *(_folder(runs[0]) / file for file in found)]))
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


def _literal(text: str) -> str:
    """Markdown shows ``text`` as it is written, also inside a table."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", text)


def _folder(run: "Run") -> Path:
    return run.folder / "predictions"


def _first(runs: list["Run"], name: str) -> Path | None:
    return next((path for run in runs if (path := _folder(run) / name).exists()), None)
