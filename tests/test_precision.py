"""Which precision a training has, by what the hardware can do."""

from typing import Any

import pytest
import torch

from seggrid.errors import UserError
from seggrid.precision import bf16_is_native, training_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``hardware(avx512_bf16=True)`` for a CPU's instructions, ``hardware(gpu=(7, 5))`` for a GPU."""

    def patched(gpu: tuple[int, int] = (8, 0), **instructions: bool) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
        monkeypatch.setattr(torch.version, "hip", None)

    return patched


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_is_bf16_where_the_cpu_computes_in_it(hardware: Any, instruction: str) -> None:
    hardware(avx2=True, **{instruction: True})
    assert training_precision("auto", CPU) == "bf16-mixed"


def test_auto_is_single_precision_where_the_cpu_would_emulate_bf16(hardware: Any) -> None:
    hardware(avx2=True, avx512_bf16=False)
    assert training_precision("auto", CPU) == "32-true"
    assert training_precision("bf16-mixed", CPU) == "bf16-mixed"  # slow, but what was asked for


def test_a_torch_that_cannot_name_the_instructions_is_asked_otherwise(
    hardware: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardware()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    for there in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda there=there: there)
        assert bf16_is_native(CPU) is there


@pytest.mark.parametrize(("gpu", "word"), [((7, 5), "32-true"), ((8, 0), "bf16-mixed"), ((12, 0), "bf16-mixed")])
def test_auto_goes_by_the_gpus_compute_capability(hardware: Any, gpu: tuple[int, int], word: str) -> None:
    hardware(gpu=gpu)
    assert training_precision("auto", GPU) == word


def test_auto_is_single_precision_on_apples_gpus() -> None:
    assert training_precision("auto", torch.device("mps")) == "32-true"


@pytest.mark.parametrize("word", ["16-mixed", "16-true"])
def test_half_precision_is_refused_on_a_cpu(hardware: Any, word: str) -> None:
    hardware(avx512_bf16=True)
    with pytest.raises(UserError, match=f"trainer.precision={word}: a CPU .* choose bf16-mixed or 32-true"):
        training_precision(word, CPU)
    hardware()
    with pytest.raises(UserError, match="choose 32-true"):
        training_precision(word, CPU)
    assert training_precision(word, GPU) == word


@pytest.mark.parametrize("word", ["bf16-mixed", "bf16-true"])
def test_bf16_is_refused_on_a_gpu_without_it(hardware: Any, word: str) -> None:
    hardware(gpu=(7, 5))
    with pytest.raises(UserError, match=r"Tesla T4 has compute capability 7.5, .* choose 16-mixed or 32-true"):
        training_precision(word, GPU)
    hardware(gpu=(8, 6))
    assert training_precision(word, GPU) == word


def test_double_precision_is_refused_on_apples_gpus() -> None:
    with pytest.raises(UserError, match="choose 32-true"):
        training_precision("64-true", torch.device("mps"))
    assert training_precision("64-true", CPU) == "64-true"
