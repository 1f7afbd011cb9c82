"""What a measurement needs of the memory, and what is said where it is not there."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from seggrid.config import ProfileConfig
from seggrid.counts import inference_bytes
from seggrid.errors import UserError
from seggrid.memory import available_bytes, explained, readable
from seggrid.models.segmenter import Segmenter
from seggrid.numerics import AUTOCAST

FLOAT = 4  # bytes
COPIES = 4  # of each weight in training: itself, its gradient and AdamW's two moments


class Room:
    """The memory of one cell's measurements.

    On a GPU the allocator refuses what does not fit. On a CPU the system would end the process, and the sweep with it:
    what is needed is foretold there, and refused.

    Args:
        model: the model.
        counted: the section ``model`` of its record.
        config: how it is measured.
        device: where.
    """

    def __init__(self, model: Segmenter, counted: dict[str, Any], config: ProfileConfig, device: torch.device) -> None:
        self._model, self._counted, self._config, self._device = model, counted, config, device

    def for_inference(self, batch_size: int) -> int:
        """Returns the bytes that an inference of so many images needs beside the weights, about."""
        height, width = self._config.input.size
        inference = self._config.inference
        if inference.crop is None or inference.batch_size is None:
            return self._inference_bytes(height, width, batch_size)
        rows, columns = min(height, inference.crop[0]), min(width, inference.crop[1])
        sums = 2 * batch_size * self._config.classes_count * rows * width * FLOAT  # of a row of windows, and their mean
        return self._inference_bytes(rows, columns, inference.batch_size) + sums

    def per_training_image(self) -> int:
        """Returns the bytes that an image of a training batch needs, about; at least those of an inference."""
        height, width = self._config.input.size
        kept: int = self._counted["activation_bytes"] or self._inference_bytes(height, width, 1)
        return kept // 2 if self._config.precision in AUTOCAST else kept

    def for_training(self, batch_size: int) -> int:
        """Returns the bytes that a training step needs, about."""
        weights: int = self._counted["params"] * FLOAT * (COPIES - 1)  # they are there themselves
        return weights + batch_size * self.per_training_image()

    def has(self, needed: int) -> bool:
        """Tells whether so many bytes can be had; on a GPU the attempt does."""
        return self._device.type != "cpu" or needed <= available_bytes(self._device)

    def check(self, what: str, needed: int, batch_size: int) -> None:
        """Refuses what cannot fit.

        Raises:
            UserError: what needs how much, what is there, and what to lower.
        """
        if not self.has(needed):
            there = readable(available_bytes(self._device))
            said = f"out of memory: about {readable(needed)} needed, {there} available"
            raise UserError(f"{self.asked(what, batch_size)}: {said}; {self.remedy(what)}")

    def explained(self, what: str, batch_size: int) -> AbstractContextManager[None]:
        """Returns a context that turns an allocator's error into the line that :meth:`check` would say."""
        return explained(self.remedy(what), f"{self.asked(what, batch_size)}: ")

    def asked(self, what: str, batch_size: int) -> str:
        """Returns what was to be measured, for messages."""
        height, width = self._config.input.size
        return f"{what} at {height}x{width}, batch of {batch_size}"

    def remedy(self, what: str) -> str:
        """Returns what a user can lower."""
        config = self._config
        keys = ["input.size"]
        if what == "training" and config.batch_size != "auto":
            keys.insert(0, "batch_size (auto finds the largest that fits)")
        if what == "inference" and config.inference.name == "slide":
            keys = ["inference.batch_size", "inference.crop"]
        said = f"lower {' or '.join(keys)}"
        if what == "inference" and config.inference.name == "whole":
            said += ", or say inference=slide"
        return said + (", or precision=bf16 where the hardware has it" if config.precision in ("fp32", "tf32") else "")

    def _inference_bytes(self, height: int, width: int, batch_size: int) -> int:
        training = self._model.training
        self._model.eval()
        needed = inference_bytes(self._model, (height, width), batch_size) or 0
        self._model.train(training)
        return needed
