"""Which image and which mask belong together, and to which split."""

import os
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seggrid.config import DatasetConfig
from seggrid.data.patterns import Name, Pattern, check_pattern
from seggrid.errors import UserError

SUFFIX = re.compile(r"\.(png|jpe?g|tiff?|bmp|webp|mat)$", re.IGNORECASE)  # a name may have dots of its own


class Sample(NamedTuple):
    """One picture of a split.

    Paths are texts: a hundred thousand of them as objects take seconds.

    Attributes:
        key: its name in the split.
        image: the image's file.
        mask: the mask's file; None where the split has no labels.
    """

    key: str
    image: str
    mask: str | None


def find_samples(config: DatasetConfig, split: str, need_labels: bool = True) -> list[Sample]:
    """Finds the files of a split, in the order of their names.

    Args:
        config: where they lie.
        split: which.
        need_labels: whether a split that has no masks at all is refused; else none of its samples has a mask.

    Raises:
        UserError: the root or a folder is not there, the split is unknown or empty, or a file has no partner.
    """
    assert config.root is not None and config.images is not None
    root = Path(str(config.root)).expanduser()  # a shell leaves dataset.root=~ as it is
    if not root.is_dir():
        raise UserError(f"dataset.root={config.root} is not a folder{_remedy(config)}")
    known = split_names(config)
    if split not in known:
        raise UserError(f"dataset={config.name} has no split {split}; it has {', '.join(known)}")
    images = _images(config, root, split)
    masks = _masks(config, root, split, images, need_labels)
    samples = [
        Sample(str(name), f"{root}/{images[name]}", None if masks is None else f"{root}/{masks[name]}")
        for name in sorted(images)
    ]
    return _share(samples, config, split) if _by_fraction(config) else samples


def split_names(config: DatasetConfig) -> list[str]:
    """Returns the splits that a data set has."""
    named = dict.fromkeys([*config.lists, *config.names])
    if _by_fraction(config):
        return ["train", "val"]
    return list(dict.fromkeys([*named, *(config.splits if "{split}" in (config.images or "") else [])]))


def mask_patterns(config: DatasetConfig) -> list[str]:
    """Returns ``dataset.masks`` as a list."""
    return [] if config.masks is None else [config.masks] if isinstance(config.masks, str) else list(config.masks)


def _by_fraction(config: DatasetConfig) -> bool:
    return not config.lists and not config.names and "{split}" not in (config.images or "")


def _images(config: DatasetConfig, root: Path, split: str) -> dict[Name, str]:
    """Finds the split's images, as paths relative to the root."""
    assert config.images is not None
    pattern = _pattern("dataset.images", config.images, config, split)
    listed = list(_listed(config, root, split))
    if listed:
        held_out = list(_listed(config, root, "val")) if split == "train" else []
        lines = {line for line, _ in held_out}
        images = _named(config, root, pattern, [item for item in listed if item[0] not in lines])
        for name in _named(config, root, pattern, held_out, strict=False):
            images.pop(name, None)  # the same file under another spelling
    elif split in config.lists or split in config.names:
        images = {}
    else:
        _require_folder(config, root, pattern)
        images = _by_name(pattern, root)
    if not images:
        if split in config.lists or split in config.names:
            place = f"dataset.{'lists' if split in config.lists else 'names'}.{split} names no image"
        else:
            place = f"no file matches dataset.images={config.images} in {root}"
            place += f" with {{split}}={pattern.word}" if "{split}" in config.images else ""
        raise UserError(f"the split {split} is empty: {place}{_remedy(config)}")
    return images


def _named(
    config: DatasetConfig, root: Path, pattern: Pattern, listed: list[tuple[str, str]], strict: bool = True
) -> dict[Name, str]:
    """Finds the images that lists name; those that are not there are refused, or passed over unless ``strict``."""
    by_text: dict[str, list[tuple[Name, str]]] = {}
    if pattern.exact(Name((), "x")) is None or pattern.folders:
        for name, path in pattern.files(root):
            for text in {name.text, str(name)}:
                by_text.setdefault(text, []).append((name, path))
    images: dict[Name, str] = {}
    for line, source in listed:
        for text in _spellings(line):
            exact = None if by_text else pattern.exact(Name((), text))
            found = by_text.get(text, [])
            if exact is not None and os.path.isfile(f"{root}/{exact}"):
                found = [(Name((), text), exact)]
            if len(found) > 1:
                paths = ", ".join(sorted(path for _, path in found)[:2])
                raise UserError(f"{source} names {text}, which is several files: {paths}; say which, with its folder")
            if found:
                images.setdefault(*found[0])
                break
        else:
            if not strict:
                continue
            _require_folder(config, root, pattern)
            raise UserError(
                f"{source} names {line}, but no file of that name matches dataset.images={pattern.pattern} in {root}; "
                f"add the image, or take the name out{_remedy(config)}"
            )
    return images


