"""The checks of a whole configuration that its types cannot make. Imports no torch.

Every refusal is one line that names the key and what is allowed.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seggrid.config import (
    ArchConfig,
    AugmentConfig,
    BackendConfig,
    CheckConfig,
    DatasetConfig,
    EncoderConfig,
    EvaluateConfig,
    InferenceConfig,
    LoggerConfig,
    LossConfig,
    OptimizerConfig,
    ProfileConfig,
    TrainConfig,
    TtaConfig,
)
from seggrid.data.labels import check_classes, check_labels
from seggrid.data.patterns import check_pattern
from seggrid.errors import UserError

LOSSES = ("auto", "cross_entropy", "dice", "focal", "lovasz", "native", "ohem")
MATCHES = ("library", "equal")
# Feature maps of any kind, of several strides, the last two of the same, all of the same; the arch's own network.
ENCODERS = ("any", "pyramid", "dilated", "vit", "native")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "poly", "cosine", "onecycle")
LOGGERS = ("wandb", "csv", "tensorboard", "none")
RECORD_LOGGERS = ("wandb", "none")  # of runs that have no curves
MEASUREMENTS = ("latency", "throughput", "training")
DEVICES = ("auto", "cpu", "cuda", "mps")
PROFILE_PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
LOGGER_MODES = ("auto", "online", "offline")
PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")
ACCELERATORS = ("auto", "cpu", "gpu", "mps")
CHECKPOINTS = ("best", "last")
INFERENCES = ("whole", "slide")
CACHES = ("none", "disk", "ram")
ENGINES = ("local", "slurm", "ray")
MANY_JOBS = 500  # a sweep of more wants to be meant


class ImpossibleCellError(UserError):
    """The backend does not have the arch, or cannot take the encoder: a sweep records the cell as skipped."""


def check_train(config: TrainConfig) -> None:
    """Refuses a training configuration that cannot work.

    Raises:
        UserError: a value is impossible; the message names the key and what is allowed.
        ImpossibleCellError: the backend does not have the arch, or cannot take the encoder.
    """
    dataset, augment, loss, trainer = config.dataset, config.augment, config.loss, config.trainer
    _one_of("schedule.name", config.schedule.name, SCHEDULES)
    _check_logger(config.logger, LOGGERS)
    _one_of("trainer.accelerator", trainer.accelerator, ACCELERATORS)
    _one_of("trainer.precision", trainer.precision, PRECISIONS)
    _one_of("match", config.match, MATCHES)
    _only_for("schedule.power", config.schedule.power, config.schedule.name, ("poly",))
    _at_least("batch_size", config.batch_size, 1)
    _at_least("eval_batch_size", config.eval_batch_size, 1)
    _at_least("num_workers", config.num_workers, 0)
    _at_least("pictures", config.pictures, 0)
    _at_least("trainer.max_epochs", trainer.max_epochs, 1)
    _at_least("trainer.val_every_n_epochs", trainer.val_every_n_epochs, 1)
    _at_least("trainer.log_every_n_steps", trainer.log_every_n_steps, 1)
    _at_least("trainer.checkpoint_every_n_steps", trainer.checkpoint_every_n_steps, 1)
    if trainer.val_every_n_epochs > trainer.max_epochs:
        raise UserError(
            f"trainer.val_every_n_epochs is {trainer.val_every_n_epochs}, more than trainer.max_epochs "
            f"{trainer.max_epochs}: the run would never be validated"
        )
    _above("trainer.gradient_clip_norm", trainer.gradient_clip_norm, 0)
    _within("schedule.warmup_fraction", config.schedule.warmup_fraction, 0, 1)
    _within("seed", config.seed, 0, 2**32 - 1)
    _above("schedule.power", config.schedule.power, 0)
    _check_devices(trainer.devices)
    _at_least("trainer.num_nodes", trainer.num_nodes, 1)
    _check_augment(augment)
    _check_dataset(dataset)
    _check_loss(loss, len(dataset.classes))
    _check_optimizer(config.optimizer)
    _check_weights(config)
    check_cell(config.backend, config.arch, config.encoder)
    _check_aux_weight(config)


def check_profile(config: ProfileConfig) -> None:
    """Refuses a profile configuration that cannot work; raises as :func:`check_train` does."""
    _at_least("num_classes", config.num_classes, 1)
    _at_least("warmup", config.warmup, 0)
    _at_least("samples", config.samples, 1)
    _above("seconds", config.seconds, 0)
    if config.batch_size != "auto" and not (isinstance(config.batch_size, int) and config.batch_size >= 1):
        raise UserError(f"batch_size is {config.batch_size!r}; it takes a number from 1, or auto")
    if not config.measure:
        raise UserError(f"measure is empty; it takes some of {', '.join(MEASUREMENTS)}; or say counts_only=true")
    if unknown := sorted(set(config.measure) - set(MEASUREMENTS)):
        raise UserError(f"measure has {', '.join(unknown)}; it takes some of {', '.join(MEASUREMENTS)}")
    _check_size("input.size", config.input.size)
    check_inference(config.inference, TtaConfig())
    _check_augment(config.augment)
    if config.dataset is not None:
        _check_dataset(config.dataset)
    _check_loss(config.loss, config.classes_count)
    _check_optimizer(config.optimizer)
    _check_logger(config.logger, RECORD_LOGGERS)
    _one_of("device", config.device, DEVICES)
    _one_of("precision", config.precision, PROFILE_PRECISIONS)
    _one_of("match", config.match, MATCHES)
    _check_weights(config)
    check_cell(config.backend, config.arch, config.encoder)
    _check_aux_weight(config)


def check_evaluate(config: EvaluateConfig) -> None:
    """Refuses an evaluation configuration that cannot work; raises as :func:`check_train` does."""
    if not Path(config.checkpoint).suffix:
        _one_of("checkpoint", config.checkpoint, (*CHECKPOINTS, "<file>"))
    if config.run is None and not Path(config.checkpoint).suffix and config.weights is None:
        raise UserError(
            "nothing to evaluate: say run=<folder of a run or of a sweep>, checkpoint=<file>, or backend, arch, "
            "encoder and weights=<file or published name>"
        )
    _at_least("eval_batch_size", config.eval_batch_size, 1)
    _at_least("num_workers", config.num_workers, 0)
    _at_least("pictures", config.pictures, 0)
    _at_least("worst", config.worst, 0)
    _check_logger(config.logger, RECORD_LOGGERS)
    _one_of("accelerator", config.accelerator, ACCELERATORS)
    _check_devices(config.devices, "devices")
    check_inference(config.inference, config.tta)
    _check_augment(config.augment)
    if config.images is None:
        _check_dataset(config.dataset, need_labels=False)
    check_cell(config.backend, config.arch, config.encoder)


def check_data(config: CheckConfig) -> None:
    """Refuses a data set that cannot be looked at; raises as :func:`check_train` does."""
    if not config.splits:
        raise UserError("splits is empty; it takes names of splits, such as [train,val]")
    _at_least("num_workers", config.num_workers, 0)
    _at_least("pictures", config.pictures, 0)
    _at_least("faults", config.faults, 0)
    _check_augment(config.augment)
    _check_dataset(config.dataset, need_labels=False)


CHECKS: dict[str, Callable[[Any], None]] = {
    "train": check_train,
    "evaluate": check_evaluate,
    "profile": check_profile,
}


def check_inference(inference: InferenceConfig, tta: TtaConfig) -> None:
    """Refuses a way through the model that cannot work; raises as :func:`check_train` does."""
    _one_of("inference.name", inference.name, INFERENCES)
    for key in ("crop", "stride", "batch_size"):
        value = getattr(inference, key)
        _only_for(f"inference.{key}", value, f"inference={inference.name}", ("inference=slide",))
        if inference.name == "slide" and value is None:
            raise UserError(f"inference.{key} is not set; inference=slide needs it, see conf/inference/slide.yaml")
    _at_least("inference.batch_size", inference.batch_size, 1)
    _check_size("inference.crop", inference.crop)
    _check_size("inference.stride", inference.stride)
    crop, stride = inference.crop, inference.stride
    if crop is not None and stride is not None and (stride[0] > crop[0] or stride[1] > crop[1]):
        raise UserError(
            f"inference.stride {stride} is larger than inference.crop {crop}: pixels between the windows would have no "
            "prediction; set a smaller stride"
        )
    if not tta.scales or not all(0 < scale < math.inf for scale in tta.scales):
        raise UserError(f"tta.scales is {tta.scales}; it takes factors above 0, at least one, such as [1.0]")


def check_cell(backend: BackendConfig, arch: ArchConfig, encoder: EncoderConfig) -> None:
    """Refuses a cell that the backend cannot build, as far as that is known without building it.

    Raises:
        ImpossibleCellError: with the backends that have this arch and the archs that this backend has.
    """
    _only_for("arch.config", arch.config, f"arch={arch.name}", ("arch=official",))
    _only_for("arch.target", arch.target, f"arch={arch.name}", ("arch=custom",))
    _only_for("arch.options", arch.options or None, f"arch={arch.name}", ("arch=custom",))
    if encoder.library == "native" and encoder.options:
        raise UserError("encoder.options is set, but encoder=native has none; its settings are the arch's own")
    for key, value in (
        ("arch.output_stride", arch.output_stride),
        ("arch.decoder_channels", arch.decoder_channels),
        ("encoder.depth", encoder.depth),
    ):
        _at_least(key, value, 1)
    if backend.name not in arch.backends:
        raise ImpossibleCellError(
            f"backend={backend.name} has no arch={arch.name}; arch={arch.name} is in backend="
            f"{','.join(sorted(arch.backends))}; backend={backend.name} has arch={','.join(archs_of(backend.name))} "
            "(docs/models.md)"
        )
    settings = arch.backends[backend.name]
    if encoder.library == "native":
        if "base" not in settings and settings.get("encoders") != "native":
            raise ImpossibleCellError(
                f"backend={backend.name} has no encoder of its own for arch={arch.name}: encoder=native is for methods "
                "that are a network of their own; choose a timm name (docs/models.md)"
            )
    elif settings.get("encoders") == "native":
        raise ImpossibleCellError(
            f"backend={backend.name} arch={arch.name} is a network of its own and cannot take encoder={encoder.name}; "
            "say encoder=native (docs/models.md)"
        )
    elif encoder.library not in ("timm", backend.name):
        raise ImpossibleCellError(
            f"backend={backend.name} cannot take encoder={encoder.name}, which is {encoder.library}'s own; "
            f"choose a timm name or {backend.name}/<name>"
        )


def loss_name(config: TrainConfig | EvaluateConfig | ProfileConfig) -> str:
    """Returns the loss that ``loss=auto`` means for this cell, else the one that was chosen."""
    if config.loss.name != "auto":
        return config.loss.name
    return str(config.arch.backends[config.backend.name].get("loss", "cross_entropy"))


def archs_of(backend: str) -> list[str]:
    """Returns the names of the archs in ``conf/arch`` that ``backend`` has."""
    import yaml
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    conf = next((Path(source.path) for source in sources if source.provider == "main"), Path("conf"))
    archs = (yaml.safe_load(path.read_text()) for path in sorted((conf / "arch").glob("*.yaml")))
    return [arch["name"] for arch in archs if backend in arch["backends"]]


def _check_loss(loss: LossConfig, num_classes: int) -> None:
    _one_of("loss.name", loss.name, LOSSES)
    _only_for("loss.label_smoothing", loss.label_smoothing, loss.name, ("cross_entropy",))
    _only_for("loss.gamma", loss.gamma, loss.name, ("focal",))
    _only_for("loss.threshold", loss.threshold, loss.name, ("ohem",))
    _only_for("loss.min_kept_fraction", loss.min_kept_fraction, loss.name, ("ohem",))
    _only_for("loss.class_weights", loss.class_weights, loss.name, ("cross_entropy", "focal", "ohem"))
    _at_least("loss.aux_weight", loss.aux_weight, 0)
    _within("loss.label_smoothing", loss.label_smoothing, 0, 1)
    _within("loss.threshold", loss.threshold, 0, 1)
    _within("loss.min_kept_fraction", loss.min_kept_fraction, 0, 1)
    if loss.class_weights is not None and len(loss.class_weights) != num_classes:
        raise UserError(
            f"loss.class_weights has {len(loss.class_weights)} entries, dataset.classes has {num_classes}: "
            "give one weight per class"
        )
    if loss.class_weights is not None and (min(loss.class_weights) < 0 or max(loss.class_weights) <= 0):
        raise UserError(f"loss.class_weights is {loss.class_weights}; weights are at least 0, and not all 0")


def _check_aux_weight(config: TrainConfig | ProfileConfig) -> None:
    if loss_name(config) == "native":
        allowed = tuple(name for name in LOSSES if name not in ("auto", "native"))
        _only_for("loss.aux_weight", config.loss.aux_weight, "native", allowed)


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    _one_of("optimizer.name", optimizer.name, OPTIMIZERS)
    _only_for("optimizer.betas", optimizer.betas, optimizer.name, ("adamw",))
    _only_for("optimizer.momentum", optimizer.momentum, optimizer.name, ("sgd",))
    _above("optimizer.lr", optimizer.lr, 0)
    _at_least("optimizer.encoder_lr_scale", optimizer.encoder_lr_scale, 0)
    _at_least("optimizer.weight_decay", optimizer.weight_decay, 0)
    _at_least("optimizer.momentum", optimizer.momentum, 0)
    betas = optimizer.betas
    if betas is not None and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
        raise UserError(f"optimizer.betas is {betas}; it takes two values from 0 to below 1")


def _check_augment(augment: AugmentConfig) -> None:
    _within("augment.flip", augment.flip, 0, 1)
    for key, values in (("mean", augment.mean), ("std", augment.std)):
        if values is not None and (len(values) != 3 or (key == "std" and min(values) <= 0)):
            raise UserError(f"augment.{key} is {values}; it takes 3 values, std above 0, or null for the model's own")
    _check_size("augment.resize", augment.resize)
    _check_size("augment.crop", augment.crop)
    if augment.scale is not None and not (len(augment.scale) == 2 and 0 < augment.scale[0] <= augment.scale[1]):
        raise UserError(f"augment.scale is {augment.scale}; it takes [smallest, largest], both above 0")
    share = augment.max_class_share
    if share is not None and not 0 < share < 1:
        raise UserError(f"augment.max_class_share is {share}; it takes a share between 0 and 1, or null for no limit")
    if share is not None and augment.crop is None:
        raise UserError("augment.max_class_share is set without augment.crop; set augment.crop, or leave it null")


def _check_dataset(dataset: DatasetConfig, need_labels: bool = True) -> None:
    check_classes(dataset)
    check_labels(dataset)
    _one_of("dataset.cache", dataset.cache, CACHES)
    if dataset.shapes is not None:
        if dataset.cache == "disk":
            raise UserError("dataset.cache=disk keeps decoded files, and dataset.shapes has none; say ram or none")
        _check_size("dataset.shapes.size", dataset.shapes.size)
        _at_least("dataset.shapes.train", dataset.shapes.train, 1)
        _at_least("dataset.shapes.val", dataset.shapes.val, 1)
        return
    _within("dataset.color_tolerance", dataset.color_tolerance, 0, 255)
    for key in ("root", "images", "masks") if need_labels else ("root", "images"):
        if getattr(dataset, key) is None:
            hint = f"; {' '.join(dataset.download.split())}" if key == "root" and dataset.download else ""
            raise UserError(f"dataset.{key} is not set; say dataset.{key}=<path>{hint}")
    _check_patterns(dataset)
    named = dataset.lists or dataset.names or "{split}" in (dataset.images or "")
    if not named and (dataset.val_fraction is None or not 0 < dataset.val_fraction < 1):
        raise UserError(
            f"dataset.val_fraction is {dataset.val_fraction}; it takes a share between 0 and 1 where dataset.images "
            "does not name {split} and there are no dataset.lists"
        )


def _check_patterns(dataset: DatasetConfig) -> None:
    masks = dataset.masks
    if not (masks is None or isinstance(masks, str) or (masks and all(isinstance(item, str) for item in masks))):
        raise UserError(f"dataset.masks is {masks!r}; it takes a pattern, a list of them, or null")
    check_pattern("dataset.images", dataset.images or "")
    for pattern in [masks] if isinstance(masks, str) else masks or []:
        check_pattern("dataset.masks", pattern)
    for split, files in dataset.lists.items():
        if not (isinstance(files, str) or (files and all(isinstance(item, str) for item in files))):
            raise UserError(f"dataset.lists.{split} is {files!r}; it takes a text file or a list of them")


def _check_weights(config: TrainConfig | ProfileConfig) -> None:
    if config.weights is not None and config.encoder.weights is not None:
        raise UserError("weights and encoder.weights are both set; weights holds the whole model: leave one out")


def _check_devices(devices: Any, key: str = "trainer.devices") -> None:
    fine = devices == "auto" or (isinstance(devices, int) and (devices == -1 or devices >= 1))
    fine = fine or (isinstance(devices, list) and devices and all(isinstance(item, int) for item in devices))
    if not fine or isinstance(devices, bool):
        raise UserError(f"{key} is {devices!r}; it takes a number from 1, a list of indices, or auto")


def _check_logger(logger: LoggerConfig, names: tuple[str, ...]) -> None:
    _one_of("logger.name", logger.name, names)
    _one_of("logger.mode", logger.mode, LOGGER_MODES)
    if logger.artifacts and (logger.name != "wandb" or names == RECORD_LOGGERS):
        raise UserError("logger.artifacts is set, but only train.py with logger=wandb has a checkpoint to upload")


def _check_size(key: str, size: list[int] | None) -> None:
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise UserError(f"{key} is {size}; it takes [height, width] in pixels, both at least 1")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{key} is {value!r}; it takes one of {', '.join(allowed)}")


def _only_for(key: str, value: Any, name: str, names: tuple[str, ...]) -> None:
    if value is not None and name not in names:
        raise UserError(f"{key} is set, but {name} has no such setting: it belongs to {', '.join(names)}")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not least <= value < math.inf:
        raise UserError(f"{key} is {value}; it must be at least {least}")


def _above(key: str, value: float | None, bound: float) -> None:
    if value is not None and not bound < value < math.inf:
        raise UserError(f"{key} is {value}; it must be a finite number above {bound}")


def _within(key: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise UserError(f"{key} is {value}; it must lie in {low}..{high}")
