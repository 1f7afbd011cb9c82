"""MMSegmentation's configurations by name, its losses and weights, and the operators that stand in for compiled."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seggrid import models
from seggrid.config import ArchConfig, BackendConfig, EncoderConfig, ModelConfig
from seggrid.errors import UserError

SETTINGS = {"mmseg": {"encoders": "native", "loss": "native"}}
SMALL = "fast_scnn_8xb4-160k_cityscapes-512x1024"
# The families that need something of their own: several of each kind of head, loss and preprocessing.
QUICK = (SMALL, "cgnet_fcn_4xb4-60k_cityscapes-680x680", "pidnet-s_2xb6-120k_1024x1024-cityscapes")
SLOW = (
    "ann_r50-d8_4xb2-40k_cityscapes-512x1024",
    "encnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "fastfcn_r50-d32_jpu_enc_4xb2-80k_cityscapes-512x1024",
    "fpn_poolformer_s12_8xb4-40k_ade20k-512x512",
    "icnet_r50-d8_4xb2-80k_cityscapes-832x832",
    "knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512",
    "mask2former_r50_8xb2-90k_cityscapes-512x1024",
    "maskformer_r50-d32_8xb2-160k_ade20k-512x512",
    "mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024",
    "ocrnet_hr18s_4xb2-40k_cityscapes-512x1024",
    "pointrend_r50_4xb2-80k_cityscapes-512x1024",
    "psanet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "san-vit-b16_coco-stuff164k-640x640",
    "segmenter_vit-t_mask_8xb1-160k_ade20k-512x512",
    "stdc1_4xb12-80k_cityscapes-512x1024",
    "unet-s5-d16_fcn_4xb4-40k_drive-64x64",
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _config(name: str, num_classes: int = 5, pretrained: bool = False, **settings: Any) -> ModelConfig:
    encoder = EncoderConfig("native", pretrained=pretrained)
    names = [f"class {index}" for index in range(num_classes)]
    return ModelConfig(
        BackendConfig("mmseg"), ArchConfig("official", SETTINGS, config=name), encoder, num_classes, names, **settings
    )


def _batch(height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(5, (2, height, width), generator=generator)
    masks[:, :8] = 255
    return torch.randn(2, 3, height, width, generator=generator), masks


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_an_official_configuration_trains_by_its_own_loss(name: str) -> None:
    torch.manual_seed(0)
    segmenter = models.build(_config(name))
    images, masks = _batch()
    with torch.no_grad():
        logits = segmenter.eval()(images[:1, :, :33, :65]).logits
    assert logits.shape == (1, 5, 33, 65)
    assert logits.isfinite().all()
    segmenter.train()
    losses = segmenter.native_loss(images, masks, 255)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert total > 0
    missing = [key for key, weight in segmenter.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not missing
    assert segmenter.published is not None
    assert segmenter.published["config"] == name


def _stop_dropout(segmenter: models.Segmenter) -> None:
    for module in segmenter.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0


def test_the_native_loss_is_the_librarys_own(build_model: Any) -> None:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    segmenter = build_model("mmseg", "ocrnet", "test_resnet").train()
    _stop_dropout(segmenter)
    images, masks = _batch()
    ours = segmenter.native_loss(images, masks, 255)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask[None]), metainfo={"img_shape": (64, 96)}) for mask in masks]
    theirs = {key: value for key, value in segmenter.network.loss(images, samples).items() if "loss" in key}
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2  # of the cascade's two heads
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key])


def test_the_ignored_label_and_the_padding_count_in_no_native_loss(build_model: Any) -> None:
    # PIDNet pads to 8, and reads edges besides the labels.
    segmenter = build_model("mmseg", "pidnet", "native").train()
    _stop_dropout(segmenter)
    images, masks = _batch(64, 96)
    first = segmenter.native_loss(images, masks, 255)
    renamed = torch.where(masks == 255, 77, masks)
    again = segmenter.native_loss(images, renamed, 77)
    for key, value in first.items():
        torch.testing.assert_close(value, again[key])
    assert segmenter.divisor == 8
    odd = segmenter.native_loss(images[..., :61, :91], masks[..., :61, :91], 255)
    assert all(value.isfinite() for value in odd.values())


@pytest.mark.parametrize(
    ("arch", "encoder"), [("pidnet", "native"), ("ddrnet", "native"), ("pointrend", "test_resnet")]
)
def test_a_batch_without_a_pixel_that_counts_has_a_loss_of_zero_for_every_weight(
    arch: str, encoder: str, build_model: Any
) -> None:
    # Without a gradient for each weight the other processes of a distributed run would wait for ever.
    segmenter = build_model("mmseg", arch, encoder).train()
    images, masks = _batch(32, 32)
    losses = segmenter.native_loss(images, torch.full_like(masks, 9), 9)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total == 0
    assert all(weight.grad is not None for weight in segmenter.parameters() if weight.requires_grad)


def test_segnext_gives_the_same_logits_at_every_call(build_model: Any) -> None:
    segmenter = build_model("mmseg", "segnext", "test_resnet").eval()
    images, _ = _batch(32, 32)
    with torch.no_grad():
        first, state = segmenter(images).logits, torch.get_rng_state()
        assert torch.equal(segmenter(images).logits, first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("decode_head.type=NoHead", "backend=mmseg cannot build arch=fcn .*'type': 'NoHead'.*NoHead is not in the"),
        ("decode_head.chanels=3", "backend=mmseg cannot build arch=fcn .* unexpected keyword argument 'chanels'"),
        ("decoder_head.type=FCNHead", "arch.backends.mmseg has no decoder_head; it takes backbone, neck, decode_head"),
    ],
)
def test_a_part_that_cannot_be_built_is_one_line(part: str, message: str, model_config: Any) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        models.build(model_config("mmseg", "fcn", "test_resnet", f"+arch.backends.mmseg.{part}"))
    assert "\n" not in str(refusal.value)


def test_class_weights_of_another_number_of_classes_are_dropped() -> None:
    segmenter = models.build(_config("cgnet_fcn_4xb4-60k_cityscapes-680x680"))
    assert segmenter.network.decode_head.loss_decode.class_weight is None
    same = models.build(_config("cgnet_fcn_4xb4-60k_cityscapes-680x680", 19))
    assert len(same.network.decode_head.loss_decode.class_weight) == 19


def test_open_vocabulary_reads_the_data_sets_class_names() -> None:
    from seggrid.models.mmseg_description import set_classes

    model = {"decode_head": {"num_classes": 171}, "text_encoder": {"dataset_name": "coco-stuff164k"}}
    set_classes(model, _config("unused", 3))
    assert model["decode_head"]["num_classes"] == 3
    assert model["text_encoder"]["vocabulary"] == ["class 0", "class 1", "class 2"]


def test_a_name_with_a_typing_error_suggests_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"arch.config=pspnet_r50-d8_4xb2-40k_cityscape.* did you mean pspnet_r50-d8_4xb2"
    ):
        models.build(_config("pspnet_r50-d8_4xb2-40k_cityscape-512x1024"))


def test_no_name_and_no_classes_are_said() -> None:
    with pytest.raises(UserError, match=r"arch.config is not set; say arch.config=<name"):
        models.build(_config(None))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"vpd_sd_4xb8-25k_nyu-512x512 segments nothing: it has no classes"):
        models.build(_config("vpd_sd_4xb8-25k_nyu-512x512"))


# Weights


@pytest.fixture(scope="module")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as MMSegmentation saves it, with the checksum in its name."""
    torch.manual_seed(7)
    network = models.build(_config(SMALL, 19)).network
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"state_dict": network.state_dict(), "meta": {"CLASSES": ["a"], "mmseg_version": "0.30"}}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"fast_scnn-{digest[:8]}.pth"))


