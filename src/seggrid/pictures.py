"""A few validation pictures with their predictions, for the comparison."""

import colorsys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from seggrid.config import DatasetConfig
from seggrid.data.datamodule import SegmentationData
from seggrid.models.segmenter import Segmenter

FOLDER = "predictions"


def save_pictures(
    model: Segmenter, data: SegmentationData, dataset: DatasetConfig, folder: Path, number: int, device: torch.device
) -> None:
    """Writes image, label and prediction of evenly spaced pictures of the evaluation split.

    Runs on one data set choose the same pictures under the same names.

    Args:
        model: the model.
        data: whose evaluation split is shown.
        dataset: class names and palette.
        folder: the run's folder; the files are ``predictions/<name>_{image.jpg,label.png,prediction.png}``.
        number: how many pictures.
        device: where the model runs.
    """
    number = min(number, len(data.eval_dataset))
    if number == 0:
        return
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    palette = full_palette(dataset)
    model = model.eval().to(device)
    weight = next(model.parameters())
    for position in range(number):
        index = position * len(data.eval_dataset) // number
        pixels, _ = data.eval_source.read(index)
        image, labels = data.eval_dataset[(0, index)]
        with torch.inference_mode():
            logits = model(image[None].to(device, weight.dtype)).logits.float()
            logits = functional.interpolate(logits, size=labels.shape, mode="bilinear", align_corners=False)
        stem = target / f"{index:05d}"
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(f"{stem}_image.jpg", quality=90)
        _save_mask(labels, palette, Path(f"{stem}_label.png"))
        _save_mask(logits.argmax(1)[0].to("cpu", torch.uint8), palette, Path(f"{stem}_prediction.png"))


def full_palette(dataset: DatasetConfig) -> list[int]:
    """Returns 256 colours, flat: the classes', and white for all that is ignored."""
    number = len(dataset.classes)
    colours = dataset.palette or [
        [round(255 * value) for value in colorsys.hsv_to_rgb(index / number, 0.65, 0.9)] for index in range(number)
    ]
    return [value for colour in [*colours, *[[255, 255, 255]] * (256 - number)] for value in colour]


def _save_mask(labels: Tensor, palette: list[int], path: Path) -> None:
    image = Image.fromarray(labels.numpy())
    image.putpalette(palette)
    image.save(path)
