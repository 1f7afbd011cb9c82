"""The generated data set: textured shapes that overlap, some of them small. No files, the same on every machine."""

import colorsys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seggrid.config import ShapesConfig

BACKGROUND, DISK, SQUARE, TRIANGLE, RING, DOT = range(6)
Grid = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ShapesSource:
    """Pictures drawn from (seed, split, index).

    A class has a hue of its own, but blurred so far that hues of different classes overlap: colour tells a model half
    of it within a few steps, form tells the rest. Pixels on a border between two labels are ignored.

    Attributes:
        config: size, numbers of images and seed.
        split: ``train`` or ``val``.
        ignore_index: the label of border pixels.
    """

    config: ShapesConfig
    split: str
    ignore_index: int
    labelled: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.config.train if self.split == "train" else self.config.val

    def key(self, index: int) -> str:
        """Names a picture in the split."""
        return f"{index:05d}"

    def name(self, index: int) -> str:
        """Names a picture in messages."""
        return f"shapes {self.split} {index}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Draws one picture.

        Args:
            index: which one.

        Returns:
            The image, uint8 ``(3, H, W)``, and its labels, uint8 ``(H, W)``.
        """
        random = np.random.default_rng([self.config.seed, int(self.split == "train"), index])
        height, width = self.config.size
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        image: NDArray[Any] = _texture(random, BACKGROUND, rows, columns)
        labels = np.full((height, width), BACKGROUND, dtype=np.uint8)
        for _ in range(random.integers(5, 10)):
            label = int(random.integers(DISK, DOT + 1))
            inside = _shape(random, label, rows, columns)
            image[inside] = _texture(random, label, rows, columns)[inside]
            labels[inside] = label
        image += random.normal(0, 0.04, image.shape).astype(np.float32)
        labels[_borders(labels)] = self.ignore_index
        pixels = (image.clip(0, 1) * 255).astype(np.uint8)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(labels)


def _texture(random: np.random.Generator, label: int, rows: Grid, columns: Grid) -> Grid:
    """A colour with stripes of a random direction, width and strength."""
    hue = random.uniform() if label == BACKGROUND else (label / DOT + random.normal(0, 0.12)) % 1.0
    saturation = random.uniform(0.05, 0.3) if label == BACKGROUND else random.uniform(0.35, 0.8)
    colour = np.array(colorsys.hsv_to_rgb(hue, saturation, random.uniform(0.35, 0.9)))
    angle, length = random.uniform(0, np.pi), random.uniform(4, 24)
    wave = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * 2 * np.pi / length)
    strength = random.uniform(0, 0.15)
    return np.asarray(colour + strength * wave[..., None], dtype=np.float32)


def _shape(random: np.random.Generator, label: int, rows: Grid, columns: Grid) -> NDArray[np.bool_]:
    """The pixels of one shape at a random place, size and angle."""
    extent = min(rows.shape)
    radius = random.uniform(0.03, 0.05) * extent if label == DOT else random.uniform(0.1, 0.22) * extent
    y, x = rows - random.uniform(0, rows.shape[0]), columns - random.uniform(0, rows.shape[1])
    distance = np.hypot(y, x)
    if label in (DISK, DOT):
        return np.asarray(distance <= radius)
    if label == RING:
        return np.asarray((distance <= radius) & (distance >= 0.55 * radius))
    angle = random.uniform(0, 2 * np.pi)
    if label == SQUARE:
        u, v = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
        return np.asarray(np.maximum(abs(u), abs(v)) <= 0.85 * radius)
    sides = [y * np.sin(angle + turn) + x * np.cos(angle + turn) for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
    return np.asarray(np.maximum.reduce(sides) <= 0.6 * radius)


def _borders(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pixels with another label to their right or below."""
    border = np.zeros(labels.shape, dtype=bool)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    return border
