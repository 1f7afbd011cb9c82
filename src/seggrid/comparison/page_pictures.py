"""The predictions of a comparison's cells side by side, the images on which the cells differ most first."""

import base64
import csv
import statistics
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from seggrid.comparison.page_data import data_of
from seggrid.comparison.rows import as_number

if TYPE_CHECKING:
    from seggrid.comparison.cells import Cell
    from seggrid.comparison.report import Run

MOST_IMAGES = 12  # by data
MOST_CELLS = 24  # by data, the best
MOST_BYTES = 16 * 2**20  # of all pictures; in the page they are a third larger
PREDICTION = "_prediction.png"


class Kept:
    """The pictures that the cells of one data set left, as far as they are of the same images.

    Args:
        name: of the data, and which of its images where there are several sets of them.
        cells: their indices and those of their runs that have pictures, the best first.
    """

    def __init__(self, name: str, cells: "dict[int, tuple[Cell, Run]]") -> None:
        self.name, self.cells = name, cells
        self.runs = [run for _, run in cells.values()]
        self.scores = {index: _scores(run) for index, (_, run) in cells.items()}
        found = sorted({path.name.removesuffix(PREDICTION) for run in self.runs for path in _files(run)})
        keys = next((keys for run in self.runs if (keys := _keys(run))), [])
        # A picture is named for its place in the split where image scores are named as the data set names its files.
        self.keys = {name: keys[int(name)] if name.isdecimal() and int(name) < len(keys) else name for name in found}
        self.ranges = {name: _range(self.scores, key) for name, key in self.keys.items()}
        spreads = {name: _spread(self.scores, key) for name, key in self.keys.items()}
        self.is_ordered = any(spreads.values())
        self.number = len(found)
        self.images = sorted(found, key=lambda name: -spreads[name])[:MOST_IMAGES]

    def given(self, name: str, kind: str) -> Path | None:
        """Returns the image or its label from the first run that has it."""
        return next(
            (path for run in self.runs if (path := run.folder / "predictions" / f"{name}_{kind}").exists()), None
        )

    def size(self, index: int) -> int:
        """Returns the bytes of a cell's predictions."""
        paths = [_prediction(self.cells[index][1], name) for name in self.images]
        return sum(path.stat().st_size for path in paths if path.exists())


def pictures(cells: "list[Cell]") -> str:
    """Returns images, labels and predictions as HTML, as many as a page can hold; empty where there are none.

    Args:
        cells: all of the comparison, best first; ``data-cells`` of an element is the index of its cell.
    """
    groups: dict[tuple[str, bytes | None], dict[int, tuple[Cell, Run]]] = {}
    for index, cell in enumerate(cells):
        run = next((run for run in cell.runs if cell.runs[0].record.status == "completed" and any(_files(run))), None)
        if run is not None:
            data = data_of(cell)
            # Where it is not known which images they are, they are taken for those of the best.
            images = cell.images or next((images for name, images in groups if name == data), None)
            groups.setdefault((data, images), {})[index] = (cell, run)
    kept = [Kept(_named(place, list(groups)), found) for place, found in enumerate(groups.values())]
    chosen = _chosen(kept)
    parts = []
    for group in kept:
        parts.append(f"<h3>{escape(group.name)}</h3>" if len(kept) > 1 else "")
        parts.append(f'<p class="note">{escape(_said(group, chosen[group.name]))}</p>')
        parts.append(_legend(group))
        parts += [_row(group, name, chosen[group.name]) for name in group.images]
    return "\n".join(parts)


def _named(place: int, groups: list[tuple[str, bytes | None]]) -> str:
    name = groups[place][0]
    earlier = sum(other == name for other, _ in groups[:place])
    return f"{name}, other images or labels{f' ({earlier})' if earlier > 1 else ''}" if earlier else name


def _chosen(kept: list[Kept]) -> dict[str, list[int]]:
    """The cells whose pictures the page holds: of each data the best in turn, until there is no more room."""
    left = MOST_BYTES
    for group in kept:
        given = [group.given(name, kind) for name in group.images for kind in ("image.jpg", "label.png")]
        left -= sum(path.stat().st_size for path in given if path is not None)
    chosen: dict[str, list[int]] = {group.name: [] for group in kept}
    for places in zip_longest(*(list(group.cells)[:MOST_CELLS] for group in kept)):
        for group, index in zip(kept, places, strict=True):
            if index is None:
                continue
            left -= group.size(index)
            if left < 0 and chosen[group.name]:
                return chosen
            chosen[group.name].append(index)
    return chosen


