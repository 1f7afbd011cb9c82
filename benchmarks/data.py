"""Images per second from files to training samples: MMSegmentation's own pipeline, bare decoding, and seggrid's.

    python benchmarks/data.py [blocks=7] [images=12]

One process and one thread, as in a loader's worker. The files are generated pictures of 2048x1024, with noise at all
scales, edges, and the fine noise of a sensor: as PNG they take about as many bytes as Cityscapes' photographs, 2.3 MB.
Half are written by Pillow, half by OpenCV, which choose other PNG filters: the first take longer to decode.
The recipe is Cityscapes': scale 0.5 to 2, crop 512x1024 of which no class fills 75 %, flip, photometric distortion. A
block runs every pipeline over all files once, each time in another order; caches are filled before. Prints every
block, and the medians of the ratios within a block.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from seggrid.config import AugmentConfig, DatasetConfig
from seggrid.data.augment import TrainTransform
from seggrid.data.cache import with_cache
from seggrid.data.datamodule import SegmentationDataset
from seggrid.data.files import find_files

HEIGHT, WIDTH, CLASSES, IGNORE = 1024, 2048, 19, 255
CROP, SCALE, SHARE = (512, 1024), (0.5, 2.0), 0.75
AUGMENT = AugmentConfig(scale=list(SCALE), crop=list(CROP), max_class_share=SHARE, flip=0.5, photometric=True)

Pipeline = Callable[[int, int], Any]
"""From (epoch, index) to a sample."""


def picture(seed: int) -> tuple[Any, Any]:
    """Draws an image, RGB uint8 ``(H, W, 3)``, and its labels, uint8 ``(H, W)``."""
    random = np.random.default_rng(seed)
    image = np.full((HEIGHT, WIDTH, 3), 110, np.float32)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for octave in range(1, 8):  # twice as strong at twice the length, as in natural images
        size = 2**octave
        noise = random.normal(0, 1, (HEIGHT // size + 2, WIDTH // size + 2, 3)).astype(np.float32)
        noise = 1.4 * noise.mean(2, keepdims=True) + 0.2 * noise  # mostly grey
        image += 0.11 * size * cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        corners = random.integers((0, 0), (WIDTH, HEIGHT)) + random.integers((-300, -200), (300, 200), (6, 2))
        inside = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(inside, [cv2.convexHull(corners.astype(np.int32))], 1)
        image[inside > 0] += random.uniform(-40, 40, 3).astype(np.float32)
        labels[inside > 0] = random.integers(CLASSES)
    image = cv2.GaussianBlur(image, (0, 0), 0.8) + random.normal(0, 1.2, image.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def write(folder: Path, images: int) -> list[tuple[Path, Path]]:
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    pairs = [(folder / "images" / f"{index:02d}.png", folder / "masks" / f"{index:02d}.png") for index in range(images)]
    for index, (image_path, mask_path) in enumerate(pairs):
        image, labels = picture(index)
        if index % 2 == 0:
            Image.fromarray(image).save(image_path)
        else:
            cv2.imwrite(str(image_path), image[..., ::-1])
        Image.fromarray(labels).save(mask_path)
    return pairs


def mmseg_pipeline(pairs: list[tuple[Path, Path]]) -> Pipeline:
    from seggrid.models import mmcv_ops

    mmcv_ops.install()
    from mmcv.transforms import LoadImageFromFile, RandomResize
    from mmseg.datasets import transforms

    steps = [
        LoadImageFromFile(),
        transforms.LoadAnnotations(),
        RandomResize(scale=(WIDTH, HEIGHT), ratio_range=SCALE, keep_ratio=True, resize_type=transforms.Resize),
        transforms.RandomCrop(CROP, cat_max_ratio=SHARE),
        transforms.RandomFlip(prob=0.5),
        transforms.PhotoMetricDistortion(),
        transforms.PackSegInputs(),
    ]

    def sample(epoch: int, index: int) -> Any:
        np.random.seed(epoch * 1000 + index)
        image, mask = pairs[index]
        results: Any = {
            "img_path": str(image), "seg_map_path": str(mask), "seg_fields": [], "reduce_zero_label": False,
        }  # fmt: skip
        for step in steps:
            results = step(results)
        assert results["inputs"].dtype == torch.uint8
        return results

    return sample


def seggrid_pipeline(folder: Path, cache: str) -> Pipeline:
    config = DatasetConfig(
        name="benchmark",
        classes=[f"class {index}" for index in range(CLASSES)],
        root=str(folder),
        images="images/*",
        masks="masks/*",
        val_fraction=0.01,
        cache=cache,
        cache_dir=str(folder / "cache"),
    )
    (source,) = with_cache(config, [find_files(config, "train")])
    dataset = SegmentationDataset(source, TrainTransform(AUGMENT, IGNORE))
    for index in range(len(dataset)):
        dataset[(0, index)]
    return lambda epoch, index: dataset[(epoch, index)]


def decoding(pairs: list[tuple[Path, Path]]) -> Pipeline:
    """Bare decoding as MMSegmentation does it: OpenCV for images, Pillow for labels."""

    def sample(epoch: int, index: int) -> Any:
        image, mask = pairs[index]
        return cv2.imread(str(image)), np.asarray(Image.open(mask))

    return sample


def main(blocks: int = 7, images: int = 12) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write(folder, images + 1)  # one of them goes to val
        sizes = [sum(path.stat().st_size for path, _ in pairs[first::2]) / len(pairs[first::2]) for first in (0, 1)]
        print(f"{images} images of {HEIGHT}x{WIDTH}: {sizes[0] / 1e6:.2f} MB by Pillow, {sizes[1] / 1e6:.2f} by OpenCV")
        pipelines = {
            "mmseg": mmseg_pipeline(pairs),
            "decoding": decoding(pairs),
            "none": seggrid_pipeline(folder, "none"),
            "disk": seggrid_pipeline(folder, "disk"),
            "ram": seggrid_pipeline(folder, "ram"),
        }
        print("images per second", *(f"{pipeline:>9}" for pipeline in pipelines))
        rates: dict[str, list[float]] = {pipeline: [] for pipeline in pipelines}
        for block in range(blocks):
            order = list(pipelines)
            for pipeline in order[block % len(order) :] + order[: block % len(order)]:
                start = time.perf_counter()
                for index in range(images):
                    pipelines[pipeline](block + 1, index)
                rates[pipeline].append(images / (time.perf_counter() - start))
            print(f"block {block + 1:11d}", *(f"{rates[pipeline][-1]:9.1f}" for pipeline in pipelines))
    for pipeline, values in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(values, rates["mmseg"], strict=True)]
        print(
            f"{pipeline:>9} over mmseg: median {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main(**{key: int(value) for key, value in (argument.split("=") for argument in sys.argv[1:])})
