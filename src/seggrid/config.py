"""What a user can configure, typed. Imports no torch.

Every group of ``conf/`` fills one of these classes. OmegaConf refuses unknown keys and wrong types while it
composes; ``checks.py`` refuses the values that no run could use.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class BackendConfig:
    """The library that builds the model."""

    name: str = MISSING


@dataclass
class ArchConfig:
    """An architecture by its neutral name.

    Attributes:
        name: the name, the same in every backend.
        backends: per backend that has it, the library's own settings; the backend's adapter reads them. Two keys
            mean the same in all: ``encoders``, one of ``checks.ENCODERS``, and ``loss: native`` where the library's
            own loss is the default.
        output_stride: pixels of the image per pixel of the encoder's last feature map; None takes the library's.
        decoder_channels: channels that go into the last classifier; None takes the library's.
        equal: the output stride and decoder width that ``match=equal`` gives every backend.
        config: for ``official``: the name of one of the library's own configurations.
        target: for ``custom``: the import path of an ``nn.Module`` class or of a function that returns a module.
        options: for ``custom``: its arguments.
        imports: modules to import first: they register a library's own parts, such as a decode head.
    """

    name: str = MISSING
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    output_stride: int | None = None
    decoder_channels: int | None = None
    equal: dict[str, int] = field(default_factory=dict)
    config: str | None = None
    target: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name in records: for ``official`` and ``custom`` what they stand for."""
        return self.config or self.target or self.name


@dataclass
class EncoderConfig:
    """The encoder: a timm model name, a library's own as ``<library>/<name>``, or ``native``, the arch's own.

    Attributes:
        name: the name.
        pretrained: start from the encoder's published weights.
        weights: a file to take the encoder's weights from, instead of the published ones.
        depth: number of stages, each of half the resolution of the one before; None takes the library's.
        frozen: the encoder's weights and batch statistics stay as they are.
        options: further arguments of the library's own constructor.
    """

    name: str = MISSING
    pretrained: bool = True
    weights: str | None = None
    depth: int | None = None
    frozen: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def library(self) -> str:
        """The library that the encoder comes from: ``timm``, a backend's name, or ``native``."""
        if self.name == "native":
            return "native"
        return self.name.split("/", 1)[0] if "/" in self.name else "timm"

    @property
    def model(self) -> str:
        """The encoder's name within its library."""
        return self.name.split("/", 1)[-1]


@dataclass
class ShapesConfig:
    """The generated data set.

    Attributes:
        size: [height, width] in pixels.
        train: number of training images.
        val: number of validation images.
        seed: what the images are drawn from.
    """

    size: list[int] = field(default_factory=lambda: [96, 96])
    train: int = 240
    val: int = 60
    seed: int = 0


@dataclass
class DatasetConfig:
    """Where images and masks lie, and what the masks' values mean.

    Attributes:
        name: the name in records.
        classes: class names; the index in this list is the class index.
        palette: one [r, g, b] per class for pictures; None draws one.
        ignore_index: the label that counts nowhere.
        root: the folder that ``images`` and ``masks`` are relative to.
        images: a glob; ``{split}`` stands for the split's entry in ``splits``.
        masks: a glob; a mask belongs to the image with its stem.
        splits: the word for ``{split}``, by split.
        val_fraction: the share of pairs held out for ``val``, where the globs do not name ``{split}``.
        split_seed: what that share is drawn with.
        label_map: a label in the files to a class index or ``ignore_index``; labels not named keep their value.
        shapes: set for the generated data set, which has no files.
    """

    name: str = MISSING
    classes: list[str] = MISSING
    palette: list[list[int]] | None = None
    ignore_index: int = 255
    root: str | None = None
    images: str | None = None
    masks: str | None = None
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "val": "val"})
    val_fraction: float | None = None
    split_seed: int = 0
    label_map: dict[int, int] = field(default_factory=dict)
    shapes: ShapesConfig | None = None


@dataclass
class AugmentConfig:
    """What happens to an image before the model sees it.

    Attributes:
        resize: [height, width] of every image, in training and evaluation; scores are still computed at the
            label's own size. None keeps the size.
        scale: the range of a random resize in training.
        crop: [height, width] of the random crop in training.
        flip: probability of a horizontal flip in training.
        color_jitter: strength of random brightness, contrast and saturation in training.
        mean: channel means of the normalisation, for values in [0, 1]; None takes those that the model's published
            weights were trained with, ImageNet's where there are none.
        std: channel standard deviations of the normalisation; None likewise.
    """

    resize: list[int] | None = None
    scale: list[float] | None = None
    crop: list[int] | None = None
    flip: float = 0.0
    color_jitter: float = 0.0
    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass
