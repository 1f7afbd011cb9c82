"""What a profile measures, through the command that users run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import record, run_here

from seggrid import fitting, profiling
from seggrid.models.segmenter import Segmenter

CELL = ("backend=smp", "arch=fpn", "encoder=resnet10t", "input.size=[32,64]", "device=cpu")
SHORT = ("warmup=1", "samples=5", "seconds=0.05")


def _profile(folder: Path, *arguments: str, expect: int = 0) -> tuple[dict[str, Any], str, str]:
    done = run_here("profile.py", *CELL, *SHORT, *arguments, f"hydra.run.dir={folder}", expect=expect)
    return record(folder), done.stdout, done.stderr


def test_a_profile_says_what_a_cell_costs_to_use_and_to_train(tmp_path: Path) -> None:
    written, out, _ = _profile(tmp_path, "batch_size=3")
    profile, model = written["profile"], written["model"]
    assert (profile["precision"], profile["mode"], profile["compile"], profile["compile_s"]) == (
        "fp32",
        "whole",
        False,
        None,
    )
    assert model["params_decoder"] == model["params"] - model["params_encoder"]
    assert model["activation_bytes"] > 32 * 64 * 4
    latency = profile["latency_ms"]
    assert len(latency["samples"]) >= 5
    assert latency["p10"] <= latency["median"] <= latency["p90"]
    assert profile["images_per_s"] == pytest.approx(1000 / latency["median"])
    sizes = [item["batch_size"] for item in profile["batch_sizes"]]
    assert sizes[:3] == [1, 2, 4]
    assert profile["best_images_per_s"] == max(item["images_per_s"] for item in profile["batch_sizes"])
    assert profile["train_batch_size"] == 3
    assert profile["train_images_per_s"] == pytest.approx(3 / profile["train_s_per_iter"])
    assert len(profile["train_s"]["samples"]) >= 5
    stages = profile["stages_ms"]
    assert stages["data"] is None
    parts = sum(stages[name] for name in ("encoder", "decoder", "loss", "backward", "optimizer"))
    assert parts == pytest.approx(1000 * profile["train_s_per_iter"], rel=0.5)
    assert min(value for value in stages.values() if value is not None) > 0
    assert profile["peak_memory_bytes"] - profile["base_memory_bytes"] > model["checkpoint_bytes"]
    # Weights, their gradients and AdamW's two moments.
    assert profile["train_peak_memory_bytes"] - profile["base_memory_bytes"] > 4 * model["checkpoint_bytes"]
    for said in ("latency", "images/s", "training step", "backward"):
        assert said in out


def test_windows_cost_what_their_number_says(tmp_path: Path) -> None:
    slide = ("inference=slide", "inference.crop=[32,32]", "inference.stride=[16,16]", "inference.batch_size=2")
    seen: list[int] = []
    forward = Segmenter.forward

    def counted(self: Segmenter, images: torch.Tensor) -> Any:
        if images.device.type != "meta" and not self.training:
            seen.append(len(images))
        return forward(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "forward", counted)
        written, _, _ = _profile(tmp_path, *slide, "measure=[latency]", "warmup=0", "samples=1")
    profile = written["profile"]
    assert (profile["mode"], profile["crop"], profile["stride"]) == ("slide", [32, 32], [16, 16])
    assert seen == [2, 1]  # three windows across 64 pixels, two at once
    assert "train_s" not in profile
    assert "batch_sizes" not in profile


def test_with_a_data_set_the_profile_says_what_loading_takes(tmp_path: Path) -> None:
    written, out, _ = _profile(tmp_path, "dataset=shapes", "measure=[training]")
    assert written["profile"]["stages_ms"]["data"] > 0
    assert "data" in out
    assert written["profile"].get("latency_ms") is None


def test_a_librarys_own_loss_is_part_of_the_forward_pass(tmp_path: Path) -> None:
    cell = ("backend=mmseg", "arch=pidnet", "input.size=[64,64]", "encoder=native", "measure=[training]")
    written, _, _ = _profile(tmp_path, *cell)
    stages = written["profile"]["stages_ms"]
    assert stages["loss"] is None
    assert stages["decoder"] > 0
    assert written["model"]["activation_bytes"] is None


def test_auto_finds_a_training_batch_and_trains_with_it(tmp_path: Path) -> None:
    written, out, _ = _profile(tmp_path, "batch_size=auto", "measure=[training]")
    profile = written["profile"]
    assert profile["train_batch_size"] >= 2
    assert profile["train_batch_size_limit"] == "time"  # these pictures fit by the thousand
    assert f"{profile['train_batch_size']}  (fits" in out


def test_a_trace_has_the_inference_and_the_training_step(tmp_path: Path) -> None:
    _profile(tmp_path, "trace=true", "measure=[training]", "samples=1", "warmup=0")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"inference", "training", "aten::conv2d"} <= names


def test_precisions_are_those_of_the_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seggrid.numerics.bf16_is_native", lambda device: True)
    written, _, _ = _profile(tmp_path / "bf16", "precision=bf16", "measure=[latency]")
    assert written["profile"]["precision"] == "bf16"
    monkeypatch.setattr("seggrid.numerics.bf16_is_native", lambda device: False)
    for precision in ("tf32", "bf16"):
        written, _, err = _profile(tmp_path / f"no_{precision}", f"precision={precision}", expect=1)
        assert err.strip() == f"error: precision={precision}: this CPU has no {precision}; it has fp32"
        assert written["status"] == "failed"


def test_bf16_runs_the_convolutions_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seggrid.numerics.bf16_is_native", lambda device: True)
    kinds: set[torch.dtype] = set()
    convolve = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        made = convolve(self, images)
        kinds.add(made.dtype if images.device.type == "cpu" else torch.bfloat16)
        return made

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    _profile(tmp_path, "precision=bf16", "channels_last=false", "samples=1", "warmup=0", "measure=[latency,training]")
    assert kinds == {torch.bfloat16}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_before_anything_is_built(tmp_path: Path) -> None:
    _, _, err = _profile(tmp_path, "device=cuda", expect=1)
    assert err.startswith("error: device=cuda is not available: PyTorch")
    assert "say device=cpu" in err
    assert len(err.strip().splitlines()) == 1


def _limited(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Makes a device on which no pass with more than so many pixels fits."""
    forward = Segmenter.forward

    def limited(self: Segmenter, images: torch.Tensor) -> Any:
        if images.device.type != "meta" and images[:, 0].numel() > pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, images)

    monkeypatch.setattr(Segmenter, "forward", limited)


