"""Which files a user's own pictures are. Imports no torch."""

import glob
from pathlib import Path
from typing import Any

from seggrid.errors import UserError


def photo_files(patterns: Any) -> list[Path]:
    """Finds the files that are named, or that globs match; a folder stands for all files in it.

    Args:
        patterns: one or a list of them; a folder may have a number for a name.

    Raises:
        UserError: there are none.
    """
    wanted = [str(item) for item in (patterns if isinstance(patterns, list) else [patterns])]
    paths: dict[Path, None] = {}
    for pattern in wanted:
        expanded = Path(pattern).expanduser()
        found = [expanded] if expanded.exists() else [Path(item) for item in glob.glob(str(expanded), recursive=True)]
        if not found:
            raise UserError(f"images={pattern} matches no file; give files, folders, or a glob such as photos/*.jpg")
        for path in sorted(found):
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            paths |= dict.fromkeys(item for item in inside if item.is_file() and not item.name.startswith("."))
    if not paths:
        raise UserError(f"images={', '.join(wanted)} holds no file")
    return list(paths)
