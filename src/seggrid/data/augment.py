"""From a picture to what the model sees: torchvision's transforms, put together as the configuration says."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from seggrid.config import AugmentConfig

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class RandomScale(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """Resizes image and mask by one random factor.

    Args:
        low: smallest factor.
        high: largest factor.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the factor."""
        height, width = flat_inputs[0].shape[-2:]
        factor = self.low + (self.high - self.low) * torch.rand(()).item()
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resizes one of the two."""
        return self._call_kernel(functional.resize, inpt, params["size"], antialias=True)


class TrainTransform:
    """Image and mask together: resize, scale, crop, flip, colours, normalisation.

    Args:
        config: what of these is done.
        ignore_index: the label of what padding adds.
    """

    def __init__(self, config: AugmentConfig, ignore_index: int) -> None:
        steps: list[Any] = []
        if config.resize is not None:
            steps.append(v2.Resize(config.resize, antialias=True))
        if config.scale is not None:
            steps.append(RandomScale(*config.scale))
        if config.crop is not None:
            mean = [round(255 * value) for value in config.mean or IMAGENET_MEAN]
            fill = {tv_tensors.Image: mean, tv_tensors.Mask: ignore_index}
            steps.append(v2.RandomCrop(config.crop, pad_if_needed=True, fill=fill))
        if config.flip > 0:
            steps.append(v2.RandomHorizontalFlip(config.flip))
        if config.color_jitter > 0:
            strength = config.color_jitter
            steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
        self._joint = v2.Compose(steps) if steps else v2.Identity()
        self._normalise = _normalisation(config)

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Transforms uint8 ``(3, H, W)`` and ``(H, W)`` to float ``(3, h, w)`` and uint8 ``(h, w)``."""
        image, mask = self._joint(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return self._normalise(image.as_subclass(Tensor)), mask.as_subclass(Tensor)


class EvalTransform:
    """The image resized and normalised; the mask as it is, so that scores are computed at its own size.

    Args:
        config: the size and the normalisation.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self._resize = v2.Resize(config.resize, antialias=True) if config.resize is not None else v2.Identity()
        self._normalise = _normalisation(config)

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Transforms uint8 ``(3, H, W)`` and ``(H, W)`` to float ``(3, h, w)`` and uint8 ``(H, W)``."""
        return self._normalise(self._resize(image)), mask


def _normalisation(config: AugmentConfig) -> Any:
    return v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config.mean or IMAGENET_MEAN, config.std or IMAGENET_STD)]
    )
