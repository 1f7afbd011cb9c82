"""MMSegmentation: its methods on timm's encoders and on its own backbones, and its own configurations by name."""

import io
import logging
import math
import os
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seggrid import mmseg_configs
from seggrid.config import EncoderConfig, ModelConfig
from seggrid.errors import UserError, one_line
from seggrid.models import measured, mmcv_ops, timm_encoder, weights
from seggrid.models import mmseg_description as description
from seggrid.models.reach import LARGE_SIZE, on_meta
from seggrid.models.segmenter import IMAGENET, Facts, Segmenter

mmcv_ops.install()

from mmengine import Config, ConfigDict  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.runner.checkpoint import get_external_models, get_torchvision_models  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.models.decode_heads.decode_head import BaseDecodeHead  # noqa: E402
from mmseg.models.segmentors import EncoderDecoder  # noqa: E402
from mmseg.registry import MODELS, TRANSFORMS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

IGNORED = 255  # what MMSegmentation's losses leave out
PARTS: tuple[str, ...] = ("backbone", "neck", "decode_head", "auxiliary_head")
OWN = ("base", "encoders", "loss", "channels_of")  # ours, of an arch's settings
LABELS = {"GenerateEdge"}  # transforms that make further labels, which some losses read
log = logging.getLogger("seggrid")


