"""Sheets of sample images under their labels, as they are in the data set and as a training sees them."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from seggrid.config import CheckConfig, DatasetConfig
from seggrid.data.augment import TrainTransform
from seggrid.data.datamodule import SegmentationDataset, Source
from seggrid.pictures import full_palette, overlay

TILE, GAP, COLUMNS = 220, 6, 3  # pixels, pixels, pairs of image and overlay
ROW = 20  # pixels, of the legend


def save_sheets(source: Source, usable: list[int], config: CheckConfig, samples: Path, augmented: Path) -> list[Path]:
    """Writes evenly spaced images beside themselves under their labels, before and after augmentation.

    Args:
        source: a split.
        usable: the indices that can be read.
        config: how many, the augmentation, names and colours of the classes.
        samples: the file of the images as they are.
        augmented: the file of what a training sees.

    Returns:
        The files that were written: none where no image can be read or has labels.
    """
    number = min(config.pictures, len(usable))
    if number == 0 or not source.labelled:
        return []
    indices = [usable[position * len(usable) // number] for position in range(number)]
    dataset = SegmentationDataset(source, TrainTransform(config.augment, config.dataset.ignore_index), config.seed)
    plain, changed = [], []
    for index in indices:
        image, labels = source.read(index)
        assert labels is not None
        plain.append((image, labels))
        changed.append(dataset[(0, index)][:2])
    _sheet(plain, config.dataset).save(samples)
    _sheet(changed, config.dataset).save(augmented)
    return [samples, augmented]


def _sheet(pairs: list[tuple[Tensor, Tensor]], dataset: DatasetConfig) -> Image.Image:
    palette = full_palette(dataset)
    tiles = []
    for image, labels in pairs:
        # What counts nowhere stays as it is: white would hide the image there.
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        counted = Image.fromarray(((labels != dataset.ignore_index) * 255).to(torch.uint8).numpy())
        covered = Image.composite(overlay(image, labels, palette), picture, counted)
        tiles.append((_fitted(picture), _fitted(covered)))
    height = max(tile.height for tile, _ in tiles)
    rows = -(-len(tiles) // COLUMNS)
    width = COLUMNS * (2 * TILE + 2 * GAP) + GAP
    legend = _legend(dataset, width)
    sheet = Image.new("RGB", (width, rows * (height + GAP) + GAP + legend.height), "white")
    for number, pair in enumerate(tiles):
        left = GAP + number % COLUMNS * (2 * TILE + 2 * GAP)
        top = GAP + number // COLUMNS * (height + GAP)
        for place, tile in enumerate(pair):
            sheet.paste(tile, (left + place * (TILE + GAP // 3), top))
    sheet.paste(legend, (0, sheet.height - legend.height))
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    """Fits a picture into a tile's width; small ones grow by whole factors, so that pixels stay visible."""
    if picture.width <= TILE // 2:
        factor = TILE // picture.width
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture.resize((TILE, max(1, round(picture.height * TILE / picture.width))))


def _legend(dataset: DatasetConfig, width: int) -> Image.Image:
    font, palette = ImageFont.load_default(13), full_palette(dataset)
    places, left, row = [], GAP, 0
    for index, name in enumerate(dataset.classes):
        needed = 30 + round(font.getlength(name))
        if left + needed > width and left > GAP:
            left, row = GAP, row + 1
        places.append((index, name, left, row))
        left += needed
    legend = Image.new("RGB", (width, (row + 1) * ROW + GAP), "white")
    draw = ImageDraw.Draw(legend)
    for index, name, left, row in places:
        top = row * ROW + 2
        draw.rectangle((left, top, left + 14, top + 14), tuple(palette[3 * index : 3 * index + 3]), "black")
        draw.text((left + 18, top), name, "black", font)
    return legend
