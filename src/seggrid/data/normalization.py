"""From 8 bits to what a model's weights were trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seggrid.config import AugmentConfig
from seggrid.data.augment import IMAGENET_MEAN, IMAGENET_STD


class Normalization:
    """Subtracts a mean and divides by a standard deviation, by channel, on the images' own device.

    Args:
        config: what it says goes first.
        means: the model's, for values in [0, 1].
        deviations: likewise.
    """

    def __init__(
        self,
        config: AugmentConfig,
        means: Sequence[float] = IMAGENET_MEAN,
        deviations: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.mean, self.std = list(config.mean or means), list(config.std or deviations)
        self._channels: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Normalises uint8 ``(B, 3, H, W)`` to float32 of the same shape."""
        if images.device not in self._channels:
            values = torch.tensor([self.mean, self.std], device=images.device).view(2, 3, 1, 1)
            self._channels[images.device] = (values[0], values[1])
        mean, std = self._channels[images.device]
        return images.float().div_(255).sub_(mean).div_(std)