@pytest.fixture
def published_address(published_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MMSegmentation's address of the weights leads to ``published_file``; nothing is in the cache."""
    import dataclasses

    from seggrid.models import mmseg

    known = mmseg.mmseg_configs.published(SMALL)
    assert known is not None
    assert known.weights is not None
    assert known.weights.startswith("https://download.openmmlab.com/")
    row = dataclasses.replace(known, weights=published_file.as_uri())
    monkeypatch.setattr(mmseg.mmseg_configs, "published", lambda name, setting="arch.config": row)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.mark.parametrize("by", ["name", "file"])
def test_official_weights_are_loaded_whole(by: str, published_file: Path, published_address: None) -> None:
    source = SMALL if by == "name" else str(published_file)
    segmenter = models.build(_config(SMALL, 19, pretrained=True, weights=source))
    saved = torch.load(published_file, weights_only=True)["state_dict"]
    loaded = segmenter.network.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(value, saved[key]) for key, value in loaded.items())


def test_another_number_of_classes_keeps_the_rest(
    published_file: Path, published_address: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "seggrid"):
        segmenter = models.build(_config(SMALL, 5, weights=SMALL))
    saved = torch.load(published_file, weights_only=True)["state_dict"]
    loaded = segmenter.network.state_dict()
    fresh = {key for key, value in loaded.items() if value.shape != saved[key].shape}
    assert {key.rsplit(".", 2)[-2] for key in fresh} == {"conv_seg"}
    assert all(torch.equal(value, saved[key]) for key, value in loaded.items() if key not in fresh)
    assert "classes there, 5 here" in caplog.text


def test_weights_of_another_model_are_refused_in_one_line(published_file: Path) -> None:
    with pytest.raises(UserError, match=r"is for another model: \d+ missing .* \d+ unexpected") as refusal:
        models.build(_config("erfnet_fcn_4xb4-160k_cityscapes-512x1024", 19, weights=str(published_file)))
    assert "\n" not in str(refusal.value)


