"""The confusion matrix as a picture that grows with its classes, and as a table."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from seggrid.confusion_picture import save, write_csv


def _matrix(classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.int64) * 90 + torch.ones(classes, classes, dtype=torch.int64)


def _names(classes: int) -> list[str]:
    return [f"class {index}" for index in range(classes)]


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB")).astype(int)


def _share(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(pixels - np.array(colour)).max(2) <= 3).mean())


@pytest.mark.parametrize("classes", [2, 19, 60])
def test_names_have_room_however_many_there_are(classes: int, tmp_path: Path) -> None:
    save(_matrix(classes), _names(classes), tmp_path / "matrix.png")
    height, width = _pixels(tmp_path / "matrix.png").shape[:2]
    assert height / classes >= 16 and width / classes >= 16  # pixels per name
    assert height < 1500 and width < 1500


def test_a_class_without_labels_is_grey_and_others_are_not(tmp_path: Path) -> None:
    grey = (217, 217, 217)
    matrix = _matrix(8)
    save(matrix, _names(8), tmp_path / "whole.png")
    matrix[3] = 0
    save(matrix, _names(8), tmp_path / "absent.png")
    assert _share(_pixels(tmp_path / "whole.png"), grey) < 0.002
    assert _share(_pixels(tmp_path / "absent.png"), grey) > 0.03
    save(torch.zeros(8, 8, dtype=torch.int64), _names(8), tmp_path / "nothing.png")
    assert _share(_pixels(tmp_path / "nothing.png"), grey) > 0.3


def test_rows_are_shares_of_their_label(tmp_path: Path) -> None:
    # Of a label of ten pixels as of one of ten millions, half is right: the picture is the same.
    save(torch.tensor([[5, 5], [5, 5]]), ["a", "b"], tmp_path / "one.png")
    save(torch.tensor([[5_000_000, 5_000_000], [5, 5]]), ["a", "b"], tmp_path / "two.png")
    save(torch.tensor([[5, 5], [9, 1]]), ["a", "b"], tmp_path / "three.png")
    one, two, three = (_pixels(tmp_path / f"{name}.png") for name in ("one", "two", "three"))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)


@pytest.mark.filterwarnings("error")
def test_a_name_is_not_read_as_a_formula(tmp_path: Path) -> None:
    save(_matrix(3), ["$\\frac{$", "a_b^c", "x"], tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 0


def test_the_table_holds_the_counts(tmp_path: Path) -> None:
    write_csv(torch.tensor([[3_000_000_000, 1], [0, 7]]), ["sky, blue", "grün"], tmp_path / "matrix.csv")
    with (tmp_path / "matrix.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["label / prediction", "sky, blue", "grün"], ["sky, blue", "3000000000", "1"], ["grün", "0", "7"]]
