"""Augmentation: image and mask stay together, and what is random depends on (seed, epoch, index) alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seggrid.config import AugmentConfig
from seggrid.data.augment import EvalTransform, TrainTransform
from seggrid.data.datamodule import SegmentationDataset
from seggrid.errors import UserError

IGNORE = 255
PLAIN: dict[str, Any] = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}  # so that pixels keep their values
STEP = 40  # grey levels from one label to the next


def _blocks(height: int = 48, width: int = 64) -> tuple[Tensor, Tensor]:
    """A picture of 8x8 blocks whose grey level is STEP times their label, no two neighbours alike."""
    rows, columns = torch.meshgrid(torch.arange(height) // 8, torch.arange(width) // 8, indexing="ij")
    mask = (rows * 2 + columns) % 5
    return (mask * STEP).to(torch.uint8).expand(3, -1, -1).contiguous(), mask.to(torch.uint8)


class Blocks:
    """A source that has the picture above under every index."""

    def __len__(self) -> int:
        return 3

    def name(self, index: int) -> str:
        return f"blocks {index}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        return _blocks()


def _misplaced(image: Tensor, mask: Tensor) -> float:
    """The share of pixels, away from blended edges, whose grey level is not that of their label."""
    level = image[0] * 255 / STEP
    sharp = (level - level.round()).abs() < 0.02
    counted = sharp & (mask != IGNORE)
    assert counted.float().mean() > 0.2
    return float((level.round()[counted] != mask[counted]).float().mean())


@pytest.mark.parametrize(
    "settings",
    [
        {"resize": [96, 64]},
        {"resize": [24, 48]},
        {"scale": [0.5, 2.0]},
        {"crop": [20, 30]},
        {"flip": 1.0},
        {"scale": [0.5, 2.0], "crop": [32, 32], "flip": 0.5},
    ],
    ids=str,
)
def test_image_and_mask_stay_together(settings: dict[str, Any]) -> None:
    transform = TrainTransform(AugmentConfig(**PLAIN, **settings), IGNORE)
    torch.manual_seed(0)
    for _ in range(8):
        image, mask = transform(*_blocks())
        assert image.shape[-2:] == mask.shape
        assert mask.dtype == torch.uint8 and set(mask.unique().tolist()) <= {0, 1, 2, 3, 4, IGNORE}
        # Blended pixels between blocks 1 and 3 look like 2: a few per cent at most.
        assert _misplaced(image, mask) < 0.06


def test_the_check_of_alignment_can_fail() -> None:
    image, mask = _blocks()
    assert _misplaced(image / 255, mask) == 0
    assert _misplaced(image / 255, mask.roll(3, 1)) > 0.2


def test_flip_always_never_and_half_of_the_time() -> None:
    original, mask = _blocks()
    for probability, expected in ((0.0, 0), (1.0, 40), (0.5, 20)):
        transform = TrainTransform(AugmentConfig(**PLAIN, flip=probability), IGNORE)
        torch.manual_seed(0)
        flipped = sum(torch.equal(transform(original, mask)[1], mask.flip(1)) for _ in range(40))
        assert abs(flipped - expected) <= (0 if probability in (0.0, 1.0) else 10)


def test_scale_stays_in_its_range_and_keeps_the_aspect() -> None:
    transform = TrainTransform(AugmentConfig(**PLAIN, scale=[0.5, 2.0]), IGNORE)
    torch.manual_seed(0)
    sizes = [transform(*_blocks())[1].shape for _ in range(30)]
    assert all(24 <= height <= 96 and abs(width - height * 64 / 48) <= 1 for height, width in sizes)
    heights = [height for height, _ in sizes]
    assert min(heights) < 36 and max(heights) > 80


def test_a_crop_larger_than_the_scaled_picture_is_padded_with_what_counts_nowhere() -> None:
    config = AugmentConfig(scale=[0.5, 0.5], crop=[40, 40])
    torch.manual_seed(0)
    image, mask = TrainTransform(config, 7)(*_blocks())
    assert image.shape == (3, 40, 40) and mask.shape == (40, 40)
    assert int((mask != 7).sum()) == 24 * 32
    assert image[:, mask == 7].abs().max() < 0.02  # the mean colour, which normalises to zero


def test_colours_change_and_labels_do_not() -> None:
    transform = TrainTransform(AugmentConfig(**PLAIN, color_jitter=0.5), IGNORE)
    torch.manual_seed(0)
    original, labels = _blocks()
    image, mask = transform(original, labels)
    assert torch.equal(mask, labels)
    assert (image - original / 255).abs().max() > 0.02


def test_normalisation_takes_mean_and_std_per_channel() -> None:
    config = AugmentConfig(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    original, mask = _blocks()
    expected = (original / 255 - torch.tensor(config.mean)[:, None, None]) / torch.tensor(config.std)[:, None, None]
    for transform in (TrainTransform(config, IGNORE), EvalTransform(config)):
        image, _ = transform(original, mask)
        assert image.dtype == torch.float32
        torch.testing.assert_close(image, expected)


def test_evaluation_resizes_the_image_and_leaves_the_mask() -> None:
    original, labels = _blocks()
    image, mask = EvalTransform(AugmentConfig(resize=[20, 30], crop=[8, 8], flip=1.0))(original, labels)
    assert image.shape == (3, 20, 30)
    assert torch.equal(mask, labels)


# Randomness

RANDOM = AugmentConfig(scale=[0.5, 2.0], crop=[24, 24], flip=0.5, color_jitter=0.4)


def _dataset(seed: int = 0) -> SegmentationDataset:
    return SegmentationDataset(Blocks(), TrainTransform(RANDOM, IGNORE), seed)


def test_a_sample_is_the_same_whenever_it_is_drawn() -> None:
    first, second = _dataset(), _dataset()
    one = first[(2, 1)]
    second[(0, 0)], torch.rand(5)
    other = second[(2, 1)]
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_epoch_index_and_seed_each_change_the_sample() -> None:
    samples = [_dataset()[(0, 0)], _dataset()[(1, 0)], _dataset()[(0, 1)], _dataset(1)[(0, 0)]]
    assert len({image.numpy().tobytes() for image, _ in samples}) == 4


def test_drawing_a_sample_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _dataset()[(0, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_an_image_smaller_than_the_crop_is_named() -> None:
    dataset = SegmentationDataset(Blocks(), TrainTransform(RANDOM, IGNORE), crop=[64, 24])
    with pytest.raises(UserError, match=r"blocks 2 is 48x64 .* smaller than augment\.crop 64x24; set a smaller"):
        dataset[(0, 2)]