def _said(group: Kept, chosen: list[int]) -> str:
    parts = []
    if group.is_ordered:
        parts.append("The images on which the cells' mIoU differs most stand first.")
    if len(group.images) < group.number:
        parts.append(f"{len(group.images)} of {group.number} images.")
    if len(chosen) < len(group.cells):
        parts.append(
            f"Here are the predictions of the best {len(chosen)} of {len(group.cells)} cells; those of the others "
            "lie in predictions/ in the folders of their runs."
        )
    if any(len(group.cells[index][0].runs) > 1 for index in chosen):
        parts.append("Of several seeds the first is shown.")
    return " ".join(parts)


def _row(group: Kept, name: str, chosen: list[int]) -> str:
    figures = [_figure(group.given(name, "image.jpg"), "image", f"{name}, image")]
    figures += [_figure(group.given(name, "label.png"), "label", f"{name}, label", mask=True)]
    for index in chosen:
        cell, run = group.cells[index]
        path = _prediction(run, name)
        score = group.scores[index].get(group.keys[name])
        figures.append(
            _figure(path if path.exists() else None, cell.label, f"{name}, {cell.label}", True, index, score)
        )
    ends = group.ranges[name]
    said = f" <span>mIoU from {100 * ends[0]:.1f} to {100 * ends[1]:.1f} %</span>" if ends else ""
    return f'<h4>{escape(group.keys[name])}{said}</h4>\n<div class="pictures">{"".join(figures)}</div>'


def _figure(
    path: Path | None,
    caption: str,
    alt: str,
    mask: bool = False,
    cell: int | None = None,
    score: float | None = None,
) -> str:
    said = escape(caption).replace("/", "/<wbr>").replace(".", ".<wbr>")
    said += f" <b>{100 * score:.1f} %</b>" if score is not None else ""
    of_cell = "" if cell is None else f' data-cells="{cell}"'
    if path is None:
        picture = '<div class="missing">no picture</div>'
    else:
        kind = "png" if path.suffix == ".png" else "jpeg"
        code = base64.b64encode(path.read_bytes()).decode()
        style = ' class="mask"' if mask else ""
        picture = f'<img{style} src="data:image/{kind};base64,{code}" alt="{escape(alt)}" decoding="async">'
    return f"<figure{of_cell}>{picture}<figcaption>{said}</figcaption></figure>"


def _legend(group: Kept) -> str:
    """The colours of the classes, read from the palette that the masks carry, and of ignored pixels if there are."""
    classes = list(dict.fromkeys(str(entry.get("class")) for run in group.runs for entry in run.record.per_class or ()))
    labels = [path for name in group.images if (path := group.given(name, "label.png"))]
    palette: list[int] = []
    ignored: set[int] = set()
    for path in [*labels, *_files(group.runs[0])] if classes else ():
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


def _files(run: "Run") -> list[Path]:
    return sorted((run.folder / "predictions").glob(f"*{PREDICTION}"))


def _prediction(run: "Run", name: str) -> Path:
    return run.folder / "predictions" / f"{name}{PREDICTION}"


def _scores(run: "Run") -> dict[str, float]:
    """The mIoU of each image; none where the file is not there or is damaged."""
    try:
        with (run.folder / "images.csv").open(newline="", encoding="utf-8") as file:
            return {row["image"]: float(row["mIoU"]) for row in csv.DictReader(file) if row["mIoU"]}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}


def _keys(run: "Run") -> list[str]:
    """The images' names in the order of the split."""
    try:
        # `image_scores.read` returns the counts as well, and needs torch for them.
        with np.load(run.folder / "images.npz", allow_pickle=False) as file:
            return [str(key) for key in file["keys"]]
    except Exception:  # whatever a damaged file makes of itself: its pictures then keep their names
        return []


def _values(scores: dict[int, dict[str, float]], key: str) -> list[float]:
    found = [of_cell[key] for of_cell in scores.values() if key in of_cell]
    return [value for value in found if as_number(value) is not None and value == value]


def _spread(scores: dict[int, dict[str, float]], key: str) -> float:
    values = _values(scores, key)
    return statistics.pstdev(values) if len(values) > 1 else 0.0


def _range(scores: dict[int, dict[str, float]], key: str) -> tuple[float, float] | None:
    values = _values(scores, key)
    return (min(values), max(values)) if len(values) > 1 else None
