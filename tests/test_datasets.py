"""Every data set of ``conf/dataset`` in its makers' layout, on a tree that is written here, whole and spoilt."""

import ast
import dataclasses
import functools
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import yaml
from omegaconf import OmegaConf
from PIL import Image

from seggrid import checks
from seggrid.config import DatasetConfig
from seggrid.data.files import FileSource, find_files
from seggrid.data.labels import file_labels, settled
from seggrid.errors import UserError

CONF = Path(__file__).resolve().parents[1] / "conf" / "dataset"
ROWS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "shapes")
VOID = 255
Content = int | str | list[int] | list[list[int]]


@dataclass
class Tree:
    """A tiny data set.

    Attributes:
        files: by path: an image of one grey value, a mask of six columns (labels or colours), or a text.
        expected: by split, by key: the image's grey value and the mask's columns as classes; None without labels.
        labels: the first labels of ``file_labels``.
        classes: number of classes.
        values: settings that the row leaves to the user.
    """

    files: dict[str, Content]
    expected: dict[str, dict[str, tuple[int, list[int] | None]]]
    labels: list[int]
    classes: int
    values: dict[str, Any]


def _tree(
    files: dict[str, Content],
    expected: dict[str, dict[str, tuple[int, list[int] | None]]],
    labels: list[int],
    number: int,
    **values: Any,
) -> Tree:
    return Tree(files, expected, labels, number, values)


VOC, SBD = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
VOC2010 = "VOCdevkit/VOC2010"
ERODED = "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"
WHITE, BLUE, CYAN, GREEN = [255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0]
YELLOW, RED, BLACK = [255, 255, 0], [255, 0, 0], [0, 0, 0]
ISPRS_TRAIN = [WHITE, BLUE, CYAN, GREEN, YELLOW, BLACK]
CAMVID_SPLIT = yaml.safe_load((CONF / "camvid_full.yaml").read_text())["names"]
POTSDAM_SPLIT = yaml.safe_load((CONF / "potsdam.yaml").read_text())["names"]
VAIHINGEN_SPLIT = yaml.safe_load((CONF / "vaihingen.yaml").read_text())["names"]


def _numbered(names: dict[str, list[str]], image: str, mask: str, columns: list[list[int]]) -> dict[str, Content]:
    """Files for every name of a split that the makers number; the image's value is its place."""
    files: dict[str, Content] = {}
    for split in names.values():
        for index, name in enumerate(split):
            files[image.format(name)] = index % 256
            files[mask.format(name)] = columns
    return files


def _all(names: dict[str, list[str]], classes: list[int]) -> dict[str, dict[str, tuple[int, list[int] | None]]]:
    return {split: {name: (index % 256, classes) for index, name in enumerate(own)} for split, own in names.items()}


