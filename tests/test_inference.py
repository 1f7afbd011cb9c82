"""Windows are MMSegmentation's, views are its test-time augmentation, and neither keeps more than it must."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seggrid import inference as inference_module
from seggrid.checks import check_inference
from seggrid.config import ArchConfig, BackendConfig, EncoderConfig, InferenceConfig, ModelConfig, TtaConfig
from seggrid.errors import UserError
from seggrid.inference import Band, Predictor, labels_of
from seggrid.models.segmenter import Facts, Segmenter

CLASSES = 5
WHOLE, PLAIN = InferenceConfig("whole"), TtaConfig()
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class _Tiny(Segmenter):
    """Two convolutions that pad, so that what a window's border does to its logits is seen."""

    def __init__(self, classes: int = CLASSES) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))
        super().__init__(network, None, None, Facts(1, 1, None))
        self.batches: list[int] = []
        self.eval()

    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.batches.append(len(images))
        return self.network(images), ()


def _slide(crop: tuple[int, int], stride: tuple[int, int], batch_size: int = 3) -> InferenceConfig:
    return InferenceConfig("slide", list(crop), list(stride), batch_size)


def _images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def _scores(predictor: Predictor, model: Segmenter, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """All bands, after a look at whether they follow each other."""
    size = size or (images.shape[-2], images.shape[-1])
    with torch.inference_mode():
        bands = list(predictor.bands(model, images, size))
    assert [band.top for band in bands] == [0, *(band.bottom for band in bands[:-1])]
    whole = torch.cat([band.scores for band in bands], 2)
    assert whole.shape == (len(images), whole.shape[1], *size)
    return whole


def _naive_slide(model: Segmenter, images: Tensor, crop: list[int], stride: list[int]) -> Tensor:
    """The definition, a window at a time."""
    height, width = images.shape[-2:]
    total = torch.zeros(len(images), CLASSES, height, width)
    number = torch.zeros(height, width)
    rows, columns = (
        max(-(-(side - size) // step), 0) + 1 for side, size, step in zip((height, width), crop, stride, strict=True)
    )
    for row, column in product(range(rows), range(columns)):
        bottom, right = min(row * stride[0] + crop[0], height), min(column * stride[1] + crop[1], width)
        top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
        total[:, :, top:bottom, left:right] += model(images[:, :, top:bottom, left:right]).logits
        number[top:bottom, left:right] += 1
    return total / number


@pytest.fixture(scope="module")
def mmseg_model() -> Any:
    from seggrid import models

    arch = ArchConfig(
        "official",
        {"mmseg": {"encoders": "native", "loss": "native"}},
        config="fast_scnn_8xb4-160k_cityscapes-512x1024",
    )
    torch.manual_seed(0)
    encoder = EncoderConfig("native", pretrained=False)
    model = models.build(ModelConfig(BackendConfig("mmseg"), arch, encoder, CLASSES, list("abcde")))
    # As it starts, every logit is nearly zero, and nothing could differ.
    with torch.no_grad():
        for _ in range(20):
            model(_images(96, 96, 4))
        model.network.decode_head.conv_seg.weight *= 100
    return model.eval()


def _settings(crop: tuple[int, int], stride: tuple[int, int]) -> Any:
    from mmengine import ConfigDict

    return ConfigDict(mode="slide", crop_size=crop, stride=stride)


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((128, 160), (64, 64), (32, 32)),
        ((101, 147), (64, 96), (41, 67)),  # nothing divides
        ((64, 200), (64, 64), (64, 48)),  # one row of windows
        ((150, 64), (64, 128), (43, 85)),  # narrower than a window
        ((48, 56), (64, 64), (43, 43)),  # smaller than a window
        ((129, 129), (64, 64), (64, 64)),  # the last window moved back almost wholly
    ],
    ids=str,
)
@torch.no_grad()
def test_windows_are_those_of_mmsegmentation(
    mmseg_model: Any, size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]
) -> None:
    images, network = _images(*size), mmseg_model.network
    network.test_cfg = _settings(crop, stride)
    theirs = network.slide_inference(images, [{} for _ in images])
    ours = _scores(Predictor(_slide(crop, stride, 4), PLAIN), mmseg_model, images)
    assert float(theirs.std()) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_windows_are_those_of_mmsegmentations_whole_route(mmseg_model: Any) -> None:
    """Its own ``predict`` with nothing replaced: windows, logits, and the resize to the labels' size."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    images, network, size = _images(96, 128, 1), mmseg_model.network, (150, 201)
    network.test_cfg = _settings((64, 64), (40, 40))
    meta = {"img_shape": (96, 128), "ori_shape": size, "pad_shape": (96, 128), "padding_size": [0, 0, 0, 0]}
    sample = SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=torch.zeros(1, *size)))
    (theirs,) = network.predict(images, [sample])
    predictor = Predictor(_slide((64, 64), (40, 40)), PLAIN)
    torch.testing.assert_close(
        _scores(predictor, mmseg_model, images, size)[0], theirs.seg_logits.data, rtol=0, atol=1e-4
    )
    sure = theirs.seg_logits.data.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-3
    labels = predictor.label_map(mmseg_model, images, size)[0]
    assert torch.equal(labels[sure], theirs.pred_sem_seg.data[0][sure].to(torch.uint8))
    assert sure.float().mean() > 0.99


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
@torch.no_grad()
def test_the_number_of_windows_at_once_changes_nothing(batch_size: int) -> None:
    model, images = _Tiny(), _images(75, 91)
    ours = _scores(Predictor(_slide((32, 40), (20, 25), batch_size), PLAIN), model, images)
    batches = list(model.batches)
    expected = _naive_slide(model, images, [32, 40], [20, 25])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    windows = 2 * 4 * 4  # images, rows, columns
    assert sum(batches) == windows
    assert len(batches) == -(-windows // batch_size)  # full batches, across images and rows of windows


@pytest.mark.parametrize("size", [(60, 80), (61, 47), (120, 33), (17, 200), (1, 1), (90, 80), (60, 99)], ids=str)
def test_whole_is_resized_as_pytorch_resizes(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_module, "PIXELS", 700)  # so that a resized map is several bands
    model, images = _Tiny(), _images(60, 80)
    with torch.no_grad():
        expected = functional.interpolate(model(images).logits, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(_scores(Predictor(WHOLE, PLAIN), model, images, size), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(150, 182), (37, 45), (75, 30), (200, 91), (311, 17), (3, 5)], ids=str)
def test_windows_are_resized_as_the_whole_would_be(size: tuple[int, int]) -> None:
    model, images = _Tiny(), _images(75, 91)
    predictor = Predictor(_slide((32, 40), (20, 25)), PLAIN)
    expected = functional.interpolate(_scores(predictor, model, images), size=size, mode="bilinear")
    torch.testing.assert_close(_scores(predictor, model, images, size), expected, rtol=0, atol=1e-5)


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation made; tensors of inputs' size or less are no news."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = (leaf.untyped_storage().size() // leaf.element_size() for leaf in tree_leaves(out) if _is_tensor(leaf))
        self.elements = max([self.elements, *made])
        return out


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


@pytest.mark.parametrize(
    ("tta", "size"),
    [(PLAIN, None), (PLAIN, (1600, 64)), (TtaConfig(flip=True), None), (TtaConfig(True, [0.5, 1.0]), None)],
    ids=str,
)
def test_a_tall_image_needs_memory_for_its_windows_and_not_for_all_its_rows(
    tta: TtaConfig, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_module, "PIXELS", 64 * 64)
    classes, crop = 40, 32
    model = _Tiny(classes)
    images = _images(1600, 32, 1)
    predictor = Predictor(_slide((crop, crop), (20, 20), 2), tta)
    most = 0
    with _Largest() as largest, torch.no_grad():
        for band in predictor.bands(model, images, size or (1600, 32)):
            most = max(most, band.scores.shape[2])
            band.scores.zero_()  # a band is the caller's
    whole = classes * 1600 * 32
    assert most <= 2 * crop
    assert largest.elements <= max(4 * classes * crop * 64, images.numel())
    assert largest.elements < whole / 5


def test_what_a_caller_does_to_a_band_does_not_change_the_next() -> None:
    model, images = _Tiny(), _images(75, 91)
    for tta, size in product((PLAIN, TtaConfig(True, [0.5, 1.0])), ((75, 91), (50, 120))):
        predictor = Predictor(_slide((32, 40), (20, 25)), tta)
        expected = _scores(predictor, model, images, size)
        kept = []
        for band in predictor.bands(model, images, size):
            kept.append(band.scores.clone())
            band.scores.fill_(torch.nan)
        assert torch.equal(torch.cat(kept, 2), expected)


def _merged(views: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What ``SegTTAModel`` makes of one image's logits in several views, ``(C, H, W)`` each."""
    from seggrid.models import mmcv_ops

    mmcv_ops.install()
    from mmengine.structures import PixelData
    from mmseg.models.segmentors.seg_tta import SegTTAModel
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(seg_logits=PixelData(data=view), metainfo={"img_path": ""}) for view in views]
    module = type("Module", (), {"out_channels": len(views[0])})()
    holder = type("Holder", (), {"module": module})()
    (merged,) = SegTTAModel.merge_preds(holder, [samples])
    mean = torch.stack([view.softmax(0) for view in views]).mean(0)
    return mean, merged.pred_sem_seg.data.squeeze(0)


