"""Label maps in the data set's own labels: what is written can be read back as the same classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seggrid.config import DatasetConfig
from seggrid.data.files import FileSource
from seggrid.data.labels import settled
from seggrid.data.pairs import Sample
from seggrid.prediction import LabelWriter

CLASSES = torch.tensor([[0, 1, 2], [2, 1, 0]], dtype=torch.uint8)


def _dataset(**labels: object) -> DatasetConfig:
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    return settled(DatasetConfig("own", ["a", "b", "c"], palette, root="data", images="images/*", **labels))  # type: ignore[arg-type]


def _read_back(dataset: DatasetConfig, path: Path) -> torch.Tensor:
    """Reads a written label map as the mask of a picture of its size."""
    image = path.with_name("image.png")
    Image.new("RGB", (3, 2)).save(image)
    labels = FileSource(dataset, "val", [Sample("image", str(image), str(path))]).read(0)[1]
    assert labels is not None
    return labels


@pytest.mark.parametrize(
    ("label_map", "values", "mode"),
    [
        ({}, [0, 1, 2], "P"),
        ({0: 255, 1: 255, 2: 255, 7: 0, 254: 1, 9: 2}, [7, 254, 9], "P"),
        ({0: 255, 1: 255, 2: 255, 7: 0, 256: 1, 65535: 2}, [7, 256, 65535], "I;16"),
    ],
)
def test_a_label_map_is_written_in_the_files_labels_and_read_back(
    label_map: dict[int, int], values: list[int], mode: str, tmp_path: Path
) -> None:
    dataset = _dataset(label_map=label_map)
    path = LabelWriter(dataset, tmp_path).write("a/b", CLASSES)
    with Image.open(path) as image:
        assert image.mode == mode
        assert np.array(image).tolist() == np.array(values)[CLASSES.numpy()].tolist()
        if mode == "P":
            assert np.array(image.convert("RGB"))[0].tolist() == dataset.palette
    assert torch.equal(_read_back(dataset, path), CLASSES)
