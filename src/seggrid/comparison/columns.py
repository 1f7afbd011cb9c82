"""The columns of a comparison: those that are computed with, in ``comparison.csv``, and those that people read."""

from typing import TYPE_CHECKING, NamedTuple

from seggrid.comparison.rows import as_number

if TYPE_CHECKING:
    from seggrid.comparison.cells import Cell
    from seggrid.comparison.report import Run

CSV_COLUMNS = (
    *("backend", "arch", "encoder", "dataset", "seed", "n", "seeds", "kind", "status", "error"),
    *("mIoU", "mIoU_spread", "mIoU_low", "mIoU_high", "mAcc", "aAcc", "mDice", "boundary_mIoU", "ECE", "loss"),
    *("split", "inference", "tta"),
    *("params", "params_encoder", "params_decoder", "params_aux", "gmacs", "gmacs_aux", "input_height", "input_width"),
    *("activation_bytes", "checkpoint_bytes"),
    *("output_stride", "encoder_depth", "decoder_channels", "loss_name", "unmatched"),
    *("published_config", "published_dataset", "published_mIoU", "published_mIoU_ms_flip", "published_memory_gb"),
    "published_weights",
    *("published_params", "published_params_measured", "published_params_difference"),
    *("published_gmacs", "published_gmacs_measured", "published_gmacs_difference"),
    *("published_train_s_per_iter", "published_train_s_per_iter_measured", "published_train_s_per_iter_difference"),
    *("published_device", "published_source", "published_note"),
    *("epochs", "steps", "s_per_iter", "images_per_s", "peak_memory_bytes"),
    *("latency_ms_median", "latency_ms_p10", "latency_ms_p90", "latency_samples"),
    *("profile_images_per_s", "profile_best_images_per_s", "profile_best_batch_size", "profile_peak_memory_bytes"),
    *("profile_train_s_per_iter", "profile_train_images_per_s", "profile_train_batch_size"),
    *("profile_train_peak_memory_bytes", "profile_base_memory_bytes", "profile_noise"),
    *("precision", "channels_last"),
    *("profile_precision", "profile_channels_last", "profile_compile", "profile_compile_s"),
    *("profile_device", "profile_mode"),
    *("seggrid", "python", "torch", "backend_version", "device", "git_sha", "overrides", "started", "ended"),
)


class Column(NamedTuple):
    """A column as people read it: ``values[key] * scale`` with so many digits; None leaves the value as it is."""

    key: str
    head: str
    scale: float = 1.0
    digits: int | None = None
    sign: str = ""  # "+" for a difference

    def text(self, row: "Run | Cell") -> str:
        """Returns what stands in this column for a run or a cell; nothing where it has no such value."""
        value = row.values.get(self.key)
        number = as_number(value)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if self.digits is None or number is None:
            return "" if value is None else str(value)
        rounded = round(number * self.scale, self.digits) + 0.0  # no minus before a zero
        return f"{rounded:{self.sign}.{self.digits}f}"


COLUMNS = (
    Column("rank", "#"),
    Column("backend", "backend"),
    Column("arch", "arch"),
    Column("encoder", "encoder"),
    Column("settings", "settings"),
    Column("dataset", "dataset"),
    Column("seed", "seed"),
    Column("seeds", "seeds"),
    Column("kind", "kind"),
    Column("precision", "precision"),
    Column("channels_last", "channels_last"),
    Column("profile_precision", "precision"),
    Column("profile_channels_last", "channels_last"),
    Column("profile_compile", "compile"),
    Column("profile_mode", "mode"),
    Column("profile_crop", "window"),
    Column("profile_train_batch_size", "training batch"),
    Column("profile_input", "profiled at"),
    Column("profile_device", "profiled on"),
    Column("mIoU", "mIoU %", 100, 2),
    Column("mIoU_spread", "±", 100, 2),
    Column("n", "n"),
    Column("interval", "95 % interval"),
    Column("boundary_mIoU", "boundary mIoU %", 100, 2),
    Column("split", "split"),
    Column("inference", "inference"),
    Column("tta", "TTA"),
    Column("params", "params M", 1e-6, 2),
    Column("published_params", "published params M", 1e-6, 2),
    Column("published_params_difference", "params over published %", 100, 1, "+"),
    Column("gmacs", "GMac", 1, 2),
    Column("published_gmacs", "published GMac", 1, 2),
    Column("published_gmacs_difference", "GMac over published %", 100, 1, "+"),
    Column("latency_ms_median", "latency ms", 1, 2),
    Column("latency_range", "p10 to p90"),
    Column("profile_images_per_s", "images/s", 1, 1),
    Column("profile_best_images_per_s", "best images/s", 1, 1),
    Column("profile_best_batch_size", "at batch"),
    Column("inference_memory_bytes", "inference GiB", 2**-30, 2),
    Column("output_stride", "stride"),
    Column("encoder_depth", "depth"),
    Column("decoder_channels", "decoder width"),
    Column("unmatched", "not matched"),
    Column("loss_name", "loss"),
    Column("published_mIoU", "published mIoU %", 100, 2),
    Column("published_dataset", "published on"),
    Column("published_memory_gb", "published GB", 1, 1),
    Column("mAcc", "mAcc %", 100, 2),
    Column("aAcc", "aAcc %", 100, 2),
    Column("mDice", "mDice %", 100, 2),
    Column("s_per_iter", "s/iter", 1, 3),
    Column("peak_memory_bytes", "memory GiB", 2**-30, 2),
    Column("profile_train_s_per_iter", "profiled s/iter", 1, 3),
    Column("published_train_s_per_iter", "published s/iter", 1, 3),
    Column("published_train_s_per_iter_difference", "s/iter over published %", 100, 1, "+"),
    Column("published_device", "published for"),
    Column("training_memory_bytes", "training GiB", 2**-30, 2),
    Column("activation_bytes", "activations MiB", 2**-20, 0),
    Column("checkpoint_bytes", "checkpoint MiB", 2**-20, 1),
    Column("input", "input"),
    Column("epochs", "epochs"),
    Column("published_note", "published note"),
    Column("status", "status"),
)
# How it was profiled; its heads say so where there are other runs, which have settings of their own.
PROFILE_SETTINGS = (
    "profile_precision",
    "profile_channels_last",
    "profile_compile",
    "profile_mode",
    "profile_crop",
    "profile_train_batch_size",
    "profile_input",
    "profile_device",
)
SETTINGS = (
    "dataset",
    "seed",
    "seeds",
    "kind",
    "input",
    "epochs",
    "loss_name",
    "split",
    "inference",
    "tta",
    "published_device",
    "precision",
    "channels_last",
    *PROFILE_SETTINGS,
)  # a column where they vary, one line where they do not
WORDS = (
    *("backend", "arch", "encoder", "settings", "dataset", "kind", "split", "inference", "tta", "status", "input"),
    *("published_device", "published_note", "precision", "channels_last", *PROFILE_SETTINGS),
)
