"""The best cell under a budget, and what one has to know of it."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from profiled import counted, timed, write_profile, write_training

from seggrid.choose import main
from seggrid.comparison import commands, report


def _sweep(folder: Path) -> None:
    """Three cells with a profile, the better the slower, and one without."""
    for arch, score, ms in (("upernet", 0.7, 40.0), ("unet", 0.65, 15.0), ("fpn", 0.6, 8.0)):
        said = ("encoder.depth=4", "trainer.max_epochs=3", "optimizer.lr=1e-3")
        train = {"epochs": 3, "s_per_iter": 0.1}
        write_training(folder / "t" / arch, score, arch, said, train=train, model=counted(int(ms * 1e6), gmacs=ms))
        write_profile(
            *(folder / "p" / arch, arch, ("encoder.depth=4", "input.size=[512,1024]", "precision=bf16")),
            profile=timed(ms, peak_memory_bytes=int(ms * 2**27)), model=counted(int(ms * 1e6), gmacs=ms),
        )  # fmt: skip
    write_training(folder / "t" / "segformer", 0.8, "segformer", ("encoder.depth=3",), backend="mmseg")


def _lines(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int | None = None) -> list[str]:
    if status is None:
        main([str(argument) for argument in arguments])
    else:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        assert caught.value.code == status
    return capsys.readouterr().out.splitlines()


def test_the_best_under_a_budget_its_runner_up_and_what_lacks_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _sweep(tmp_path)
    lines = _lines(capsys, tmp_path / "t", tmp_path / "p", "--latency-ms", "20", "--memory-gib", "2")
    assert lines[0] == "streets, latency at most 20 ms, memory at most 2 GiB: smp / unet / resnet18"
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in lines if line.startswith(" ")}
    assert rows["mIoU %"] == ["65.00", "60.00"] and rows["latency ms"] == ["15.00", "8.00"]
    assert rows["memory GiB"] == ["1.88", "1.00"] and rows["GMac"] == ["15.00", "8.00"]
    assert max(map(len, (line for line in lines if line.startswith(" ") and "python" not in line))) <= 80
    assert "The best is 5.00 points ahead of the runner-up; whether that is more than chance is not known." in lines
    assert "2 of 4 cells are within the budget." in lines and "Measured at 512 x 1024 on a GPU." in lines
    longer = next(line for line in lines if line.startswith("To train it longer: "))
    assert shlex.split(longer.split(": ", 1)[1]) == [
        "python", "train.py", "arch=unet", "dataset=streets", "encoder.depth=4", "optimizer.lr=1e-3",
        "trainer.max_epochs=12",
    ]  # fmt: skip
    assert "Without latency and memory: 1 cell, with a higher mIoU among them: mmseg / segformer / resnet18" in "".join(
        lines
    )
    command = shlex.split(lines[-1])
    assert command == [
        "python",
        "profile.py",
        "arch=segformer",
        "encoder.depth=3",
        "input.size=[512,1024]",
        "precision=bf16",
    ]


def test_a_limit_that_nothing_meets_names_the_nearest_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sweep(tmp_path)
    (tmp_path / "t" / "segformer" / "result.json").unlink()
    lines = _lines(capsys, tmp_path / "t", tmp_path / "p", "--latency-ms", "4", status=1)
    (line,) = lines
    assert line.startswith("streets, latency at most 4 ms: nothing; the nearest is smp / fpn / resnet18 with 8.00 ms ")


def test_without_any_figure_one_line_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _sweep(tmp_path)
    (line,) = _lines(capsys, tmp_path / "t", "--latency-ms", "4", status=1)
    assert "no cell has all figures (latency); measure them, say by python profile.py arch=segformer" in line
    assert _lines(capsys, tmp_path / "t", "--params-m", "9")[0].endswith("segformer / resnet18")  # counted in any run


def test_each_data_set_has_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for job, (dataset, score) in enumerate([("hard", 0.3), ("easy", 0.9), ("easy", 0.8)]):
        write_training(tmp_path / str(job), score, f"arch{job}", dataset=dataset)
    lines = _lines(capsys, tmp_path)
    answers = [line for line in lines if ", no limit: " in line]
    assert answers == ["easy, no limit: smp / arch1 / resnet18 / easy", "hard, no limit: smp / arch0 / resnet18 / hard"]
    assert "There is no runner-up." in lines


def test_latencies_that_were_not_measured_alike_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = {"split": "val", "inference": "whole", "tta_flip": False, "tta_scales": [1.0]}
    for arch, device in (("unet", "a GPU"), ("fpn", "a CPU")):
        write_training(tmp_path / f"t{arch}", 0.6, arch, kind="evaluate", evaluation=how)
        write_profile(tmp_path / f"p{arch}", arch, profile=timed(10.0, device=device))
    lines = "\n".join(_lines(capsys, tmp_path, "--latency-ms", "20"))
    assert "Not all were measured alike, which the limit does not know of: 512 x 1024 on a" in lines
    assert "For how long it was trained is not recorded here." in lines


def test_gmac_of_inputs_of_different_sizes_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network that was counted at 96x128 alone is not below a limit at 512x1024."""
    for arch, score, gmacs in (("unet", 0.5, 20.0), ("fpn", 0.55, 40.0), ("pspnet", 0.7, None)):
        write_training(tmp_path / f"t{arch}", score, arch)
        if gmacs is not None:
            write_profile(tmp_path / f"p{arch}", arch, model=counted(gmacs=gmacs))
    (tmp_path / "tunet" / "result.json").unlink()
    lines = _lines(capsys, tmp_path / "tfpn", tmp_path / "tpspnet", tmp_path / "pfpn", "--gmacs", "30")
    assert lines[0].endswith(": smp / pspnet / resnet18")  # both have them at 96 x 128
    assert "GMac are those of an input of 96 x 128; what was counted at another alone is without." in lines
    write_training(tmp_path / "tunet", 0.5, model=counted(gmacs=None))
    write_training(tmp_path / "tfpn", 0.55, "fpn", model=counted(gmacs=None))
    lines = _lines(capsys, tmp_path, "--gmacs", "30")
    assert lines[0].endswith(": smp / unet / resnet18")
    assert "GMac are those of an input of 512 x 1024; what was counted at another alone is without." in lines
    assert any(line.startswith("Without GMac: 1 cell, with a higher mIoU among them: smp / pspnet") for line in lines)
    assert "input.size" not in lines[-1] and lines[-1].endswith("arch=pspnet counts_only=true")


