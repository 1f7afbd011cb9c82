"""Measures a model, trained or published, on a split; or uses it where there are no labels."""

import csv
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from seggrid import confusion_picture, counts, image_scores, memory, models, results, wandb_run
from seggrid.calibration import Calibration
from seggrid.checkpoints import build_again, checkpoint_path, load_weights
from seggrid.checks import loss_name
from seggrid.comparison.ties import COUNTS
from seggrid.config import DatasetConfig, EvaluateConfig, model_config
from seggrid.console import print_scores, progress, quiet
from seggrid.data.augment import EvalTransform
from seggrid.data.datamodule import EvaluationDataset, SegmentationData, Source
from seggrid.data.normalization import Normalization
from seggrid.data.photos import PhotoSource
from seggrid.devices import device_name, pick_device
from seggrid.errors import UserError
from seggrid.inference import Predictor
from seggrid.losses import build_loss
from seggrid.metrics import ratios
from seggrid.module import SegmentationModule
from seggrid.pictures import full_palette, save_pictures, save_worst
from seggrid.prediction import ImagePredictor, LabelWriter, predict
from seggrid.restore import run_folder
from seggrid.scoring import ImageScoring, Saving

IMAGES = "images.csv"  # the scores of each image, the worst first
OUT_OF_MEMORY = "say inference=slide, or lower inference.crop, inference.batch_size, eval_batch_size or augment.resize"
MASKS, OVERLAYS = "masks", "overlays"


@memory.explained(OUT_OF_MEMORY)
def evaluate(config: EvaluateConfig, folder: Path, record: results.Record) -> None:
    """Evaluates a model on a split, or writes its predictions where there are no labels.

    Args:
        config: which model, data and inference.
        folder: the evaluation's own folder.
        record: gets the cell, ``model``, ``evaluation`` and, where there are labels, ``metrics`` and its kin.

    Raises:
        UserError: the model, its weights or the data are not there, or do not fit each other.
    """
    quiet()
    memory.give_back()  # what the run before has left in this process
    pick_device("accelerator", config.accelerator)
    pl.seed_everything(config.seed, verbose=False)
    model = _build(config)
    record.evaluation = _described(config)
    predictor = Predictor(config.inference, config.tta)
    if config.images is not None:
        record.dataset = None
        _use(config, model, predictor, PhotoSource.find(config.images), folder, record)
        return
    data = SegmentationData(
        config.dataset,
        config.augment,
        eval_batch_size=config.eval_batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
        eval_split=config.split,
        train=False,
        need_labels=False,
    )
    if not data.eval_source.labelled:
        _use(config, model, predictor, data.eval_source, folder, record)
        return
    data.normalize_for(*model.normalization)
    name = loss_name(config)
    loss = None
    if name != "native":
        loss = build_loss(dataclasses.replace(config.loss, name=name), config.dataset.ignore_index)
    calibration = Calibration(config.dataset.ignore_index)
    module = SegmentationModule(
        model,
        loss,
        config.dataset.classes,
        config.dataset.ignore_index,
        predictor=predictor,
        calibration=calibration,
    )
    if checkpoint := _checkpoint(config):
        load_weights(module, checkpoint)
    counts.describe(record, model, input_size(data))
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=progress(config.progress_bar),
        enable_progress_bar=config.progress_bar and sys.stdout.isatty(),
    )
    record.environment = results.environment(record.backend, device_name(trainer.strategy.root_device))
    saving = [Saving(LabelWriter(config.dataset, _saved(config, folder)))] if config.save else []
    with wandb_run.logged(config, folder, record, trainer.is_global_zero):
        measure(
            module,
            data,
            config.dataset,
            trainer,
            folder,
            config.pictures,
            record,
            config.boundary,
            config.worst,
            saving,
        )
    if trainer.is_global_zero:
        print_scores(record, config.split, folder)
        if config.save:
            print(f"predictions: {_saved(config, folder)}")


def measure(
    module: SegmentationModule,
    data: SegmentationData,
    dataset: DatasetConfig,
    trainer: pl.Trainer,
    folder: Path,
    pictures: int,
    record: results.Record,
    boundary: bool = False,
    worst: int = 0,
    callbacks: list[Saving] | None = None,
) -> None:
    """Measures a module as it stands on the data's evaluation split.

    Args:
        module: the module with its weights.
        data: the data.
        dataset: its class names and palette.
        trainer: on whose devices it runs.
        folder: gets the pictures, the confusion matrix and the scores by image.
        pictures: how many evenly spaced images are shown.
        record: gets ``metrics``, ``per_class`` and ``intervals``.
        boundary: measure the boundary IoU, too.
        worst: how many of the worst images are shown.
        callbacks: what else sees the predictions.
    """
    scoring = ImageScoring(len(dataset.classes), dataset.ignore_index, boundary)
    added: list[pl.Callback] = [scoring, *(callbacks or [])]
    trainer.callbacks.extend(added)  # type: ignore[attr-defined]  # Lightning sets the list in its constructor
    try:
        trainer.validate(module, data, verbose=False)
    finally:
        for callback in added:
            trainer.callbacks.remove(callback)  # type: ignore[attr-defined]
    assert module.scores is not None and module.matrix is not None
    classes = list(dataset.classes)
    record.metrics = {**module.scores.means, "loss": module.eval_loss}
    record.per_class = module.scores.per_class(classes)
    indices, counts = scoring.images.compute()
    record.intervals = {name: list(ends) for name, ends in image_scores.bootstrap(counts).items()}
    if scoring.boundary is not None:
        ious = ratios(scoring.boundary.compute())[0]
        record.metrics["boundary_mIoU"] = float(ious.nanmean())
        for row, iou in zip(record.per_class, ious.tolist(), strict=True):
            row["boundary_iou"] = iou
    if module.calibration is not None:
        record.metrics["ECE"], record.calibration = module.calibration.compute()
    if not trainer.is_global_zero:
        return
    confusion_picture.write_csv(module.matrix, classes, folder / "confusion.csv")
    confusion_picture.save(module.matrix, classes, folder / "confusion.png")
    keys = [data.eval_source.key(index) for index in indices]
    image_scores.write(folder / COUNTS, keys, counts)
    order = _write_images(folder / IMAGES, keys, counts)
    image_predictor = ImagePredictor(module.model, module.predictor, data.normalize, trainer.strategy.root_device)
    save_pictures(image_predictor, data.eval_dataset, dataset, folder, pictures)
    shown = [(indices[position], miou) for position, miou in order[:worst]]
    save_worst(image_predictor, data.eval_dataset, dataset, folder, shown)


