"""What every backend's model looks like from outside."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from seggrid.errors import UserError, one_line
from seggrid.memory import out_of_memory

FAULTS = (AssertionError, RuntimeError, ValueError, IndexError)  # of a network that cannot take images of a size
UNCOMPILED = "say trainer.compile=false, in a profile compile=false"
VIEW = "view size is not compatible"
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
        explains: errors of a size that the network cannot take name the nearest that it can.
        arch: the architecture's name, where a saved model and not the configuration says what it is.
        encoder_name: the encoder's; likewise.
        channels_last: set by :meth:`keep_channels_last`.
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
        self.explains = True
        self.channels_last = False
        self.native_size = native_size
        self.normalization = normalization
        self.trains_from_logits = trains_from_logits
        self.has_native_loss = has_native_loss
        self.published: dict[str, object] | None = None
        self.arch: str | None = None
        self.encoder_name: str | None = None
        self.restored: dict[str, Any] | None = None
        self._frozen = False
        self._compiled: Callable[..., SegOutput] | None = None
        self._compiled_in_eval = False
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

        Raises:
            UserError: the network cannot take images of this size; or it is compiled, and there is no compiler.
        """
        try:
            if self._compiled is not None and self.is_compiled and not images.is_meta:
                return self._compiled(self, images)
            return self._segment(images)
        except FAULTS as error:
            self._explain(error, images)

    def _segment(self, images: Tensor) -> SegOutput:
        height, width = images.shape[-2:]
        padded = self._prepared(images)
        logits, aux = self.raw_logits(padded)
        size = (padded.shape[-2], padded.shape[-1])
        return SegOutput(
            _resize(logits, size)[..., :height, :width],
            tuple(_resize(item, size)[..., :height, :width] for item in aux),
        )

    @property
    def is_compiled(self) -> bool:
        """Whether ``torch.compile`` makes the forward pass of the present mode."""
        return self._compiled is not None and (self.training or self._compiled_in_eval)

    def compile_forward(self, in_eval: bool = False, **options: Any) -> None:
        """Has ``torch.compile`` make the forward pass in training mode.

        A compiled pass rounds otherwise, and is made anew for other sizes: what a model scores should depend on
        neither. Names of parameters, copies and checks for the type stay as they are.

        Args:
            in_eval: that in eval mode, too: for its time.
            options: of ``torch.compile``.

        Raises:
            UserError: it is not supported here.
        """
        try:
            torch.compiler.reset()  # Dynamo keeps eight versions of a function: those of a sweep's cells before must go
            # The function and not the bound method, which would tie copies of this model to this one.
            self._compiled = torch.compile(type(self)._segment, **options)
            self._compiled_in_eval = in_eval
        except RuntimeError as error:
            raise UserError(f"torch.compile is not supported here ({one_line(error)[:160]}); {UNCOMPILED}") from error

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
        try:
            labels = functional.pad(masks, self._padding(*images.shape[-2:]), value=ignore_index)
            return self.raw_losses(self._prepared(images), labels, ignore_index)
        except FAULTS as error:
            self._explain(error, images)

    def freeze_encoder(self) -> None:
        """Takes the encoder out of training: its weights and its batch statistics stay as they are."""
        self._frozen = True
        for weight in self.encoder_parameters():
            weight.requires_grad_(False)
        self.train(self.training)

    def keep_channels_last(self) -> None:
        """Keeps images and the weights of convolutions in the memory format ``channels_last`` from now on.

        A pass of two images settles whether the network can: one that calls ``view``, which wants the usual order,
        stays as it is. MMSegmentation's DMNet does so with feature maps, and a user's own model may.
        """
        self._set_memory_format(torch.channels_last)
        training = self.training
        device = next(iter(self.network.parameters()), torch.empty(0)).device
        try:
            with torch.no_grad():
                self.eval().raw_logits(self._prepared(torch.zeros(2, 3, 64, 64, device=device)))
        except FAULTS as error:  # any other will be said by a pass that is needed
            if VIEW in str(error):
                self._set_memory_format(torch.contiguous_format)
        finally:
            self.train(training)

    def _set_memory_format(self, memory_format: torch.memory_format) -> None:
        self.channels_last = memory_format == torch.channels_last
        for weight in self.parameters():
            # Of one input channel, or one pixel, both formats are the same memory; strides that say otherwise make
            # distributed training copy each gradient, with a warning.
            if weight.ndim == 4 and weight.shape[1] > 1 and max(weight.shape[2:]) > 1:
                weight.data = weight.data.contiguous(memory_format=memory_format)

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, except for a frozen encoder."""
        super().train(mode)
        if self._frozen:
            for encoder in self._encoder:
                encoder.eval()
        return self

    @property
    def encoder(self) -> nn.Module | None:
        """The part that is pretrained; None where the network has no such part."""
        return self._encoder[0] if self._encoder else None

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

    def _prepared(self, images: Tensor) -> Tensor:
        """Returns images as the network takes them; a copy only where they are not so already."""
        padding = self._padding(images.shape[-2], images.shape[-1])
        padded = functional.pad(images, padding) if any(padding) else images
        return padded.contiguous(memory_format=torch.channels_last) if self.channels_last else padded

    def _explain(self, error: Exception, images: Tensor) -> NoReturn:
        """Raises what a user can do about an error where that is known, else the error."""
        if self._compiled is not None and isinstance(error, _compiler_errors()):
            raise UserError(
                f"torch.compile finds no compiler that works, or none for this model ({one_line(error)[:240]}); "
                f"install one (g++ for the CPU, Triton for a GPU), or {UNCOMPILED}"
            ) from error
        # Batch norm over a single value wants more images, not other ones; a size that works without data takes too
        # much memory, or something else is wrong.
        if self.channels_last and VIEW in str(error):
            raise UserError(
                f"the model cannot keep its images in channels_last ({one_line(error)[:120]}); say "
                "trainer.channels_last=false, in a profile channels_last=false"
            ) from error
        is_of_one_value = "more than 1 value per channel" in str(error)
        if not self.explains or is_of_one_value or out_of_memory(error):
            raise error
        from seggrid.models.reach import nearest_size  # which runs Segmenters

        height, width = size = (images.shape[-2], images.shape[-1])
        nearest = nearest_size(self, size, len(images))
        if nearest is None or nearest == size:
            raise error
        native = f"{self.native_size[0]}x{self.native_size[1]}"
        made_for = f"; its encoder was made for {native}, and may take +encoder.options.img_size=[{height},{width}]"
        raise UserError(
            f"the model cannot take images of {height}x{width} ({one_line(error)[:120]}); the nearest size that works "
            f"is {nearest[0]}x{nearest[1]}: set augment.resize to it, in training also augment.crop, or in a profile "
            f"input.size{made_for if self.has_fixed_size else ''}"
        ) from error


def _compiler_errors() -> tuple[type[Exception], ...]:
    """The errors of ``torch.compile`` that say that there is no compiler: for the CPU, for a GPU, for so old a one."""
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor import exc

    return (BackendCompilerFailed, exc.TritonMissing, exc.GPUTooOldForTriton)


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
