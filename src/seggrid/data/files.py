"""Pictures read from image files and mask files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seggrid.config import DatasetConfig
from seggrid.data import pixels
from seggrid.data.labels import LARGEST_LABEL, settled
from seggrid.data.mask_colors import ColorTable
from seggrid.data.pairs import Sample, find_samples
from seggrid.errors import UserError


@dataclass(frozen=True)
class FileSource:
    """The pictures of one split.

    Attributes:
        config: where the files lie and what their labels mean, settled (see ``labels.settled``).
        split: ``train``, ``val`` or another split of the data set.
        samples: the files.
        labelled: whether there are masks.
    """

    config: DatasetConfig
    split: str
    samples: list[Sample]
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, index: int) -> str:
        """Names a picture in the split: a relative path without suffix."""
        return self.samples[index].key

    def name(self, index: int) -> str:
        """Names a picture in messages."""
        return self.samples[index].image

    def paths(self, index: int) -> tuple[Path, ...]:
        """Returns the files that a picture is read from."""
        _, image, mask = self.samples[index]
        return (Path(image),) if mask is None else (Path(image), Path(mask))

    def read(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Reads one picture.

        Args:
            index: which one.

        Returns:
            The image, uint8 ``(3, H, W)``, a view that is not contiguous, and its labels after ``label_map``, uint8
            ``(H, W)``; None for them where the split has none.

        Raises:
            UserError: a file is damaged, the mask is of another size or holds no labels, or a label is no class.
        """
        found, orientation = pixels.read_image(Path(self.samples[index].image))
        raw = self._read_mask(index)
        image = self._fitted(index, found, orientation, raw)
        if raw is None:
            return image, None
        return image, torch.from_numpy(self._classes(index, self._raw_labels(index, raw)))

    def read_top(self, index: int, rows: Callable[[Tensor], int]) -> tuple[Tensor, Tensor]:
        """Reads the labels, and then of the image at least the first ``rows(labels)`` rows; raises as :meth:`read`."""
        raw = self._read_mask(index)
        assert raw is not None
        labels = torch.from_numpy(self._classes(index, self._raw_labels(index, raw)))
        path = Path(self.samples[index].image)
        upper = pixels.read_top(path, rows(labels), raw.shape[:2])
        if upper is not None:
            return torch.from_numpy(upper).permute(2, 0, 1), labels
        return self._fitted(index, *pixels.read_image(path), raw), labels

    def read_image(self, index: int) -> Tensor:
        """Reads the image of :meth:`read` alone; opens the mask only where an EXIF orientation has to fit it."""
        found, orientation = pixels.read_image(Path(self.samples[index].image))
        return self._fitted(index, found, orientation, None if orientation == 1 else self._read_mask(index))

    def read_raw(self, index: int) -> NDArray[Any]:
        """Reads the labels as they stand in the file, whole numbers ``(H, W)``; colours give their place's label.

        Raises:
            UserError: the split has no labels, or the file cannot be read.
        """
        raw = self._read_mask(index)
        if raw is None:
            raise UserError(f"{self.name(index)} has no mask: the split {self.split} has no labels")
        return self._raw_labels(index, raw)

    def _read_mask(self, index: int) -> NDArray[Any] | None:
        path = self.samples[index].mask
        return None if path is None else pixels.read_mask(Path(path), self.config.mat_key)

    def _fitted(self, index: int, image: pixels.Pixels, orientation: int, raw: NDArray[Any] | None) -> Tensor:
        """Turns the image as its EXIF data says, unless the mask was drawn on it unturned; they have one size then."""
        _, path, mask_path = self.samples[index]
        if orientation != 1:
            turned = pixels.upright(image, orientation)
            if raw is None or raw.shape[:2] == turned.shape[:2]:
                image = turned
        if raw is not None and raw.shape[:2] != image.shape[:2]:
            raise UserError(
                f"{mask_path} is {raw.shape[1]}x{raw.shape[0]} pixels, its image {path} is "
                f"{image.shape[1]}x{image.shape[0]}: both must have one size"
            )
        return torch.from_numpy(image).permute(2, 0, 1)

    def _raw_labels(self, index: int, raw: NDArray[Any]) -> NDArray[Any]:
        return raw if raw.ndim == 2 else self._colors.labels(raw, str(self.samples[index].mask))

    def _classes(self, index: int, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """Maps labels to classes."""
        if raw.dtype == np.uint8:
            known, foreign = self._byte_tables
            if not cv2.LUT(raw, foreign).any():
                return np.asarray(cv2.LUT(raw, known), np.uint8)  # a fifth of the time of an index
        table = self._table
        labels = table[raw if raw.dtype in (np.uint8, np.uint16) else raw.astype(np.int64).clip(-1, LARGEST_LABEL + 1)]
        if (labels < 0).any():
            raise self._foreign(index, int(raw[labels < 0].min()))
        return np.asarray(labels, np.uint8)

    def _foreign(self, index: int, label: int) -> UserError:
        classes, ignore_index, label_map = self.config.classes, self.config.ignore_index, self.config.label_map
        is_plain = all(label_map.get(index) == index for index in range(len(classes)))
        mask = str(self.samples[index].mask)
        hint = ""
        if mask.lower().endswith((".jpg", ".jpeg")):
            hint = "JPEG changes labels: save masks as PNG; else "
        elif is_plain and label == len(classes):
            hint = "if 0 counts nowhere and 1 is the first class, say dataset.reduce_zero_label=true; else "
        remedy = f", or map it: 'dataset.label_map={{{label}: {ignore_index}}}'"
        return UserError(
            f"{mask} has the label {label}, which is no class: dataset.classes has "
            f"0..{len(classes) - 1} ({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''}) and the "
            f"ignore_index is {ignore_index}; {hint}add the class{remedy if 0 <= label <= LARGEST_LABEL else ''}"
        )

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        """The class of every label in the files; -1 for a label that has none. The last entry stands for all others."""
        table = np.full(LARGEST_LABEL + 2, -1, dtype=np.int16)
        for label, index in self.config.label_map.items():
            table[label] = index
        return table

    @cached_property
    def _byte_tables(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The first 256 entries of the table, and which of them have no class."""
        first = self._table[:256]
        return first.clip(0).astype(np.uint8), (first < 0).astype(np.uint8)

    @cached_property
    def _colors(self) -> ColorTable:
        return ColorTable(self.config)


def find_files(config: DatasetConfig, split: str, need_labels: bool = True) -> FileSource:
    """Finds the files of a split.

    Args:
        config: where they lie.
        split: which.
        need_labels: whether a split that has no masks at all is refused.

    Raises:
        UserError: the root or a folder is not there, the split is unknown or empty, or a file has no partner.
    """
    config = settled(config)
    samples = find_samples(config, split, need_labels)
    return FileSource(config, split, samples, labelled=samples[0].mask is not None)
