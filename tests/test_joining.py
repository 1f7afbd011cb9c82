"""A profile and a training of one network are one row; several folders are one comparison."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from profiled import counted, rows, summary, timed, write_profile, write_training

from seggrid import sweep
from seggrid.comparison import report
from seggrid.comparison.page_data import data
from seggrid.errors import UserError


def test_a_profile_and_a_training_are_one_row_and_nothing_is_lost(tmp_path: Path) -> None:
    write_training(tmp_path / "trained", 0.6, overrides=("encoder.pretrained=false", "optimizer.lr=0.1"))
    write_profile(tmp_path / "profiled", overrides=("warmup=5",))
    comparison = report.compare(tmp_path)
    (row,) = rows(tmp_path)
    expected = {
        "kind": "train", "mIoU": "0.6", "s_per_iter": "0.25", "images_per_s": "32.0", "gmacs": "1.5",
        "input_height": "96", "device": "a CPU", "latency_ms_median": "10.0", "profile_images_per_s": "100.0",
        "profile_best_images_per_s": "200.0", "profile_best_batch_size": "8", "profile_train_s_per_iter": "0.1",
        "profile_train_peak_memory_bytes": str(10 * 2**29), "profile_device": "a GPU", "profile_gmacs": "20.0",
        "profile_input_height": "512", "profile_input_width": "1024", "params_decoder": "900000",
        "activation_bytes": str(2**28), "checkpoint_bytes": "16000000", "profile_overrides": "arch=unet warmup=5",
        "profile_stages_ms_backward": "30.0", "profile_batch_sizes_batch_size": "1 2 4 8",
        "profile_folder": "profiled", "folder": "trained",
    }  # fmt: skip
    assert {key: row.get(key) for key in expected} == expected
    assert len(row["latency_samples"].split()) == 22
    assert "profiled at 512 x 1024" in comparison.shared() and "profiled on a GPU" in comparison.shared()
    assert comparison.runs[0].label == "smp / unet / resnet18"
    assert comparison.notes == []
    text = comparison.paths["html"].read_text()
    assert "python profile.py arch=unet warmup=5" in text and "python train.py arch=unet" in text


@pytest.mark.parametrize(
    ("override", "joined"),
    [
        ("encoder.pretrained=false", True),
        ("encoder.weights=file.pth", True),
        ("encoder.frozen=true", True),
        ("match=library", True),
        ("arch.decoder_channels=null", True),
        ("optimizer.lr=1", True),
        ("arch.decoder_channels=64", False),
        ("+arch.options.width=8", False),
        ("encoder.depth=3", False),
        ("match=equal", False),
        ("weights=published", False),
    ],
)
def test_settings_that_change_the_network_keep_a_profile_apart(tmp_path: Path, override: str, joined: bool) -> None:
    # Of what has no one decoder width it is not known what was built: what was said decides.
    model = counted(decoder_channels=None)
    write_training(tmp_path / "0", 0.6, overrides=(override,), model=model)
    write_profile(tmp_path / "1", model=model)
    comparison = report.compare(tmp_path)
    assert len(comparison.runs) == (1 if joined else 2)
    said = f"that of smp / unet / resnet18 is of another network than its runs ({override.lstrip('+')})"
    assert [said in note for note in comparison.notes] == ([] if joined else [True])


def test_what_was_built_keeps_a_profile_apart_that_no_setting_does(tmp_path: Path) -> None:
    """An experiment's file can set what no command line shows."""
    write_training(tmp_path / "0", 0.6, model=counted(params=5_000_000, params_encoder=3_000_000))
    write_profile(tmp_path / "1")
    assert len(report.compare(tmp_path).runs) == 1  # another number of classes
    write_training(tmp_path / "0", 0.6, model=counted(output_stride=8))
    comparison = report.compare(tmp_path)
    assert len(comparison.runs) == 2 and "(output_stride)" in comparison.notes[0]


@pytest.mark.parametrize(
    "said", ["arch.output_stride=16", "arch.decoder_channels=256", "encoder.depth=5", "match=equal"]
)
def test_networks_that_are_built_alike_are_one_whatever_was_said_of_them(tmp_path: Path, said: str) -> None:
    write_training(tmp_path / "0", 0.6, overrides=(said,), model=counted(params=4_100_000, params_decoder=1_000_000))
    write_profile(tmp_path / "1")
    comparison = report.compare(tmp_path)
    assert len(comparison.runs) == 1 and comparison.notes == []
    write_training(tmp_path / "0", 0.6, overrides=(said, "+arch.options.width=8"))  # no fact tells of this one
    assert "(+" not in (note := report.compare(tmp_path).notes[0]) and "(arch.options.width=8)" in note
    write_training(tmp_path / "0", 0.6, overrides=(said,), model=counted(encoder_depth=None))
    assert f"({said})" in report.compare(tmp_path).notes[0]