def test_of_profiles_on_two_devices_one_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    write_training(tmp_path / "t", 0.5)
    for device, ms in (("NVIDIA H200", 10.0), ("a CPU", 100.0)):
        write_profile(tmp_path / device, profile=timed(ms, device=device))
    (line, note) = _lines(capsys, tmp_path, "--latency-ms", "50", status=1)
    how = "which differ in device NVIDIA H200, a CPU: give the folder of one"
    assert line.endswith(f"(latency); there are several profiles, {how}, or say --device")
    assert "device NVIDIA H200, a CPU; which of them belongs to a run is not known: give the folder of one." in note
    lines = _lines(capsys, tmp_path, "--latency-ms", "50", "--device", "h200")
    assert lines[0].endswith(": smp / unet / resnet18") and "Measured at 512 x 1024 on NVIDIA H200." in lines
    assert not any("several" in line for line in lines)
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), "--device", "B200"])
    assert caught.value.code == (
        "error: --device B200: no profile here is of such a device; there are those of: NVIDIA H200, a CPU"
    )


def test_the_runner_up_is_not_the_same_run_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path / "t", 0.6)
    how = {"run": str(tmp_path / "t"), "checkpoint": "best", "split": "val", "inference": "whole"}
    write_training(tmp_path / "e", 0.6, kind="evaluate", evaluation=how)
    assert "There is no runner-up." in _lines(capsys, tmp_path)


