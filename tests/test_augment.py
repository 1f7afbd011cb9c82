"""Augmentation: image and mask stay together, and what is random depends on (seed, epoch, index) alone."""

import io
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from seggrid.config import AugmentConfig
from seggrid.data.augment import EvalTransform, TrainTransform
from seggrid.data.datamodule import EvaluationDataset, SegmentationDataset
from seggrid.data.photometric import Distortion, distort, draw
from seggrid.data.png import top

IGNORE = 255
STEP = 40  # grey levels from one label to the next


def _blocks(height: int = 48, width: int = 64) -> tuple[Tensor, Tensor]:
    """A picture of 8x8 blocks whose grey level is STEP times their label, no two neighbours alike."""
    rows, columns = torch.meshgrid(torch.arange(height) // 8, torch.arange(width) // 8, indexing="ij")
    mask = (rows * 2 + columns) % 5
    return (mask * STEP).to(torch.uint8).expand(3, -1, -1).contiguous(), mask.to(torch.uint8)


class Blocks:
    """A source that has the picture above under every index."""

    labelled = True

    def __len__(self) -> int:
        return 3

    def key(self, index: int) -> str:
        return f"{index}"

    def name(self, index: int) -> str:
        return f"blocks {index}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        return _blocks()


def _misplaced(image: Tensor, mask: Tensor) -> float:
    """The share of pixels, away from blended edges, whose grey level is not that of their label."""
    level = image[0] / STEP
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
        {"resize": [96, 64], "scale": [0.5, 2.0], "crop": [40, 48], "flip": 0.5},
        {"scale": [0.5, 2.0], "crop": [32, 32], "max_class_share": 0.4, "flip": 0.5},
    ],
    ids=str,
)
def test_image_and_mask_stay_together(settings: dict[str, Any]) -> None:
    transform = TrainTransform(AugmentConfig(**settings), IGNORE)
    torch.manual_seed(0)
    for _ in range(8):
        image, mask = transform(*_blocks())
        assert image.shape[-2:] == mask.shape
        assert mask.dtype == torch.uint8 and set(mask.unique().tolist()) <= {0, 1, 2, 3, 4, IGNORE}
        # Blended pixels between blocks 1 and 3 look like 2: a few per cent at most.
        assert _misplaced(image, mask) < 0.06


def test_the_check_of_alignment_can_fail() -> None:
    image, mask = _blocks()
    assert _misplaced(image, mask) == 0
    assert _misplaced(image, mask.roll(3, 1)) > 0.2


def test_flip_always_never_and_half_of_the_time() -> None:
    original, mask = _blocks()
    for probability, expected in ((0.0, 0), (1.0, 40), (0.5, 20)):
        transform = TrainTransform(AugmentConfig(flip=probability), IGNORE)
        torch.manual_seed(0)
        flipped = sum(torch.equal(transform(original, mask)[1], mask.flip(1)) for _ in range(40))
        assert abs(flipped - expected) <= (0 if probability in (0.0, 1.0) else 10)


def test_scale_stays_in_its_range_and_keeps_the_aspect() -> None:
    transform = TrainTransform(AugmentConfig(scale=[0.5, 2.0]), IGNORE)
    torch.manual_seed(0)
    sizes = [transform(*_blocks())[1].shape for _ in range(30)]
    assert all(24 <= height <= 96 and abs(width - height * 64 / 48) <= 1 for height, width in sizes)
    heights = [height for height, _ in sizes]
    assert min(heights) < 36 and max(heights) > 80