def test_what_was_measured_before_the_memory_ran_out_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _limited(monkeypatch, 32 * 64)
    written, _, err = _profile(tmp_path, "batch_size=4", expect=1)
    assert written["status"] == "failed"
    assert written["profile"]["latency_ms"]["median"] > 0
    assert [item["batch_size"] for item in written["profile"]["batch_sizes"]] == [1]
    assert "train_s" not in written["profile"]
    assert err.startswith("error: training at 32x64, batch of 4: ")
    for said in ("2.00 GiB", "lower batch_size (auto finds the largest that fits) or input.size", "precision=bf16"):
        assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_batch_that_memory_ends_in_the_middle_ends_the_search_for_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    forward = Segmenter.forward

    def limited(self: Segmenter, images: torch.Tensor) -> Any:
        if images.device.type != "meta":
            passes.append(len(images))
            if passes.count(2) > 3:  # fragmented: the first passes still fitted
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, images)

    monkeypatch.setattr(Segmenter, "forward", limited)
    written, _, _ = _profile(tmp_path, "measure=[throughput]", "batch_size=4")
    assert [item["batch_size"] for item in written["profile"]["batch_sizes"]] == [1]
    assert written["profile"]["best_batch_size"] == 1


def test_auto_lowers_a_batch_that_fitted_once_but_not_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "largest", lambda *_: profiling.Found(8, "memory"))
    _limited(monkeypatch, 6 * 32 * 64)
    written, _, _ = _profile(tmp_path, "batch_size=auto", "measure=[training]")
    assert written["profile"]["train_batch_size"] == 6