@pytest.mark.parametrize("inference", [WHOLE, _slide((32, 40), (20, 25))], ids=["whole", "slide"])
@pytest.mark.parametrize("size", [(75, 91), (100, 64)], ids=str)
@torch.no_grad()
def test_views_are_merged_as_mmsegmentation_merges_them(inference: InferenceConfig, size: tuple[int, int]) -> None:
    model, images, scales = _Tiny(), _images(75, 91, 2), [0.5, 1.0, 1.25]
    views = []
    for scale, flipped in product(scales, (False, True)):
        rounded = (int(75 * scale + 0.5), int(91 * scale + 0.5))
        view = functional.interpolate(images, size=rounded, mode="bilinear", align_corners=False)
        view = view.flip(3) if flipped else view
        logits = model(view).logits if inference is WHOLE else _naive_slide(model, view, [32, 40], [20, 25])
        logits = logits.flip(3) if flipped else logits
        views.append(functional.interpolate(logits, size=size, mode="bilinear", align_corners=False))
    predictor = Predictor(inference, TtaConfig(True, scales))
    ours, labels = _scores(predictor, model, images, size), predictor.label_map(model, images, size)
    assert not predictor.gives_logits
    for index in range(2):
        mean, predicted = _merged([view[index] for view in views])
        torch.testing.assert_close(ours[index], mean, rtol=0, atol=1e-5)
        sure = mean.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-4
        assert torch.equal(labels[index][sure], predicted[sure].to(torch.uint8))
        assert sure.float().mean() > 0.99


