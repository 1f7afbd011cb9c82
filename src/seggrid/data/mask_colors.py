"""Masks that are RGB images: from colours to labels."""

import numpy as np
from numpy.typing import NDArray

from seggrid.config import DatasetConfig
from seggrid.errors import UserError

Labels = NDArray[np.uint16]


class ColorTable:
    """The label of every colour.

    Args:
        config: the data set, settled.
    """

    def __init__(self, config: DatasetConfig) -> None:
        self._config = config
        self._table: NDArray[np.uint16] | None = None

    def labels(self, rgb: NDArray[np.uint8], path: str) -> Labels:
        """Returns the labels ``(H, W)`` of a mask ``(H, W, 3)``.

        Args:
            rgb: the mask.
            path: its file, for messages.

        Raises:
            UserError: there are no colours, one stands for two classes, or the mask has one that stands for none.
        """
        if self._table is None:
            self._table = self._filled(path)
        packed = _packed(rgb)
        labels = self._table[packed]
        if not labels.all():
            self._add_near(packed, labels == 0, path)
            labels = self._table[packed]
        return labels - np.uint16(1)

    def _filled(self, path: str) -> NDArray[np.uint16]:
        """One more than the label of each colour; 0 is none. Memory is used for the pages that masks touch alone."""
        table = np.zeros(2**24, dtype=np.uint16)
        if not any(self._config.mask_colors or []):
            raise UserError(
                f"{path} is a RGB image; to read it by its colours, set dataset.palette to one [r, g, b] per class; "
                "else save it with one channel"
            )
        for label, color in self._colors():
            place = int(_packed(np.array(color, np.uint8)))
            other = int(table[place]) - 1
            if other >= 0 and self._meaning(other) != self._meaning(label):
                raise UserError(
                    f"dataset.palette (or mask_colors) gives {self._meaning(other)} and {self._meaning(label)} one "
                    f"colour, {color}, but masks such as {path} tell classes apart by it; give each its own colour, or "
                    "merge them"
                )
            if other < 0:
                table[place] = label + 1
        return table

    def _add_near(self, packed: NDArray[np.uint32], unknown: NDArray[np.bool_], path: str) -> None:
        """Gives colours that are near a known one its label."""
        assert self._table is not None
        found = np.unique(packed[unknown])
        rgb = np.stack([found & 255, found >> 8 & 255, found >> 16], axis=1).astype(np.int16)
        labels = np.array([label for label, _ in self._colors()], np.uint16)
        known = np.array([color for _, color in self._colors()], np.int16)
        nearest, distance = np.zeros(len(rgb), np.intp), np.full(len(rgb), 256, np.int16)
        for index, color in enumerate(known):
            far = np.abs(rgb - color).max(axis=1)
            nearest[far < distance] = index
            distance = np.minimum(distance, far)
        if distance.max() > self._config.color_tolerance:
            raise self._foreign(packed, found, rgb, distance, path)
        self._table[found] = labels[nearest] + 1

    def _foreign(
        self,
        packed: NDArray[np.uint32],
        found: NDArray[np.uint32],
        rgb: NDArray[np.int16],
        distance: NDArray[np.int16],
        path: str,
    ) -> UserError:
        worst = int(distance.argmax())
        row, column = np.argwhere(packed == found[worst])[0]
        names = [f"{self._meaning(label)} {list(color)}" for label, color in self._colors()]
        known = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        blurred = len(found) > 16
        remedy = (
            f"it has {len(found)} such colours, as a mask that was resized or saved as JPEG: save it as PNG, or set "
            "dataset.color_tolerance"
            if blurred
            else "add it to dataset.classes and its colour to dataset.palette, and name it in dataset.ignore if it "
            "counts nowhere"
        )
        return UserError(
            f"{path} has the colour {rgb[worst].tolist()} at row {row}, column {column}, which is no class: "
            f"the known colours are {known}; {remedy}"
        )

    def _colors(self) -> list[tuple[int, list[int]]]:
        return [(label, color) for label, color in enumerate(self._config.mask_colors or []) if color]

    def _meaning(self, label: int) -> str:
        index = self._config.label_map.get(label)
        if index is None:
            return f"label {label}"
        return "ignored" if index == self._config.ignore_index else self._config.classes[index]


def _packed(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Returns one number per colour: red + 256 green + 65536 blue."""
    padded = np.zeros((*rgb.shape[:-1], 4), np.uint8)
    padded[..., :3] = rgb
    return padded.view("<u4")[..., 0]
