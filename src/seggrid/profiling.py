"""Profiles one cell: what it is, and what it costs in time and memory to use and to train."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.profiler import ProfilerActivity, record_function

from seggrid import models, results, wandb_run
from seggrid.batch_size import Fit, Found, largest
from seggrid.checks import ImpossibleCellError
from seggrid.config import ProfileConfig, TtaConfig, model_config
from seggrid.counts import describe
from seggrid.devices import device_name, pick_device
from seggrid.errors import UserError
from seggrid.fitting import Room
from seggrid.inference import Predictor
from seggrid.losses import SegmentationLoss, loss_for
from seggrid.memory import give_back, held_bytes, peak_memory_bytes, reset_peak
from seggrid.models.segmenter import Segmenter
from seggrid.numerics import autocast, check_precision, single_precision
from seggrid.optim import build_optimizer
from seggrid.profile_table import print_profile
from seggrid.published import beside
from seggrid.timing import Budget, milliseconds, sample, summary
from seggrid.training_step import TrainingStep

log = logging.getLogger(__name__)
TRACE = "trace.json"
GAIN = 1.05  # a batch that is less than this faster per image is no better
PATIENCE = 2  # batch sizes without a gain, one after the other, that end the search for the best
LEAST_BATCH = 2  # batch norm after global pooling cannot train on one image
IGNORE_INDEX = 255  # without a data set


def profile(config: ProfileConfig, folder: Path, record: results.Record) -> None:
    """Profiles one cell.

    Args:
        config: the cell and how it is measured.
        folder: the run's folder; gets the trace.
        record: gets ``model`` and, unless ``counts_only``, ``profile``, part by part: what was measured before an
            error is there.

    Raises:
        UserError: the device, the precision or the memory is not there.
    """
    device = pick_device("device", config.device)
    if not config.counts_only:
        check_precision(config.precision, device)
    give_back()  # of the cell before, in a sweep
    held = held_bytes(device)
    torch.manual_seed(config.seed)
    model = models.build(model_config(config))
    describe(record, model, _size(config))
    record.published = beside(record.published, config.published)
    record.environment = results.environment(config.backend.name, device_name(device))
    with wandb_run.logged(config, folder, record):
        if not config.counts_only:
            assert record.model is not None
            record.profile = {"device": device_name(device), "base_memory_bytes": held}
            room = Room(model, record.model, config, device)
            with single_precision(config.precision, device):
                Measurement(model, config, device, room, record.profile, folder).run()
    print_profile(record)
    if config.trace and not config.counts_only:
        print(f"trace: {folder / TRACE} (for ui.perfetto.dev or chrome://tracing)")


class Measurement:
    """All that is timed of one model.

    Args:
        model: the model; it is moved to the device, and trained.
        config: how it is measured.
        device: where.
        room: what fits into its memory.
        section: the section ``profile`` of a record, which is filled.
        folder: gets the trace.
    """

    def __init__(
        self,
        model: Segmenter,
        config: ProfileConfig,
        device: torch.device,
        room: Room,
        section: dict[str, Any],
        folder: Path,
    ) -> None:
        self._model, self._config, self._device, self._room = model, config, device, room
        self._section, self._folder = section, folder
        self._size = _size(config)
        self._budget = Budget(config.warmup, config.samples, config.seconds)
        self._predictor = Predictor(config.inference, TtaConfig())
        self._ignore_index = config.dataset.ignore_index if config.dataset else IGNORE_INDEX

    def run(self) -> None:
        """Fills the section."""
        config, wanted = self._config, self._config.measure
        slides = config.inference.name == "slide"
        self._section |= {
            "precision": config.precision,
            "channels_last": config.channels_last,
            "compile": config.compile,
            "compile_s": None,
            "mode": config.inference.name,
            "crop": config.inference.crop if slides else None,
            "stride": config.inference.stride if slides else None,
        }
        loss = loss_for(config, self._model, self._ignore_index) if "training" in wanted else None
        if config.compile and loss is None and "training" in wanted:
            raise ImpossibleCellError(
                f"compile=true compiles the way from images to logits, but backend={config.backend.name} "
                f"arch={config.arch.name} trains with the library's own loss, which takes another; say "
                "measure=[latency,throughput], or leave it out"
            )
        self._room.check("inference", self._room.for_inference(1), 1)
        with self._room.explained("inference", 1):
            self._model.to(self._device)
            if config.channels_last:
                self._model.keep_channels_last()
        batch_size = self._training_batch_size(loss) if "training" in wanted else 0
        if config.compile:
            self._model.compile_forward(in_eval=True, dynamic=False)
            if {"latency", "throughput"} & set(wanted):
                with self._room.explained("inference", 1), _status("compiling for inference"):
                    self._add_compile_seconds(self._inference(1))
        if "latency" in wanted:
            self._latency()
        if "throughput" in wanted:
            self._throughput()
        step = self._training(loss, batch_size) if "training" in wanted else None
        self._section["channels_last"] = self._model.channels_last  # which some networks cannot keep
        self._warn()
        if config.trace:
            self._trace(step)

    def _latency(self) -> None:
        with self._room.explained("inference", 1), _status("latency at batch 1"):
            timing, peak = self._time_inference(1)
        self._section |= {
            "latency_ms": timing,
            "images_per_s": 1000 / timing["median"],
            "peak_memory_bytes": peak,
        }

    def _throughput(self) -> None:
        """Doubles the batch until it is no faster per image, or no longer fits."""
        found: list[dict[str, Any]] = []

        def measure(batch_size: int) -> None:
            if self._config.compile:
                torch.compiler.reset()  # code for so many sizes would not be kept
            timing, peak = self._time_inference(batch_size)
            speed = batch_size * 1000 / timing["median"]
            found.append(
                {"batch_size": batch_size, "latency_ms": timing, "images_per_s": speed, "peak_memory_bytes": peak}
            )

        fits = Fit(measure, self._device)
        batch_size, without_gain, best = 1, 0, 0.0
        while without_gain < PATIENCE:
            with _status(f"images per second at batch {batch_size}"):
                if not self._room.has(self._room.for_inference(batch_size)) or not fits(batch_size):
                    break
            speed = float(found[-1]["images_per_s"])
            without_gain = 0 if speed > GAIN * best else without_gain + 1
            best = max(best, speed)
            batch_size *= 2
        if not found:
            raise UserError(f"{self._room.asked('inference', 1)}: {fits.refusal}; {self._room.remedy('inference')}")
        fastest = max(found, key=lambda item: float(item["images_per_s"]))
        self._section |= {
            "batch_sizes": found,
            "best_batch_size": fastest["batch_size"],
            "best_images_per_s": fastest["images_per_s"],
        }

    def _training_batch_size(self, loss: SegmentationLoss | None) -> int:
        """Settles the training batch; ``auto`` is found without compiled code, which is made for one size."""
        wanted = self._config.batch_size
        if wanted != "auto":
            self._room.check("training", self._room.for_training(wanted), wanted)
            return int(wanted)
        step = self._step(loss)

        def once(batch_size: int) -> None:
            step.draw(batch_size)
            step()

        fits = Fit(once, self._device, self._room.per_training_image())
        with _status("the largest training batch"):
            found: Found | None = largest(fits, LEAST_BATCH, self._config.seconds)
        if found is None:
            what = self._room.asked("training", LEAST_BATCH)
            raise UserError(f"{what}: {fits.refusal}; {self._room.remedy('training')}")
        self._section["train_batch_size_limit"] = found.limit
        return found.batch_size

    def _training(self, loss: SegmentationLoss | None, batch_size: int) -> TrainingStep:
        step = self._step(loss)
        while True:
            with _status(f"training at batch {batch_size}"):
                try:
                    with self._room.explained("training", batch_size):
                        samples, stages = self._time_training(step, batch_size)
                    break
                except UserError:
                    if self._config.batch_size != "auto" or batch_size <= LEAST_BATCH:
                        raise
            batch_size -= max(1, batch_size // 8)  # it took one step in the search, but not these
        timing = summary([value / 1000 for value in samples])
        names = ("encoder", "decoder", "loss", "backward", "optimizer")
        self._section |= {
            "train_batch_size": batch_size,
            "train_s_per_iter": timing["median"],
            "train_images_per_s": batch_size / timing["median"],
            "train_peak_memory_bytes": peak_memory_bytes(self._device),
            "train_s": timing,
            "stages_ms": {
                "data": _data_ms(self._config, batch_size, self._budget),
                **{name: _median([item[name] for item in stages if name in item]) for name in names},
            },
        }
        return step

    def _time_training(self, step: TrainingStep, batch_size: int) -> tuple[list[float], list[dict[str, float]]]:
        give_back()
        step.draw(batch_size)
        if self._config.compile:
            self._add_compile_seconds(step)
        stages: list[dict[str, float]] = []

        def timed() -> float:
            stages.append(step())
            return stages[-1]["total"]

        samples = sample(timed, self._budget, partial(reset_peak, self._device))
        return samples, stages[-len(samples) :]

    def _step(self, loss: SegmentationLoss | None) -> TrainingStep:
        self._model.train()
        return TrainingStep(
            self._model,
            loss,
            build_optimizer(self._model, self._model.encoder_parameters(), self._config.optimizer),
            self._config.classes_count,
            self._ignore_index,
            self._size,
            self._config.precision,
            self._device,
        )

    def _inference(self, batch_size: int) -> Callable[[], Tensor]:
        """Puts the model into eval mode; returns what takes images on the device to their label map."""
        self._model.eval()
        images = torch.randn(batch_size, 3, *self._size, device=self._device)

        def infer() -> Tensor:
            with torch.inference_mode(), autocast(self._config.precision, self._device):
                return self._predictor.label_map(self._model, images, self._size)

        return infer

    def _time_inference(self, batch_size: int) -> tuple[dict[str, Any], int]:
        """Returns the times of an inference and its peak of memory, that of the first passes left out."""
        infer = self._inference(batch_size)
        once = partial(milliseconds, infer, self._device)
        timing = summary(sample(once, self._budget, partial(reset_peak, self._device)))
        return timing, peak_memory_bytes(self._device)

    def _add_compile_seconds(self, work: Callable[[], object]) -> None:
        """Compiles in a first pass; what a pass takes once it is compiled is not part of it."""
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start - milliseconds(work, self._device) / 1000
        self._section["compile_s"] = (self._section["compile_s"] or 0.0) + max(0.0, seconds)

    def _trace(self, step: TrainingStep | None) -> None:
        """Writes a trace of an inference and, where there is one, a training step; each has run once before."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else it prints an error where there is no GPU
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self._device.type == "cuda")
        infer = self._inference(1)
        infer()
        with torch.profiler.profile(activities=activities) as profiler:
            with record_function("inference"):
                infer()
            if step is not None:
                self._model.train()
                with record_function("training"):
                    step()
        profiler.export_chrome_trace(str(self._folder / TRACE))

    def _warn(self) -> None:
        """Records how far the times are apart, and says so where that is too far."""
        section = self._section
        times = [section[key] for key in ("latency_ms", "train_s") if key in section]
        times += [item["latency_ms"] for item in section.get("batch_sizes", [])]
        noise = section["noise"] = max((item["p90"] / item["p10"] for item in times), default=None)
        if noise is not None and noise > results.NOISY:
            log.warning(
                "warning: the machine is noisy: the slowest tenth of the passes takes %.2f times the fastest tenth; "
                "stop other work on it, or raise samples",
                noise,
            )


def _size(config: ProfileConfig) -> tuple[int, int]:
    height, width = config.input.size
    return height, width


def _median(values: list[float]) -> float | None:
    return float(summary(values)["median"]) if values else None


def _data_ms(config: ProfileConfig, batch_size: int, budget: Budget) -> float | None:
    """Returns the median milliseconds that one process takes to make a training batch; None without a data set."""
    if config.dataset is None:
        return None
    from torch.utils.data import default_collate

    from seggrid.data.datamodule import SegmentationData

    augment = config.augment
    if augment.crop is None and augment.resize is None:
        augment = dataclasses.replace(augment, crop=list(config.input.size))
    data = SegmentationData(config.dataset, augment, seed=config.seed)
    dataset = data.train_dataset
    assert dataset is not None
    drawn = 0

    def make() -> None:
        nonlocal drawn
        keys = [divmod(drawn + index, len(dataset)) for index in range(batch_size)]
        default_collate([dataset[key] for key in keys])
        drawn += batch_size

    return _median(sample(lambda: milliseconds(make, torch.device("cpu")), budget))


@contextmanager
def _status(what: str) -> Iterator[None]:
    """Shows what is being measured, where someone watches."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