def test_windows_and_several_views_are_without_the_latency_of_whole_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_training(tmp_path / "t", 0.5)
    write_profile(tmp_path / "p", overrides=("warmup=5",))
    flip = {"split": "val", "inference": "whole", "tta_flip": True, "tta_scales": [1.0]}
    write_training(tmp_path / "e", 0.6, kind="evaluate", evaluation=flip, overrides=("tta=flip",))
    lines = _lines(capsys, tmp_path, "--latency-ms", "20")
    assert lines[0].endswith(": smp / unet / resnet18 (train)")
    assert lines[-1].startswith("Without latency: 1 cell, with a higher mIoU among them: smp / unet / resnet18 (evalu")
    assert lines[-1].endswith("; no profile times test-time augmentation")
    windows = {"inference": "slide", "crop": [256, 512], "stride": [128, 256], "tta_flip": False}
    write_training(tmp_path / "e", 0.6, kind="evaluate", evaluation={"split": "val", **windows})
    command = shlex.split(_lines(capsys, tmp_path, "--latency-ms", "20")[-1])
    assert command[2:] == [
        "arch=unet", "warmup=5", "inference=slide", "inference.crop=[256,512]", "inference.stride=[128,256]"
    ]  # fmt: skip


def test_a_cell_over_one_limit_is_out_whatever_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _sweep(tmp_path)
    arguments = (tmp_path / "t", tmp_path / "p", "--latency-ms", "20", "--params-m", "3.5")
    lines = _lines(capsys, *arguments, status=1)
    assert "nothing; the nearest is smp / fpn / resnet18 with 8.00 ms latency, 8.00 M parameters" in lines[0]
    assert len(lines) == 1  # segformer has 4 M parameters and no latency


@pytest.mark.parametrize("limit", ["-1", "0", "nan", "inf", "x"])
def test_a_limit_is_a_positive_number(tmp_path: Path, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    _lines(capsys, tmp_path, f"--latency-ms={limit}", status=2)


def test_bad_folders_are_errors_of_one_line(tmp_path: Path) -> None:
    write_training(tmp_path / "a" / "0", 0.5, status="failed")
    for folder, said in (("nowhere", "no readable result.json below"), ("a", "no completed run below")):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / folder)])
        assert str(caught.value.code).startswith(f"error: {said}") and "\n" not in str(caught.value.code)


def test_the_commands_of_an_official_model_and_of_an_evaluation(tmp_path: Path) -> None:
    said = ("backend=mmseg", "arch=official", "arch.config=a b", "encoder.pretrained=false", "experiment=mine")
    values: dict[str, Any] = {"backend": "mmseg", "encoder": "native", "train": {"epochs": 2}}
    write_training(tmp_path / "t", 0.5, "official", said, **values)
    (tmp_path / "t" / "config.yaml").write_text("match: equal\nweights: null\n")
    how = {"run": str(tmp_path / "t"), "trained_with": ["arch=official", *said]}
    write_training(
        tmp_path / "e", 0.6, "official", ("tta=flip",), **values | {"train": None}, kind="evaluate", evaluation=how
    )
    trained, evaluated = sorted(report.read_sweep(tmp_path), key=lambda run: run.record.kind, reverse=True)
    assert commands.longer(trained) == commands.longer(evaluated)
    assert "'arch.config=a b' encoder.pretrained=false experiment=mine trainer.max_epochs=8" in str(
        commands.longer(trained)
    )
    command = shlex.split(commands.profile(trained, None, timed=False))
    assert "match=equal" in command and "encoder=native" in command and "arch.config=a b" in command
    assert "encoder.pretrained=false" not in command and command[-1] == "counts_only=true"
    assert not {"weights=None", "experiment=mine"} & set(command)