class LossConfig:
    """The training loss.

    Attributes:
        name: one of ``checks.LOSSES``; ``auto`` is cross_entropy, and ``native`` where the arch's own settings say so.
        aux_weight: weight of each auxiliary head's loss; None is 0.4. The library's own loss has weights of its own.
        class_weights: one weight per class; for cross_entropy, focal and ohem.
        label_smoothing: for cross_entropy.
        gamma: focusing parameter; for focal.
        threshold: a pixel is hard while the true class has less than this probability; for ohem.
        min_kept_fraction: the share of pixels that is kept however easy they are; for ohem.
    """

    name: str = MISSING
    aux_weight: float | None = None
    class_weights: list[float] | None = None
    label_smoothing: float | None = None
    gamma: float | None = None
    threshold: float | None = None
    min_kept_fraction: float | None = None


@dataclass
class OptimizerConfig:
    """The optimiser.

    Attributes:
        name: one of ``checks.OPTIMIZERS``.
        lr: learning rate of the decoder.
        encoder_lr_scale: the encoder's learning rate over ``lr``.
        weight_decay: for all weights but norms and biases.
        betas: for adamw.
        momentum: for sgd.
    """

    name: str = MISSING
    lr: float = MISSING
    encoder_lr_scale: float = 1.0
    weight_decay: float = MISSING
    betas: list[float] | None = None
    momentum: float | None = None


@dataclass
class ScheduleConfig:
    """The learning rate over the steps of a run.

    Attributes:
        name: one of ``checks.SCHEDULES``.
        warmup_fraction: the share of all steps over which the rate rises linearly to its full value.
        power: exponent; for poly.
    """

    name: str = MISSING
    warmup_fraction: float = 0.0
    power: float | None = None


@dataclass
class TrainerConfig:
    """Where and how long to train; Lightning's own words.

    Attributes:
        max_epochs: passes over the training split.
        accelerator: one of ``checks.ACCELERATORS``.
        devices: a number of devices, a list of device indices, or ``auto``.
        strategy: Lightning's strategy, e.g. ``auto``, ``ddp``.
        precision: one of ``checks.PRECISIONS``.
        gradient_clip_norm: the largest gradient norm; None does not clip.
        sync_batchnorm: share batch statistics between processes.
        val_every_n_epochs: how often to validate.
        deterministic: refuse operations that are not deterministic.
        progress_bar: show one.
        log_every_n_steps: how often the training loss is logged.
    """

    max_epochs: int = 50
    accelerator: str = "auto"
    devices: Any = 1
    strategy: str = "auto"
    precision: str = "32-true"
    gradient_clip_norm: float | None = None
    sync_batchnorm: bool = False
    val_every_n_epochs: int = 1
    deterministic: bool = False
    progress_bar: bool = True
    log_every_n_steps: int = 10

    @property
    def is_distributed(self) -> bool:
        """Whether Lightning may start processes, or leave a process group behind: one device with ddp does, too."""
        devices = len(self.devices) if isinstance(self.devices, list) else self.devices
        return str(devices) != "1" or self.strategy != "auto"


@dataclass
class LoggerConfig:
    """Where the curves go.

    Attributes:
        name: one of ``checks.LOGGERS``.
        project: the project in W&B.
        mode: for wandb: ``auto`` is online for a user who is logged in and offline for all others.
    """

    name: str = MISSING
    project: str = "seggrid"
    mode: str = "auto"


