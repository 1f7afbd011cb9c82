"""Pictures with their labels and predictions: for the comparison, and of the images that went worst."""

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from seggrid.config import DatasetConfig
from seggrid.data.datamodule import EvaluationDataset

FOLDER = "predictions"
WORST = "worst"
WRONG, RIGHT, IGNORED = (214, 48, 39), (69, 117, 180), (255, 255, 255)
TILE, CAPTION = 640, 22  # pixels: a tile's largest width, and the height of the line above it

Predict = Callable[[Tensor, tuple[int, int]], Tensor]
"""From uint8 ``(3, h, w)`` and a size to the label map of that size, as :class:`prediction.ImagePredictor`."""


def save_pictures(predict: Predict, data: EvaluationDataset, dataset: DatasetConfig, folder: Path, number: int) -> None:
    """Writes image, label and prediction of evenly spaced pictures of the evaluation split.

    Runs on one data set choose the same pictures under the same names.

    Args:
        predict: the model.
        data: the evaluation split.
        dataset: class names and palette.
        folder: the run's folder; the files are ``predictions/<name>_{image.jpg,label.png,prediction.png}``.
        number: how many pictures.
    """
    number = min(number, len(data))
    if number == 0:
        return
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    palette = full_palette(dataset)
    for position in range(number):
        index = position * len(data) // number
        pixels, labels, prediction = _predicted(predict, data, index)
        stem = target / f"{index:05d}"
        Image.fromarray(pixels).save(f"{stem}_image.jpg", quality=90)
        _mask(labels, palette).save(f"{stem}_label.png")
        _mask(prediction, palette).save(f"{stem}_prediction.png")


def save_worst(
    predict: Predict,
    data: EvaluationDataset,
    dataset: DatasetConfig,
    folder: Path,
    worst: list[tuple[int, float]],
) -> None:
    """Writes image, label, prediction and error map of some images, each four in one picture.

    Args:
        predict: the model.
        data: the evaluation split.
        dataset: class names, palette and ignore_index.
        folder: the run's folder; the files are ``worst/<rank>_<name>.jpg``.
        worst: the images' indices with their mIoU, the worst first.
    """
    target = folder / WORST
    palette = full_palette(dataset)
    for rank, (index, miou) in enumerate(worst, 1):
        target.mkdir(parents=True, exist_ok=True)
        pixels, labels, prediction = _predicted(predict, data, index)
        key = data.source.key(index)
        tiles = {
            f"{key}  mIoU {100 * miou:.1f} %": Image.fromarray(pixels),
            "label": overlay(torch.from_numpy(pixels).permute(2, 0, 1), labels, palette),
            "prediction": overlay(torch.from_numpy(pixels).permute(2, 0, 1), prediction, palette),
            "blue right, red wrong, white not counted": error_map(pixels, labels, prediction, dataset.ignore_index),
        }
        _tiled(tiles).save(target / f"{rank:02d}_{key.replace('/', '_')}.jpg", quality=90)


def overlay(pixels: Tensor, label_map: Tensor, palette: list[int], opacity: float = 0.55) -> Image.Image:
    """Returns an image under the colours of its labels.

    Args:
        pixels: uint8 ``(3, H, W)``.
        label_map: uint8 ``(H, W)``.
        palette: 256 colours, flat.
        opacity: of the colours.
    """
    colours = _mask(label_map, palette).convert("RGB")
    return Image.blend(Image.fromarray(_interleaved(pixels)), colours, opacity)


def error_map(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], labels: Tensor, prediction: Tensor, ignore_index: int
) -> Image.Image:
    """Returns an image in grey, blue where the prediction is right, red where it is wrong, white where none counts.

    Args:
        pixels: ``(H, W, 3)``.
        labels: uint8 ``(H, W)``.
        prediction: likewise.
        ignore_index: the label that counts nowhere.
    """
    colours = np.array([RIGHT, WRONG, IGNORED], dtype=np.uint8)
    which = torch.where(labels == ignore_index, 2, (labels != prediction).long())
    grey = Image.fromarray(pixels).convert("L").convert("RGB")
    return Image.blend(grey, Image.fromarray(colours[which.numpy()]), 0.6)


def full_palette(dataset: DatasetConfig) -> list[int]:
    """Returns 256 colours, flat: the classes', and white for all that is ignored."""
    number = len(dataset.classes)
    colours = dataset.palette or [
        [round(255 * value) for value in colorsys.hsv_to_rgb(index / number, 0.65, 0.9)] for index in range(number)
    ]
    return [value for colour in [*colours, *[[255, 255, 255]] * (256 - number)] for value in colour]


def _predicted(
    predict: Predict, data: EvaluationDataset, index: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], Tensor, Tensor]:
    """Returns an image as it is in the data set, ``(H, W, 3)``, its labels and its label map."""
    image, labels, _ = data[(0, index)]
    prediction = predict(image, (labels.shape[-2], labels.shape[-1]))
    return _interleaved(data.source.read(index)[0]), labels, prediction


def _interleaved(pixels: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _mask(labels: Tensor, palette: list[int]) -> Image.Image:
    image = Image.fromarray(labels.contiguous().numpy())
    image.putpalette(palette)
    return image


def _tiled(tiles: dict[str, Image.Image]) -> Image.Image:
    """Two rows of two, each under its caption."""
    first = next(iter(tiles.values()))
    scale = min(1.0, TILE / first.width) if first.width > TILE / 2 else max(1, TILE // (2 * first.width))
    width, height = round(first.width * scale), round(first.height * scale)
    sheet = Image.new("RGB", (2 * width, 2 * (height + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, tile) in enumerate(tiles.items()):
        left, top = number % 2 * width, number // 2 * (height + CAPTION)
        draw.text((left + 4, top + 4), caption, "black", ImageFont.load_default(13))
        sheet.paste(tile.resize((width, height)), (left, top + CAPTION))
    return sheet