def _smooth(height: int = 120, width: int = 160) -> tuple[Tensor, Tensor]:
    """Slow waves, another in each channel, and labels of stripes."""
    rows, columns = torch.meshgrid(torch.arange(height) / 20, torch.arange(width) / 25, indexing="ij")
    waves = torch.stack([(rows + columns).sin(), (rows - columns).sin(), (2 * rows).cos()])
    mask = ((rows * 2).int() + (columns * 3).int()) % 7
    return (127 + 100 * waves).round().to(torch.uint8), mask.to(torch.uint8)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_a_crop_that_is_resized_is_the_crop_of_the_resized_picture(factor: float) -> None:
    image, mask = _smooth()
    size = [round(factor * 120), round(factor * 160)]
    whole = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    labels = functional.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0]
    transform = TrainTransform(AugmentConfig(scale=[factor, factor], crop=[48, 56]), IGNORE)
    for seed in range(2):
        got, got_labels = transform(image, mask, torch.Generator().manual_seed(seed))
        # The draw is not known here: the crop must be somewhere in the picture, and only there.
        differences = {
            (top, left): float((whole[:, top : top + 48, left : left + 56] - got).abs().mean())
            for top in range(size[0] - 47)
            for left in range(size[1] - 55)
        }
        (top, left), best = min(differences.items(), key=lambda item: item[1])
        assert best < 2.5  # half a pixel of the original: these waves change by up to 5 a pixel
        assert float((whole[:, top : top + 48, left : left + 56] - got).abs().max()) < 9
        assert float((labels[top : top + 48, left : left + 56] == got_labels).float().mean()) > 0.9
        assert sorted(differences.values())[len(differences) // 2] > 20


def test_every_place_of_the_crop_is_equally_likely() -> None:
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij")
    places = (rows * 16 + columns).to(torch.uint8)
    transform = TrainTransform(AugmentConfig(crop=[10, 14]), IGNORE)
    torch.manual_seed(0)
    corners = [int(transform(places.expand(3, -1, -1), places)[1][0, 0]) for _ in range(900)]
    counts = {corner: corners.count(corner) for corner in set(corners)}
    assert set(counts) == {row * 16 + column for row in range(3) for column in range(3)}
    assert all(60 < count < 145 for count in counts.values()), counts


def test_a_crop_larger_than_the_scaled_picture_is_padded_at_its_end_with_what_counts_nowhere() -> None:
    config = AugmentConfig(scale=[0.5, 0.5], crop=[40, 40], flip=1.0, photometric=True, mean=[0.2, 0.4, 0.6])
    image, mask = TrainTransform(config, 7)(*_blocks())
    assert image.shape == (3, 40, 40) and mask.shape == (40, 40)
    assert (mask[:24, :32] != 7).all()
    assert (mask[24:] == 7).all() and (mask[:, 32:] == 7).all()
    assert image[:, mask == 7].unique(dim=1).flatten().tolist() == [51, 102, 153]  # the mean colour, undistorted


def test_a_picture_smaller_than_the_crop_in_one_direction_is_cropped_in_the_other() -> None:
    image, mask = TrainTransform(AugmentConfig(crop=[100, 20]), IGNORE)(*_blocks())
    assert image.shape == (3, 100, 20)
    assert (mask[:48] != IGNORE).all() and (mask[48:] == IGNORE).all()


def _two_classes(share: float) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(60, 60, dtype=torch.uint8)
    mask[:, round(share * 60) :] = 1
    return mask.expand(3, -1, -1).clone(), mask


def test_a_crop_that_one_class_fills_is_drawn_again() -> None:
    """Four in five places of this crop show too much of one class; eleven draws find none but those in 0.78^11."""
    filled = {}
    for share in (None, 0.75):
        transform = TrainTransform(AugmentConfig(crop=[20, 20], max_class_share=share), IGNORE)
        torch.manual_seed(0)
        masks = [transform(*_two_classes(0.5))[1] for _ in range(60)]
        filled[share] = sum(float(torch.bincount(mask.flatten()).max()) / 400 >= 0.75 for mask in masks)
    assert filled[None] > 35
    assert filled[0.75] <= 10


def test_where_every_crop_is_of_one_class_the_last_one_is_taken() -> None:
    transform = TrainTransform(AugmentConfig(crop=[20, 20], max_class_share=0.75), IGNORE)
    image, mask = transform(*_two_classes(1.0))
    assert image.shape == (3, 20, 20) and (mask == 0).all()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 0, 1], False),  # a share of 0.75 is too much already
        ([0, 0, 1, 1], True),
        ([0, 0, 0, 0], False),
        ([0, 0, 1, IGNORE], True),  # 2 of 3: what counts nowhere is no pixel of the whole
        ([0, IGNORE, IGNORE, IGNORE], False),
        ([IGNORE, IGNORE, IGNORE, IGNORE], False),
        ([0, IGNORE, 1, IGNORE], True),
    ],
    ids=str,
)
def test_the_limit_of_the_class_share_is_mmsegs(labels: list[int], expected: bool) -> None:
    transform = TrainTransform(AugmentConfig(crop=[2, 2], max_class_share=0.75), IGNORE)
    mask = torch.tensor(labels, dtype=torch.uint8).view(2, 2)
    classes, counts = np.unique(mask.numpy(), return_counts=True)  # as in mmseg's RandomCrop.crop_bbox
    counts = counts[classes != IGNORE]
    assert (len(counts) > 1 and np.max(counts) / np.sum(counts) < 0.75) == expected
    assert transform._is_mixed(mask, 0.75) == expected


