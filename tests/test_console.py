"""What a person reads at the end of a run."""

from pathlib import Path

import pytest

from seggrid.console import print_scores
from seggrid.results import Record


@pytest.mark.parametrize(("pixels", "warned"), [(0, True), (7, False)])
def test_a_class_that_no_pixel_is_labelled_is_named(
    pixels: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"iou": 0.5, "acc": 0.5, "dice": 0.5}
    rows = [{"class": "background", **scores, "pixels": 9}, {"class": "thing", **scores, "pixels": pixels}]
    metrics = {"mIoU": 0.5, "mAcc": 0.5, "aAcc": 0.5, "mDice": 0.5}
    print_scores(Record("train", "smp", "unet", "resnet18", metrics=metrics, per_class=rows), "val", Path("run"))
    output = capsys.readouterr().out
    assert ("warning: no pixel in val is labelled thing" in output) is warned
    assert "mIoU 50.00 %" in output
