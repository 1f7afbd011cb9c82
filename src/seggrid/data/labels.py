"""What the labels in a data set's files mean: merging, ignoring and shifting of classes. Imports no torch."""

import dataclasses
import difflib

from seggrid.config import DatasetConfig
from seggrid.errors import UserError

LARGEST_LABEL = 2**16 - 1


def settled(dataset: DatasetConfig) -> DatasetConfig:
    """Applies ``merge``, ``ignore`` and ``reduce_zero_label``, so that nothing below has to know them.

    Args:
        dataset: the data set as it is described.

    Returns:
        The same data set with the classes that are learnt, their palette, a ``label_map`` that names every label with a
        meaning, and ``mask_colors`` wherever there is a palette ([] for a label without a colour); a class's colour is
        that of its first member. Settling it again changes nothing.

    Raises:
        UserError: a value is impossible; see :func:`check_labels`.
    """
    check_labels(dataset)
    if dataset.shapes is not None:
        return dataset
    count, nowhere = len(dataset.classes), dataset.ignore_index
    shift = int(dataset.reduce_zero_label)
    meaning = {nowhere: nowhere} | {label + shift: label for label in range(count)}
    meaning |= ({0: nowhere} if shift else {}) | dataset.label_map

    joint = {member: name for name, members in dataset.merge.items() for member in members}
    names = [joint.get(name, name) for name in dataset.classes]
    classes = list(
        dict.fromkeys(name for name, own in zip(names, dataset.classes, strict=True) if own not in dataset.ignore)
    )
    target = {nowhere: nowhere}
    for index, (name, own) in enumerate(zip(names, dataset.classes, strict=True)):
        target[index] = nowhere if own in dataset.ignore else classes.index(name)

    palette, colors = dataset.palette, dataset.mask_colors
    if palette is not None:
        if colors is None:
            colors = _colors_by_label(palette, meaning)
        palette = [palette[names.index(name)] for name in classes]
    return dataclasses.replace(
        dataset,
        classes=classes,
        palette=palette,
        label_map={label: target[index] for label, index in sorted(meaning.items())},
        mask_colors=colors,
        merge={},
        ignore=[],
        reduce_zero_label=False,
    )


def file_labels(dataset: DatasetConfig) -> list[int]:
    """Returns, per class, the label that the data set's files use for it: the lowest that means it.

    Raises:
        UserError: no label means one of the classes.
    """
    if dataset.shapes is not None:
        return list(range(len(dataset.classes)))
    dataset = settled(dataset)
    lowest: dict[int, int] = {}
    for label in sorted(dataset.label_map):
        lowest.setdefault(dataset.label_map[label], label)
    for index, name in enumerate(dataset.classes):
        if index not in lowest:
            raise UserError(
                f"no label in the files means the class {name!r}: dataset.label_map maps none to {index}, and maps "
                f"{index} itself elsewhere; map a label to it, or leave the class out"
            )
    return [lowest[index] for index in range(len(dataset.classes))]


def check_classes(dataset: DatasetConfig) -> None:
    """Refuses a number of classes that no model can be trained on; raises as :func:`check_labels` does."""
    if not dataset.classes:
        raise UserError("dataset.classes is empty: the number of classes must be at least 1; name them, e.g. [a,b,c]")
    if len(dataset.classes) == 1:
        raise UserError(f"dataset.classes has one class, {dataset.classes[0]}; name the background too, as a class")