TREES: dict[str, Tree] = {
    "ade20k": _tree(
        {
            "images/training/ADE_train_00000001.jpg": 10,
            "annotations/training/ADE_train_00000001.png": [0, 1, 2, 150, 20, 0],
            "images/training/ADE_train_00000002.jpg": 20,
            "annotations/training/ADE_train_00000002.png": [3, 3, 3, 3, 3, 3],
            "images/validation/ADE_val_00000001.jpg": 30,
            "annotations/validation/ADE_val_00000001.png": [4, 4, 4, 0, 0, 0],
            "objectInfo150.txt": "Idx Ratio Train Val Stuff Name",
        },
        {
            "train": {"ADE_train_00000001": (10, [VOID, 0, 1, 149, 19, VOID]), "ADE_train_00000002": (20, [2] * 6)},
            "val": {"ADE_val_00000001": (30, [3, 3, 3, VOID, VOID, VOID])},
        },
        [1, 2, 3],
        150,
    ),
    "camvid": _tree(
        {
            "train/0001TP_006690.png": 10,
            "trainannot/0001TP_006690.png": [0, 1, 10, 11, 11, 3],
            "train/0001TP_006720.png": 11,
            "trainannot/0001TP_006720.png": [2, 2, 2, 2, 2, 2],
            "val/0016E5_07959.png": 20,
            "valannot/0016E5_07959.png": [4, 4, 4, 4, 11, 11],
            "test/0001TP_008550.png": 30,
            "testannot/0001TP_008550.png": [5, 5, 5, 5, 5, 5],
            "train.txt": "/SegNet/CamVid/train/0001TP_006690.png /SegNet/CamVid/trainannot/0001TP_006690.png",
        },
        {
            "train": {"0001TP_006690": (10, [0, 1, 10, VOID, VOID, 3]), "0001TP_006720": (11, [2] * 6)},
            "val": {"0016E5_07959": (20, [4, 4, 4, 4, VOID, VOID])},
            "test": {"0001TP_008550": (30, [5] * 6)},
        },
        [0, 1, 2],
        11,
    ),
    "camvid_full": _tree(
        _numbered(
            CAMVID_SPLIT,
            "701_StillsRaw_full/{}.png",
            "LabeledApproved_full/{}_L.png",
            # Sky, Building, Wall, LaneMkgsDriv, MotorcycleScooter, Void
            [[128, 128, 128], [128, 0, 0], [64, 192, 0], [128, 0, 192], [192, 0, 192], [0, 0, 0]],
        ),
        _all(CAMVID_SPLIT, [0, 1, 1, 3, 10, VOID]),
        [0, 1, 6, 8],
        11,
    ),
    "cityscapes": _tree(
        {
            "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png": 10,
            "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png": [0, 7, 8, 33, 1, 9],
            "gtFine/train/aachen/aachen_000000_000019_gtFine_color.png": [[0, 0, 0]] * 6,
            "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png": [0, 7, 8, 33, 1, 9],
            "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json": "{}",
            "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png": 20,
            "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png": [26, 26, 26, 26, 26, 29],
            "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png": 30,
            "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png": [11, 11, 11, 11, 11, 11],
            "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png": 40,
        },
        {
            "train": {
                "aachen/aachen_000000_000019": (10, [VOID, 0, 1, 18, VOID, VOID]),
                "ulm/ulm_000000_000019": (20, [13, 13, 13, 13, 13, VOID]),
            },
            "val": {"lindau/lindau_000000_000019": (30, [2] * 6)},
            "test": {"berlin/berlin_000000_000019": (40, None)},
        },
        [7, 8, 11],
        19,
    ),
    "coco_stuff10k": _tree(
        {
            "images/COCO_train2014_000000000077.jpg": 10,
            "annotations/COCO_train2014_000000000077.mat": [0, 1, 11, 13, 182, 92],
            "images/COCO_train2014_000000000109.jpg": 20,
            "annotations/COCO_train2014_000000000109.mat": [2, 2, 2, 2, 2, 2],
            "images/COCO_train2014_000000000064.jpg": 30,
            "annotations/COCO_train2014_000000000064.mat": [90, 90, 90, 90, 0, 0],
            "imageLists/train.txt": "COCO_train2014_000000000077\nCOCO_train2014_000000000109\n",
            "imageLists/test.txt": "COCO_train2014_000000000064\n",
            "imageLists/all.txt": "COCO_train2014_000000000077\nCOCO_train2014_000000000064\n",
        },
        {
            "train": {
                "COCO_train2014_000000000077": (10, [VOID, 0, 10, 11, 170, 80]),
                "COCO_train2014_000000000109": (20, [1] * 6),
            },
            "val": {"COCO_train2014_000000000064": (30, [79, 79, 79, 79, VOID, VOID])},
        },
        [1, 2, 3],
        171,
    ),
    "coco_stuff164k": _tree(
        {
            "images/train2017/000000000009.jpg": 10,
            "annotations/train2017/000000000009.png": [0, 10, 12, 181, 255, 91],
            "images/train2017/000000000025.jpg": 20,
            "annotations/train2017/000000000025.png": [1, 1, 1, 1, 1, 1],
            "images/val2017/000000000139.jpg": 30,
            "annotations/val2017/000000000139.png": [89, 89, 89, 89, 255, 255],
        },
        {
            "train": {"000000000009": (10, [0, 10, 11, 170, VOID, 80]), "000000000025": (20, [1] * 6)},
            "val": {"000000000139": (30, [79, 79, 79, 79, VOID, VOID])},
        },
        [0, 1, 2],
        171,
    ),
    "folder": _tree(
        {f"images/{index}.png": index for index in range(5)}
        | {f"masks/{index}.png": [0, 1, 2, 255, 0, 0] for index in range(5)},
        # Drawn by numpy's default_rng(0).permutation(5): what a seed draws is part of a result.
        {
            "train": {str(index): (index, [0, 1, 2, VOID, 0, 0]) for index in (0, 1, 3, 4)},
            "val": {"2": (2, [0, 1, 2, VOID, 0, 0])},
        },
        [0, 1, 2],
        3,
        classes=["a", "b", "c"],
    ),
    "loveda": _tree(
        {
            "Train/Rural/images_png/0.png": 10,
            "Train/Rural/masks_png/0.png": [0, 1, 2, 7, 3, 0],
            "Train/Urban/images_png/1366.png": 20,
            "Train/Urban/masks_png/1366.png": [4, 4, 4, 4, 4, 4],
            "Val/Rural/images_png/2522.png": 30,
            "Val/Rural/masks_png/2522.png": [5, 5, 5, 5, 0, 0],
            "Test/Urban/images_png/5167.png": 40,
        },
        {
            "train": {"Rural/0": (10, [VOID, 0, 1, 6, 2, VOID]), "Urban/1366": (20, [3] * 6)},
            "val": {"Rural/2522": (30, [4, 4, 4, 4, VOID, VOID])},
            "test": {"Urban/5167": (40, None)},
        },
        [1, 2, 3],
        7,
    ),
    "potsdam": _tree(
        _numbered(
            POTSDAM_SPLIT,
            "2_Ortho_RGB/top_potsdam_{}_RGB.tif",
            "5_Labels_all_noBoundary/top_potsdam_{}_label_noBoundary.tif",
            # As in the makers' tiles 4_12 and 6_7: cyan after a compression with loss, and cars of [252, 255, 0].
            [WHITE, RED, [9, 222, 221], GREEN, [252, 255, 0], BLACK],
        ),
        _all(POTSDAM_SPLIT, [0, 5, 2, 3, 4, VOID]),
        [0, 1, 2],
        6,
    ),
    "vaihingen": _tree(
        _numbered(
            VAIHINGEN_SPLIT, "top/top_mosaic_09cm_{}.tif", ERODED + "/top_mosaic_09cm_{}_noBoundary.tif", ISPRS_TRAIN
        )
        | {"gts_for_participants/top_mosaic_09cm_area1.tif": [RED] * 6},
        _all(VAIHINGEN_SPLIT, [0, 1, 2, 3, 4, VOID]),
        [0, 1, 2],
        6,
    ),
    "voc2012": _tree(
        {
            f"{VOC}/JPEGImages/2007_000032.jpg": 10,
            f"{VOC}/SegmentationClass/2007_000032.png": [0, 1, 20, 255, 15, 0],
            f"{VOC}/JPEGImages/2007_000039.jpg": 20,
            f"{VOC}/SegmentationClass/2007_000039.png": [2, 2, 2, 2, 2, 2],
            f"{VOC}/JPEGImages/2007_000033.jpg": 30,
            f"{VOC}/SegmentationClass/2007_000033.png": [3, 3, 3, 3, 255, 255],
            f"{VOC}/JPEGImages/2012_004331.jpg": 99,  # of another task, without a mask
            f"{VOC}/ImageSets/Segmentation/train.txt": "2007_000032\n2007_000039\n",
            f"{VOC}/ImageSets/Segmentation/val.txt": "2007_000033\n",
            f"{VOC}/ImageSets/Segmentation/trainval.txt": "2007_000032\n2007_000033\n2007_000039\n",
        },
        {
            "train": {"2007_000032": (10, [0, 1, 20, VOID, 15, 0]), "2007_000039": (20, [2] * 6)},
            "val": {"2007_000033": (30, [3, 3, 3, 3, VOID, VOID])},
            "trainval": {
                "2007_000032": (10, [0, 1, 20, VOID, 15, 0]),
                "2007_000033": (30, [3, 3, 3, 3, VOID, VOID]),
                "2007_000039": (20, [2] * 6),
            },
        },
        [0, 1, 2],
        21,
    ),
    "voc2012_aug": _tree(
        {
            f"{VOC}/JPEGImages/2007_000032.jpg": 10,
            f"{VOC}/SegmentationClass/2007_000032.png": [0, 1, 20, 255, 15, 0],
            f"{SBD}/cls/2007_000032.mat": [9, 9, 9, 9, 9, 9],  # VOC's own mask goes first
            f"{VOC}/JPEGImages/2008_000002.jpg": 20,
            f"{SBD}/cls/2008_000002.mat": [20, 20, 20, 0, 0, 0],
            f"{VOC}/JPEGImages/2008_000003.jpg": 40,
            f"{SBD}/cls/2008_000003.mat": [19, 19, 19, 0, 0, 0],
            f"{VOC}/JPEGImages/2007_000033.jpg": 30,
            f"{VOC}/SegmentationClass/2007_000033.png": [3, 3, 3, 3, 255, 255],
            f"{SBD}/cls/2007_000033.mat": [9, 9, 9, 9, 9, 9],
            f"{VOC}/ImageSets/Segmentation/train.txt": "2007_000032\n",
            f"{VOC}/ImageSets/Segmentation/val.txt": "2007_000033\n",
            f"{SBD}/train.txt": "2008_000002\n2007_000032\n",
            f"{SBD}/val.txt": "2008_000003\n2007_000033\n",
        },
        {
            "train": {
                "2007_000032": (10, [0, 1, 20, VOID, 15, 0]),
                "2008_000002": (20, [20, 20, 20, 0, 0, 0]),
                "2008_000003": (40, [19, 19, 19, 0, 0, 0]),
            },
            "val": {"2007_000033": (30, [3, 3, 3, 3, VOID, VOID])},
        },
        [0, 1, 2],
        21,
    ),
    "voc2012_trainaug": _tree(
        {
            f"{VOC}/JPEGImages/2007_000032.jpg": 10,
            f"{VOC}/SegmentationClass/2007_000032.png": [0, 1, 20, 255, 15, 0],
            f"{VOC}/JPEGImages/2008_000002.jpg": 20,
            f"{VOC}/SegmentationClassAug/2008_000002.png": [20, 20, 20, 0, 0, 0],
            f"{VOC}/JPEGImages/2007_000033.jpg": 30,
            f"{VOC}/SegmentationClass/2007_000033.png": [3, 3, 3, 3, 255, 255],
            f"{VOC}/ImageSets/Segmentation/trainaug.txt": "2007_000032\n2008_000002\n",
            f"{VOC}/ImageSets/Segmentation/val.txt": "2007_000033\n",
        },
        {
            "train": {"2007_000032": (10, [0, 1, 20, VOID, 15, 0]), "2008_000002": (20, [20, 20, 20, 0, 0, 0])},
            "val": {"2007_000033": (30, [3, 3, 3, 3, VOID, VOID])},
        },
        [0, 1, 2],
        21,
    ),
}
for classes, first, other in ((60, 1, 0), (59, 0, VOID)):
    # Of the makers' labels 2 is aeroplane, 9 bag, 284 person and 458 wood; 1 (accordion) is none of the 59.
    person = 36 + first
    expected: dict[str, dict[str, tuple[int, list[int] | None]]] = {
        "train": {"2008_000002": (10, [other, first, first + 1, 58 + first, other, person])},
        "val": {"2008_000003": (30, [first, first, first, other, other, other])},
    }
    images: dict[str, Content] = {
        f"{VOC2010}/JPEGImages/2008_000002.jpg": 10,
        f"{VOC2010}/JPEGImages/2008_000003.jpg": 30,
    }
    TREES[f"pascal_context{classes}"] = _tree(
        images
        | {
            "trainval/2008_000002.mat": [1, 2, 9, 458, 255, 284],
            "trainval/2008_000003.mat": [2, 2, 2, 459, 459, 459],
            f"{VOC2010}/ImageSets/Main/train.txt": "2008_000002\n",
            f"{VOC2010}/ImageSets/Main/val.txt": "2008_000003\n",
        },
        expected,
        [0, 2, 9] if first else [2, 9, 18],
        classes,
    )
    TREES[f"pascal_context{classes}_png"] = _tree(
        images
        | {
            f"{VOC2010}/SegmentationClassContext/2008_000002.png": [0, 1, 2, 59, 0, 37],
            f"{VOC2010}/SegmentationClassContext/2008_000003.png": [1, 1, 1, 0, 0, 0],
            f"{VOC2010}/ImageSets/SegmentationContext/train.txt": "2008_000002\n",
            f"{VOC2010}/ImageSets/SegmentationContext/val.txt": "2008_000003\n",
        },
        expected,
        [0, 1, 2] if first else [1, 2, 3],
        classes,
    )

