"""The scores of single images, and how much a data set's scores depend on which images happen to be in it."""

import os
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from seggrid.errors import UserError
from seggrid.metrics import areas, ratios

LEVEL = 0.95  # of the intervals
RESAMPLES = 1000
WEIGHTS = 500_000  # drawn at once: 4 MB
KEPT = 2000  # images whose draws are kept: 16 MB


class ImageCounts(Metric):
    """Hits, labelled and predicted pixels per image and class, from all processes.

    Args:
        num_classes: number of classes, C.
    """

    full_state_update = False
    rows: list[Tensor] | Tensor  # each (n, 1 + 3 * C): the image's index, then its counts

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._width = 1 + 3 * num_classes
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        # torchmetrics gathers from a process that saw no image a tensor of another type and shape than from the rest.
        self.rows = [torch.zeros(0, self._width, dtype=torch.int64, device=self.device)]

    def update(self, index: int, matrix: Tensor) -> None:
        """Adds an image.

        Args:
            index: of the image in the data set.
            matrix: its confusion matrix, ``(C, C)``, rows the labels.
        """
        assert isinstance(self.rows, list)
        self.rows.append(torch.cat((matrix.new_tensor([index]), areas(matrix).flatten()))[None])

    def compute(self) -> tuple[list[int], Tensor]:
        """Returns the images of all processes in the data set's order, each once.

        Returns:
            n indices, and counts ``(n, 3, C)``, int64 on the CPU.
        """
        rows = (torch.cat(self.rows) if isinstance(self.rows, list) else self.rows).cpu()
        order = rows[:, 0].argsort(stable=True)
        rows = rows[order]
        first = torch.ones(len(rows), dtype=torch.bool)
        first[1:] = rows[1:, 0] != rows[:-1, 0]
        return rows[first, 0].tolist(), rows[first, 1:].reshape(-1, 3, (self._width - 1) // 3)


def image_miou(counts: Tensor) -> Tensor:
    """Returns each image's own mIoU, over the classes that it shows or is said to show.

    Args:
        counts: ``(n, 3, C)`` of :class:`ImageCounts`.

    Returns:
        ``(n,)``, double; NaN for an image without a pixel that counts.
    """
    return ratios(counts)[0].nanmean(1)


def bootstrap(counts: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Returns 95 % intervals of a data set's scores: the percentile bootstrap over images (Efron, 1979).

    Images are drawn with replacement, as many as there are, and the scores are those of what was drawn as a whole. The
    interval says how the scores would vary with other images of the same kind; not how they vary with the training.

    Args:
        counts: ``(n, 3, C)`` of :class:`ImageCounts`.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        (low, high) by score: mIoU, mAcc, aAcc, mDice; NaN where there is no score.
    """
    drawn: dict[str, list[Tensor]] = {}
    for sums in _resampled(counts, resamples, seed):
        iou, acc, dice = ratios(sums)
        aacc = sums[:, 0].sum(1) / sums[:, 1].sum(1)
        values = {"mIoU": iou.nanmean(1), "mAcc": acc.nanmean(1), "aAcc": aacc, "mDice": dice.nanmean(1)}
        for name, value in values.items():
            drawn.setdefault(name, []).append(value)
    return {name: _interval(torch.cat(values)) for name, values in drawn.items()}


def paired_difference(first: Tensor, second: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % interval of how much higher the second model's mIoU is, both measured on the same images.

    Much narrower than what two intervals say: an image that is hard for one model is so for the other, too. Without 0
    in it, the difference is more than an accident of which images were measured.

    Args:
        first: ``(n, 3, C)`` of :class:`ImageCounts`, of the one model.
        second: of the other, for the same images in the same order.
        resamples: as for :func:`bootstrap`.
        seed: as for :func:`bootstrap`.
    """
    assert first.shape == second.shape
    return _interval(resampled_miou(second, resamples, seed) - resampled_miou(first, resamples, seed))


def resampled_miou(counts: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """Returns the mIoU of images drawn with replacement, for the same number of images the same ones in each draw.

    Args:
        counts: ``(n, 3, C)`` of :class:`ImageCounts`.
        resamples: as for :func:`bootstrap`.
        seed: as for :func:`bootstrap`.

    Returns:
        ``(resamples,)``, double; one NaN where there are no images.
    """
    hits, labelled, predicted = counts.unbind(1)
    parts = torch.stack((hits, labelled + predicted - hits), 1)
    return torch.cat([(sums[:, 0] / sums[:, 1]).nanmean(1) for sums in _resampled(parts, resamples, seed)])


def write(path: Path, keys: list[str], counts: Tensor) -> None:
    """Writes what :func:`read` reads.

    Args:
        path: the file, ``.npz``.
        keys: the images' names.
        counts: ``(n, 3, C)`` of :class:`ImageCounts`.
    """
    assert len(keys) == len(counts)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, keys=np.array(keys, dtype=str), counts=counts.numpy())
    os.replace(part, path)


def read(path: Path) -> tuple[list[str], Tensor]:
    """Reads the images' names and counts.

    Raises:
        UserError: the file is not one that :func:`write` wrote.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys, counts = file["keys"].tolist(), torch.from_numpy(file["counts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not a file of scores by image ({type(error).__name__}); evaluate again") from error
    if counts.ndim != 3 or counts.shape[:2] != (len(keys), 3) or counts.is_floating_point():
        raise UserError(f"{path} is not a file of scores by image (shape {tuple(counts.shape)}); evaluate again")
    return [str(key) for key in keys], counts


def _resampled(counts: Tensor, resamples: int, seed: int) -> Iterator[Tensor]:
    """Yields sums over drawn images, ``(draws, ..., C)``, double: exact, as pixels number less than 2**53."""
    number = len(counts)
    flat = counts.double().flatten(1)
    for times in _draws(number, resamples, seed) if number <= KEPT else _drawn(number, resamples, seed):
        yield (times @ flat).view(len(times), *counts.shape[1:])
    if not number:
        yield flat.new_zeros(1, *counts.shape[1:])


@lru_cache(maxsize=2)
def _draws(number: int, resamples: int, seed: int) -> list[Tensor]:
    """The draws of a small data set, which a comparison needs again for each run."""
    return list(_drawn(number, resamples, seed))


def _drawn(number: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Yields how often each image was drawn, ``(draws, number)``, double."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, WEIGHTS // max(1, number))
    for start in range(0, resamples if number else 0, at_once):
        draws = min(at_once, resamples - start)
        chosen = torch.randint(number, (draws, number), generator=generator)
        times = torch.zeros(draws, number, dtype=torch.float64)
        times.scatter_add_(1, chosen, torch.ones(1, 1, dtype=torch.float64).expand(draws, number))
        yield times


def _interval(values: Tensor) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = values.nanquantile(values.new_tensor([tail, 1 - tail])).tolist()
    return low, high
