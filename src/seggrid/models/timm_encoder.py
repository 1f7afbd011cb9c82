"""Any timm model as a pyramid of four feature maps, for the libraries that have no such adapter of their own."""

import logging
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from seggrid.checks import ImpossibleCellError
from seggrid.config import EncoderConfig, ModelConfig
from seggrid.encoder_names import DILATED, PYRAMIDS, VITS
from seggrid.errors import UserError, one_line
from seggrid.models import weights
from seggrid.models.segmenter import IMAGENET

LEVELS = 4

# timm names, one by one, the weights that a file holds in vain (its classifier's, always) and those that it lacks;
# check_loaded refuses the latter in one line.
logging.getLogger("timm.models._builder").addFilter(
    lambda record: "while loading pretrained weights" not in record.getMessage()
)


class TimmEncoder(nn.Module):
    """Some of the last four feature maps of a timm model, as NCHW, finest first.

    The attribute's name, ``timm_model``, is that of MMSegmentation's own wrapper, so that their state dicts agree.

    Args:
        config: the encoder.
        output_stride: the stride asked for; where the model refuses, it keeps its own.
        levels: which of the four; 0 is the finest.

    Attributes:
        channels: channels of each feature map.
        strides: pixels of the image per pixel of each feature map.
        native_size: (height, width) that the model was made for.
        normalization: of the images that its published weights were trained with.

    Raises:
        UserError: there is no such model, or its weights cannot be had.
        ImpossibleCellError: timm does not serve the feature maps of this model.
    """

    def __init__(
        self, config: EncoderConfig, output_stride: int | None = None, levels: Sequence[int] = range(LEVELS)
    ) -> None:
        super().__init__()
        options = accepted_options(config, output_stride)
        with torch.device("meta"):
            served = len(
                timm.create_model(
                    config.model, features_only=True, **config.options, **options
                ).feature_info.reduction()
            )
        if served < LEVELS:  # a plain ViT, whose blocks all have one stride, serves three unless asked
            options["out_indices"] = tuple(range(-LEVELS, 0))
        self.timm_model = create(config, features_only=True, **options)
        info = self.timm_model.feature_info
        self._levels = [level - LEVELS for level in levels]
        self.channels: list[int] = [info.channels()[level] for level in self._levels]
        self.strides: list[int] = [info.reduction()[level] for level in self._levels]
        self.native_size = native_size(config)
        self.normalization = normalization(config)
        self._channels_last = "NHWC" in str(getattr(self.timm_model, "output_fmt", ""))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the feature maps of images ``(B, 3, H, W)``."""
        maps = self.timm_model(images)
        features = [maps[level] for level in self._levels]
        return [item.permute(0, 3, 1, 2).contiguous() for item in features] if self._channels_last else features


def accepted_options(config: EncoderConfig, output_stride: int | None = None) -> dict[str, Any]:
    """Finds out which of the options that free a model's input size and stride it accepts.

    timm has no list of these: a model refuses what it does not know when it is built. On the meta device that costs
    no memory and little time.

    Args:
        config: the encoder.
        output_stride: the stride asked for, None for the model's own.

    Returns:
        Arguments for ``timm.create_model(..., features_only=True)``.

    Raises:
        UserError: there is no such model, or it does not take ``encoder.options``.
        ImpossibleCellError: timm does not serve the feature maps of this model.
    """
    error: Exception | None = None
    strides: list[dict[str, Any]] = [{"output_stride": output_stride}] if output_stride not in (None, 32) else []
    sizes: list[dict[str, Any]] = [{"strict_img_size": False}, {"dynamic_img_size": True}, {}]
    for stride in [*strides, {}]:
        for size in sizes:
            options = {**stride, **size}
            try:
                with torch.device("meta"):
                    timm.create_model(config.model, features_only=True, **config.options, **options)
            except (
                TypeError,
                AssertionError,
                NotImplementedError,
                ValueError,
                RuntimeError,
                AttributeError,
            ) as refusal:
                error = refusal
            else:
                return options
    reason = one_line(error) if error is not None else ""
    if "tag" in reason or "nknown model" in reason or config.options:
        raise UserError(f"encoder={config.name}: timm refuses it ({reason})")
    raise ImpossibleCellError(f"encoder={config.name}: timm does not serve its feature maps ({reason}); choose another")


def create(config: EncoderConfig, **options: Any) -> Any:
    """Builds the timm model with its weights.

    Args:
        config: the encoder.
        options: further arguments of ``timm.create_model``.

    Raises:
        UserError: the weights cannot be had, or the file does not hold all of them.
    """
    source = weights_source(config)
    with weights_errors(config):
        model = timm.create_model(config.model, **config.options, **options, **source)
    if config.weights is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() + 1)
            twin = timm.create_model(config.model, **config.options, **options, **source)
        check_loaded(config, model, twin)
    return model


def weights_source(config: EncoderConfig) -> dict[str, Any]:
    """Returns the arguments of ``timm.create_model`` that say where the weights come from."""
    if config.weights is not None:
        require_file(config)
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": config.weights}}
    return {"pretrained": config.pretrained}


def require_file(config: EncoderConfig) -> Path:
    """Returns ``encoder.weights`` as a path; raises UserError where there is no such file."""
    assert config.weights is not None
    path = Path(config.weights)
    if not path.is_file():
        raise UserError(f"encoder.weights={config.weights} is not a file")
    weights.check_hash(path)
    return path


def load_own(config: EncoderConfig, encoder: nn.Module, num_classes: int) -> None:
    """Loads ``encoder.weights`` into an encoder that is not timm's; a classifier in the file is left out.

    Args:
        config: the encoder.
        encoder: what gets the weights.
        num_classes: of the whole network.

    Raises:
        UserError: the file is damaged, or for another encoder.
    """
    path = require_file(config)
    try:
        state = weights.read(path)
    except UserError as error:
        raise UserError(f"encoder.weights={config.weights} is no use: {one_line(error)}") from error
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "fc."))}
    weights.load(encoder, state, str(config.weights), num_classes, "encoder.weights")


@contextmanager
def weights_errors(config: EncoderConfig) -> Iterator[None]:
    """Turns any failure to get weights into one line that says how to go on.

    Use it where the model is known to build without weights. Which exception a failed download raises depends on the
    hub client's version and on the network, hence the broad net.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if config.weights is None and not config.pretrained:
            raise
        reason = f"{type(error).__name__}: {textwrap.shorten(one_line(error), 160, placeholder=' ...')}"
        if config.weights is not None:
            raise UserError(
                f"encoder.weights={config.weights} cannot be loaded into {config.name} ({reason})"
            ) from error
        raise UserError(
            f"the pretrained weights of encoder={config.name} cannot be had ({reason}); "
            "go on with encoder.pretrained=false, or with encoder.weights=<file>"
        ) from error


