"""Boundary IoU (Cheng et al., CVPR 2021): the IoU of what lies close to contours, which large areas cannot outweigh."""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

RATIO = 0.02  # of an image's diagonal: the paper's choice for all but very large images


class BoundaryCounts(Metric):
    """Counts pixels near contours, over images and over processes; ``metrics.ratios`` makes IoUs of them.

    Args:
        num_classes: number of classes, C.
        ignore_index: the label that does not count.
        ratio: the width of the region over an image's diagonal.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, ignore_index: int, ratio: float = RATIO) -> None:
        super().__init__()
        self._settings = num_classes, ignore_index, ratio
        self.add_state("counts", torch.zeros(3, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds label maps ``(B, H, W)``."""
        for prediction, label in zip(predictions, labels, strict=True):
            self.counts += boundary_counts(prediction, label, *self._settings).to(self.counts.device)

    def compute(self) -> Tensor:
        """Returns the counts of all processes, ``(3, C)``."""
        return self.counts


def boundary_counts(
    predictions: Tensor, labels: Tensor, num_classes: int, ignore_index: int, ratio: float = RATIO
) -> Tensor:
    """Counts the pixels of one image that lie close to a contour of their own class.

    The region of a class is what an erosion of d = ``ratio`` of the diagonal takes from its mask; the image's border is
    a contour, as in the authors' ``mask_to_boundary``. A pixel is in the region of its class if the square of 2d + 1
    around it holds any other label, so that all classes are done at once.

    The paper knows no ignored pixels. Here predictions are ignored where labels are, so that both maps have the same
    contour against what is ignored, and a prediction is not blamed for a contour that it could not know of.

    Args:
        predictions: class indices ``(H, W)``, any integer type.
        labels: ``(H, W)``, any integer type.
        num_classes: number of classes, C.
        ignore_index: the label that does not count.
        ratio: the width of the region over the image's diagonal.

    Returns:
        ``(3, C)``, int64, on the CPU: hits, labelled and predicted pixels in the regions.
    """
    kind = np.uint8 if num_classes < 256 else np.uint16  # OpenCV's morphology takes both; the last value is ignored
    ignored = labels == ignore_index
    label = torch.where(ignored, num_classes, labels.to(torch.int32)).cpu().numpy().astype(kind)
    predicted = torch.where(ignored, num_classes, predictions.to(torch.int32)).cpu().numpy().astype(kind)
    distance = max(1, round(ratio * float(np.hypot(*label.shape))))
    near_label, near_prediction = _near_contour(label, distance), _near_contour(predicted, distance)
    chosen = (near_label & near_prediction & (label == predicted), near_label, near_prediction)
    maps = (label, label, predicted)
    return torch.stack(
        [
            torch.from_numpy(np.bincount(labelled[region], minlength=num_classes + 1)[:num_classes])
            for region, labelled in zip(chosen, maps, strict=True)
        ]
    )


def _near_contour(label: NDArray[Any], distance: int) -> NDArray[np.bool_]:
    """Returns where the square around a pixel holds another label, or ends outside of the image."""
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    # Outside of the image neither sees anything, so that its border is added after.
    near: NDArray[np.bool_] = cv2.dilate(label, kernel) != cv2.erode(label, kernel)
    near[:distance] = near[-distance:] = True
    near[:, :distance] = near[:, -distance:] = True
    return near
