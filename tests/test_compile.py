"""``torch.compile`` of the training's forward pass: of every arch one graph without breaks, and the same logits.

Most run Dynamo with the backend ``eager``: it finds the graph, and what it holds is not compiled.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from command import TINY, call, record
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._inductor import exc

from seggrid.errors import UserError
from seggrid.models.segmenter import Facts, Segmenter

CONF = Path(__file__).resolve().parent.parent / "conf"
ARCHS = {arch["name"]: arch["backends"] for arch in map(yaml.safe_load, (f.read_text() for f in CONF.glob("arch/*")))}
QUICK = {("smp", "fpn"), ("torchvision", "fcn"), ("mmseg", "fcn")}
UNNAMED = ("official", "custom")
SIZE = (128, 160)


@pytest.fixture(autouse=True)
def forgets_graphs() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _cells() -> Iterator[Any]:
    """Every arch that logits train, on each backend that has it, with the smallest encoder."""
    for backend, arch in sorted((backend, arch) for arch, backends in ARCHS.items() for backend in backends):
        settings = ARCHS[arch][backend]
        takes = settings.get("encoders", "any")
        if arch in UNNAMED or settings.get("loss") == "native":
            continue
        small = "test_vit" if takes == "vit" or (backend, arch) == ("smp", "dpt") else "test_resnet"
        marks = [] if (backend, arch) in QUICK else [pytest.mark.slow]
        yield pytest.param(backend, arch, "native" if takes == "native" else small, id=f"{backend}-{arch}", marks=marks)


class Tiny(Segmenter):
    """A network of one layer, for what does not depend on the network."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(3, 5, 3, stride=2, padding=1), None, None, Facts(1, 1, None))

    def raw_logits(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.network(images), ()


def _images(count: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("backend", "arch", "encoder"), _cells())
def test_the_forward_pass_is_one_graph(backend: str, arch: str, encoder: str, build_model: Any) -> None:
    smaller = ["+arch.backends.mmseg.backbone.img_size=[128,160]"] if arch in ("beit", "mae") else []
    segmenter = build_model(backend, arch, encoder, *smaller)
    torch.manual_seed(0)
    plain = segmenter(_images())
    segmenter.compile_forward(backend="eager", fullgraph=True)
    torch.manual_seed(0)  # of dropout
    compiled = segmenter(_images())
    assert len(compiled.aux) == len(plain.aux)
    for one, other in zip((compiled.logits, *compiled.aux), (plain.logits, *plain.aux), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_training_is_compiled_and_evaluation_is_not() -> None:
    segmenter = Tiny()
    names = list(segmenter.state_dict())
    counter = CompileCounter()
    segmenter.compile_forward(backend=counter)
    with torch.no_grad():
        for side in (64, 96, 128):
            segmenter.eval()(_images(1, (side, 64)))
    assert counter.frame_count == 0
    segmenter.train()(_images())
    assert counter.frame_count == 1
    assert list(segmenter.state_dict()) == names


def test_images_of_many_sizes_make_few_graphs() -> None:
    segmenter = Tiny()
    counter = CompileCounter()
    segmenter.compile_forward(backend=counter)
    for side in range(64, 64 + 32 * 12, 32):
        segmenter(_images(2, (side, 96)))
    assert counter.frame_count <= 3


def test_a_copy_runs_its_own_weights() -> None:
    segmenter = Tiny()
    segmenter.compile_forward(backend="eager")
    other = copy.deepcopy(segmenter)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
        assert segmenter(_images()).logits.abs().sum() > 0
        assert other(_images()).logits.abs().sum() == 0


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_the_tenth_model_of_a_sweep_is_compiled_too() -> None:
    for _ in range(10):
        counter = CompileCounter()
        model = Tiny().train()
        model.compile_forward(backend=counter)
        model(_images())
        assert counter.frame_count == 1


@pytest.mark.parametrize(
    "error", [exc.TritonMissing(None), exc.GPUTooOldForTriton(SimpleNamespace(name="K80", major=3, minor=7), None)]
)
def test_without_triton_one_line_says_so(error: Exception) -> None:
    def backend(*_: object) -> Any:
        raise error

    model = Tiny().train()
    model.compile_forward(backend=backend)
    with pytest.raises(UserError, match=r"torch\.compile finds no compiler.*trainer\.compile=false") as caught:
        model(_images())
    assert "\n" not in str(caught.value)


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    segmenter = Tiny()
    segmenter.compile_forward()
    with pytest.raises(UserError, match=r"no-such-compiler.*trainer\.compile=false") as error:
        segmenter(_images(2, (64, 64)))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_a_compiled_model_still_names_the_nearest_size(build_model: Any) -> None:
    segmenter = build_model("mmseg", "segformer", "test_maxvit")
    segmenter.compile_forward(backend="eager")
    with pytest.raises(UserError, match=r"cannot take images of 305x97 .* works is 320x97"):
        segmenter(_images(2, (305, 97)))


def test_a_librarys_own_loss_is_not_compiled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cell = (
        *TINY,
        "backend=smp",
        "arch=pointrend",
        "backend=mmseg",
        "trainer.compile=true",
        f"hydra.run.dir={tmp_path}",
    )
    chosen = {argument.split("=", 1)[0]: argument for argument in cell}
    assert call("train", *chosen.values()) == 1
    assert "trainer.compile=true compiles the way from images to logits" in capfd.readouterr().err
    assert record(tmp_path)["status"] == "skipped"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "arch"), [("smp", "unet"), ("torchvision", "fcn"), ("mmseg", "fcn"), ("mmseg", "pspnet")]
)
def test_compiled_code_trains_as_the_uncompiled_does(backend: str, arch: str, build_model: Any) -> None:
    """Logits, auxiliary logits and gradients, of code that the default compiler made."""
    plain, compiled = (build_model(backend, arch, "test_resnet") for _ in range(2))
    for segmenter in (plain, compiled):
        for module in segmenter.modules():
            if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
                module.p = 0.0  # compiled code draws other numbers
    compiled.compile_forward()
    outputs = []
    for segmenter in (plain, compiled):
        output = segmenter(_images())
        torch.stack([item.square().mean() for item in (output.logits, *output.aux)]).sum().backward()
        outputs.append(output)
    for one, other in zip((outputs[0].logits, *outputs[0].aux), (outputs[1].logits, *outputs[1].aux), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    for weight, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None)
        if weight.grad is not None and other.grad is not None:
            torch.testing.assert_close(weight.grad, other.grad, atol=1e-3, rtol=1e-2)