def test_only_the_region_of_the_crop_is_touched(tmp_path: Any) -> None:
    """Of a file that is mapped into memory, only the pages of the crop are read from disk."""
    np.save(tmp_path / "image.npy", np.zeros((64, 64, 3), np.uint8))
    image = np.load(tmp_path / "image.npy", mmap_mode="c")
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    touched: list[tuple[int, ...]] = []

    class Watched(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = super().__torch_function__(func, types, args, kwargs or {})
            if func in (Tensor.numpy, Tensor.contiguous, Tensor.clone, Tensor.to):
                touched.append(tuple(args[0].shape))
            return result

    view = torch.from_numpy(image).permute(2, 0, 1).as_subclass(Watched)
    TrainTransform(AugmentConfig(scale=[0.5, 2.0], crop=[16, 16]), IGNORE)(view, mask)
    assert touched and all(max(shape[:2]) <= 33 for shape in touched), touched


# Colours


def _picture(height: int = 40, width: int = 50) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_colours_change_and_labels_do_not() -> None:
    transform = TrainTransform(AugmentConfig(photometric=True), IGNORE)
    torch.manual_seed(1)
    original, labels = _blocks()
    image, mask = transform(original, labels)
    assert torch.equal(mask, labels)
    assert (image.int() - original.int()).abs().max() > 5


@pytest.fixture
def mmseg_distortion() -> Any:
    from seggrid.models import mmcv_ops

    mmcv_ops.install()
    from mmseg.datasets.transforms import PhotoMetricDistortion

    return PhotoMetricDistortion


@pytest.mark.parametrize("strength", [-30.0, -3.5, 12.0, 31.9])
def test_brightness_is_mmsegs(mmseg_distortion: Any, strength: float) -> None:
    expected = mmseg_distortion().convert(_picture(), beta=strength).astype(int)
    got = distort(_picture(), Distortion(brightness=strength)).astype(int)
    assert abs(got - expected).max() <= 1  # it cuts fractions off, where OpenCV rounds


@pytest.mark.parametrize("strength", [0.5, 0.93, 1.5])
@pytest.mark.parametrize("first", [False, True])
def test_contrast_is_mmsegs(mmseg_distortion: Any, strength: float, first: bool) -> None:
    expected = mmseg_distortion().convert(_picture(), alpha=strength).astype(int)
    got = distort(_picture(), Distortion(contrast=strength, contrast_first=first)).astype(int)
    assert abs(got - expected).max() <= 1


@pytest.mark.parametrize(("saturation", "hue"), [(0.5, 0), (1.4, 0), (1.0, 11), (1.0, -18)])
def test_saturation_and_hue_are_mmsegs(
    mmseg_distortion: Any, monkeypatch: pytest.MonkeyPatch, saturation: float, hue: int
) -> None:
    from mmseg.datasets.transforms import transforms

    drawn = mmseg_distortion()
    monkeypatch.setattr(transforms.random, "randint", lambda low, high=None: 1 if high is None else hue)
    monkeypatch.setattr(transforms.random, "uniform", lambda low, high: saturation)
    bgr = np.ascontiguousarray(_picture()[..., ::-1])
    expected = drawn.hue(bgr) if saturation == 1 else drawn.saturation(bgr)
    got = distort(_picture(), Distortion(saturation=saturation, hue=hue)).astype(int)
    difference = abs(got - expected[..., ::-1].astype(int))
    assert difference.mean() < 1 and difference.max() <= 4  # one step of saturation, in 8 bits


def test_contrast_comes_before_or_after_saturation() -> None:
    settings = {"contrast": 1.5, "saturation": 0.5}
    first, last = (distort(_picture(), Distortion(contrast_first=first, **settings)) for first in (True, False))
    assert (first != last).any()  # by what saturates at 255
    assert abs(first.astype(int) - last.astype(int)).mean() < 30


def test_each_distortion_is_drawn_half_of_the_time_and_over_its_range() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw(generator) for _ in range(2000)]
    for values, neutral, low, high in (
        ([one.brightness for one in drawn], 0.0, -32.0, 32.0),
        ([one.contrast for one in drawn], 1.0, 0.5, 1.5),
        ([one.saturation for one in drawn], 1.0, 0.5, 1.5),
        ([one.hue for one in drawn], 0, -18, 18),
    ):
        changed = np.array([value for value in values if value != neutral], float)
        assert 0.45 < len(changed) / len(drawn) < 0.55
        assert low <= changed.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < changed.max() <= high
        assert abs(changed.mean() - neutral) < 0.04 * (high - low)
    assert 0.45 < sum(one.contrast_first for one in drawn) / len(drawn) < 0.55
    both = sum(one.brightness != 0 and one.hue != 0 for one in drawn) / len(drawn)
    assert 0.2 < both < 0.3  # each by itself


