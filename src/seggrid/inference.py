"""How images go through a model in evaluation: whole or in windows, as they are or in several views.

The scores of an image of 6000x6000 pixels and 150 classes are 20 GB. So they come in bands of rows, from top to bottom,
each as soon as nothing below can change it, and what follows from a band is taken before the next is made.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice, product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from seggrid.config import InferenceConfig, TtaConfig
from seggrid.models.segmenter import Segmenter

PIXELS = 2**18  # of a band: with 150 classes 150 MB


class Band(NamedTuple):
    """Some rows of the output.

    Attributes:
        top: the first of them.
        scores: ``(B, C, rows, W)``, float: logits or, with test-time augmentation, probabilities.
    """

    top: int
    scores: Tensor

    @property
    def bottom(self) -> int:
        """The first row that is below."""
        return self.top + self.scores.shape[2]


class Predictor:
    """Takes images through a model as it is configured.

    ``whole`` and ``slide`` are ``whole_inference`` and ``slide_inference`` of MMSegmentation 1.2.2's
    ``EncoderDecoder``, but that windows go through the model several at a time. Test-time augmentation is that of its
    ``SegTTAModel``: the mean of the softmax over all views, each resized to the labels' size first.

    Memory: with ``slide`` there are sums of one row of windows per view. With ``whole`` there are the logits of one
    view, and with test-time augmentation the sums of all views at the labels' size.

    Args:
        inference: whole or in windows.
        tta: the views.
    """

    def __init__(self, inference: InferenceConfig, tta: TtaConfig) -> None:
        self._inference = inference
        self._views = list(product(tta.scales, (False, True) if tta.flip else (False,)))

    @property
    def gives_logits(self) -> bool:
        """Whether scores are logits, of which a loss can be computed, and not probabilities."""
        return self._views == [(1.0, False)]

    @property
    def gives_whole_logits(self) -> bool:
        """Whether scores are logits of a whole image, as in training."""
        return self.gives_logits and self._inference.name == "whole"

    @torch.no_grad()
    def bands(self, model: Segmenter, images: Tensor, size: tuple[int, int]) -> Iterator[Band]:
        """Yields the scores from top to bottom, each row once.

        Args:
            model: the model, in eval mode, on the images' device.
            images: ``(B, 3, H, W)``, float, normalised.
            size: (height, width) of the scores: that of the labels.

        Yields:
            Bands of float32, also from a model of lower precision.
        """
        if self.gives_logits:
            yield from self._view(model, images, size, 1.0, False)
        elif self._inference.name == "whole":
            yield self._mean(model, images, size)
        else:
            yield from self._mean_in_step(model, images, size)

    def label_map(self, model: Segmenter, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns the class of the largest score of each pixel.

        Args:
            model: as for :meth:`bands`, and so all that follow.
            images: the images.
            size: (height, width) of the map.

        Returns:
            ``(B, H, W)``, uint8; int16 for more than 256 classes.
        """
        bands = self.bands(model, images, size)
        return torch.cat([labels_of(band.scores) for band in bands], 1)

    def _view(
        self, model: Segmenter, images: Tensor, size: tuple[int, int], scale: float, flipped: bool
    ) -> Iterator[Band]:
        """Yields the logits of one view, turned back and resized to ``size``."""
        if scale != 1.0:
            rounded = [max(1, int(side * scale + 0.5)) for side in images.shape[-2:]]  # as mmcv.rescale_size
            images = functional.interpolate(images, size=rounded, mode="bilinear", align_corners=False)
        seen = images.flip(-1) if flipped else images
        if self._inference.name == "whole":
            logits = model(seen).logits.float()
            if logits.shape[-2:] != size:
                logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            yield Band(0, logits.flip(-1) if flipped else logits)
            return
        bands = self._slide(model, seen)
        if flipped:
            bands = (Band(band.top, band.scores.flip(-1)) for band in bands)
        yield from _resized(bands, (images.shape[-2], images.shape[-1]), size)

    def _slide(self, model: Segmenter, images: Tensor) -> Iterator[Band]:
        """Yields the mean of the windows' logits, a row of windows at a time."""
        crop, stride, at_once = self._inference.crop, self._inference.stride, self._inference.batch_size
        assert crop is not None and stride is not None and at_once is not None
        count, height, width = len(images), images.shape[-2], images.shape[-1]
        rows, columns = min(crop[0], height), min(crop[1], width)
        tops, lefts = _starts(height, crop[0], stride[0]), _starts(width, crop[1], stride[1])
        # How many windows a pixel is in is a product, as windows form a grid.
        down, across = _cover(tops, rows, height, images.device), _cover(lefts, columns, width, images.device)
        windows = product(tops, lefts, range(count))
        step = max(1, PIXELS // (count * width))

        def outputs() -> Iterator[tuple[tuple[int, int, int], Tensor]]:
            while group := list(islice(windows, at_once)):
                crops = [images[image, :, top : top + rows, left : left + columns] for top, left, image in group]
                yield from zip(group, model(torch.stack(crops)).logits, strict=True)

        made = outputs()
        sums: Tensor | None = None  # of the rows that the present row of windows covers
        for top, end in zip(tops, [*tops[1:], height], strict=True):
            for (_, left, image), logits in islice(made, len(lefts) * count):
                if sums is None:
                    sums = logits.new_zeros(count, len(logits), rows, width, dtype=torch.float32)
                sums[image, :, :, left : left + columns] += logits
                del logits  # with the last name of it its batch goes, before the next is made
            assert sums is not None
            done = end - top
            for first in range(0, done, step):  # in parts, so that what is made of a band is small beside the sums
                part = slice(first, min(first + step, done))
                yield Band(top + first, sums[:, :, part] / (down[top + part.start : top + part.stop, None] * across))
            unfinished = sums[:, :, done:].clone()
            sums.zero_()[:, :, : rows - done] = unfinished

    def _mean(self, model: Segmenter, images: Tensor, size: tuple[int, int]) -> Band:
        """Returns the mean over the views, whose logits are made one view after the other."""
        total: Tensor | None = None
        for scale, flipped in self._views:
            for band in self._view(model, images, size, scale, flipped):
                if total is None:
                    total = band.scores.new_zeros(*band.scores.shape[:2], *size)
                total[:, :, band.top : band.bottom] += band.scores.softmax(1)
        assert total is not None
        return Band(0, total.div_(len(self._views)))

    def _mean_in_step(self, model: Segmenter, images: Tensor, size: tuple[int, int]) -> Iterator[Band]:
        """Yields the mean over the views, all of which go down the image together."""
        views = [self._view(model, images, size, scale, flipped) for scale, flipped in self._views]
        current = [next(view) for view in views]
        top = 0
        while top < size[0]:
            bottom = min(band.bottom for band in current)
            total = torch.zeros_like(current[0].scores[:, :, :1]).repeat(1, 1, bottom - top, 1)
            for band in current:
                total += band.scores[:, :, top - band.top : bottom - band.top].softmax(1)
            yield Band(top, total.div_(len(views)))
            top = bottom
            if top < size[0]:
                current = [
                    next(view) if band.bottom == top else band for view, band in zip(views, current, strict=True)
                ]


def labels_of(scores: Tensor) -> Tensor:
    """Returns the class of the largest score, ``(B, H, W)`` of ``(B, C, H, W)``: uint8, int16 beyond 256 classes."""
    return scores.argmax(1).to(torch.uint8 if scores.shape[1] <= 256 else torch.int16)


def _starts(side: int, crop: int, stride: int) -> list[int]:
    """Returns where windows start along a side: the last ends with the image, as in MMSegmentation."""
    number = max(side - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride + crop, side) - crop, 0) for index in range(number)]