def _listed(config: DatasetConfig, root: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yields the lines of a split's lists, or its names, each with where it stands."""
    if split in config.lists:
        lists = config.lists[split]
        for item in [lists] if isinstance(lists, str) else lists:
            path = root / Path(item).expanduser()
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
                raise UserError(f"dataset.lists.{split}: {path} {reason}{_remedy(config)}") from error
            yield from ((line.strip(), str(path)) for line in lines if line.strip())
    else:
        yield from ((name, f"dataset.names.{split}") for name in config.names.get(split, []))


def _spellings(line: str) -> list[str]:
    """Returns what a list's line may mean by a name: as it is, without suffix, without what follows it, or folders."""
    first = line.split()[0].lstrip("/")
    texts = [line, first, first.rsplit("/", 1)[-1]]
    return list(dict.fromkeys(spelling for text in texts for spelling in (text, SUFFIX.sub("", text))))


def _masks(
    config: DatasetConfig, root: Path, split: str, images: dict[Name, str], need_labels: bool
) -> dict[Name, str] | None:
    """Finds the mask of every image; None where there are none at all."""
    patterns = [_pattern("dataset.masks", item, config, split) for item in mask_patterns(config)]
    depth = _pattern("dataset.images", config.images or "", config, split).folders
    is_listed = split in config.lists or split in config.names
    found: dict[Name, str] = {}
    alone: list[str] = []
    for pattern in patterns:
        exact = {name: pattern.exact(name) for name in images} if is_listed else {}
        if exact and None not in exact.values():
            matches = {
                name: path for name, path in exact.items() if path is not None and os.path.isfile(f"{root}/{path}")
            }
        else:
            whole = pattern.folders == depth
            by_key = _by_name(pattern, root, whole)
            keys: dict[Hashable, Name] = {name if whole else name.text: name for name in images}
            if not whole and len(keys) < len(images):
                raise UserError(
                    f"dataset.images={config.images} finds images of one name in several folders, but dataset.masks="
                    f"{pattern.pattern} has no wildcard for the folder; add it"
                )
            matches = {keys[key]: path for key, path in by_key.items() if key in keys}
            if "{split}" in pattern.pattern or _by_fraction(config):
                alone += [path for key, path in by_key.items() if key not in keys]
        found = matches | found  # the earlier pattern wins
    if not found and not alone:
        if not need_labels:
            return None
        for pattern in patterns:
            _require_folder(config, root, pattern)
        where = (
            f": no file matches dataset.masks={_shown(config)} in {root}" if patterns else ", dataset.masks is not set"
        )
        raise UserError(
            f"the split {split} of dataset={config.name} has no labels: {where}; evaluate can only predict on it"
            f"{_remedy(config)}"
        )
    missing = [name for name in sorted(images) if name not in found]
    if missing:
        raise UserError(
            f"{root / images[missing[0]]} has no mask: no file of the name {missing[0]} matches {_shown(config)}"
            + (f" ({len(missing)} images have none)" if len(missing) > 1 else "")
            + "; add the mask or remove the image"
        )
    if alone:
        raise UserError(
            f"{root / min(alone)} has no image: no file of its name matches {config.images}"
            + (f" ({len(alone)} masks have none)" if len(alone) > 1 else "")
            + "; add the image or remove the mask"
        )
    return found


def _by_name(pattern: Pattern, root: Path, whole: bool = True) -> dict[Any, str]:
    """Returns all files that match a pattern by name; by the name without folders unless ``whole``."""
    files: dict[Any, str] = {}
    for name, path in pattern.files(root):
        other = files.setdefault(name if whole else name.text, path)
        if other != path:
            both = ", ".join(str(root / item) for item in sorted((other, path)))
            raise UserError(
                f"{pattern.key}={pattern.pattern} finds the name {name} twice: {both}; rename or remove one"
            )
    return files


def _pattern(key: str, text: str, config: DatasetConfig, split: str) -> Pattern:
    check_pattern(key, text)
    return Pattern(key, text, config.splits.get(split, split))


def _require_folder(config: DatasetConfig, root: Path, pattern: Pattern) -> None:
    folder = root
    for part in pattern.prefix.split("/"):
        folder = folder / part
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder, where {pattern.key}={pattern.pattern} looks for files{_remedy(config)}"
            )


def _shown(config: DatasetConfig) -> str:
    return " or ".join(mask_patterns(config))


def _remedy(config: DatasetConfig) -> str:
    return "" if config.download is None else f"; {' '.join(config.download.split())}"


def _share(samples: list[Sample], config: DatasetConfig, split: str) -> list[Sample]:
    """Draws ``val_fraction`` of the samples for ``val``; the others are ``train``."""
    assert config.val_fraction is not None
    if len(samples) < 2:
        raise UserError(f"{config.root} has {len(samples)} pair of image and mask; train and val need one each")
    order = np.random.default_rng(config.split_seed).permutation(len(samples))
    held_out = min(max(1, round(config.val_fraction * len(samples))), len(samples) - 1)
    chosen = order[:held_out] if split == "val" else order[held_out:]
    return [samples[index] for index in sorted(chosen)]
