"""Whether a model is right as often as it says: the expected calibration error (Guo et al., ICML 2017)."""

import torch
from torch import Tensor
from torchmetrics import Metric

BINS = 15  # as in the paper
STEPS = 65535  # a multiple of 15, so that the borders of the bins are steps


class Calibration(Metric):
    """Counts pixels by confidence and by whether they are right, over batches and over processes.

    Confidences are kept to 16 bits, so that all sums are of whole numbers: the same on any device, in any order and
    in deterministic mode. A mean of confidences is off by less than 1e-5.

    Args:
        ignore_index: the label that does not count.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self._ignore_index = ignore_index
        self.add_state("counts", torch.zeros(STEPS + 1, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, confidence: Tensor, predictions: Tensor, labels: Tensor) -> None:
        """Adds pixels.

        Args:
            confidence: the predicted class's probability, float, of any shape; see :func:`confidence_of`.
            predictions: class indices of that shape.
            labels: of that shape.
        """
        counted = labels != self._ignore_index
        step = (confidence[counted].float() * STEPS).round().clamp(0, STEPS).to(torch.int32)
        right = (predictions == labels)[counted]
        self.counts += torch.bincount(step * 2 + right, minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> tuple[float, list[dict[str, float]]]:
        """Derives the error, and the bins of a reliability diagram.

        Returns:
            The expected calibration error: the mean distance of accuracy and confidence over bins, weighed by pixels;
            NaN without pixels. And 15 bins of equal width: ``count`` of pixels, their mean ``confidence`` and their
            ``accuracy``, NaN where a bin is empty.
        """
        counts = self.counts.cpu().double()
        confidence = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
        # The paper's bins are open below and closed above.
        index = ((torch.arange(STEPS + 1) + STEPS // BINS - 1) // (STEPS // BINS) - 1).clamp(min=0)
        pixels, right = counts.sum(1), counts[:, 1]
        empty = torch.zeros(BINS, dtype=torch.float64)
        number, hits, sums = (empty.index_add(0, index, item) for item in (pixels, right, pixels * confidence))
        error = float((hits - sums).abs().sum() / number.sum())
        return error, [
            {"count": int(count), "confidence": mean, "accuracy": accuracy}
            for count, mean, accuracy in zip(
                number.tolist(), (sums / number).tolist(), (hits / number).tolist(), strict=True
            )
        ]


def confidence_of(scores: Tensor, are_logits: bool) -> Tensor:
    """Returns the probability of each pixel's most likely class.

    Args:
        scores: ``(B, C, H, W)``, float.
        are_logits: whether they are logits, else probabilities.

    Returns:
        ``(B, H, W)``.
    """
    largest = scores.amax(1)
    return (largest - scores.logsumexp(1)).exp() if are_logits else largest