def input_size(data: SegmentationData) -> tuple[int, int]:
    """Returns (height, width) of the first evaluation image as the model sees it."""
    image: Any = data.eval_dataset[(0, 0)][0]
    return (int(image.shape[-2]), int(image.shape[-1]))


def _build(config: EvaluateConfig) -> models.Segmenter:
    checkpoint = _checkpoint(config)
    if checkpoint is not None:
        return build_again(config, checkpoint)
    encoder = dataclasses.replace(config.encoder, pretrained=False)
    return models.build(dataclasses.replace(model_config(config), encoder=encoder, all_weights=True))


def _checkpoint(config: EvaluateConfig) -> Path | None:
    run = run_folder(config.run, config.checkpoint)
    return None if run is None else checkpoint_path(run, config.checkpoint)


def _saved(config: EvaluateConfig, folder: Path) -> Path:
    """Returns where predictions go: in a sweep each run has a folder of its own within the one that was named."""
    if config.save is None:
        return folder / MASKS
    saved = Path(config.save).expanduser()
    return saved / folder.name if results.in_sweep(folder) else saved


def _described(config: EvaluateConfig) -> dict[str, Any]:
    """What a reader has to know of an evaluation: the section of that name in a record."""
    slides = config.inference.name == "slide"
    trained = None if config.run is None else results.read(Path(config.run))
    return {
        "run": config.run,
        "trained_with": [] if trained is None else trained.overrides,
        "checkpoint": None if config.run is None else config.checkpoint,
        "weights": config.weights if config.run is None else None,
        "split": None if config.images is not None else config.split,
        "inference": config.inference.name,
        "crop": config.inference.crop if slides else None,
        "stride": config.inference.stride if slides else None,
        "tta_flip": config.tta.flip,
        "tta_scales": list(config.tta.scales),
    }


def _use(
    config: EvaluateConfig,
    model: models.Segmenter,
    predictor: Predictor,
    source: Source,
    folder: Path,
    record: results.Record,
) -> None:
    """Writes predictions where there are no labels: for a user's own pictures, or for a benchmark's test split."""
    own = config.images is not None
    device = pick_device("accelerator", config.accelerator)
    record.environment = results.environment(record.backend, device_name(device))
    if checkpoint := _checkpoint(config):
        load_weights(SegmentationModule(model, None, config.dataset.classes, config.dataset.ignore_index), checkpoint)
    dataset = EvaluationDataset(source, EvalTransform(config.augment), config.dataset.ignore_index)
    masks = _saved(config, folder)
    overlays = folder / OVERLAYS if own else None
    with wandb_run.logged(config, folder, record):
        done, faults = predict(
            dataset,
            ImagePredictor(model, predictor, Normalization(config.augment, *model.normalization), device),
            LabelWriter(config.dataset, masks),
            overlays,
            full_palette(config.dataset),
            config.progress_bar and sys.stdout.isatty(),
        )
        record.evaluation = {**(record.evaluation or {}), "predicted": done, "passed_over": faults}
        if done == 0:
            raise UserError(f"none of {len(source)} images could be read; the first: {faults[0]}")
    what = "" if own else f"{config.dataset.name} {config.split} has no labels to measure on: "
    print(f"{what}{done} images predicted" + (f", {len(faults)} passed over" if faults else ""))
    print(f"masks: {masks}" + (f"  overlays: {overlays}" if overlays else ""))


def _write_images(path: Path, keys: list[str], counts: torch.Tensor) -> list[tuple[int, float]]:
    """Writes the score of each image, the worst first; returns positions and mIoU in this order."""
    mious = image_scores.image_miou(counts).tolist()
    hits, labelled = counts[:, 0].sum(1).tolist(), counts[:, 1].sum(1).tolist()
    order = sorted((position for position, miou in enumerate(mious) if miou == miou), key=lambda item: mious[item])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mIoU", "aAcc", "pixels"])
        for position in order:
            share = hits[position] / labelled[position]
            writer.writerow([keys[position], round(mious[position], 6), round(share, 6), labelled[position]])
    return [(position, mious[position]) for position in order]
