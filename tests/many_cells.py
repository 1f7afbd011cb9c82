"""A sweep of as many cells as are asked for, its figures made up: curves, seeds, profiles, reasons, pictures."""

import csv
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from profiled import counted, timed, write_profile

from seggrid.results import Record

BACKENDS = {"smp": 0.0, "torchvision": 0.01, "mmseg": 0.02}
ARCHS = ("unet", "deeplabv3plus", "fcn", "pspnet", "upernet", "segformer", "fpn", "deeplabv3", "unetplusplus", "lraspp")
ENCODERS = tuple(
    f"{family}{size}"
    for family in ("resnet", "efficientnet_b", "convnext_v", "mit_b", "regnety_", "swin_s", "pvt_v2_b")
    for size in (0, 1, 2, 3, 4)
)
REASONS = (
    ("skipped", "UserError", "arch={arch} needs a pyramid of features; {encoder} has one stage <b>alone</b>"),
    ("failed", "OutOfMemory", "CUDA out of memory: tried to allocate 3.2 GiB"),
    ("interrupted", "Killed", "ended by SIGKILL"),
)


def write_many(
    folder: Path, number: int, classes: int = 12, seeds: int = 1, epochs: int = 12, pictures: int = 0
) -> None:
    """Writes a sweep.

    Args:
        folder: where to.
        number: of cells, at most 1050.
        classes: of the data set.
        seeds: runs of each cell.
        epochs: of each learning curve.
        pictures: how many of them each run keeps.
    """
    rng = random.Random(0)
    grid = list(itertools.product(ENCODERS, ARCHS, BACKENDS))[:number]
    for place, (encoder, arch, backend) in enumerate(grid):
        size = ARCHS.index(arch) + 2 * ENCODERS.index(encoder) % 7 + 3 * (backend == "mmseg")
        params, gmacs = int(3e6 * (1 + size) * rng.uniform(0.8, 1.2)), 4.0 * (1 + size) * rng.uniform(0.8, 1.2)
        base = 0.45 + 0.02 * min(size, 12) + BACKENDS[backend] + rng.gauss(0, 0.02)
        model = counted(
            params,
            gmacs,
            params_encoder=params // 2,
            output_stride=8 if backend == "mmseg" else 16,
            decoder_channels=512 if backend == "mmseg" else 256,
        )
        broken = place % 23 == 7
        for seed in range(seeds):
            run = folder / f"{place}_{seed}"
            cell: dict[str, Any] = {"backend": backend, "arch": arch, "encoder": encoder, "dataset": "streets"}
            said = [f"backend={backend}", f"arch={arch}", f"encoder={encoder}", "dataset=streets", f"seed={seed}"]
            if broken:
                status, kind, message = REASONS[place % 3]
                error = {"type": kind, "message": message.format(**cell)}
                Record("train", **cell, seed=seed, status=status, error=error, overrides=said).write(run)
                continue
            score = base + rng.gauss(0, 0.006)
            Record(
                **{"kind": "train", **cell, "seed": seed, "status": "completed", "overrides": said},
                model=model,
                train={"epochs": epochs, "steps": 100 * epochs, "s_per_iter": 0.03 + gmacs / 500},
                metrics={"mIoU": score, "mAcc": score + 0.07, "aAcc": score + 0.2, "mDice": score + 0.1, "loss": 0.3},
                intervals={"mIoU": [score - 0.015, score + 0.014]},
                per_class=[
                    {"class": f"class {index}", "iou": min(0.99, max(0.0, score + rng.uniform(-0.3, 0.3)))}
                    for index in range(classes)
                ],
                curves=[
                    {
                        **{"epoch": epoch, "step": 100 * epoch, "seconds": epoch * (3 + gmacs / 10)},
                        "train_loss": 2 / epoch**0.5 + rng.uniform(0, 0.05),
                        "val_loss": 2 / epoch**0.4 + rng.uniform(0, 0.1),
                        "mIoU": score * (1 - 0.8 / epoch),
                    }
                    for epoch in range(1, epochs + 1)
                ],
                environment={"seggrid": "0.1.0", "python": "3.12.3", "torch": "2.15.0", "device": "a GPU"},
            ).write(run)
            _write_pictures(run, pictures, score, rng)
        if not broken and place % 2 == 0:
            profile = timed(2 + gmacs / 6 * rng.uniform(0.7, 1.3))
            write_profile(folder / f"p{place}", arch, backend=backend, encoder=encoder, model=model, profile=profile)


def _write_pictures(run: Path, number: int, score: float, rng: random.Random) -> None:
    """Images that are noise, and their scores: the later the image, the more do the cells differ on it."""
    if not number:
        return
    folder = run / "predictions"
    folder.mkdir()
    random_pixels = np.random.default_rng(0)
    for place in range(number):
        pixels = random_pixels.integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{place:05d}_image.jpg")
        for kind in ("label", "prediction"):
            mask = Image.fromarray((pixels[..., 0] // 64).astype(np.uint8))
            mask.putpalette([value for index in range(256) for value in (index * 60 % 255, index * 90 % 255, 120)])
            mask.save(folder / f"{place:05d}_{kind}.png")
    keys = [f"town_{place}" for place in range(number)]
    np.savez_compressed(run / "images.npz", keys=np.array(keys), counts=np.zeros((number, 3, 2), np.int64))
    with (run / "images.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mIoU", "aAcc", "pixels"])
        writer.writerows([key, score + rng.uniform(-0.02, 0.02) * place, 0.9, 768] for place, key in enumerate(keys))