def check_labels(dataset: DatasetConfig) -> None:
    """Refuses classes and labels that do not fit each other.

    Raises:
        UserError: the classes, the palette, the ``ignore_index``, the ``label_map``, ``merge`` or ``ignore`` is
            impossible; the message names the key and what is allowed.
    """
    classes, nowhere = dataset.classes, dataset.ignore_index
    if len(set(classes)) != len(classes):
        raise UserError(f"dataset.classes names a class twice: {classes}")
    if 0 <= nowhere < len(classes):
        raise UserError(
            f"dataset.ignore_index {nowhere} is the class {classes[nowhere]!r}; "
            f"choose a value outside 0..{len(classes) - 1}"
        )
    if not 0 <= nowhere <= 255:
        raise UserError(f"dataset.ignore_index is {nowhere}; it takes a value from 0 to 255")
    if dataset.palette is not None and len(dataset.palette) != len(classes):
        raise UserError(
            f"dataset.palette has {len(dataset.palette)} colours, dataset.classes has {len(classes)}: "
            "give one [r, g, b] per class, or null"
        )
    for key, colors in (("palette", dataset.palette), ("mask_colors", dataset.mask_colors)):
        for color in colors or []:
            no_color = key == "mask_colors" and not color
            if not no_color and (len(color) != 3 or not all(0 <= value <= 255 for value in color)):
                raise UserError(f"dataset.{key} has the colour {color}; it takes [r, g, b] from 0 to 255")
    for label, index in dataset.label_map.items():
        if not 0 <= label <= LARGEST_LABEL:
            raise UserError(f"dataset.label_map.{label}: a label in a mask is a value from 0 to {LARGEST_LABEL}")
        if index != nowhere and not 0 <= index < len(classes):
            raise UserError(
                f"dataset.label_map.{label} is {index}; it takes 0..{len(classes) - 1} or the ignore_index {nowhere}"
            )
    if dataset.reduce_zero_label and 0 in dataset.label_map:
        raise UserError(
            "dataset.reduce_zero_label=true says that the label 0 counts nowhere, but dataset.label_map names 0; "
            "leave one of them out"
        )
    if dataset.shapes is not None:
        for key in ("merge", "ignore", "label_map", "reduce_zero_label"):
            if getattr(dataset, key):
                raise UserError(f"dataset.{key} is set, but dataset={dataset.name} has no files whose labels it means")
    _check_merging(dataset)


def _check_merging(dataset: DatasetConfig) -> None:
    places: dict[str, str] = {}
    for key, members in [
        *((f"merge.{name}", members) for name, members in dataset.merge.items()),
        ("ignore", dataset.ignore),
    ]:
        if not members and key != "ignore":
            raise UserError(f"dataset.{key} is empty; it takes names of dataset.classes")
        for name in members:
            if name not in dataset.classes:
                near = difflib.get_close_matches(name, dataset.classes, n=3)
                hint = f"; did you mean {', '.join(near)}?" if near else "."
                raise UserError(
                    f"dataset.{key} names {name}, which is no class{hint} dataset.classes has "
                    f"{', '.join(dataset.classes)}"
                )
            if name in places:
                raise UserError(
                    f"the class {name} is in dataset.{places[name]} and in dataset.{key}; it can be in one of them"
                    if places[name] != key
                    else f"dataset.{key} names {name} twice; name it once"
                )
            places[name] = key
    for name in dataset.merge:
        if name in dataset.classes and places.get(name) != f"merge.{name}":
            raise UserError(
                f"dataset.merge.{name} has the name of a class that is not in it; choose another name, or add {name} "
                "to it"
            )
    if not places:
        return
    left = {places.get(name, name) for name in dataset.classes} - {"ignore"}
    if len(left) < 2:
        raise UserError(
            f"dataset.merge and dataset.ignore leave {len(left)} of {len(dataset.classes)} classes; a model needs two "
            "to tell apart: merge or ignore fewer"
        )


def _colors_by_label(palette: list[list[int]], meaning: dict[int, int]) -> list[list[int]]:
    """Returns the colour of each label, [] where it has none: a palette is one of classes, not of labels."""
    lowest: dict[int, int] = {}
    for label in sorted(meaning):
        lowest.setdefault(meaning[label], label)
    lowest = {index: label for index, label in lowest.items() if index < len(palette)}
    colors: list[list[int]] = [[] for _ in range(max(lowest.values(), default=-1) + 1)]
    for index, color in enumerate(palette):
        if index in lowest:
            colors[lowest[index]] = list(color)
    return colors