def test_of_profiles_that_are_built_alike_a_run_gets_that_which_was_asked_for_alike(tmp_path: Path) -> None:
    for job, said in enumerate(((), ("arch.output_stride=16",))):
        write_training(tmp_path / f"t{job}", 0.6 - job / 10, overrides=said)
        write_profile(tmp_path / f"p{job}", overrides=said)
    report.compare(tmp_path)
    assert [(row["folder"], row["profile_folder"]) for row in rows(tmp_path)] == [("t0", "p0"), ("t1", "p1")]


def test_the_settings_of_a_training_are_not_those_of_its_profile(tmp_path: Path) -> None:
    train = {"s_per_iter": 0.25, "precision": "bf16", "channels_last": True}
    write_training(tmp_path / "t0", 0.6, train=train)
    write_profile(tmp_path / "p0")
    said = report.compare(tmp_path).shared()
    assert ", precision bf16, channels_last yes, profiled precision fp32, profiled channels_last no" in said
    assert "profiled mode whole, profiled training batch 2, profiled at 512 x 1024, profiled on a GPU" in said
    for other in ("fpn", "pspnet"):
        precision = {"fpn": "fp32", "pspnet": "bf16"}[other]
        write_training(tmp_path / f"t{other}", 0.5, other, train=train | {"precision": precision})
        write_profile(tmp_path / f"p{other}", other, profile=timed(10, precision=precision))
    comparison = report.compare(tmp_path)
    heads = [column.head for column in comparison.columns()]
    assert "precision" in heads and "profiled precision" in heads
    assert [(row["precision"], row["profile_precision"]) for row in rows(tmp_path)] == [
        ("bf16", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")
    ]  # fmt: skip
    assert "profiled" in " ".join(summary(comparison, 200)[:3])


def test_each_network_of_a_cell_gets_its_own_profile(tmp_path: Path) -> None:
    for width, score in ((64, 0.5), (128, 0.6)):
        values = {"overrides": (f"arch.decoder_channels={width}",), "model": counted(decoder_channels=width)}
        write_training(tmp_path / f"t{width}", score, **values)
        write_profile(tmp_path / f"p{width}", profile=timed(width / 10), **values)
    comparison = report.compare(tmp_path)
    assert [run.values["latency_ms_median"] for run in comparison.runs] == [12.8, 6.4]
    assert [run.label for run in comparison.profiles] == [
        "smp / unet / resnet18 (arch.decoder_channels=128)", "smp / unet / resnet18 (arch.decoder_channels=64)"
    ]  # fmt: skip


def test_seeds_and_evaluations_share_the_profile_of_their_network(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_training(tmp_path / f"t{seed}", 0.6, seed=seed, overrides=(f"seed={seed}", "encoder.depth=4"))
    how = {"split": "val", "run": "t0", "trained_with": ["arch=unet", "encoder.depth=4"]}
    write_training(tmp_path / "e", 0.7, kind="evaluate", evaluation=how, overrides=("run=t0",))
    write_profile(tmp_path / "p", overrides=("encoder.depth=4",))
    comparison = report.compare(tmp_path)
    assert [row["profile_folder"] for row in rows(tmp_path, "runs.csv")] == ["p", "p", "p"]
    assert [(row["folder"], row["profile_folder"]) for row in rows(tmp_path)] == [("e", "p"), ("t0 t1", "p")]
    assert [run.folder.name for run in comparison.profiles] == ["p"]


def test_of_several_profiles_none_is_guessed(tmp_path: Path) -> None:
    for arch in ("unet", "fpn"):
        write_training(tmp_path / arch, 0.6, arch=arch)
        for precision in ("fp32", "bf16"):
            profile = timed(10.0, precision=precision)
            write_profile(tmp_path / (arch + precision), arch, (f"precision={precision}",), profile=profile)
    comparison = report.compare(tmp_path)
    assert len(comparison.runs) == 6 and not any(run.profile for run in comparison.runs)
    (note,) = comparison.notes  # one line, however many cells
    assert note == (
        "Profiles with rows of their own: smp / fpn / resnet18, smp / unet / resnet18 have several, which differ in "
        "precision bf16, fp32; which of them belongs to a run is not known: give the folder of one."
    )
    assert note in summary(comparison, 80) and note in (tmp_path / "comparison.md").read_text()
    assert note in comparison.paths["html"].read_text()


def test_a_profile_made_twice_is_not_joined_either(tmp_path: Path) -> None:
    write_training(tmp_path / "0", 0.6)
    for job in (1, 2):
        write_profile(tmp_path / str(job))
    comparison = report.compare(tmp_path)
    assert len(comparison.runs) == 3 and "several, made with the same settings" in comparison.notes[0]


def test_a_profile_is_lent_by_a_completed_run_to_a_completed_run(tmp_path: Path) -> None:
    write_training(tmp_path / "0", 0.6, status="failed")
    write_profile(tmp_path / "1")
    assert len(report.compare(tmp_path).runs) == 2
    write_training(tmp_path / "0", 0.6)
    write_profile(tmp_path / "1", status="failed")
    assert len(report.compare(tmp_path).runs) == 2


def test_several_folders_are_compared_in_the_first(tmp_path: Path) -> None:
    write_training(tmp_path / "trained" / "0", 0.6)
    write_training(tmp_path / "trained" / "1", 0.5, arch="fpn")
    write_profile(tmp_path / "profiled" / "0")
    comparison = report.compare(tmp_path / "trained", tmp_path / "profiled", tmp_path / "profiled" / "0")
    assert comparison.folder == tmp_path / "trained"
    assert not list((tmp_path / "profiled").glob("comparison.*"))
    folders = [(row["folder"], row["profile_folder"]) for row in rows(tmp_path / "trained")]
    assert folders == [("0", "../profiled/0"), ("1", "")]
    with pytest.raises(UserError, match=r"below .*nowhere; give the folder of a sweep"):
        report.compare(tmp_path / "trained", tmp_path / "nowhere")


def test_runs_of_two_sweeps_with_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_training(tmp_path / name / "0", 0.6)
    labels = {run.label for run in report.compare(tmp_path / "a", tmp_path / "b").runs}
    assert labels == {"smp / unet / resnet18 / a/0", "smp / unet / resnet18 / b/0"}


def test_the_command_takes_several_folders_and_refuses_none_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_training(tmp_path / "a" / "0", 0.6)
    write_profile(tmp_path / "b" / "0")
    assert sweep.compare_folders(tmp_path / "a", tmp_path / "b") == ["completed"]
    assert capsys.readouterr().out.strip().endswith("comparison.html")
    command = [sys.executable, "-m", "seggrid.sweep"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: say python -m seggrid.sweep <folder") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("how", "lent"),
    [
        ({"inference": "whole"}, True),
        ({"inference": "whole", "tta_flip": True, "tta_scales": [1.0]}, False),
        ({"inference": "whole", "tta_flip": False, "tta_scales": [0.5, 1.0]}, False),
        ({"inference": "slide", "crop": [256, 256], "stride": [128, 128]}, False),
    ],
)
def test_a_profile_of_another_inference_lends_no_latency(tmp_path: Path, how: dict[str, Any], lent: bool) -> None:
    """Six scales take many times as long as one pass: its latency would put the cell on a front it is not on."""
    write_training(tmp_path / "e", 0.7, kind="evaluate", evaluation={"split": "val", **how}, model=None)
    write_training(tmp_path / "t", 0.6, arch="fpn")
    for arch in ("unet", "fpn"):
        write_profile(tmp_path / f"p{arch}", arch, profile=timed(5.0 if arch == "fpn" else 10.0))
    comparison = report.compare(tmp_path)
    values = comparison.cells[0].values
    of_inference = ("latency_ms_median", "latency_range", "inference_memory_bytes", "profile_images_per_s")
    assert [key in values for key in (*of_inference, "profile_batch_sizes_batch_size")] == [lent] * 5
    assert (values["params"], values["gmacs"], values["profile_train_s_per_iter"]) == (4_000_000, 20.0, 0.1)
    assert len(comparison.runs) == 2 and "within 1 point" not in comparison.verdict.replace("No cell within", "")
    figures = data(comparison)["cells"][0]["figures"]
    assert ("latency_ms_median" in figures) == lent and "gmacs" in figures


def test_windows_get_the_profile_of_the_same_windows(tmp_path: Path) -> None:
    windows = {"crop": [256, 256], "stride": [128, 128]}
    how = {"split": "val", "inference": "slide", **windows}
    write_training(tmp_path / "s", 0.7, kind="evaluate", evaluation=how)
    write_training(tmp_path / "w", 0.6)
    write_profile(tmp_path / "pw", profile=timed(10.0))
    write_profile(tmp_path / "ps", overrides=("inference=slide",), profile=timed(40.0, mode="slide", **windows))
    write_profile(tmp_path / "po", overrides=("inference=slide",), profile=timed(90.0, mode="slide", crop=[512, 512]))
    report.compare(tmp_path)
    lent = {row["folder"]: row["latency_ms_median"] for row in rows(tmp_path) if row["mIoU"]}
    assert lent == {"s": "40.0", "w": "10.0"}