def test_distortion_leaves_its_input_alone() -> None:
    picture = _picture()
    for distortion in (Distortion(), Distortion(20.0, 1.4, True, 0.6, 9)):
        assert distort(picture, distortion).shape == picture.shape
        assert (picture == _picture()).all()


# Evaluation


def test_evaluation_resizes_the_image_and_leaves_the_mask() -> None:
    original, labels = _blocks()
    image, mask = EvalTransform(AugmentConfig(resize=[20, 30], crop=[8, 8], flip=1.0))(original, labels)
    assert image.shape == (3, 20, 30)
    assert torch.equal(mask, labels)


# Randomness

RANDOM = AugmentConfig(scale=[0.5, 2.0], crop=[24, 24], flip=0.5, photometric=True)


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


def test_a_source_that_decodes_the_top_alone_gives_the_same_samples() -> None:
    class Top(Blocks):
        rows: ClassVar[list[int]] = []

        def read_top(self, index: int, rows: Callable[[Tensor], int]) -> tuple[Tensor, Tensor]:
            image, labels = _blocks()
            self.rows.append(rows(labels))
            return image[:, : self.rows[-1]].clone(), labels

    whole, top = (SegmentationDataset(source, TrainTransform(RANDOM, IGNORE)) for source in (Blocks(), Top()))
    for key in ((epoch, index) for epoch in range(10) for index in range(3)):
        for one, other in zip(whole[key], top[key], strict=True):
            assert torch.equal(one, other)
    assert min(Top.rows) < 30 < max(Top.rows) <= 48


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_the_top_of_a_png_is_its_first_rows(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(_picture()).convert(mode).save(file, "png")
    data = file.getvalue()
    whole = np.asarray(Image.open(file))
    for rows in (1, 17, 39):
        part = np.asarray(Image.open(io.BytesIO(top(data, rows))))
        assert part.shape[0] == rows and (part == whole[:rows]).all()
    for other in (top(data, 40), top(data, 99)):
        assert other == data
    interlaced = bytearray(data)
    interlaced[28] = 1
    assert top(bytes(interlaced), 5) == interlaced
    assert top(b"JFIF", 5) == b"JFIF" and top(data[:20], 5) == data[:20]


def test_drawing_a_sample_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _dataset()[(0, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_a_picture_without_labels_is_evaluated_at_its_own_size() -> None:
    class Bare(Blocks):
        labelled = False

        def read(self, index: int) -> Any:
            return _blocks()[0], None

    image, mask, index = EvaluationDataset(Bare(), EvalTransform(AugmentConfig(resize=[20, 30])), 7)[(0, 2)]
    assert image.shape == (3, 20, 30) and image.dtype == torch.uint8
    assert mask.shape == (48, 64) and (mask == 7).all()
    assert index == 2
