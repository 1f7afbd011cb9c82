"""The benchmarks of training and of start-up run, and print a line for each of what they compare."""

import subprocess
import sys

import pytest
from command import ROOT

SMALL = ("blocks=1", "steps=5", "batch=2", "size=64x64")
MODELS = ("smp unet", "torchvision fcn", "mmseg pspnet")

pytestmark = pytest.mark.slow


def _printed(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def _summary(lines: list[str], marker: str) -> list[str]:
    """Returns the lines after the last block, without their figures."""
    last = max(place for place, line in enumerate(lines) if line.startswith("  block "))
    return [line for line in lines[last + 1 :] if marker in line]


def test_the_loops_of_all_libraries_and_the_bare_one_stand_beside_ours() -> None:
    lines = _printed("training.py", "what=loop", *SMALL)
    told = _summary(lines, ": ours takes ")
    assert len(told) == 6
    for model in MODELS:
        for other in ("theirs", "bare"):
            assert any(line.startswith(f"{model}: ours takes ") and line.endswith(f" times {other}") for line in told)


def test_each_default_has_a_line_and_clipping_is_none_of_all_of_them() -> None:
    lines = _printed("training.py", "what=defaults", "backends=smp", *SMALL)
    labels = [
        *("channels_last", "precision=auto", "fused optimizer", "logging and seeding off the hot path"),
        *("all of them", "foreach clipping, torch's own default"),
    ]
    told = _summary(lines, "smp unet: ")
    assert len(told) == len(labels)
    assert all(line.startswith(f"smp unet: {label} ") for line, label in zip(told, labels, strict=True))


def test_from_files_every_library_is_compared_and_smp_is_named_for_what_it_is() -> None:
    lines = _printed("training.py", "what=endtoend", "amp=true", *SMALL)
    told = [line.split(": ours is ")[0] for line in _summary(lines, ": ours is ")]
    assert told == ["smp unet (a plain Dataset with OpenCV and torchvision v2)", *MODELS[1:]]


def test_start_up_is_compared_with_the_bare_import() -> None:
    (line,) = _printed("startup.py", "pairs=1", "backend=smp")
    assert line.startswith("smp ")
    for part in ("bare ", "to the first step ", "ratio ", "of CPU time "):
        assert part in line
