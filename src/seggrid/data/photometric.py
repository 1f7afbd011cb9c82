"""Random brightness, contrast, saturation and hue, as in SSD (Liu et al. 2016) and MMSegmentation.

OpenCV does the work: torchvision's hue in 8 bits takes several times as long as all else that happens to a crop.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18
HUES = 180  # OpenCV's 8-bit hue counts steps of two degrees

Pixels = NDArray[np.uint8]


class Distortion(NamedTuple):
    """One draw.

    Attributes:
        brightness: is added to every value.
        contrast: every value is multiplied by it.
        contrast_first: whether that comes before saturation and hue, or after them.
        saturation: the saturation is multiplied by it.
        hue: steps of two degrees that are added to the hue.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = False
    saturation: float = 1.0
    hue: int = 0


def draw(generator: torch.Generator | None = None) -> Distortion:
    """Draws each part with a probability of one half, and then its strength uniformly."""
    numbers = torch.rand(9, generator=generator).tolist()
    brightness, contrast, saturation, hue = (number < 0.5 for number in numbers[:4])
    return Distortion(
        brightness=_between(-BRIGHTNESS, BRIGHTNESS, numbers[5]) if brightness else 0.0,
        contrast=_between(*CONTRAST, numbers[6]) if contrast else 1.0,
        contrast_first=numbers[4] < 0.5,
        saturation=_between(*SATURATION, numbers[7]) if saturation else 1.0,
        hue=int(numbers[8] * (2 * HUE + 1)) - HUE if hue else 0,
    )


def distort(image: Pixels, distortion: Distortion) -> Pixels:
    """Changes the colours of an image; values stay within 0..255 after each part.

    Args:
        image: uint8 ``(H, W, 3)``, RGB; it is left as it is.
        distortion: what to do.

    Returns:
        uint8 ``(H, W, 3)``; ``image`` itself where there is nothing to do.
    """
    contrast = distortion.contrast
    if distortion.brightness != 0:
        image = _scaled(image, 1, distortion.brightness)
    if distortion.contrast_first and contrast != 1:
        image = _scaled(image, contrast)
    if distortion.saturation != 1 or distortion.hue != 0:
        hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        hue = cv2.LUT(hue, ((np.arange(256) + distortion.hue) % HUES).astype(np.uint8))
        saturation = _scaled(saturation, distortion.saturation)
        image = np.asarray(cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB), np.uint8)
    if not distortion.contrast_first and contrast != 1:
        image = _scaled(image, contrast)
    return image


def _scaled(values: Any, gain: float, offset: float = 0.0) -> Pixels:
    return np.asarray(cv2.addWeighted(values, gain, values, 0, offset), np.uint8)  # saturates at 0 and 255


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
