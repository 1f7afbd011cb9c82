"""One training step, taken apart into its stages."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from seggrid.losses import SegmentationLoss
from seggrid.models.segmenter import Segmenter
from seggrid.numerics import autocast
from seggrid.timing import Clock, wait

BLOCK = 32  # pixels; labels of single pixels would be harder for some losses than those of any picture


class TrainingStep:
    """A step of one model on one batch that it draws: forward pass, loss, backward pass, optimiser.

    Args:
        model: the model, in training mode, on ``device``.
        loss: of the logits; None takes the library's own.
        optimizer: of the model's parameters.
        num_classes: of the labels.
        ignore_index: a label that is not drawn.
        size: (height, width) of the images.
        precision: one of ``checks.PROFILE_PRECISIONS``.
        device: where it runs.
    """

    def __init__(
        self,
        model: Segmenter,
        loss: SegmentationLoss | None,
        optimizer: Optimizer,
        num_classes: int,
        ignore_index: int,
        size: tuple[int, int],
        precision: str,
        device: torch.device,
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self._num_classes, self._ignore_index, self._size = num_classes, ignore_index, size
        self._precision, self._device = precision, device
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._batch: tuple[Tensor, Tensor] | None = None

    def draw(self, batch_size: int) -> None:
        """Draws the batch of the steps that follow.

        Args:
            batch_size: its number of images.
        """
        self._batch = None  # its memory before that of the next
        height, width = self._size
        images = torch.randn(batch_size, 3, height, width, device=self._device)
        shape = (batch_size, -(-height // BLOCK), -(-width // BLOCK))
        coarse = torch.randint(0, self._num_classes, shape, device=self._device)
        masks = coarse.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, :height, :width].contiguous()
        self._batch = images, masks

    def __call__(self) -> dict[str, float]:
        """Takes one step.

        Returns:
            Milliseconds of the ``total`` and of its stages ``encoder``, ``decoder``, ``loss``, ``backward`` and
            ``optimizer``. Without an encoder to watch ``decoder`` is the whole forward pass, and where the library's
            own loss is taken it holds that loss, too; neither ``encoder`` nor ``loss`` is there then.
        """
        assert self._batch is not None
        images, masks = self._batch
        clock = Clock(self._device)
        encoder: list[int] = []
        hooks = self._watch(clock, encoder)
        try:
            clock.start()
            with autocast(self._precision, self._device):
                if self.loss is None:
                    parts = self.model.native_loss(images, masks, self._ignore_index).values()
                    loss = torch.stack(list(parts)).sum()
                    forward = after_loss = clock.mark()
                else:
                    output = self.model(images)
                    forward = clock.mark()
                    loss = self.loss(output, masks)
                    del output
                    after_loss = clock.mark()
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            backward = clock.mark()
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self.optimizer.zero_grad()
            last = clock.mark()
        finally:
            for hook in hooks:
                hook.remove()
        wait(self._device)
        stages = {"total": clock.between_ms(0, last), "decoder": clock.between_ms(0, forward)}
        if encoder:
            stages["encoder"] = sum(map(clock.between_ms, encoder[::2], encoder[1::2]))
            stages["decoder"] -= stages["encoder"]
        if after_loss != forward:
            stages["loss"] = clock.between_ms(forward, after_loss)
        stages["backward"] = clock.between_ms(after_loss, backward)
        stages["optimizer"] = clock.between_ms(backward, last)
        return stages

    def _watch(self, clock: Clock, marks: list[int]) -> list[Any]:
        """Marks where each run of the encoder starts and ends; a compiled model has none that could be seen."""
        encoder = self.model.encoder
        if encoder is None or self.model.is_compiled:
            return []

        def mark(*_: object) -> None:
            marks.append(clock.mark())

        return [encoder.register_forward_pre_hook(mark), encoder.register_forward_hook(mark)]
