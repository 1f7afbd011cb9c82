"""Image files and mask files, matched by stem, as a dataset's YAML describes them."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seggrid.config import DatasetConfig
from seggrid.errors import UserError

INDEX_MODES = ("1", "L", "P", "I", "I;16")
LARGEST_LABEL = 2**16 - 1


@dataclass(frozen=True)
class FileSource:
    """The pairs of one split.

    Attributes:
        config: where the files lie and what their labels mean.
        split: ``train``, ``val`` or another key of ``dataset.splits``.
        pairs: an image and its mask each.
    """

    config: DatasetConfig
    split: str
    pairs: list[tuple[Path, Path]]

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Names a picture in messages."""
        return str(self.pairs[index][0])

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Reads one pair.

        Args:
            index: which one.

        Returns:
            The image, uint8 ``(3, H, W)``, and its labels after ``label_map``, uint8 ``(H, W)``.

        Raises:
            UserError: a file is damaged, the mask is of another size or no index image, or a label is no class.
        """
        image_path, mask_path = self.pairs[index]
        image = _open(image_path, "RGB")
        mask = _open(mask_path, None)
        if mask.mode not in INDEX_MODES:
            raise UserError(
                f"{mask_path} is a {mask.mode} image; a mask holds one class index per pixel: save it with one channel"
            )
        if mask.size != image.size:
            raise UserError(
                f"{mask_path} is {mask.size[0]}x{mask.size[1]} pixels, its image {image_path} is "
                f"{image.size[0]}x{image.size[1]}: both must have one size"
            )
        raw = np.asarray(mask).astype(np.int64)
        labels = self._labels[raw.clip(-1, LARGEST_LABEL + 1)]
        if (labels < 0).any():
            value = int(raw[labels < 0].min())
            classes = self.config.classes
            raise UserError(
                f"{mask_path} has the label {value}, which is no class: dataset.classes has 0..{len(classes) - 1} "
                f"({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''}) and the ignore_index is "
                f"{self.config.ignore_index}; add the class, or map it: '+dataset.label_map={{{value}: "
                f"{self.config.ignore_index}}}'"
            )
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels, torch.from_numpy(labels.astype(np.uint8))

    @cached_property
    def _labels(self) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
        """The class of every label in the files; -1 for a label that has none. The last entry stands for all others."""
        table = np.full(LARGEST_LABEL + 2, -1, dtype=np.int16)
        table[: len(self.config.classes)] = np.arange(len(self.config.classes))
        table[self.config.ignore_index] = self.config.ignore_index
        for source, target in self.config.label_map.items():
            if not 0 <= source <= LARGEST_LABEL:
                raise UserError(f"dataset.label_map.{source}: a label in a mask is a value from 0 to {LARGEST_LABEL}")
            table[source] = target
        return table


def find_files(config: DatasetConfig, split: str) -> FileSource:
    """Finds the pairs of a split.

    Raises:
        UserError: the root is not there, the split is unknown or empty, or a file has no partner.
    """
    assert config.root is not None and config.images is not None and config.masks is not None
    root = Path(config.root).expanduser()  # a shell leaves dataset.root=~ as it is
    if not root.is_dir():
        raise UserError(f"dataset.root={config.root} is not a folder")
    if split not in config.splits:
        raise UserError(f"dataset={config.name} has no split {split}; it has {', '.join(config.splits)}")
    word = config.splits[split]
    images = _by_stem(root, config.images.replace("{split}", word), "dataset.images")
    masks = _by_stem(root, config.masks.replace("{split}", word), "dataset.masks")
    if not images:
        raise UserError(
            f"the split {split} is empty: no file matches dataset.images={config.images} in {root}"
            + (f" with {{split}}={word}" if "{split}" in config.images else "")
        )
    _require_partners(images, masks, "image", "mask", config.masks)
    _require_partners(masks, images, "mask", "image", config.images)
    pairs = [(images[stem], masks[stem]) for stem in sorted(images)]
    if "{split}" not in config.images:
        pairs = _share(pairs, config, split)
    return FileSource(config, split, pairs)


def _share(pairs: list[tuple[Path, Path]], config: DatasetConfig, split: str) -> list[tuple[Path, Path]]:
    """Draws ``val_fraction`` of the pairs for ``val``; the others are ``train``."""
    assert config.val_fraction is not None
    if split not in ("train", "val"):
        raise UserError(f"dataset={config.name} has no split {split}: dataset.images does not name {{split}}")
    if len(pairs) < 2:
        raise UserError(f"{config.root} has {len(pairs)} pair of image and mask; train and val need one each")
    order = np.random.default_rng(config.split_seed).permutation(len(pairs))
    held_out = min(max(1, round(config.val_fraction * len(pairs))), len(pairs) - 1)
    chosen = order[:held_out] if split == "val" else order[held_out:]
    return [pairs[index] for index in sorted(chosen)]


def _by_stem(root: Path, pattern: str, key: str) -> dict[str, Path]:
    try:
        paths = sorted(path for path in root.glob(pattern) if path.is_file() and not path.name.startswith("."))
    except (NotImplementedError, ValueError) as error:
        raise UserError(f"{key}={pattern} is no glob within dataset.root ({error})") from error
    twice = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if twice:
        same = [str(path) for path in paths if path.stem == twice[0]]
        raise UserError(f"{key}={pattern} finds the stem {twice[0]} twice: {', '.join(same[:2])}; rename or remove one")
    return {path.stem: path for path in paths}


def _require_partners(files: dict[str, Path], partners: dict[str, Path], what: str, other: str, pattern: str) -> None:
    alone = [path for stem, path in files.items() if stem not in partners]
    if alone:
        raise UserError(
            f"{alone[0]} has no {other}: no file with the stem {alone[0].stem} matches {pattern}"
            + (f" ({len(alone)} {what}s have none)" if len(alone) > 1 else "")
            + f"; add the {other} or remove the {what}"
        )


def _open(path: Path, mode: str | None) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy() if mode is None else image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a PNG's chunk
        raise UserError(f"{path} cannot be read ({error}); replace it, or remove it and its partner") from error