@pytest.mark.parametrize("tta", [PLAIN, TtaConfig(flip=True)], ids=str)
def test_a_mirrored_image_is_labelled_mirrored_only_with_the_flip(tta: TtaConfig) -> None:
    model, images = _Tiny(), _images(40, 50)
    predictor = Predictor(WHOLE, tta)
    straight, mirrored = (_scores(predictor, model, view) for view in (images, images.flip(3)))
    assert torch.allclose(straight, mirrored.flip(3), atol=1e-5) == tta.flip
    assert predictor.gives_logits != tta.flip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_lower_precision_is_summed_in_full(dtype: torch.dtype) -> None:
    model, images = _Tiny().to(dtype), _images(75, 91).to(dtype)
    for inference in (WHOLE, _slide((32, 40), (8, 8), 8)):
        ours = _scores(Predictor(inference, PLAIN), model, images)
        assert ours.dtype == torch.float32
    with torch.no_grad():
        # 16 windows on a pixel: summed in bfloat16, the error would be that of the sum and not of a window.
        expected = _naive_slide(_Tiny(), images.float(), [32, 40], [8, 8])
    assert float((ours - expected).abs().mean()) < 2e-3


def test_labels_fit_their_type() -> None:
    def made(classes: int) -> Tensor:
        scores = torch.zeros(1, classes, 1, 1)
        scores[:, -1] = 1
        return labels_of(scores)

    assert made(256).dtype == torch.uint8 and made(256).item() == 255
    assert made(300).dtype == torch.int16 and made(300).item() == 299


def test_no_graph_is_kept() -> None:
    bands: Iterator[Band] = Predictor(WHOLE, PLAIN).bands(_Tiny(), _images(20, 20), (20, 20))
    assert not next(bands).scores.requires_grad


@pytest.mark.parametrize(
    ("inference", "tta", "message"),
    [
        (InferenceConfig("window"), PLAIN, "inference.name is 'window'; it takes one of whole, slide"),
        (InferenceConfig("whole", crop=[8, 8]), PLAIN, "inference.crop is set, but inference=whole"),
        (InferenceConfig("slide", [8, 8], [4, 4]), PLAIN, "inference.batch_size is not set"),
        (InferenceConfig("slide", [8, 8], None, 1), PLAIN, "inference.stride is not set"),
        (_slide((8, 8), (4, 9)), PLAIN, r"inference.stride \[4, 9\] is larger than inference.crop \[8, 8\]"),
        (_slide((8, 8), (0, 4)), PLAIN, r"inference.stride is \[0, 4\]"),
        (_slide((8, 8), (4, 4), 0), PLAIN, "inference.batch_size is 0"),
        (WHOLE, TtaConfig(scales=[]), "tta.scales"),
        (WHOLE, TtaConfig(scales=[1.0, 0.0]), "tta.scales"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused(inference: InferenceConfig, tta: TtaConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_inference(inference, tta)


def test_the_choices_of_the_configuration_pass() -> None:
    from conftest import CONF
    from omegaconf import OmegaConf

    def choices(group: str, schema: type) -> list[Any]:
        files = sorted((CONF / group).glob("*.yaml"))
        assert files
        return [OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(f))) for f in files]

    checked: Callable[[Any, Any], None] = check_inference
    for inference, tta in product(choices("inference", InferenceConfig), choices("tta", TtaConfig)):
        checked(inference, tta)