MAT_KEYS = {
    "coco_stuff10k": "S",
    "voc2012_aug": "GTcls",
    "pascal_context59": "LabelMap",
    "pascal_context60": "LabelMap",
}


def _write(path: Path, content: Content, row: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_indexed = row.startswith("voc") and path.parent.name == "SegmentationClass"
    path.write_bytes(_encoded(repr(content), path.suffix, MAT_KEYS.get(row, ""), is_indexed))


@functools.cache
def _encoded(written: str, suffix: str, mat_key: str, is_indexed: bool) -> bytes:
    """Returns a file's bytes; ``written`` is the content's ``repr``, which can be a cache's key."""
    content, file = ast.literal_eval(written), io.BytesIO()
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, int):
        pixels = np.full((4, 6, 3), content, np.uint8)
    elif suffix == ".mat":
        labels = np.tile(np.array(content, np.uint16), (4, 1))
        value = {"Segmentation": labels.astype(np.uint8), "Boundaries": np.zeros(1)} if mat_key == "GTcls" else labels
        scipy.io.savemat(file, {mat_key: value})
        return file.getvalue()
    else:
        columns = np.array(content, np.uint8)
        pixels = np.ascontiguousarray(np.broadcast_to(columns, (4, *columns.shape)))
    image = Image.fromarray(pixels)
    if is_indexed:
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])  # mode P
    image.save(file, {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF"}[suffix])
    return file.getvalue()


def _config(row: str, root: Path, **values: Any) -> DatasetConfig:
    typed = OmegaConf.merge(
        OmegaConf.structured(DatasetConfig), OmegaConf.load(CONF / f"{row}.yaml"), TREES[row].values
    )
    config = OmegaConf.to_object(typed)
    assert isinstance(config, DatasetConfig)
    return dataclasses.replace(config, root=str(root), **values)


@pytest.fixture
def grow(tmp_path: Path) -> Callable[[str], Path]:
    def grown(row: str) -> Path:
        for path, content in TREES[row].files.items():
            _write(tmp_path / row / path, content, row)
        return tmp_path / row

    return grown


def _seen(source: FileSource) -> dict[str, tuple[int, list[int] | None]]:
    """Returns, by key, the image's value and the mask's columns."""
    seen: dict[str, tuple[int, list[int] | None]] = {}
    for index in range(len(source)):
        image, labels = source.read(index)
        assert image.shape == (3, 4, 6) and len(image.unique()) == 1
        if labels is not None:
            assert labels.shape == (4, 6) and (labels == labels[0]).all()
        seen[source.key(index)] = (int(image[0, 0, 0]), None if labels is None else labels[0].tolist())
    return seen


def test_every_row_has_a_tree() -> None:
    assert list(TREES) and sorted(TREES) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_a_layout_is_read_as_its_makers_publish_it(row: str, grow: Callable[[str], Path]) -> None:
    config, tree = _config(row, grow(row)), TREES[row]
    checks._check_dataset(config)
    for split, expected in tree.expected.items():
        source = find_files(config, split, need_labels=False)
        assert source.labelled == all(columns is not None for _, columns in expected.values())
        assert _seen(source) == expected, split
    final = settled(config)
    assert len(final.classes) == tree.classes
    assert final.palette is None or len(final.palette) == tree.classes
    assert file_labels(config)[: len(tree.labels)] == tree.labels
    assert settled(final) == final


@pytest.mark.parametrize("row", ROWS)
def test_predictions_in_the_files_labels_read_back_as_the_classes(row: str, tmp_path: Path) -> None:
    config = settled(_config(row, tmp_path))
    assert [config.label_map[label] for label in file_labels(config)] == list(range(len(config.classes)))


def test_the_published_splits_have_their_numbers_of_images() -> None:
    assert {split: len(set(names)) for split, names in CAMVID_SPLIT.items()} == {"train": 367, "val": 101, "test": 233}
    assert {split: len(set(names)) for split, names in POTSDAM_SPLIT.items()} == {"train": 24, "val": 14}
    assert {split: len(set(names)) for split, names in VAIHINGEN_SPLIT.items()} == {"train": 16, "val": 17}
    for split in (CAMVID_SPLIT, POTSDAM_SPLIT, VAIHINGEN_SPLIT):
        assert not set(split["train"]) & set(split["val"])


METAINFO = {
    "ade20k": "ADE20KDataset",
    "cityscapes": "CityscapesDataset",
    "coco_stuff10k": "COCOStuffDataset",
    "coco_stuff164k": "COCOStuffDataset",
    "loveda": "LoveDADataset",
    "pascal_context59": "PascalContextDataset59",
    "pascal_context59_png": "PascalContextDataset59",
    "pascal_context60": "PascalContextDataset",
    "pascal_context60_png": "PascalContextDataset",
    "potsdam": "PotsdamDataset",
    "vaihingen": "ISPRSDataset",
    "voc2012": "PascalVOCDataset",
    "voc2012_aug": "PascalVOCDataset",
    "voc2012_trainaug": "PascalVOCDataset",
}


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ("camvid", "camvid_full", "folder")])
def test_classes_and_palettes_are_those_of_mmsegmentation(row: str, tmp_path: Path) -> None:
    from seggrid.models import mmcv_ops

    mmcv_ops.install()
    import mmseg.datasets

    known = getattr(mmseg.datasets, METAINFO[row]).METAINFO
    config = _config(row, tmp_path)
    assert config.classes == [name.strip() for name in known["classes"]]  # mmseg writes "bed "
    assert config.palette == [list(color) for color in known["palette"]]