class MmsegSegmenter(Segmenter):
    """A segmentor of MMSegmentation.

    Args:
        labels: transforms that make what the losses read besides the masks.
        other: see :class:`Segmenter`.
    """

    def __init__(self, labels: list[Any], *other: Any) -> None:
        super().__init__(*other)
        self._labels = labels
        # SegNeXt's matrix factorisation starts at random, in evaluation too: scores would differ from call to call.
        self._draws = any(getattr(module, "rand_init", False) for module in self.network.modules())

    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs the network as MMSegmentation's own inference does; in training the heads, as its losses do."""
        network = self._on(images.device)
        if not (self.training and self.trains_from_logits):
            metas = [_meta(tuple(images.shape[-2:])) for _ in images]
            with torch.random.fork_rng(devices=[], enabled=self._draws and not self.training):
                if self._draws and not self.training:
                    torch.manual_seed(0)
                return network.encode_decode(images, metas), ()
        features = network.extract_feat(images)
        decoder, *aux = (_resized(head, head(features), images) for head in [network.decode_head, *_aux_heads(network)])
        return decoder, tuple(aux)

    def raw_losses(self, images: Tensor, masks: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """Runs the network and its own losses."""
        network = self._on(images.device)
        labels = torch.where(masks == ignore_index, IGNORED, masks)
        samples = [self._sample(mask) for mask in labels]
        parts = network.loss(images, samples)
        losses = {name: value for name, value in parts.items() if "loss" in name}  # beside them stand accuracies
        return {
            name: torch.stack(value).sum() if isinstance(value, list) else value.mean()
            for name, value in losses.items()
        }

    def _on(self, device: torch.device) -> Any:
        """Returns the network, without what SAN's text encoder keeps of class names encoded on another device."""
        network: Any = self.network
        kept = getattr(getattr(network, "text_encoder", None), "cache", {})
        if any(item.device != device for item in kept.values()):
            kept.clear()
        return network

    def _sample(self, mask: Tensor) -> Any:
        sample = SegDataSample(gt_sem_seg=PixelData(data=mask[None]), metainfo=_meta(tuple(mask.shape)))
        for transform in self._labels:
            made = transform({"img_shape": tuple(mask.shape), "gt_seg_map": mask.cpu().numpy()})
            edges = torch.from_numpy(made["gt_edge_map"]).to(mask)
            sample.gt_edge_map = PixelData(data=edges[None])
        return sample


def build(config: ModelConfig) -> Segmenter:
    """Builds MMSegmentation's model of the cell.

    The arch names one of MMSegmentation's configurations as its ``base``; another encoder takes the place of the
    configuration's own, and what depends on the encoder and on the data set is filled in here.

    Raises:
        ImpossibleCellError: the method cannot take the encoder.
        UserError: there is no such configuration, or weights cannot be had.
    """
    _quiet()
    settings = config.settings
    if unknown := sorted(set(settings) - {*PARTS, *OWN}):
        raise UserError(
            f"arch.backends.mmseg has no {', '.join(unknown)}; it takes {', '.join(PARTS)}, as in MMSegmentation's own "
            "configurations"
        )
    name = config.arch.config or settings.get("base")
    if name is None:
        raise UserError(
            "arch.config is not set; say arch.config=<name of a configuration of MMSegmentation>, such as "
            "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024 (docs/models.md)"
        )
    whole = Config.fromfile(mmseg_configs.config_file(name))
    model: dict[str, Any] = description.plain(whole.model.to_dict())
    description.set_classes(model, config)
    model = description.merged(model, {key: settings[key] for key in PARTS if key in settings})
    if config.decoder_channels is not None:
        head = model["decode_head"][-1] if isinstance(model["decode_head"], list) else model["decode_head"]
        if "channels" in head:
            head["channels"] = config.decoder_channels

    encoder_config = config.encoder
    stride: int | None = None
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # about its losses, renamed arguments, its weights
        warnings.simplefilter("ignore")
        if encoder_config.library != "native":
            stride, depth = _set_encoder(model, config)
        has_weights = _set_checkpoints(model, encoder_config, config)
        try:
            network = MODELS.build(ConfigDict(model))  # some read it by attribute
        except UserError:
            raise
        except Exception as error:  # whatever a head does with arguments that are not for it
            changed = {key: settings[key] for key in PARTS if key in settings}
            raise UserError(
                f"backend=mmseg cannot build arch={config.arch.title} on encoder={encoder_config.name}"
                f"{f' with arch.backends.mmseg={changed}' if changed else ''} ({one_line(error)[:200]})"
            ) from error
        _init_weights(network)
    if not has_weights and encoder_config.library == "native" and encoder_config.pretrained and config.weights is None:
        log.info("%s starts at random: MMSegmentation publishes no weights for its encoder alone", config.arch.title)
    encoder = network.image_encoder if hasattr(network, "image_encoder") else network.backbone
    if encoder_config.library in ("mmseg", "native") and encoder_config.weights is not None:
        timm_encoder.load_own(encoder_config, encoder, config.num_classes)

    native, normalization = _made_for(whole, model, encoder)
    if stride is None:
        strides = measured.strides(_Features(network), native)
        if not strides:
            raise UserError(f"arch={config.arch.title} does not run at {native[0]}x{native[1]}, for which it was made")
        stride, depth = max(strides), len(strides) + (len(set(strides)) > 1)
    head = network.decode_head[-1] if isinstance(network.decode_head, nn.ModuleList) else network.decode_head
    segmenter = MmsegSegmenter(
        _label_transforms(whole),
        network,
        encoder,
        network.auxiliary_head if getattr(network, "with_auxiliary_head", False) else None,
        Facts(stride, depth, getattr(head, "channels", None)),
        native,
        normalization,
        _trains_from_logits(network, config.num_classes, native),
        True,
    )
    known = mmseg_configs.published(name)
    if known is not None and config.arch.config is not None:
        segmenter.published = known.as_record()
    if config.weights is not None and config.with_weights:
        _load(segmenter, config)
    return segmenter


def _set_encoder(model: dict[str, Any], config: ModelConfig) -> tuple[int, int]:
    """Puts another encoder, in place, where the configuration has its own; returns output stride and depth."""
    own, encoder_config, settings = model["backbone"], config.encoder, config.settings
    levels = own.get("out_indices", ())
    if not levels or max(levels) > timm_encoder.LEVELS - 1:  # those of a transformer count its blocks
        levels = range(timm_encoder.LEVELS)
    wanted = config.output_stride
    if wanted is None and "strides" in own:  # of a ResNet's stages, after its stem
        wanted = 4 * math.prod(own["strides"])
    encoder: Any
    if encoder_config.library == "timm":
        encoder = timm_encoder.TimmEncoder(encoder_config, wanted, levels)
        channels, strides = encoder.channels, encoder.strides
    else:
        options: dict[str, Any] = description.plain({**encoder_config.options, "out_indices": list(levels)})
        by_stride = options.pop("by_output_stride", {})
        has_weights = _set_checkpoints(options, encoder_config, config)
        if encoder_config.pretrained and not has_weights and not (encoder_config.weights or config.weights):
            raise UserError(
                f"encoder={encoder_config.name} has no download of its own weights; "
                "go on with encoder.pretrained=false, or with encoder.weights=<file>"
            )
        encoder = MODELS.build({**options, **by_stride.get(wanted, {})})
        channels = [item.shape[1] for item in measured.maps(measured.run(encoder, measured.MULTIPLE))]
        strides = measured.strides(encoder, measured.MULTIPLE)
    timm_encoder.check_strides(config, strides)
    model["backbone"] = {"type": lambda: encoder}
    model["pretrained"] = None
    if model.get("neck"):
        neck_config = model["neck"]
        neck_config["in_channels"] = type(neck_config["in_channels"])(channels)
        neck = MODELS.build(neck_config)
        sizes = [64 // stride for stride in strides]
        maps = [torch.zeros(2, width, size, size) for width, size in zip(channels, sizes, strict=True)]
        with torch.no_grad():
            channels = [item.shape[1] for item in neck(maps)]
        model["neck"] = {"type": lambda: neck}
    description.set_channels([model["decode_head"], model.get("auxiliary_head")], channels)
    for argument, level in settings.get("channels_of", {}).items():
        model["decode_head"][argument] = channels[level]
    is_pyramid = len(set(strides)) > 1
    return strides[-1], timm_encoder.LEVELS + is_pyramid


def _set_checkpoints(value: Any, encoder: EncoderConfig, config: ModelConfig) -> int:
    """Puts files, in place, where a configuration names published weights, or takes those names out.

    Returns:
        The number of names that there were.
    """
    wanted = encoder.pretrained and encoder.weights is None and config.weights is None
    found = 0
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list | tuple):
            found += _set_checkpoints(item, encoder, config)
    if not isinstance(value, dict):
        return found
    if isinstance(value.get("pretrained"), str):
        value["pretrained"] = _checkpoint(value["pretrained"], encoder) if wanted else None
        found += 1
    init = value.get("init_cfg")
    if isinstance(init, dict) and "checkpoint" in init:
        value["init_cfg"] = {**init, "checkpoint": _checkpoint(init["checkpoint"], encoder)} if wanted else None
        found += 1
    return found


def _checkpoint(address: str, encoder: EncoderConfig) -> str:
    """Returns a file with nothing but tensors, which MMSegmentation's backbones can be trusted to load."""
    scheme, _, name = address.partition("://")
    if scheme == "torchvision":
        address = get_torchvision_models()[name]
    elif scheme == "open-mmlab":
        address = get_external_models()[name]
    elif not name and not Path(address).is_file():
        raise UserError(
            f"the pretrained weights of encoder={encoder.name} are {address}, a file that MMSegmentation has its users "
            "make themselves; go on with encoder.pretrained=false, or with encoder.weights=<file>"
        )
    try:
        path = weights.download(address) if "://" in address else Path(address)
        clean = path.with_name(f"{path.stem}.tensors.pth")
        if not clean.exists():
            temporary = clean.with_suffix(f".{os.getpid()}.part")  # another run may be making it too
            torch.save(weights.read(path), temporary)
            temporary.replace(clean)
    except UserError as error:
        raise UserError(
            f"the pretrained weights of encoder={encoder.name} cannot be had ({one_line(error).partition(';')[0]}); go "
            "on with encoder.pretrained=false, or with encoder.weights=<file>"
        ) from error
    return str(clean)


def _load(segmenter: Segmenter, config: ModelConfig) -> None:
    """Loads the whole model's weights: from a file, or by the name of a configuration that they are published for."""
    source = str(config.weights)
    if Path(source).is_file():
        path = Path(source)
        weights.check_hash(path)
    else:
        if Path(source).suffix:
            raise UserError(f"weights={source} is not a file; say a file, or the name of a published configuration")
        known = mmseg_configs.published(source, "weights")
        if known is None or known.weights is None:
            raise UserError(f"weights={source} is a configuration for which MMSegmentation publishes no weights")
        path = weights.download(known.weights)
    weights.load_model(segmenter.network, weights.read(path), config)


def _made_for(whole: Any, model: dict[str, Any], encoder: Any) -> tuple[tuple[int, int], Any]:
    """Returns the image size and the normalisation that the encoder was made for."""
    if isinstance(encoder, timm_encoder.TimmEncoder):
        return encoder.native_size, encoder.normalization
    size = (model.get("backbone") or {}).get("img_size") or whole.get("crop_size") or 224
    height, width = (size, size) if isinstance(size, int) else size
    preprocessing = whole.model.get("data_preprocessor") or {}
    if preprocessing.get("mean") is None:
        return (height, width), IMAGENET
    means, deviations = (tuple(round(value / 255, 6) for value in preprocessing[key]) for key in ("mean", "std"))
    return (height, width), (means, deviations)


def _label_transforms(whole: Any) -> list[Any]:
    pipeline = whole.get("train_pipeline") or []
    return [TRANSFORMS.build(step) for step in pipeline if step["type"] in LABELS]


class _Features(nn.Module):
    """The encoder, with the neck where there is one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        network: Any = self.network
        return network.extract_feat(images)


def _trains_from_logits(network: Any, num_classes: int, size: tuple[int, int]) -> bool:
    """Tells whether every head gives, in training, one map of the classes' logits and nothing more."""
    if type(network) is not EncoderDecoder:
        return False
    heads = [network.decode_head, *_aux_heads(network)]
    if not all(isinstance(head, BaseDecodeHead) and head.num_classes == num_classes for head in heads):
        return False
    network.train()
    try:
        outputs, _ = on_meta(_Heads(network), size, batch_size=2)
    except RuntimeError:  # too small for what it pools
        outputs, _ = on_meta(_Heads(network), LARGE_SIZE, batch_size=2)
    return all(isinstance(item, Tensor) and item.shape[1] == num_classes for item in outputs)


class _Heads(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Any]:
        network: Any = self.network
        features = network.extract_feat(images)
        return [head(features) for head in [network.decode_head, *_aux_heads(network)]]


def _aux_heads(network: Any) -> list[Any]:
    if not getattr(network, "with_auxiliary_head", False):
        return []
    heads = network.auxiliary_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def _resized(head: Any, logits: Tensor, images: Tensor) -> Tensor:
    if logits.shape[-2:] == images.shape[-2:]:
        return logits
    return functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=head.align_corners)