def _cover(starts: list[int], length: int, side: int, device: torch.device) -> Tensor:
    """Returns the number of windows that each place along a side is in."""
    cover = torch.zeros(side)
    for start in starts:
        cover[start : start + length] += 1
    return cover.to(device)


def _resized(bands: Iterator[Band], source: tuple[int, int], size: tuple[int, int]) -> Iterator[Band]:
    """Resizes a map that comes in bands, as ``functional.interpolate`` (bilinear) does the whole of it.

    Args:
        bands: of the map, from top to bottom.
        source: the map's (height, width).
        size: the (height, width) to give it.

    Yields:
        Bands of the resized map. A row waits until both rows that it lies between are there.
    """
    if source == size:
        yield from bands
        return
    height = size[0]
    # PyTorch's own arithmetic, in its precision: area_pixel_compute_source_index in UpSample.h.
    places = ((torch.arange(height, dtype=torch.float32) + 0.5) * (source[0] / height) - 0.5).clamp(min=0)
    above = places.long().clamp(max=source[0] - 1)
    below = (above + 1).clamp(max=source[0] - 1)
    weights = (places - above).clamp(max=1)
    to_width = partial(functional.interpolate, mode="bilinear", align_corners=False)
    step = max(1, PIXELS // size[1])
    top, kept = 0, None
    for band in bands:
        # Of the rows before, those that the next one of the output lies between.
        rows = band if kept is None else Band(kept.top, torch.cat((kept.scores, band.scores), 2))
        ready = int(torch.searchsorted(below, rows.bottom))
        while top < ready:
            bottom = min(top + step, ready)
            first, last = int(above[top]), int(below[bottom - 1])
            wide = rows.scores[:, :, first - rows.top : last + 1 - rows.top]
            wide = to_width(wide, size=(last + 1 - first, size[1]))
            device = wide.device
            weight = weights[top:bottom, None].to(device)
            upper = wide.index_select(2, (above[top:bottom] - first).to(device)) * (1 - weight)
            yield Band(top, upper + wide.index_select(2, (below[top:bottom] - first).to(device)) * weight)
            top = bottom
        if top < height:
            start = min(int(above[top]), rows.bottom)
            kept = Band(start, rows.scores[:, :, start - rows.top :].clone())
