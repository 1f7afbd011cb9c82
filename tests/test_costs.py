"""Comparisons that know cost: the columns, and what is said of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from profiled import cells, counted, rows, summary, timed, write_profile, write_training

from seggrid.comparison import report
from seggrid.comparison.agreement import agrees


def test_a_setting_is_a_column_where_it_varies_and_in_one_line_where_not(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        write_profile(tmp_path / precision, "unet", (f"precision={precision}",), profile=timed(10, precision=precision))
    comparison = report.compare(tmp_path)
    head = cells(tmp_path)[0]
    assert "| precision |" in head and "compile" not in head and "profiled on" not in head
    assert "channels_last no, compile no, mode whole, training batch 2, profiled on a GPU" in comparison.shared()
    assert "precision" not in comparison.shared()
    assert comparison.shared() in summary(comparison, 80)


def test_the_table_has_the_costs_in_their_units(tmp_path: Path) -> None:
    write_profile(tmp_path)
    report.compare(tmp_path)
    head, _, line = cells(tmp_path)
    row = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    expected = {
        "GMac": "20.00", "activations MiB": "256", "checkpoint MiB": "15.3", "latency ms": "10.00",
        "p10 to p90": "9.60 to 10.40", "images/s": "100.0", "best images/s": "200.0", "at batch": "8",
        "inference GiB": "1.25", "profiled s/iter": "0.100", "training GiB": "5.00",
    }  # fmt: skip
    assert {key: row.get(key) for key in expected} == expected


def test_published_figures_stand_beside_the_measured_ones(tmp_path: Path) -> None:
    published = {
        "params": 3_900_000.0, "gmacs": 22.0, "train_s_per_iter": 0.08, "device": "a V100", "source": "a paper",
        "note": "measured with another head",
    }  # fmt: skip
    write_training(tmp_path / "0", 0.6)
    write_profile(tmp_path / "1", published=published)
    comparison = report.compare(tmp_path)
    (row,) = rows(tmp_path)
    # 3.9 M is what there is without the auxiliary head, 22 GMac what there is with it.
    assert row["published_params_measured"] == "3900000.0"
    assert row["published_params_counted"] == "without auxiliary head"
    assert (row["published_gmacs_measured"], row["published_gmacs_difference"]) == ("22.0", "0.0")
    assert float(row["published_train_s_per_iter_difference"]) == pytest.approx(0.25)
    head, _, line = cells(tmp_path)
    table = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    shown = ("params over published %", "GMac over published %", "s/iter over published %", "published s/iter")
    assert [table[key] for key in shown] == ["+0.0", "+0.0", "+25.0", "0.080"]
    text = comparison.paths["html"].read_text()
    assert 'id="published"' in text and "measured with another head" in text and "a paper" in text


def test_a_published_figure_that_is_neither_count_is_compared_with_ours(tmp_path: Path) -> None:
    write_profile(tmp_path, published={"params": 3_800_000, "gmacs": 25.0, "note": None})
    report.compare(tmp_path)
    (row,) = rows(tmp_path)
    assert (row["published_params_measured"], row["published_gmacs_measured"]) == ("4000000.0", "20.0")
    assert float(row["published_gmacs_difference"]) == pytest.approx(-0.2)


def test_noisy_profiles_are_named(tmp_path: Path) -> None:
    write_profile(tmp_path / "0", profile=timed(10.0, noise=1.19))
    assert report.compare(tmp_path).notes == []
    write_profile(tmp_path / "1", arch="fpn", profile=timed(10.0, noise=1.21))
    comparison = report.compare(tmp_path)
    (note,) = comparison.notes
    assert "smp / fpn / resnet18 (1.21)" in note and "unet" not in note
    assert note in summary(comparison, 80)


@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_shows_as_much_as_fits(tmp_path: Path, width: int) -> None:
    for arch, backend, ms in (("unet", "smp", 10.0), ("deeplabv3plus", "mmseg", 20.0)):
        published = {"params": 5e6, "gmacs": 30.0, "train_s_per_iter": 0.83}
        write_profile(tmp_path / arch, arch, backend=backend, profile=timed(ms), published=published)
    lines = summary(report.compare(tmp_path), width)
    table = lines[: next(place for place, line in enumerate(lines) if line.startswith("2 of 2"))]
    assert max(map(len, table)) <= width
    row = next(line for line in table if "unet" in line).split()
    assert "10.00" in row and "20.00" in row
    assert ("0.830" in row and "1.25" in row) == (width == 140)


def test_a_profile_of_an_earlier_version_is_still_compared(tmp_path: Path) -> None:
    latency = {"median": 7.5, "p10": 7.0, "p90": 9.0, "samples": [7.0, 7.5, 9.0]}
    profile = {"latency_ms": latency, "images_per_s": 133.0, "train_s_per_iter": None, "peak_memory_bytes": 2**30}
    model = {"params": 1000, "gmacs": 2.0, "gmacs_aux": None, "input_size": [64, 64]}
    write_profile(tmp_path / "0", profile=profile, model=model)
    write_profile(tmp_path / "1", arch="fpn", profile=None, model=model)
    comparison = report.compare(tmp_path)
    text = comparison.paths["html"].read_text()
    drawn = _profiles_of(text)
    assert [profile["latency"] for profile in drawn] == [[7.5, 7.0, 9.0], [None, None, None]]
    assert not any(profile["batches"] for profile in drawn) and 'id="published"' not in text


def _profiles(folder: Path, *cells: tuple[str, dict[str, Any], dict[str, Any]]) -> str:
    for arch, profile, model in cells:
        write_profile(folder / arch, arch, profile=profile, model=model)
    return report.compare(folder).verdict


def test_a_sweep_of_profiles_ends_with_the_fastest_and_the_smallest(tmp_path: Path) -> None:
    verdict = _profiles(
        tmp_path,
        ("fpn", timed(12.5, peak_memory_bytes=2**29), counted(gmacs=15.0)),
        ("unet", timed(10.0, peak_memory_bytes=2**30), counted(gmacs=20.0)),
        ("pspnet", timed(50.0, peak_memory_bytes=2**31), counted(gmacs=30.0)),
    )
    assert verdict == (
        "Fastest: smp / unet / resnet18 with 10.00 ms, smp / fpn / resnet18 is 25 % slower; "
        "fewest GMac: smp / fpn / resnet18 with 15.00; smallest peak memory: smp / fpn / resnet18 with 0.50 GiB."
    )


def test_latencies_whose_ranges_overlap_cannot_be_told_apart(tmp_path: Path) -> None:
    cells = [(arch, timed(ms, spread=0.2, peak_memory_bytes=1), counted()) for arch, ms in
             (("fpn", 10.0), ("unet", 10.5), ("pspnet", 11.0), ("linknet", 20.0))]  # fmt: skip
    assert _profiles(tmp_path, *cells) == (
        "Fastest: smp / fpn / resnet18 with 10.00 ms, but it cannot be told apart from smp / unet / resnet18 and "
        "smp / pspnet / resnet18: their ranges from p10 to p90 overlap."
    )


def test_of_a_cell_in_two_precisions_the_multiply_adds_are_named_once(tmp_path: Path) -> None:
    for arch, gmacs in (("unet", 20.0), ("fpn", 30.0)):
        for precision, ms in (("fp32", 10.0), ("bf16", 5.0)):
            profile = timed(ms * gmacs, precision=precision)
            overrides = (f"precision={precision}",)
            write_profile(tmp_path / (arch + precision), arch, overrides, profile=profile, model=counted(gmacs=gmacs))
    verdict = report.compare(tmp_path).verdict
    assert "astest (fp32): smp / unet / resnet18 (precision=fp32) with 200.00 ms, " in verdict
    assert "astest (bf16): smp / unet / resnet18 (precision=bf16) with 100.00 ms, " in verdict
    assert verdict.count("100 %") == 0 and verdict.count("50 % slower") == 2
    assert verdict.count("fewest GMac: smp / unet / resnet18 with 20.00;") == 1
    assert "smallest peak memory (bf16): smp / unet / resnet18 with 12.50 GiB" in verdict


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("precision", {"precision": "bf16"}),
        ("mode", {"mode": "slide"}),
        ("window", {"crop": [256, 256]}),
        ("stride", {"stride": [128, 128]}),
        ("compile", {"compile": True}),
        ("channels_last", {"channels_last": True}),
    ],
)
def test_times_that_were_taken_in_two_ways_are_not_compared(tmp_path: Path, name: str, other: dict[str, Any]) -> None:
    first, second = timed(10.0), timed(5.0, **other)
    verdict = _profiles(tmp_path, ("unet", first, counted()), ("fpn", second, counted(gmacs=15.0)))
    assert verdict == (
        f"No two have the same {name}: their times are not compared; fewest GMac: smp / fpn / resnet18 with 15.00."
    )
    for arch, score in (("unet", 0.6), ("fpn", 0.595)):
        write_training(tmp_path / f"t_{arch}", score, arch=arch)
    comparison = report.compare(tmp_path)
    assert comparison.verdict.endswith("smp / fpn / resnet18; whether that is more than chance is not known.")
    lent = "" if name in ("mode", "window", "stride") else "5.0"  # a training is validated on whole images
    assert {row["latency_ms_median"] for row in rows(tmp_path)} == {"10.0", lent}


def _training_alone(seconds: float, batch: int = 2, spread: float = 0.02, **values: Any) -> dict[str, Any]:
    latencies = ("latency_ms", "images_per_s", "peak_memory_bytes", "batch_sizes", "best_batch_size")
    ends = {"p10": seconds * (1 - spread), "p90": seconds * (1 + spread)}
    section = {key: value for key, value in timed(10.0).items() if key not in (*latencies, "best_images_per_s")}
    step = {"median": seconds, **ends, "samples": [seconds] * 3}
    return section | {"train_batch_size": batch, "train_s_per_iter": seconds, "train_s": step} | values


def test_a_sweep_of_trainings_steps_ends_with_the_fastest_and_the_published(tmp_path: Path) -> None:
    published = {"train_s_per_iter": 0.83, "device": "a V100"}
    write_profile(tmp_path / "0", profile=_training_alone(0.5), published=published)
    write_profile(tmp_path / "1", "fpn", profile=_training_alone(0.6))
    assert report.compare(tmp_path).verdict == (
        "Fastest training step: smp / unet / resnet18 with 0.500 s/iter, smp / fpn / resnet18 is 20 % slower; "
        "published for a V100: smp / unet / resnet18 with 0.830 s/iter."
    )
    write_profile(tmp_path / "1", "fpn", profile=_training_alone(0.51))
    verdict = report.compare(tmp_path).verdict
    assert "0.500 s/iter, but it cannot be told apart from smp / fpn / resnet18: their ranges from p10" in verdict
    write_profile(tmp_path / "1", "fpn", profile=_training_alone(0.6, precision="bf16"))
    assert report.compare(tmp_path).verdict.startswith("No two have the same precision: their times are not compared;")


def test_training_steps_of_other_batches_are_compared_by_the_image(tmp_path: Path) -> None:
    write_profile(tmp_path / "0", profile=_training_alone(0.5, batch=2))
    write_profile(tmp_path / "1", "fpn", profile=_training_alone(0.8, batch=8))
    assert report.compare(tmp_path).verdict == (
        "Fastest training: smp / fpn / resnet18 with 10.0 images/s at batch 8, smp / unet / resnet18 is 150 % slower."
    )


def test_a_sweep_of_published_counts_ends_with_how_many_agree(tmp_path: Path) -> None:
    # Each at an input of its own, as they are published.
    counts = {
        "a": (3_716_428, 7.9, 3.7e6, 7.9),  # to the digits
        "b": (4_000_000, 20.1, 3.97e6, 20.0),  # within 1 %
        "c": (4_000_000, 20.0, 5.0e6, 25.0),
        "d": (4_000_000, 20.0, 4.0e6, None),
    }
    for size, (arch, (params, gmacs, their_params, their_gmacs)) in enumerate(counts.items(), start=1):
        model = counted(params, gmacs, input_size=[64 * size, 64], params_aux=0, gmacs_aux=0.0)
        published = {"params": their_params, "gmacs": their_gmacs, "note": None}
        write_profile(tmp_path / arch, arch, profile=None, model=model, published=published)
    assert report.compare(tmp_path).verdict == (
        "3 of 4 have the published parameters, to the published digits or within 1 %; the largest deviation is -20.0 % "
        "(smp / c / resnet18). 2 of 3 have the published GMac, to the published digits or within 1 %; the largest "
        "deviation is -20.0 % (smp / c / resnet18)."
    )
    write_profile(tmp_path / "c", "c", model=counted(), published={"params": 5.0e6})
    write_profile(tmp_path / "e", "e", model=counted(), profile=timed(20.0))
    verdict = report.compare(tmp_path).verdict
    assert "astest: smp / c / resnet18 with 10.00 ms" in verdict
    assert verdict.endswith("2 of 2 have the published GMac, to the published digits or within 1 %; the largest "
                            "deviation is +0.5 % (smp / b / resnet18).")  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "published", "same"),
    [
        (13_678_000, 13.7e6, True),
        (13_400_000, 13.7e6, False),
        (14_400_000, 14e6, True),
        (14_600_000, 14e6, False),
        (540_000, 0.5e6, False),  # one digit is no measure
        (1004.0, 1000.0, True),
        (11_029_329, 11_029_328, True),
    ],
)
def test_a_count_agrees_to_the_digits_that_are_published_or_within_a_hundredth(
    measured: float, published: float, same: bool
) -> None:
    assert agrees(measured, published) == same


def test_memory_is_compared_without_what_was_there_before_the_model(tmp_path: Path) -> None:
    held = {"unet": (3 * 2**30, 2 * 2**30), "fpn": (2**31, 2**29)}  # in a sweep the later process holds more
    for arch, (peak, base) in held.items():
        write_training(tmp_path / f"t_{arch}", 0.6, arch=arch)
        memory = {"peak_memory_bytes": peak, "train_peak_memory_bytes": 2 * peak, "base_memory_bytes": base}
        write_profile(tmp_path / arch, arch, profile=timed(10.0, **memory))
    comparison = report.compare(tmp_path)
    head, _, *lines = cells(tmp_path)
    table = [dict(zip(head.split(" | "), line.split(" | "), strict=True)) for line in lines]
    assert {(row["inference GiB"], row["training GiB"]) for row in table} == {("1.00", "4.00"), ("1.50", "3.50")}
    three = ("profile_peak_memory_bytes", "profile_train_peak_memory_bytes", "profile_base_memory_bytes")
    row = next(row for row in rows(tmp_path) if row["arch"] == "fpn")
    assert [row[key] for key in three] == [str(2**31), str(2**32), str(2**29)]
    assert "inference_memory_bytes" not in row
    page = comparison.paths["html"].read_text()
    assert sorted(profile["memory"] for profile in _profiles_of(page)) == [[1.0, 4.0], [1.5, 3.5]]
    figures = [cell["figures"]["inference_memory_bytes"] for cell in _drawn(page)["cells"]]
    assert sorted(figures) == [1.0, 1.5]
    for arch in held:
        (tmp_path / f"t_{arch}" / "result.json").unlink()
    assert "smallest peak memory: smp / unet / resnet18 with 1.00 GiB" in report.compare(tmp_path).verdict


def test_a_peak_of_the_whole_process_is_not_ranked_with_one_without_its_base(tmp_path: Path) -> None:
    write_profile(tmp_path / "0", profile=timed(10.0, base_memory_bytes=2**29))
    write_profile(tmp_path / "1", "fpn", profile=timed(20.0))
    comparison = report.compare(tmp_path)
    assert "memory" not in comparison.verdict
    drawn = _profiles_of(comparison.paths["html"].read_text())
    assert {profile["label"]: profile["based"] for profile in drawn} == {
        "smp / unet / resnet18": 2**29, "smp / fpn / resnet18": None
    }  # fmt: skip
    for job, arch in enumerate(("unet", "fpn")):  # as on a GPU
        write_profile(tmp_path / str(job), arch, profile=timed(10.0 * (job + 1), base_memory_bytes=0))
    comparison = report.compare(tmp_path)
    assert "smallest peak memory: smp / unet" in comparison.verdict
    assert [profile["based"] for profile in _profiles_of(comparison.paths["html"].read_text())] == [0, 0]


def _drawn(page: str) -> dict[str, Any]:
    """What the script of a page draws from."""
    _, _, behind = page.partition('<script type="application/json" id="data">')
    found: dict[str, Any] = json.loads(behind.partition("</script>")[0])
    return found


def _profiles_of(page: str) -> list[dict[str, Any]]:
    profiles: list[dict[str, Any]] = _drawn(page)["profiles"]
    return profiles


def test_a_narrow_terminal_folds_a_long_name_and_keeps_the_counts(tmp_path: Path) -> None:
    for arch in ("segformer_mit-b0_8xb2-160k_ade20k-512x512", "segformer_mit-b1_8xb2-160k_ade20k-512x512"):
        published = {"params": 5e6, "gmacs": 40.0}
        encoder = "convnext_xlarge.fb_in22k_ft_in1k_384"
        write_profile(tmp_path / arch, arch, backend="torchvision", encoder=encoder, profile=None, published=published)
    lines = summary(report.compare(tmp_path), 80)
    table = lines[: next(place for place, line in enumerate(lines) if line.startswith("2 of 2"))]
    assert max(map(len, table)) <= 80
    for figure in ("4.00", "-20.0", "20.00", "-50.0"):
        assert sum(figure in line.split() for line in table) == 2, figure
    said = "".join("".join(line.split()) for line in table)
    assert said.count("2x512") == 2 and said.count("_384") == 2  # folded, not cut


def test_costs_at_different_inputs_or_devices_are_not_compared(tmp_path: Path) -> None:
    small = counted(gmacs=1.0, input_size=[64, 64])
    assert _profiles(tmp_path, ("unet", timed(10), counted()), ("fpn", timed(1), small)) == (
        "No two profiles have the same input and device: their costs are not compared."
    )
    verdict = _profiles(tmp_path, ("pspnet", timed(2), small), ("linknet", timed(1, device="a CPU"), counted()))
    assert verdict.startswith("At 64 x 64 on a GPU: fastest: smp / fpn / resnet18 with 1.00 ms")
    assert "unet" not in verdict and "linknet" not in verdict


def test_a_sweep_of_counts_ends_with_the_smallest(tmp_path: Path) -> None:
    for arch, params, gmacs in (("unet", 4_000_000, 30.0), ("fpn", 3_000_000, 40.0)):
        write_profile(tmp_path / arch, arch, profile=None, model=counted(params, gmacs))
    assert report.compare(tmp_path).verdict == (
        "Smallest: smp / fpn / resnet18 with 3.00 M parameters; fewest GMac: smp / unet / resnet18 with 30.00."
    )


def test_the_winner_has_its_price(tmp_path: Path) -> None:
    scores = {"upernet": (0.700, 40.0), "unet": (0.695, 10.0), "fpn": (0.692, 20.0), "fcn": (0.6, 1.0)}
    for arch, (score, ms) in scores.items():
        write_training(tmp_path / f"t_{arch}", score, arch=arch)
        write_profile(tmp_path / f"p_{arch}", arch, profile=timed(ms))
    comparison = report.compare(tmp_path)
    assert comparison.winner is comparison.runs[0]
    assert comparison.verdict.startswith("Winner: smp / upernet / resnet18 with 70.00 % mIoU")
    assert comparison.verdict.endswith(
        " The fastest within 1 point of it is smp / unet / resnet18: 69.50 % mIoU in 10.00 ms instead of 40.00 ms."
    )
    for arch in ("unet", "fpn"):  # as fast as the winner, as far as can be told
        write_profile(tmp_path / f"p_{arch}", arch, profile=timed(39.0))
    verdict = report.compare(tmp_path).verdict
    assert verdict.endswith(" No cell within 1 point of it is faster than its 40.00 ms.")


def test_profiles_of_other_cells_are_said_after_the_winner(tmp_path: Path) -> None:
    write_training(tmp_path / "t", 0.6)
    for arch, ms in (("fpn", 10.0), ("linknet", 20.0)):
        write_profile(tmp_path / arch, arch, profile=timed(ms))
    verdict = report.compare(tmp_path).verdict
    assert verdict.startswith("Winner: smp / unet / resnet18") and "GMac" not in verdict
    assert verdict.endswith("Fastest: smp / fpn / resnet18 with 10.00 ms, smp / linknet / resnet18 is 100 % slower.")


def test_predictions_of_pictures_have_no_winner_and_no_word_of_one(tmp_path: Path) -> None:
    for job, arch in enumerate(("unet", "fpn")):
        how = {"split": None, "inference": "whole", "predicted": 3, "passed_over": []}
        write_training(tmp_path / str(job), 0.0, arch=arch, kind="evaluate", evaluation=how, metrics=None)
    comparison = report.compare(tmp_path)
    assert comparison.winner is None
    assert comparison.verdict == (
        "2 runs made predictions of images without labels; there is no mIoU to compare."
    )  # fmt: skip
