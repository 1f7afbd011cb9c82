"""What every backend's model looks like from outside."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from seggrid.errors import UserError, one_line


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
        encoder_depth: number of the encoder's feature maps that the library builds.
        decoder_channels: channels that go into the last classifier.
    """

    output_stride: int
    encoder_depth: int
    decoder_channels: int


class Segmenter(nn.Module, ABC):
    """A library's own network behind the interface that training, evaluation and profiling use.

    Args:
        network: the library's network; its state dict is that of the library.
        encoder: the part of it that is pretrained.
        aux_heads: the part of it that only training uses.
        facts: what the library built.
        native_size: (height, width) that the encoder was made for.

    Attributes:
        divisor: images are padded at the right and bottom to a multiple of this; logits are cropped back.
        has_fixed_size: no divisor makes the model take any size.
        smallest: the least height and width that the network works with; smaller images are padded to it first.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder: nn.Module,
        aux_heads: nn.Module | None,
        facts: Facts,
        native_size: tuple[int, int] = (224, 224),
    ) -> None:
        super().__init__()
        self.network = network
        self.facts = facts
        self.divisor = 1
        self.has_fixed_size = False
        self.smallest = 1
        self.native_size = native_size
        # In tuples, so that they are not registered as submodules a second time.
        self._encoder = (encoder,)
        self._aux_heads = () if aux_heads is None else (aux_heads,)

    @abstractmethod
    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs the library's network.

        Args:
            images: ``(B, 3, H, W)``, H and W multiples of ``divisor``.

        Returns:
            The logits and, in training mode, those of the auxiliary heads, each at any resolution.
        """

    def forward(self, images: Tensor) -> SegOutput:
        """Segments images of any size.

        Args:
            images: ``(B, 3, H, W)``, float, normalised.
        """
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, self._padding(width), 0, self._padding(height)))
        try:
            logits, aux = self.raw_logits(padded)
        except (AssertionError, RuntimeError) as error:
            if not self.has_fixed_size:
                raise
            raise UserError(
                f"the model cannot take images of {height}x{width} ({one_line(error)[:120]}); its encoder was made "
                f"for {self.native_size[0]}x{self.native_size[1]}: set augment.resize or augment.crop to that, or, "
                f"where the encoder allows, +encoder.options.img_size=[{height},{width}]"
            ) from error
        size = (padded.shape[-2], padded.shape[-1])
        return SegOutput(
            _resize(logits, size)[..., :height, :width],
            tuple(_resize(item, size)[..., :height, :width] for item in aux),
        )

    def _padding(self, side: int) -> int:
        least = max(side, self.smallest)
        return least + -least % self.divisor - side

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters of the encoder, so that they can have a learning rate of their own."""
        return self._encoder[0].parameters()

    def aux_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters that only training uses."""
        return self._aux_heads[0].parameters() if self._aux_heads else iter(())


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