# What is wrong with a layout


def _first(row: str, root: Path, split: str = "val") -> tuple[Path, Path]:
    """Returns the image and the mask of a split's first picture."""
    source = find_files(_config(row, root), split)
    image, mask = source.paths(0)
    return image, mask


def _read_all(config: DatasetConfig, split: str) -> None:
    source = find_files(config, split)
    for index in range(len(source)):
        source.read(index)


def _refused(row: str, root: Path, split: str = "val", **values: Any) -> str:
    """Returns the one line with which a split is refused, when it is opened or read."""
    with pytest.raises(UserError) as caught:
        _read_all(_config(row, root, **values), split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("row", ROWS)
def test_a_root_that_is_not_there_is_refused(row: str, tmp_path: Path) -> None:
    message = _refused(row, tmp_path / "gone")
    assert f"dataset.root={tmp_path / 'gone'} is not a folder" in message
    assert row == "folder" or "get " in message  # what to download


@pytest.mark.parametrize("row", ROWS)
def test_an_empty_root_says_what_is_missing_and_where_to_get_it(row: str, tmp_path: Path) -> None:
    message = _refused(row, tmp_path)
    assert str(tmp_path) in message and any(text in message for text in ("is not a folder", "is not there"))
    assert row == "folder" or ("dataset.root" in message and "get " in message)


@pytest.mark.parametrize("row", ROWS)
def test_an_empty_split_is_refused(row: str, grow: Callable[[str], Path]) -> None:
    root, config = grow(row), _config(row, Path())
    values: dict[str, Any] = {}
    if config.names:
        values = {"names": {**config.names, "val": []}}
    elif config.lists:
        (root / config.lists["val"]).write_text("\n")
    else:
        for image in _images(row, root):
            image.unlink()
    assert "the split val is empty" in _refused(row, root, **values)


def _images(row: str, root: Path) -> list[Path]:
    splits = ("train", "val") if row == "folder" else ("val",)
    return [Path(sample.image) for split in splits for sample in find_files(_config(row, root), split).samples]


@pytest.mark.parametrize("row", ROWS)
def test_an_image_without_mask_is_refused(row: str, grow: Callable[[str], Path]) -> None:
    root = grow(row)
    split = "train" if len(TREES[row].expected["train"]) > 1 else "val"
    image, mask = _first(row, root, split)
    mask.unlink()
    if row == "voc2012_aug":
        (root / SBD / "cls" / f"{mask.stem}.mat").unlink(missing_ok=True)
    message = _refused(row, root, split)
    only = len(TREES[row].expected[split]) == 1
    assert ("has no labels" if only else f"{image} has no mask") in message


ENUMERATED = ("ade20k", "camvid", "cityscapes", "coco_stuff164k", "folder", "loveda")  # the others have lists


@pytest.mark.parametrize("row", ENUMERATED)
def test_a_mask_without_image_is_refused(row: str, grow: Callable[[str], Path]) -> None:
    root = grow(row)
    split = "train"
    image, mask = _first(row, root, split)
    image.unlink()
    assert f"{mask} has no image" in _refused(row, root, split)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ENUMERATED])