def test_the_librarys_own_loss_is_not_compiled(tmp_path: Path) -> None:
    cell = ("backend=mmseg", "arch=pidnet", "encoder=native", "compile=true", "measure=[training]")
    written, _, err = _profile(tmp_path, *cell, expect=1)
    assert written["error"]["type"] == "ImpossibleCellError"
    assert "trains with the library's own loss" in err


def test_auto_finds_what_fits_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _limited(monkeypatch, 5 * 32 * 64)
    written, out, _ = _profile(tmp_path, "batch_size=auto", "measure=[training]", "seconds=60", "samples=2")
    assert written["profile"]["train_batch_size"] == 5
    assert written["profile"]["train_batch_size_limit"] == "memory"
    assert "the largest that fits" in out


def test_a_sweep_goes_on_after_a_cell_that_needs_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _limited(monkeypatch, 64 * 64)
    sizes = "input.size=[128,64],[32,64]"
    cell = [item for item in CELL if not item.startswith("input.size")]
    run_here(
        "profile.py", "-m", *cell, *SHORT, sizes, "measure=[latency]", f"hydra.sweep.dir={tmp_path}",
        "hydra.sweep.subdir=${hydra.job.num}", "hydra/launcher=basic", expect=1,
    )  # fmt: skip
    assert [record(tmp_path / job)["status"] for job in "01"] == ["failed", "completed"]
    assert "inference at 128x64, batch of 1: CUDA out of memory" in record(tmp_path / "0")["error"]["message"]


def test_the_cpu_is_not_asked_for_what_would_end_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "available_bytes", lambda device: 10_000)
    _, _, err = _profile(tmp_path / "inference", expect=1)
    assert err.startswith("error: inference at 32x64, batch of 1: out of memory: about ")
    assert "needed, 9.77 KiB available; lower input.size, or say inference=slide" in err
    monkeypatch.setattr(fitting, "available_bytes", lambda device: 30 * 2**20)  # room for an inference
    written, _, err = _profile(tmp_path / "training", "batch_size=64", "measure=[latency,training]", expect=1)
    assert err.startswith("error: training at 32x64, batch of 64: out of memory: about ")
    assert "latency_ms" not in written["profile"]  # refused before anything was measured


def test_a_noisy_machine_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10, 10, 10, 10, 10, 10, 10, 10, 50] * 100)
    monkeypatch.setattr(profiling, "milliseconds", lambda work, device: next(times))
    written, _, _ = _profile(tmp_path, "measure=[latency]", "samples=10", "warmup=0", "seconds=60")
    assert 50.0 in written["profile"]["latency_ms"]["samples"]
    assert written["profile"]["noise"] == pytest.approx(1.4)
    log = (tmp_path / "profile.log").read_text() if (tmp_path / "profile.log").exists() else ""
    assert "the machine is noisy" in log


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("batch_size=many", "batch_size is 'many'; it takes a number from 1, or auto"),
        ("batch_size=0", "batch_size is 0; it takes a number from 1, or auto"),
        ("measure=[]", "measure is empty; it takes some of latency, throughput, training; or say counts_only=true"),
        ("measure=[speed]", "measure has speed; it takes some of latency, throughput, training"),
        ("precision=int8", "precision is 'int8'; it takes one of fp32, tf32, bf16, fp16"),
        ("device=tpu", "device is 'tpu'; it takes one of auto, cpu, cuda, mps"),
        ("seconds=0", "seconds is 0.0; it must be a finite number above 0"),
    ],
)
def test_impossible_values_are_one_line(tmp_path: Path, argument: str, said: str) -> None:
    _, _, err = _profile(tmp_path, argument, expect=1)
    assert err.strip() == f"error: {said}"