def test_a_damaged_download_is_refused(published_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / published_file.name
    damaged.write_bytes(published_file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="its name says sha256"):
        models.build(_config(SMALL, 19, weights=str(damaged)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pth", "weights=nowhere.pth is not a file"),
        ("fast_scn_8xb4-160k_cityscapes-512x1024", "weights=fast_scn.* did you mean fast_scnn_8xb4"),
        ("pspnet_r50-d8", "weights=pspnet_r50-d8 is a configuration for which MMSegmentation publishes no weights"),
    ],
)
def test_unknown_weights_are_said(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.build(_config(SMALL, 19, weights=source))


def test_a_pretrained_encoder_of_its_own_is_loaded(
    model_config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from seggrid.models import mmseg

    asked: list[str] = []
    donor = models.build(model_config("mmseg", "segformer", "mmseg/mit_b0")).network.backbone
    state = {key: torch.rand_like(value) for key, value in donor.state_dict().items()}
    torch.save(state, tmp_path / "mit.pth")

    def download(address: str) -> Path:
        asked.append(address)
        return tmp_path / "mit.pth"

    monkeypatch.setattr(mmseg.weights, "download", download)
    loaded = models.build(model_config("mmseg", "segformer", "mmseg/mit_b0", "encoder.pretrained=true")).network
    assert len(asked) == 1
    assert asked[0].startswith("https://download.openmmlab.com/")
    assert all(torch.equal(value, state[key]) for key, value in loaded.backbone.state_dict().items())


def test_what_cannot_be_downloaded_says_how_to_go_on(model_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from seggrid.models import mmseg

    def download(address: str) -> Path:
        raise UserError(f"{address} cannot be downloaded (no network); download it elsewhere and say weights=<file>")

    monkeypatch.setattr(mmseg.weights, "download", download)
    with pytest.raises(UserError, match=r"no network\).; go on with encoder.pretrained=false, or with encoder.weights"):
        models.build(model_config("mmseg", "fcn", "mmseg/resnet50_v1c", "encoder.pretrained=true"))
    with pytest.raises(UserError, match=r"pretrain/vit_large_p16.pth, a file that MMSegmentation has its users make"):
        models.build(_config("setr_vit-l_pup_8xb1-80k_cityscapes-768x768", pretrained=True))


def test_an_encoder_of_which_nothing_is_published_says_that_it_starts_at_random(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "seggrid"):
        models.build(_config(SMALL, pretrained=True))
    assert f"{SMALL} starts at random" in caplog.text


# A user's own head


def test_a_users_own_head_is_imported_and_takes_the_place_of_the_librarys(
    model_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_heads.py").write_text(
        "from mmseg.models.decode_heads.fcn_head import FCNHead\n"
        "from mmseg.registry import MODELS\n"
        "@MODELS.register_module(force=True)\n"
        "class WideHead(FCNHead):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ("arch.imports=[my_heads]", "+arch.backends.mmseg.decode_head.type=WideHead")
    segmenter = models.build(model_config("mmseg", "fcn", "test_resnet", *own))
    assert type(segmenter.network.decode_head).__name__ == "WideHead"
    with torch.no_grad():
        assert segmenter.eval()(_batch()[0]).logits.shape == (2, 5, 64, 96)
    with pytest.raises(UserError, match=r"arch.imports=my_hedas: my_hedas cannot be imported"):
        models.build(model_config("mmseg", "fcn", "test_resnet", "arch.imports=[my_hedas]"))


# The operators that stand in for compiled ones


def _spread(masks: Tensor, kind: int, size: int) -> Tensor:
    """The operator as PSANet's authors wrote it: loop by loop."""
    batch, _, height, width = masks.shape
    half = (size - 1) // 2
    output = torch.zeros(batch, height * width, height, width, dtype=masks.dtype)
    for h in range(height):
        for w in range(width):
            for row in range(max(0, half - h), min(size, height + half - h)):
                for column in range(max(0, half - w), min(size, width + half - w)):
                    other = (row + h - half, column + w - half)
                    value = masks[:, row * size + column, h, w]
                    if kind == 0:
                        output[:, other[0] * width + other[1], h, w] = value
                    else:
                        output[:, h * width + w, other[0], other[1]] = value
    return output


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(("size", "height", "width"), [(3, 4, 5), (7, 4, 5), (5, 3, 3)])
def test_psamask_is_the_operator_of_the_paper(kind: int, size: int, height: int, width: int) -> None:
    from seggrid.models import mmseg  # makes mmcv importable

    assert mmseg.mmcv_ops
    from mmcv.ops.psa_mask import PSAMaskFunction

    masks = torch.randn(2, size * size, height, width, dtype=torch.double, requires_grad=True)
    ours = PSAMaskFunction.apply(masks, kind, (size, size))
    torch.testing.assert_close(ours, _spread(masks, kind, size))
    assert torch.autograd.gradcheck(lambda value: PSAMaskFunction.apply(value, kind, (size, size)), masks)


def test_deformable_attention_takes_the_plain_path_on_every_device() -> None:
    from seggrid.models import mmseg

    assert mmseg.mmcv_ops
    import mmcv.ops.multi_scale_deform_attn as attention

    assert attention.IS_CUDA_AVAILABLE is False


def test_an_operator_that_is_missing_says_so() -> None:
    from seggrid.models import mmseg

    assert mmseg.mmcv_ops
    from mmcv.ops import nms

    with pytest.raises(NotImplementedError, match="mmcv's compiled operator nms is not installed"):
        nms(torch.rand(3, 4), torch.rand(3), 0.5)
