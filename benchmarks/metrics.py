"""What the scores cost: over MMSegmentation's ``IoUMetric.process``, and as a share of a small model's forward pass.

    python benchmarks/metrics.py [blocks=9] [threads=1]

First, 150 classes at 2048x1024, in blocks of theirs, ours, ours, theirs, whose ratio is that of the sums. Ours
is measured on bytes, as evaluation has labels and predictions, and on the int64 that MMSegmentation has. Before, both
have to have counted the same. Second, the seconds of an update over those of a forward pass of SMP's U-Net on a
ResNet-18 at 512x512, 19 classes, on the CPU, in blocks of the same kind; beside it what the other scores cost.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from seggrid import models
from seggrid.boundary import BoundaryCounts
from seggrid.calibration import Calibration, confidence_of
from seggrid.config import ArchConfig, BackendConfig, EncoderConfig, ModelConfig
from seggrid.metrics import ConfusionMatrix, areas
from seggrid.models import mmcv_ops

mmcv_ops.install()

from mmseg.evaluation.metrics import IoUMetric  # noqa: E402

IGNORE, CLASSES, SIZE = 255, 150, (1024, 2048)
MODEL = ModelConfig(
    BackendConfig("smp"), ArchConfig("unet", {"smp": {}}), EncoderConfig("resnet18", pretrained=False), 19
)


def maps(classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Labels in areas, of which one in ten pixels is predicted wrongly and some are ignored; int64."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, classes, size[0] // 64, size[1] // 64, generator=generator)
    labels = torch.cat(
        [
            functional.interpolate(coarse[..., start : start + 4, :], (256, size[1]), mode="bilinear").argmax(1)
            for start in range(0, coarse.shape[2], 4)
        ],
        1,
    )[0]
    wrong = torch.rand(size, generator=generator) < 0.1
    predictions = torch.where(wrong, torch.randint(classes, size, generator=generator), labels)
    labels[:40] = IGNORE
    return predictions, labels


def seconds(function: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return time.perf_counter() - start


def paired(first: Callable[[], object], second: Callable[[], object], blocks: int, repeats: tuple[int, int]) -> None:
    """Prints how long each takes, and the median of the blocks' ratios of the first's seconds to the second's."""
    for function in (first, second):
        function()
    ratios, times = [], ([], [])
    for _ in range(blocks):
        sums = [0.0, 0.0]
        for index in (0, 1, 1, 0):
            sums[index] += seconds((first, second)[index], repeats[index]) / repeats[index]
        ratios.append(sums[0] / sums[1])
        for index in (0, 1):
            times[index].append(sums[index] / 2)
    medians = [1000 * statistics.median(item) for item in times]
    print(
        f"  {medians[0]:.2f} ms over {medians[1]:.2f} ms: median of {blocks} ratios {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})",
        flush=True,
    )


def against_mmseg(blocks: int) -> None:
    predictions, labels = maps(CLASSES, SIZE)
    theirs = IoUMetric(ignore_index=IGNORE)
    theirs.dataset_meta = {"classes": [str(index) for index in range(CLASSES)]}
    sample = {"pred_sem_seg": {"data": predictions[None]}, "gt_sem_seg": {"data": labels[None]}}

    def process() -> None:
        theirs.results.clear()
        theirs.process({}, [sample])

    process()
    intersect, _, predicted, labelled = theirs.results[0]
    for name, dtype in (("uint8", torch.uint8), ("int64", torch.int64)):
        given = predictions.to(dtype), labels.to(dtype)
        ours = ConfusionMatrix(CLASSES, IGNORE)
        ours.update(*given)
        assert torch.equal(areas(ours.compute()), torch.stack((intersect, labelled, predicted)).long())
        print(f"IoUMetric.process over our update, {CLASSES} classes, {SIZE[1]}x{SIZE[0]}, {name}:")
        paired(process, lambda ours=ours, given=given: ours.update(*given), blocks, (1, 5))


@torch.inference_mode()
def against_forward(blocks: int) -> None:
    model = models.build(MODEL).eval()
    images = torch.randn(1, 3, 512, 512)
    predictions, labels = (item.to(torch.uint8)[None] for item in maps(19, (512, 512)))
    logits = model(images).logits
    confusion, boundary, calibration = ConfusionMatrix(19, IGNORE), BoundaryCounts(19, IGNORE), Calibration(IGNORE)

    def calibrate() -> None:
        calibration.update(confidence_of(logits, True), predictions, labels)

    for name, update in (
        ("the confusion matrix", lambda: confusion.update(predictions, labels)),
        ("boundary IoU", lambda: boundary.update(predictions, labels)),
        ("calibration, from logits", calibrate),
    ):
        print(f"{name} over a forward pass of SMP's unet on resnet18, 512x512, 19 classes, CPU:")
        paired(update, lambda: model(images), blocks, (10, 1))


def main(blocks: int = 9, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    against_mmseg(blocks)
    against_forward(blocks)


if __name__ == "__main__":
    main(**{key: int(value) for key, value in (argument.split("=") for argument in sys.argv[1:])})