@dataclass
class TrainConfig:
    """``train.py``: one cell, trained.

    Attributes:
        seed: of the weights, the order of the data and the augmentation.
        batch_size: training images per process.
        eval_batch_size: validation images per process; more than 1 needs images of one size.
        num_workers: loader processes per training process; None takes the cores there are, at most 8, and none where
            the model itself runs on the CPU.
        pictures: number of validation images whose predictions are kept for the comparison.
        weights: where the whole model's weights come from: a file, or a name under which the backend publishes them.
        match: one of ``checks.MATCHES``.
        resume: the folder of a run to go on with, under its own configuration.
    """

    backend: BackendConfig = field(default_factory=BackendConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = 0
    batch_size: int = 8
    eval_batch_size: int = 1
    num_workers: int | None = None
    pictures: int = 4
    weights: str | None = None
    match: str = "library"
    resume: str | None = None


@dataclass
class EvaluateConfig:
    """``evaluate.py``: a trained run, measured again.

    Attributes:
        run: the run's folder.
        split: the split to measure on.
        checkpoint: one of ``checks.CHECKPOINTS``.
        accelerator: one of ``checks.ACCELERATORS``.
        eval_batch_size: images per step.
        num_workers: as in :class:`TrainConfig`.
        pictures: as in :class:`TrainConfig`.
        progress_bar: show one.
    """

    run: str = MISSING
    split: str = "val"
    checkpoint: str = "best"
    accelerator: str = "auto"
    eval_batch_size: int = 1
    num_workers: int | None = None
    pictures: int = 4
    progress_bar: bool = True


@dataclass
class InputConfig:
    """The model's input: ``size`` is [height, width] in pixels."""

    size: list[int] = field(default_factory=lambda: [512, 1024])
    batch_size: int = 1


@dataclass
class ProfileConfig:
    """``profile.py``: what a cell costs.

    Attributes:
        num_classes: the number of classes the model is built for.
        input: the input it is measured on.
        counts_only: parameters and multiply-adds only; nothing is timed.
        warmup: forward passes before the first that counts.
        samples: forward passes that are timed.
        accelerator: one of ``checks.ACCELERATORS``.
        weights: as in :class:`TrainConfig`.
        match: as in :class:`TrainConfig`.
        seed: of the weights and the input.
    """

    backend: BackendConfig = field(default_factory=BackendConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    num_classes: int = 19
    input: InputConfig = field(default_factory=InputConfig)
    counts_only: bool = False
    warmup: int = 3
    samples: int = 20
    accelerator: str = "auto"
    weights: str | None = None
    match: str = "library"
    seed: int = 0


@dataclass
class ModelConfig:
    """All that a model is built from.

    Attributes:
        backend: the library.
        arch: the architecture.
        encoder: the encoder.
        num_classes: number of classes.
        classes: their names, which open-vocabulary methods read; None where there is no data set.
        weights: as in :class:`TrainConfig`.
        match: as in :class:`TrainConfig`.
        with_weights: load ``weights``; False builds the same network for a checkpoint to fill.
        restored: with that, ``Segmenter.restored`` of the network that the checkpoint is of.
    """

    backend: BackendConfig
    arch: ArchConfig
    encoder: EncoderConfig
    num_classes: int
    classes: list[str] | None = None
    weights: str | None = None
    match: str = "library"
    with_weights: bool = True
    restored: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The arch's settings for this backend."""
        return self.arch.backends[self.backend.name]

    @property
    def output_stride(self) -> int | None:
        """The output stride that is asked for; None leaves it to the library."""
        return self._asked("output_stride", self.arch.output_stride)

    @property
    def decoder_channels(self) -> int | None:
        """The decoder width that is asked for; None leaves it to the library."""
        return self._asked("decoder_channels", self.arch.decoder_channels)

    def _asked(self, key: str, chosen: int | None) -> int | None:
        return self.arch.equal.get(key) if chosen is None and self.match == "equal" else chosen


def model_config(config: TrainConfig | ProfileConfig) -> ModelConfig:
    """Takes what a model is built from out of a run's configuration."""
    cell = (config.backend, config.arch, config.encoder)
    if isinstance(config, ProfileConfig):
        return ModelConfig(*cell, config.num_classes, weights=config.weights, match=config.match)
    classes = list(config.dataset.classes)
    return ModelConfig(*cell, len(classes), classes, config.weights, config.match)


SCHEMAS: dict[str, type] = {"train": TrainConfig, "evaluate": EvaluateConfig, "profile": ProfileConfig}


def register(*kinds: str) -> None:
    """Makes schemas known to Hydra, as ``<kind>_schema``.

    Args:
        kinds: which; all where none is named. Hydra copies what is known for every group that ``--help`` lists, so an
            entry point names its own.
    """
    store = ConfigStore.instance()
    for kind in kinds or SCHEMAS:
        store.store(name=f"{kind}_schema", node=SCHEMAS[kind])
