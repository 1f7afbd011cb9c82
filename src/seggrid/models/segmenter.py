"""What every backend's model looks like from outside."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from seggrid.errors import UserError, one_line

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class SegOutput(NamedTuple):
    """A forward pass.

    Attributes:
        logits: ``(B, num_classes, H, W)`` at the size of the images.
        aux: the same from each auxiliary head; empty in eval mode, and where the model has no such head.
    """

    logits: Tensor
    aux: tuple[Tensor, ...]


@dataclass(frozen=True)
class Facts:
    """What makes a ``pspnet`` of one library unlike a ``pspnet`` of another.

    Attributes:
        output_stride: pixels of the image per pixel of the encoder's last feature map.
        encoder_depth: number of the encoder's stages that the library builds; SMP's count, in which the stem of a
            pyramid, of stride 2, is the first, whether the encoder has one or not.
        decoder_channels: channels that go into the last classifier; None where the method has no one such number.
        unmatched: what was asked for by ``match=equal`` and could not be had, each as a phrase.
    """

    output_stride: int
    encoder_depth: int
    decoder_channels: int | None
    unmatched: tuple[str, ...] = ()


class Segmenter(nn.Module, ABC):
    """A library's own network behind the interface that training, evaluation and profiling use.

    Args:
        network: the library's network; its state dict is that of the library.
        encoder: the part of it that is pretrained; None where it has no such part.
        aux_heads: the part of it that only training uses.
        facts: what the library built.
        native_size: (height, width) that the encoder was made for.
        normalization: (means, standard deviations) of the images that the published weights were trained with.
        trains_from_logits: its logits, with those of the auxiliary heads, are all that a loss needs.
        has_native_loss: the library's own loss can be had from :meth:`native_loss`.

    Attributes:
        divisor: images are padded at the right and bottom to a multiple of this; logits are cropped back.
        has_fixed_size: no divisor makes the model take any size: smaller images are padded to ``native_size``.
        smallest: the least height and width that the network works with; smaller images are padded to it first.
        runs_on_meta: the network does not look at its values on the way, so that it can be run without any.
        arch: the architecture's name, where a saved model and not the configuration says what it is.
        encoder_name: the encoder's; likewise.
        restored: what is needed to build the network of a saved model again without it, as plain values; else None.
        published: what the library publishes about this very model, for the record; None where it does not.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder: nn.Module | None,
        aux_heads: nn.Module | None,
        facts: Facts,
        native_size: tuple[int, int] = (224, 224),
        normalization: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET,
        trains_from_logits: bool = True,
        has_native_loss: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.facts = facts
        self.divisor = 1
        self.has_fixed_size = False
        self.smallest = 1
        self.runs_on_meta = True
        self.native_size = native_size
        self.normalization = normalization
        self.trains_from_logits = trains_from_logits
        self.has_native_loss = has_native_loss
        self.published: dict[str, object] | None = None
        self.arch: str | None = None
        self.encoder_name: str | None = None
        self.restored: dict[str, Any] | None = None
        self._frozen = False
        # In tuples, so that they are not registered as submodules a second time.
        self._encoder = () if encoder is None else (encoder,)
        self._aux_heads = () if aux_heads is None else (aux_heads,)

    @abstractmethod
    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs the library's network.

        Args:
            images: ``(B, 3, H, W)``, H and W multiples of ``divisor``.

        Returns:
            The logits and, in training mode, those of the auxiliary heads, each at any resolution.
        """

    def raw_losses(self, images: Tensor, masks: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """Runs the library's network and its own loss, where it ``has_native_loss``.

        Args:
            images: as for :meth:`raw_logits`.
            masks: labels ``(B, H, W)``.
            ignore_index: the label that does not count.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> SegOutput:
        """Segments images of any size.

        Args:
            images: ``(B, 3, H, W)``, float, normalised.
        """
        height, width = images.shape[-2:]
        padded = functional.pad(images, self._padding(height, width))
        try:
            logits, aux = self.raw_logits(padded)
        except (AssertionError, RuntimeError) as error:
            self._explain(error, height, width)
        size = (padded.shape[-2], padded.shape[-1])
        return SegOutput(
            _resize(logits, size)[..., :height, :width],
            tuple(_resize(item, size)[..., :height, :width] for item in aux),
        )

    def native_loss(self, images: Tensor, masks: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """Computes the library's own training loss.

        Args:
            images: ``(B, 3, H, W)``, float, normalised.
            masks: labels ``(B, H, W)``.
            ignore_index: the label that does not count; padding gets it too.

        Returns:
            The loss's parts, scalars, by the library's names; their sum is what is minimised. Zero where no
            pixel counts.
        """
        if bool((masks == ignore_index).all()):
            # Libraries give such a batch a loss without a graph, or a graph without some weights, for which the other
            # processes of a distributed run wait in vain.
            return {
                "loss": torch.stack([0 * weight.sum() for weight in self.parameters() if weight.requires_grad]).sum()
            }
        height, width = images.shape[-2:]
        padding = self._padding(height, width)
        try:
            labels = functional.pad(masks, padding, value=ignore_index)
            return self.raw_losses(functional.pad(images, padding), labels, ignore_index)
        except (AssertionError, RuntimeError) as error:
            self._explain(error, height, width)

    def freeze_encoder(self) -> None:
        """Takes the encoder out of training: its weights and its batch statistics stay as they are."""
        self._frozen = True
        for weight in self.encoder_parameters():
            weight.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, except for a frozen encoder."""
        super().train(mode)
        if self._frozen:
            for encoder in self._encoder:
                encoder.eval()
        return self

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters of the encoder, so that they can have a learning rate of their own."""
        return self._encoder[0].parameters() if self._encoder else iter(())

    def aux_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters that only training uses."""
        return self._aux_heads[0].parameters() if self._aux_heads else iter(())

    def _padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Returns what ``functional.pad`` adds: left, right, top, bottom."""
        if self.has_fixed_size:
            least = self.native_size
            return (0, max(0, least[1] - width), 0, max(0, least[0] - height))

        def missing(side: int) -> int:
            least = max(side, self.smallest)
            return least + -least % self.divisor - side

        return (0, missing(width), 0, missing(height))

    def _explain(self, error: Exception, height: int, width: int) -> NoReturn:
        if not self.has_fixed_size:
            raise error
        native = f"{self.native_size[0]}x{self.native_size[1]}"
        raise UserError(
            f"the model cannot take images of {height}x{width} ({one_line(error)[:120]}); its encoder was made for "
            f"{native}: set augment.resize or augment.crop to that or less, or, where the encoder allows, "
            f"+encoder.options.img_size=[{height},{width}]"
        ) from error


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