def test_a_listed_name_without_file_is_named_with_its_list(row: str, grow: Callable[[str], Path]) -> None:
    config, root = _config(row, Path()), grow(row)
    image, _ = _first(row, root)
    image.unlink()
    place = str(root / config.lists["val"]) if config.lists else "dataset.names.val"
    message = _refused(row, root)
    assert message.startswith(f"{place} names ") and "no file of that name" in message


@pytest.mark.parametrize("damage", ["cut", "empty"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("row", ROWS)
def test_a_damaged_file_is_named(
    row: str, which: int, damage: str, grow: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    root = grow(row)
    path = _first(row, root)[which]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    message = _refused(row, root)
    assert message.startswith(f"{path} cannot be read (") and "replace it" in message
    assert ("it is empty" in message) == (damage == "empty")
    assert capfd.readouterr().err == ""  # no decoder may print what the message says


@pytest.mark.parametrize("row", ROWS)
def test_a_mask_of_another_size_is_refused(row: str, grow: Callable[[str], Path]) -> None:
    root = grow(row)
    image, mask = _first(row, root)
    Image.new("RGB", (5, 4)).save(image)
    message = _refused(row, root)
    assert f"{mask} is 6x4 pixels, its image {image} is 5x4" in message


FOREIGN: dict[str, tuple[Content, str]] = {
    "camvid_full": ([[1, 2, 3]] * 6, "colour [1, 2, 3] at row 0, column 0"),
    "vaihingen": ([WHITE, WHITE, [255, 0, 255], WHITE, WHITE, WHITE], "colour [255, 0, 255] at row 0, column 2"),
    "potsdam": ([WHITE, WHITE, [255, 0, 255], WHITE, WHITE, WHITE], "colour [255, 0, 255] at row 0, column 2"),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_label_of_no_class_is_named_with_a_remedy(row: str, grow: Callable[[str], Path]) -> None:
    root = grow(row)
    _, mask = _first(row, root)
    label = 1000 if mask.suffix == ".mat" and row != "voc2012_aug" else 200
    content, text = FOREIGN.get(row, ([label] * 6, f"label {label}"))
    _write(mask, content, row)
    message = _refused(row, root)
    assert message.startswith(f"{mask} has the {text}, ") and "which is no class" in message
    assert ("dataset.ignore" if row in FOREIGN else f"dataset.label_map={{{label}: 255}}") in message


def test_a_cityscapes_without_gtfine_says_what_to_get_and_where_it_goes(grow: Callable[[str], Path]) -> None:
    root = grow("cityscapes")
    os.rename(root / "gtFine", root / "elsewhere")
    message = _refused("cityscapes", root, "train")
    for text in (
        f"{root / 'gtFine'} is not a folder",
        "gtFine_trainvaltest.zip",
        "cityscapes-dataset.com",
        "dataset.root",
    ):
        assert text in message


def test_a_split_without_labels_can_only_be_predicted_on(grow: Callable[[str], Path]) -> None:
    root = grow("loveda")
    message = _refused("loveda", root, "test")
    assert "split test of dataset=loveda has no labels" in message and "evaluate can only predict on it" in message
    source = find_files(_config("loveda", root), "test", need_labels=False)
    assert not source.labelled and source.read(0)[1] is None and len(source.paths(0)) == 1
    message = _refused("loveda", root, masks=None)
    assert "dataset.masks is not set" in message
    assert not find_files(_config("loveda", root, masks=None), "val", need_labels=False).labelled


def test_labels_are_merged_and_ignored_by_name(grow: Callable[[str], Path]) -> None:
    root = grow("cityscapes")
    config = _config(
        "cityscapes", root, merge={"vehicle": ["car", "bus"], "flat": ["road", "sidewalk"]}, ignore=["bicycle"]
    )
    final = settled(config)
    assert len(final.classes) == 16 and final.classes[0] == "flat" and "vehicle" in final.classes
    assert final.palette is not None and final.palette[final.classes.index("vehicle")] == [0, 0, 142]  # car's
    seen = _seen(find_files(config, "train"))
    vehicle = final.classes.index("vehicle")
    assert seen["aachen/aachen_000000_000019"][1] == [VOID, 0, 0, VOID, VOID, VOID]
    assert seen["ulm/ulm_000000_000019"][1] == [vehicle] * 5 + [VOID]
    assert file_labels(config)[0] == 7 and file_labels(config)[vehicle] == 26