def check_loaded(config: EncoderConfig, model: nn.Module, twin: nn.Module) -> None:
    """Refuses a file that lacks weights: timm leaves what a file lacks at random, silently.

    Args:
        config: the encoder.
        model: the encoder with the file's weights.
        twin: the same, started from another seed: what differs was not in the file.

    Raises:
        UserError: with the first weights that the file lacks.
    """
    others = dict(twin.named_parameters())
    missing = [name for name, weight in model.named_parameters() if not torch.equal(weight, others[name])]
    if missing:
        raise UserError(
            f"encoder.weights={config.weights} is not for encoder={config.name}: it lacks {len(missing)} weights, "
            f"the first {', '.join(missing[:3])}"
        )


def strides(config: EncoderConfig) -> list[int]:
    """Returns pixels of the image per pixel of each feature map that timm serves of a model."""
    with torch.device("meta"):
        model = timm.create_model(config.model, features_only=True, **config.options, **accepted_options(config))
    return list(model.feature_info.reduction())


def check_strides(config: ModelConfig, strides: list[int]) -> None:
    """Refuses an encoder whose feature maps the arch cannot use.

    Args:
        config: the cell; its arch's ``encoders`` says what the arch takes.
        strides: of the encoder's feature maps.

    Raises:
        ImpossibleCellError: with encoders that the arch takes.
    """
    takes, arch, encoder = config.settings.get("encoders", "any"), config.arch.name, config.encoder.name
    if takes == "pyramid" and len(set(strides)) == 1:
        raise ImpossibleCellError(
            f"arch={arch} needs feature maps of several strides, encoder={encoder} has only stride {strides[0]}; "
            f"choose a hierarchical one, such as {', '.join(PYRAMIDS)} (docs/models.md)"
        )
    if takes == "dilated" and strides[-1] != strides[-2]:
        raise ImpossibleCellError(
            f"arch={arch} needs the last two feature maps at one stride, encoder={encoder} has {strides[-2]} and "
            f"{strides[-1]}; choose one that takes an output stride, such as {', '.join(DILATED)} (docs/models.md)"
        )
    if takes == "vit" and len(set(strides)) > 1:
        raise ImpossibleCellError(
            f"arch={arch} needs feature maps of one stride, encoder={encoder} has {', '.join(map(str, strides))}; "
            f"choose a plain ViT, such as {', '.join(VITS)}, or encoder=native (docs/models.md)"
        )


def normalization(config: EncoderConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (means, standard deviations) of the images that the model's published weights were trained with."""
    known = timm.get_pretrained_cfg(config.model, allow_unregistered=False)
    return IMAGENET if known is None else (tuple(known.mean), tuple(known.std))


def native_size(config: EncoderConfig) -> tuple[int, int]:
    """Returns (height, width) that the model was made for."""
    if "img_size" in config.options:
        size = config.options["img_size"]
        return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    known = timm.get_pretrained_cfg(config.model, allow_unregistered=False)
    height, width = known.input_size[-2:] if known is not None else (224, 224)
    return (int(height), int(width))
