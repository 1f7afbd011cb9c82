"""From a picture to what the model sees, as the configuration says. What is cropped away is never resized.

The recipe is the field's: MMSegmentation's RandomResize, RandomCrop, RandomFlip and PhotoMetricDistortion.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from seggrid.config import AugmentConfig
from seggrid.data.photometric import distort, draw

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TRIES = 10  # as in MMSegmentation

# Loader processes are forked, and OpenCV's threads do not come with them: a call that waits for one would never return.
cv2.setNumThreads(0)


class Region(NamedTuple):
    """A part of the picture: rows and columns from the first to before the last."""

    top: int
    bottom: int
    left: int
    right: int


class Crop(NamedTuple):
    """A draw: the region of the original that is shown, and the height and width that it is resized to."""

    region: Region
    height: int
    width: int


class TrainTransform:
    """Image and mask together: resize, random scale, crop, flip, colours, padding.

    The random factor is drawn uniformly, and the crop's place in the scaled picture; the region of the original that
    the crop shows is worked out from both, to the nearest whole pixel, and only this is read and resized, once.
    Images are resized bilinearly with antialiasing, masks by the nearest pixel. Where the scaled picture is smaller
    than the crop it is padded at the right and at the bottom, after all else, as MMSegmentation's data preprocessor
    does it: with the mean colour, and ``ignore_index``.

    Args:
        config: what of these is done.
        ignore_index: the label of what padding adds; it is no class in ``max_class_share``.
    """

    def __init__(self, config: AugmentConfig, ignore_index: int) -> None:
        self._config, self._ignore_index = config, ignore_index
        self._colour = [round(255 * value) for value in config.mean or IMAGENET_MEAN]

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draws a crop and applies it; see :meth:`draw` and :meth:`apply`."""
        return self.apply(image, mask, self.draw(mask, generator), generator)

    def apply(
        self, image: Tensor, mask: Tensor, crop: Crop, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Transforms a picture.

        Args:
            image: uint8 ``(3, H, W)``, in any memory layout; only the crop's region is touched, and rows below it may
                be missing.
            mask: uint8 ``(H, W)``.
            crop: what of it is shown.
            generator: what else is random is drawn from it; None takes torch's own.

        Returns:
            uint8 ``(3, h, w)`` and uint8 ``(h, w)``, of the configured crop's size where there is one.
        """
        config = self._config
        region, height, width = crop
        rows, columns = slice(region.top, region.bottom), slice(region.left, region.right)
        labels = mask[rows, columns].numpy()
        pixels = np.ascontiguousarray(image[:, rows, columns].permute(1, 2, 0).numpy())
        if labels.shape != (height, width):
            resized = functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), [height, width], antialias=True)
            pixels = np.ascontiguousarray(resized.permute(1, 2, 0).numpy())
            labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        if config.flip > 0 and _uniform(0, 1, generator) < config.flip:
            pixels, labels = cv2.flip(pixels, 1), labels[:, ::-1]
        if config.photometric:
            pixels = distort(pixels, draw(generator))
        full = tuple(config.crop or (height, width))
        target = torch.full(full, self._ignore_index, dtype=torch.uint8)
        target[:height, :width] = torch.from_numpy(np.ascontiguousarray(labels))
        output = torch.empty(3, *full, dtype=torch.uint8)
        if (height, width) != full:
            output[:] = torch.tensor(self._colour, dtype=torch.uint8)[:, None, None]
        cv2.split(pixels, list(output[:, :height, :width].numpy()))  # several times as fast as torch's own copy
        return output, target

    def draw(self, mask: Tensor, generator: torch.Generator | None = None) -> Crop:
        """Draws the crop, for which the labels are enough.

        Args:
            mask: uint8 ``(H, W)``.
            generator: what is random is drawn from it; None takes torch's own.
        """
        config = self._config
        factor = 1.0 if config.scale is None else _uniform(config.scale[0], config.scale[1], generator)
        scaled = [max(1, round(length * factor)) for length in config.resize or mask.shape]
        size = [min(pair) for pair in zip(scaled, config.crop or scaled, strict=True)]

        def region() -> Region:
            ends = []
            for source, whole, part in zip(mask.shape, scaled, size, strict=True):
                first = int(torch.randint(whole - part + 1, (), generator=generator))
                start = min(round(first * source / whole), source - 1)
                ends += [start, max(start + 1, round((first + part) * source / whole))]
            return Region(*ends)

        found = region()
        if config.crop is not None and config.max_class_share is not None:
            for _ in range(TRIES):
                if self._is_mixed(mask[found.top : found.bottom, found.left : found.right], config.max_class_share):
                    break
                found = region()
        return Crop(found, size[0], size[1])

    def _is_mixed(self, labels: Tensor, share: float) -> bool:
        """Whether there are several classes and none of them fills ``share`` of the pixels that count, or more."""
        counts = torch.bincount(labels.flatten(), minlength=256)
        counts[self._ignore_index] = 0
        return int((counts > 0).sum()) > 1 and int(counts.max()) < share * int(counts.sum())


class EvalTransform:
    """The image resized; the mask as it is, so that scores are computed at its own size.

    Args:
        config: the size.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self._size = config.resize

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Transforms uint8 ``(3, H, W)`` and ``(H, W)`` to uint8 ``(3, h, w)`` and ``(H, W)``."""
        return image if self._size is None else functional.resize(image, self._size, antialias=True), mask


def _uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
