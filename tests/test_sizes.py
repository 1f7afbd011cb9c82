"""Image sizes that a model cannot take: one line names the size, and the nearest that works."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command import TINY, call, record
from torch import Tensor, nn

from seggrid.errors import UserError
from seggrid.models.reach import find_padding, forward_on_meta, nearest_size
from seggrid.models.segmenter import Facts, Segmenter

ONE_SIZE = ("backend=torchvision", "arch=fcn", "encoder=test_maxvit", "encoder.pretrained=false")


class Picky(Segmenter):
    """A network that takes heights of a multiple of 48 alone, up to 960; ``fault`` is raised on real images."""

    def __init__(self, fault: Exception | None = None) -> None:
        super().__init__(nn.Conv2d(3, 5, 1), None, None, Facts(1, 1, None), native_size=(48, 48))
        self.fault = fault

    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.fault is not None and not images.is_meta:
            raise self.fault
        height = images.shape[-2]
        assert height % 48 == 0, f"height {height} is no multiple of 48"
        return self.network(images), ()


@pytest.mark.parametrize(("size", "training"), [((305, 97), True), ((7, 300), False)])
def test_the_size_that_is_named_works(size: tuple[int, int], training: bool, build_model: Any) -> None:
    segmenter = build_model("torchvision", "fcn", "test_maxvit").train(training)
    with pytest.raises(UserError, match=f"cannot take images of {size[0]}x{size[1]} ") as error:
        segmenter(torch.zeros(2, 3, *size))
    message = str(error.value)
    assert "\n" not in message and len(message) < 450
    assert segmenter.training == training
    for setting in ("augment.resize", "augment.crop", "input.size", "encoder.options.img_size"):
        assert setting in message
    named = re.search(r"works is (\d+)x(\d+)", message)
    assert named is not None
    near = int(named[1]), int(named[2])
    assert abs(near[0] - size[0]) + abs(near[1] - size[1]) < 160
    assert segmenter(torch.zeros(2, 3, *near)).logits.shape[-2:] == near


def test_the_nearest_of_those_that_work_is_named() -> None:
    segmenter = Picky()
    assert nearest_size(segmenter, (96, 7)) == (96, 7)
    assert nearest_size(segmenter, (100, 64)) == (96, 64)
    with pytest.raises(UserError, match=r"100x64 .height 100 is .*; the nearest size that works is 96x64:"):
        segmenter(torch.zeros(1, 3, 100, 64))


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("something else"),
        torch.OutOfMemoryError("out of memory"),
        ValueError("Expected more than 1 value per channel when training"),
    ],
)
def test_what_is_no_matter_of_the_size_is_raised_as_it_is(fault: Exception) -> None:
    with pytest.raises(type(fault), match=str(fault)):
        Picky(fault)(torch.zeros(2, 3, 48, 48))


def test_a_network_that_works_with_no_size_that_is_tried_raises_its_own_error() -> None:
    class Never(Picky):
        def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            raise RuntimeError("no size at all")

    with pytest.raises(RuntimeError, match="no size at all"):
        Never()(torch.zeros(1, 3, 48, 48))


def test_the_probes_of_a_network_leave_it_as_it_is(build_model: Any) -> None:
    """They run batch norm in a short way: what it learns and keeps must not change, and later passes are its own."""
    segmenter = build_model("smp", "fpn", "test_resnet").train()
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    real, _ = forward_on_meta(segmenter, (64, 64))
    padding = segmenter.divisor, segmenter.smallest
    find_padding(segmenter)
    assert (segmenter.divisor, segmenter.smallest) == padding
    assert segmenter.training and segmenter.explains
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())
    assert forward_on_meta(segmenter, (64, 64))[0].logits.shape == real.logits.shape


def test_commands_say_it_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    profile = (*ONE_SIZE, "input.size=[170,170]", "counts_only=true", f"hydra.run.dir={tmp_path / 'profile'}")
    tiny = [argument for argument in TINY if argument.split("=")[0] not in ("arch", "encoder", "dataset.shapes.size")]
    train = (*tiny, *ONE_SIZE[:3], "dataset.shapes.size=[170,170]", f"hydra.run.dir={tmp_path / 'train'}")
    for kind, arguments in (("profile", profile), ("train", train)):
        assert call(kind, *arguments) == 1
        error = capfd.readouterr().err
        assert "cannot take images of 170x170" in error and "the nearest size that works is 160x160" in error
        assert error.count("\n") == 1, error
        assert record(tmp_path / kind)["error"]["type"] == "UserError"
