"""The confusion matrix to look at, and as a table."""

import csv
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

NUMBERS_UP_TO = 25  # classes: beyond, a number would be wider than its cell
SMALLEST = 2.4  # inches: room for the title and for the scale of colours
ABSENT = "0.85"  # grey
TICKS = [0, 1, 5, 10, 25, 50, 75, 100]


def save(matrix: Tensor, classes: list[str], path: Path) -> None:
    """Draws a confusion matrix, each row in per cent of its label's pixels, as a PNG.

    The picture grows with the number of classes, so that names keep their size. Colours follow the root of the per
    cent: a twentieth of a class that goes to another is seen. A class without labelled pixels has a grey row.

    Args:
        matrix: ``(C, C)`` counts, rows the labels, columns the predictions.
        classes: C names.
        path: the file.
    """
    counts = matrix.cpu().double().numpy()
    labelled = counts.sum(1, keepdims=True)
    per_cent = np.divide(100 * counts, labelled, out=np.full_like(counts, np.nan), where=labelled > 0)
    number, with_numbers = len(classes), len(classes) <= NUMBERS_UP_TO
    cell, points = (0.42, 9) if with_numbers else (0.15, 7)  # inches, and points of 1/72 inch
    side = max(number * cell, SMALLEST)

    figure = Figure(figsize=(side, side), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))  # names and title lie around it: the file is cut to what is drawn
    colours = colormaps["viridis"].with_extremes(bad=ABSENT)
    norm = PowerNorm(0.5, vmin=0, vmax=100)
    image = axes.imshow(np.ma.masked_invalid(per_cent), cmap=colours, norm=norm, interpolation="nearest")
    # A dollar in a name is a dollar, and not the start of a formula.
    axes.set_xticks(range(number), classes, rotation=90, fontsize=points, parse_math=False)
    axes.set_yticks(range(number), classes, fontsize=points, parse_math=False)
    for row, tick in enumerate(axes.get_yticklabels()):
        if not labelled[row, 0]:
            tick.set_color("0.55")
    axes.set_xticks(np.arange(number - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(number - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6 if with_numbers else 0.1)
    axes.tick_params(which="minor", length=0)
    if with_numbers:
        for row, column in np.argwhere(per_cent >= 0.5):
            red, green, blue, _ = colours(norm(per_cent[row, column]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{per_cent[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xlabel("prediction", fontsize=points + 3)
    axes.set_ylabel("label", fontsize=points + 3)
    axes.set_title("Confusion matrix: % of each label's pixels", fontsize=points + 4, pad=10)
    beside = figure.add_axes((1 + 0.15 / side, 0, 0.15 / side, 1))
    figure.colorbar(image, cax=beside, ticks=TICKS).set_label("%", rotation=0)
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)


def write_csv(matrix: Tensor, classes: list[str], path: Path) -> None:
    """Writes a confusion matrix as pixel counts, a row per label and a column per prediction.

    Args:
        matrix: ``(C, C)`` counts, rows the labels, columns the predictions.
        classes: C names.
        path: the file.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label / prediction", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
