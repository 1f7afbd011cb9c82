"""What a group of ``conf/`` holds, typed: one class per folder. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

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
        palette: one [r, g, b] per class for pictures, and for masks that are RGB images; None draws one.
        ignore_index: the label that counts nowhere.
        root: the folder that all paths here are relative to.
        images: where the images lie. ``{split}`` stands for the split's word in ``splits``, ``{name}`` for an image's
            name, which may hold folders; ``*`` as in a glob. Without ``{name}`` the name is the file's stem.
        masks: where the masks lie; a mask belongs to the image of its name, and of the same folders under ``*``.
            A list is tried in order. None: there are no labels, only predictions can be made.
        splits: the word for ``{split}``, by split.
        lists: by split, a text file or several that name its images, one a line; what ``val`` names is in no ``train``.
            They go before ``names``.
        names: by split, the names of its images themselves.
        val_fraction: the share of pairs held out for ``val``, where nothing else tells the splits apart.
        split_seed: what that share is drawn with.
        reduce_zero_label: the label 0 counts nowhere and 1 is the first class.
        label_map: a label in the files to a class index or ``ignore_index``; labels not named keep their value.
        mask_colors: for masks that are RGB images: the [r, g, b] that stands for label 0, 1, ..., [] where none does;
            None takes the palette.
        color_tolerance: how far each channel of such a mask may be from the colour that it stands for; the nearest
            counts.
        mat_key: for masks that are MATLAB files: the path of the label array in them.
        merge: class names of ``classes`` that are learnt as one, by the name of that one.
        ignore: class names of ``classes`` that count nowhere.
        download: what a user has to get, from where, and where it goes; for messages.
        cache: one of ``checks.CACHES``: keep decoded images and labels on disk, or in memory.
        cache_dir: where on disk; None takes the user's cache folder.
        shapes: set for the generated data set, which has no files.
    """

    name: str = MISSING
    classes: list[str] = MISSING
    palette: list[list[int]] | None = None
    ignore_index: int = 255
    root: str | None = None
    images: str | None = None
    masks: Any = None
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "val": "val"})
    lists: dict[str, Any] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    val_fraction: float | None = None
    split_seed: int = 0
    reduce_zero_label: bool = False
    label_map: dict[int, int] = field(default_factory=dict)
    mask_colors: list[list[int]] | None = None
    color_tolerance: int = 0
    mat_key: str | None = None
    merge: dict[str, list[str]] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    download: str | None = None
    cache: str = "none"
    cache_dir: str | None = None
    shapes: ShapesConfig | None = None


@dataclass
class AugmentConfig:
    """What happens to an image before the model sees it.

    Attributes:
        resize: [height, width] of every image, in training and evaluation; scores are still computed at the
            label's own size. None keeps the size.
        scale: the range of a random resize in training.
        crop: [height, width] of the random crop in training.
        max_class_share: a crop of which one class fills more than this share is drawn again, ten times at most.
        flip: probability of a horizontal flip in training.
        photometric: random brightness, contrast, saturation and hue in training, as in SSD and MMSegmentation.
        mean: channel means of the normalisation, for values in [0, 1]; None takes those that the model's published
            weights were trained with, ImageNet's where there are none.
        std: channel standard deviations of the normalisation; None likewise.
    """

    resize: list[int] | None = None
    scale: list[float] | None = None
    crop: list[int] | None = None
    max_class_share: float | None = None
    flip: float = 0.0
    photometric: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass
class InferenceConfig:
    """How an image goes through the model in evaluation.

    Attributes:
        name: ``whole``: at once; ``slide``: in windows that overlap, their logits averaged where they do.
        crop: [height, width] of a window.
        stride: [rows, columns] from one window to the next.
        batch_size: windows per forward pass.
    """

    name: str = MISSING
    crop: list[int] | None = None
    stride: list[int] | None = None
    batch_size: int | None = None


@dataclass
class TtaConfig:
    """Test-time augmentation: the mean of the softmax over all scales, each with and without the flip.

    Attributes:
        flip: add the horizontally flipped image.
        scales: factors of the image's height and width.
    """

    flip: bool = False
    scales: list[float] = field(default_factory=lambda: [1.0])


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
        num_nodes: number of machines; ``devices`` are those of one.
        strategy: Lightning's strategy, e.g. ``auto``, ``ddp``, ``fsdp``.
        precision: one of ``checks.PRECISIONS``; ``auto`` is ``bf16-mixed`` where the device computes in bfloat16
            itself, else ``32-true``.
        channels_last: keep images and weights in the memory format ``channels_last``, where the network can.
        benchmark: let cuDNN try its algorithms on images of one size, and keep the fastest; not with ``deterministic``.
        gradient_clip_norm: the largest gradient norm; None does not clip.
        sync_batchnorm: share batch statistics between processes.
        val_every_n_epochs: how often to validate.
        deterministic: refuse operations that are not deterministic.
        progress_bar: show one.
        log_every_n_steps: how often the training loss is logged.
        checkpoint_every_n_steps: how often ``last.ckpt`` is written within an epoch, beside its end; None writes none.
        compile: have ``torch.compile`` make the training's forward pass.
    """

    max_epochs: int = 50
    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    channels_last: bool = True
    benchmark: bool = True
    gradient_clip_norm: float | None = None
    sync_batchnorm: bool = False
    val_every_n_epochs: int = 1
    deterministic: bool = False
    progress_bar: bool = True
    log_every_n_steps: int = 10
    checkpoint_every_n_steps: int | None = None
    compile: bool = False

    @property
    def is_distributed(self) -> bool:
        """Whether Lightning may start processes, or leave a process group behind: one device with ddp does, too."""
        return is_several(self.devices) or self.num_nodes > 1 or self.strategy != "auto"


@dataclass
class LoggerConfig:
    """Where the curves go.

    Attributes:
        name: one of ``checks.LOGGERS``.
        project: the project in W&B.
        mode: for wandb: ``auto`` is online for a user who is logged in and offline for all others.
        artifacts: for wandb: upload the best checkpoint.
    """

    name: str = MISSING
    project: str = "seggrid"
    mode: str = "auto"
    artifacts: bool = False


@dataclass
class SweepConfig:
    """What a sweep does with its cells; where and how many at once is ``hydra.launcher``'s.

    Attributes:
        retry: try the cells again that failed when this sweep ran before.
        confirm: start even more than ``checks.MANY_JOBS`` jobs.
    """

    retry: bool = True
    confirm: bool = False


@dataclass
class PublishedConfig:
    """What others have published about a cell, to stand beside what is measured.

    Attributes:
        params: number of parameters.
        gmacs: 10^9 multiply-adds of one image of ``input.size``.
        train_s_per_iter: seconds per training step.
        device: what that was measured on.
        source: where it is published.
        note: why what is measured differs from it.
    """

    params: float | None = None
    gmacs: float | None = None
    train_s_per_iter: float | None = None
    device: str | None = None
    source: str | None = None
    note: str | None = None


def is_several(devices: Any) -> bool:
    """Whether a number of devices, a list of them, or ``auto`` may come to more than one."""
    return str(len(devices) if isinstance(devices, list) else devices) != "1"
