"""Label maps of single images, and of a whole source of them, written as they come."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from seggrid.config import DatasetConfig
from seggrid.data.datamodule import EvaluationDataset
from seggrid.data.labels import file_labels
from seggrid.errors import UserError
from seggrid.inference import Predictor
from seggrid.models.segmenter import Segmenter
from seggrid.pictures import full_palette, overlay

AHEAD = 2  # images that are read while the model is at work


class ImagePredictor:
    """From one image to its label map.

    Args:
        model: the model; put into evaluation mode and onto the device.
        predictor: how the image goes through it.
        normalize: from uint8 ``(B, 3, H, W)`` to what the model wants.
        device: where the model runs.
    """

    def __init__(
        self, model: Segmenter, predictor: Predictor, normalize: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        self._model, self._predictor, self._normalize = model.eval().to(device), predictor, normalize
        self._device, self._dtype = device, next(model.parameters()).dtype

    def __call__(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Segments uint8 ``(3, h, w)``; returns uint8 ``(H, W)`` of the given size, on the CPU."""
        with torch.inference_mode():
            images = self._normalize(image[None].to(self._device)).to(self._dtype)
            return self._predictor.label_map(self._model, images, size)[0].to("cpu", torch.uint8)


class LabelWriter:
    """Writes label maps as PNG files that hold the labels which the data set's own files use.

    They are palette images: a program reads the labels, an eye sees the classes' colours. Converted to RGB they are
    what a data set with RGB masks has. Where a label is above 255 they have 16 bits instead, for which PNG has no
    palette.

    Args:
        dataset: its labels and colours.
        folder: gets ``<key>.png``.
    """

    def __init__(self, dataset: DatasetConfig, folder: Path) -> None:
        self._folder = folder
        labels = file_labels(dataset)
        self._is_deep = max(labels) > 255
        self._values = np.array(labels, dtype=np.uint16 if self._is_deep else np.uint8)
        colours = full_palette(dataset)
        palette = [[255, 255, 255]] * 256
        for index, label in enumerate([] if self._is_deep else labels):
            palette[label] = colours[3 * index : 3 * index + 3]
        self._palette = [value for colour in palette for value in colour]

    def write(self, key: str, label_map: Tensor) -> Path:
        """Writes uint8 ``(H, W)`` class indices; returns the path."""
        image = Image.fromarray(self._values[label_map.numpy()])
        if not self._is_deep:
            image.putpalette(self._palette)
        path = self._folder / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return path


def predict(
    dataset: EvaluationDataset,
    predictor: ImagePredictor,
    writer: LabelWriter,
    overlays: Path | None,
    palette: list[int],
    show_progress: bool,
) -> tuple[int, list[str]]:
    """Segments every image of a data set and writes what was found, one after the other.

    Args:
        dataset: the images, with the evaluation's transform.
        predictor: the model.
        writer: gets the label maps.
        overlays: a folder for JPEG files of the images under their labels; None writes none.
        palette: 256 colours, flat.
        show_progress: show a bar.

    Returns:
        The number of images that were segmented, and a line for each that could not be read.
    """
    done, faults = 0, []
    bar = Progress(
        TextColumn("predicting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not show_progress,
    )
    with bar:
        task = bar.add_task("", total=len(dataset))
        for index, read in enumerate(_read_ahead(dataset)):
            try:
                image, size = read()
                label_map = predictor(image, size)
            except UserError as error:
                faults.append(str(error))
                bar.console.print(f"passed over: {error}", markup=False, highlight=False, soft_wrap=True)
            else:
                key = dataset.source.key(index)
                writer.write(key, label_map)
                if overlays is not None:
                    path = overlays / f"{key}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pixels = image if image.shape[-2:] == size else dataset.source.read(index)[0]
                    overlay(pixels, label_map, palette).save(path, quality=90)
                done += 1
            bar.advance(task)
    return done, faults


def _read_ahead(dataset: EvaluationDataset) -> Iterator[Callable[[], tuple[Tensor, tuple[int, int]]]]:
    """Yields, image by image, what returns the image and its size, or raises what reading it raised."""

    def read(index: int) -> tuple[Tensor, tuple[int, int]]:
        image, mask, _ = dataset[(0, index)]
        return image, (mask.shape[-2], mask.shape[-1])

    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(read, index) for index in range(min(AHEAD, len(dataset)))]
        for index in range(len(dataset)):
            yield waiting.pop(0).result
            if index + AHEAD < len(dataset):
                waiting.append(pool.submit(read, index + AHEAD))
