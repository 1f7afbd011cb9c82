"""What a user can configure, typed: the commands and the groups that they are made of. Imports no torch.

Every group of ``conf/`` fills a class of ``config_groups.py``. OmegaConf refuses unknown keys and wrong types while it
composes; ``checks.py`` refuses the values that no run could use.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from seggrid.config_groups import (
    ArchConfig,
    AugmentConfig,
    BackendConfig,
    DatasetConfig,
    EncoderConfig,
    InferenceConfig,
    LoggerConfig,
    LossConfig,
    OptimizerConfig,
    PublishedConfig,
    ScheduleConfig,
    ShapesConfig,
    SweepConfig,
    TrainerConfig,
    TtaConfig,
    is_several,
)

__all__ = [
    "ArchConfig",
    "AugmentConfig",
    "BackendConfig",
    "CheckConfig",
    "DatasetConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "InferenceConfig",
    "InputConfig",
    "LoggerConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ProfileConfig",
    "PublishedConfig",
    "ScheduleConfig",
    "ShapesConfig",
    "SweepConfig",
    "TrainConfig",
    "TrainerConfig",
    "TtaConfig",
    "model_config",
    "register",
]


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
        sweep: what a sweep that this run is one of does with its cells.
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
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass
class EvaluateConfig:
    """``evaluate.py``: a trained run, a checkpoint or published weights, measured on a split, or used on pictures.

    With ``run`` or a checkpoint's file, what describes model and data is that of the training, but for what is said
    on the command line.

    Attributes:
        run: a run's folder; None where a checkpoint's file or published ``weights`` are measured.
        checkpoint: one of ``checks.CHECKPOINTS``, or a file.
        split: the split to measure on.
        inference: how an image goes through the model.
        tta: test-time augmentation.
        images: pictures to segment instead of a data set's split: files or globs.
        save: a folder that gets the predictions as PNG files in the data set's own labels; None keeps none.
        boundary: measure the boundary IoU, too.
        worst: number of images with the lowest mIoU that are shown.
        accelerator: one of ``checks.ACCELERATORS``.
        devices: as in :class:`TrainerConfig`.
        progress_bar: show one.
        logger: where the record goes, beside its file.
        backend: as in :class:`TrainConfig`, and so all that follow.
    """

    run: str | None = None
    checkpoint: str = "best"
    split: str = "val"
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    tta: TtaConfig = field(default_factory=TtaConfig)
    images: Any = None
    save: str | None = None
    boundary: bool = True
    worst: int = 8
    accelerator: str = "auto"
    devices: Any = 1
    progress_bar: bool = True
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    seed: int = 0
    eval_batch_size: int = 1
    num_workers: int | None = None
    pictures: int = 4
    weights: str | None = None
    match: str = "library"
    sweep: SweepConfig = field(default_factory=SweepConfig)

    @property
    def is_distributed(self) -> bool:
        """Whether Lightning may start processes."""
        return is_several(self.devices)


@dataclass
class CheckConfig:
    """``python -m seggrid.data.check``: what is in a data set.

    Attributes:
        dataset: the data set.
        augment: what ``augmented.png`` shows.
        splits: the splits that are looked at, the first of which also gives weights, mean and pictures.
        num_workers: processes that read; None takes the cores there are.
        pictures: number of images on the sheets.
        faults: the most faults that are printed.
        seed: of the augmentation.
        progress_bar: show one.
    """

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    splits: list[str] = field(default_factory=lambda: ["train", "val"])
    num_workers: int | None = None
    pictures: int = 12
    faults: int = 20
    seed: int = 0
    progress_bar: bool = True


@dataclass
class InputConfig:
    """The model's input: ``size`` is [height, width] in pixels."""

    size: list[int] = field(default_factory=lambda: [512, 1024])


@dataclass
class ProfileConfig:
    """``profile.py``: what a cell costs.

    Attributes:
        dataset: its images are what the time to load a training batch is measured on; None loads none.
        augment: how they are augmented.
        inference: how an image goes through the model.
        loss: of the training step.
        optimizer: of the training step.
        num_classes: the number of classes the model is built for; that of the data set where there is one.
        input: the input it is measured on.
        batch_size: images per training step; ``auto`` finds the largest that fits.
        counts_only: parameters, multiply-adds and sizes only; nothing is timed.
        measure: what is timed: some of ``checks.MEASUREMENTS``.
        warmup: passes at least before the first that counts; more are made until they get no faster.
        samples: passes that are timed.
        seconds: a measurement ends after this time, though not before its fifth sample.
        device: one of ``checks.DEVICES``.
        precision: one of ``checks.PROFILE_PRECISIONS``.
        channels_last: keep images and weights in the memory format ``channels_last``.
        compile: run the model through ``torch.compile``.
        trace: write a trace of an inference and a training step by the profiler of PyTorch.
        published: what others have published about the cell.
        logger: where the record goes, beside its file.
        weights: as in :class:`TrainConfig`.
        match: as in :class:`TrainConfig`.
        seed: of the weights and the input.
    """

    backend: BackendConfig = field(default_factory=BackendConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    dataset: DatasetConfig | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    num_classes: int = 19
    input: InputConfig = field(default_factory=InputConfig)
    batch_size: Any = 2
    counts_only: bool = False
    measure: list[str] = field(default_factory=lambda: ["latency", "throughput", "training"])
    warmup: int = 3
    samples: int = 20
    seconds: float = 30.0
    device: str = "auto"
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    trace: bool = False
    published: PublishedConfig = field(default_factory=PublishedConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    weights: str | None = None
    match: str = "library"
    seed: int = 0
    sweep: SweepConfig = field(default_factory=SweepConfig)

    @property
    def classes_count(self) -> int:
        """The number of classes: the data set's where there is one."""
        return self.num_classes if self.dataset is None else len(self.dataset.classes)


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
        all_weights: with that, refuse weights that leave a part of the network at its random start.
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
    all_weights: bool = False
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


def model_config(config: TrainConfig | EvaluateConfig | ProfileConfig) -> ModelConfig:
    """Takes what a model is built from out of a run's configuration."""
    cell = (config.backend, config.arch, config.encoder)
    if config.dataset is None:
        return ModelConfig(*cell, config.num_classes, weights=config.weights, match=config.match)
    classes = list(config.dataset.classes)
    return ModelConfig(*cell, len(classes), classes, config.weights, config.match)


TABLES = ("splits", "lists", "names", "label_map", "merge")  # keys of a data set that take any key
SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "profile": ProfileConfig,
    "check": CheckConfig,
}


def register(*kinds: str) -> None:
    """Makes schemas known to Hydra, as ``<kind>_schema``.

    Args:
        kinds: which; all where none is named. Hydra copies what is known for every group that ``--help`` lists, so an
            entry point names its own.
    """
    store = ConfigStore.instance()
    for kind in kinds or SCHEMAS:
        node = OmegaConf.structured(SCHEMAS[kind])
        for name in TABLES if node.get("dataset") is not None else ():
            OmegaConf.set_struct(node.dataset[name], False)  # dataset.label_map={7: 255} without a plus sign
        store.store(name=f"{kind}_schema", node=node)