def _meta(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"ori_shape": shape, "img_shape": shape, "pad_shape": shape, "batch_input_shape": shape}


def _init_weights(network: Any) -> None:
    """Starts the network as MMSegmentation does.

    SAN is made to start from CLIP's weights: without them MMSegmentation's code stops, and leaves parts uninitialised.
    They start here as CLIP's own code starts them (``initialize_parameters`` in openai/CLIP).
    """
    text = getattr(network, "text_encoder", None)
    if text is None or text.init_cfg is not None:
        network.init_weights()
        return
    network.image_encoder.init_weights()
    network.decode_head.side_adapter_network.init_weights()
    nn.init.normal_(text.token_embedding.weight, std=0.02)
    nn.init.normal_(text.positional_embedding, std=0.01)
    nn.init.normal_(text.text_projection, std=text.text_projection.shape[0] ** -0.5)


def _quiet() -> None:
    """Registers MMSegmentation's modules, and keeps its log from the terminal."""
    warnings.filterwarnings("ignore", module=r"mm(seg|det|cv|engine|pretrain)\b")  # of what its own code does
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
    if DefaultScope.get_current_instance() is None or not MODELS.get("EncoderDecoder"):
        register_all_modules(init_default_scope=True)
    MMLogger.get_current_instance().setLevel(logging.ERROR)
