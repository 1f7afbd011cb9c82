"""A user's own pictures: files without labels."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from seggrid.data import pixels
from seggrid.data.photo_files import photo_files
from seggrid.errors import UserError


@dataclass(frozen=True)
class PhotoSource:
    """Image files, wherever they lie.

    Attributes:
        paths: the files.
        keys: a name for each, under which its prediction is written.
    """

    paths: list[Path]
    keys: list[str]
    labelled: ClassVar[bool] = False

    @classmethod
    def find(cls, patterns: Any) -> "PhotoSource":
        """Finds the files that are named, or that globs match; a folder stands for all files in it.

        Args:
            patterns: one or a list of them; a folder may have a number for a name.

        Raises:
            UserError: there are none.
        """
        paths = photo_files(patterns)
        return cls(paths, _keys(paths))

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, index: int) -> str:
        """Names a picture among the others."""
        return self.keys[index]

    def name(self, index: int) -> str:
        """Names a picture in messages."""
        return str(self.paths[index])

    def read(self, index: int) -> tuple[Tensor, None]:
        """Reads one picture, uint8 ``(3, H, W)``; raises UserError where it cannot be read."""
        try:
            image, orientation = pixels.read_image(self.paths[index])
        except UserError as error:  # a mask would have to go with it; a picture has none
            raise UserError(str(error).partition("; replace it")[0]) from error
        return torch.from_numpy(pixels.upright(image, orientation)).permute(2, 0, 1), None


def _keys(paths: list[Path]) -> list[str]:
    """The paths below the folder that holds all of them, without suffixes where that leaves them different."""
    absolute = [path.absolute() for path in paths]
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    relative = [path.relative_to(common) for path in absolute]
    stems = [path.with_suffix("") for path in relative]
    return [path.as_posix() for path in (stems if len(set(stems)) == len(stems) else relative)]
