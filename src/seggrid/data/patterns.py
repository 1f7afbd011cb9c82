"""The patterns that say where a data set's files lie: ``{split}``, ``{name}`` and a glob's wildcards. No torch."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from seggrid.errors import UserError

OF_SYSTEMS = ("Thumbs.db", "desktop.ini")
TOKEN = re.compile(r"\{split\}|\{name\}|\*\*/|\*+|\?|\[[!^]?[^\]/]+\]|\{\w*\}")


class Name(NamedTuple):
    """What tells a file from the others that a pattern matches.

    Attributes:
        folders: the text under each wildcard that stands in a folder's name.
        text: the text of ``{name}``, or the file's stem.
    """

    folders: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return "/".join([*filter(None, self.folders), self.text]) if self.folders else self.text


@dataclass(frozen=True)
class Pattern:
    """One pattern, with the split's word in it.

    Attributes:
        key: the configuration's key, for messages.
        pattern: the pattern as it was written.
        word: the text for ``{split}``.
    """

    key: str
    pattern: str
    word: str = ""

    @property
    def folders(self) -> int:
        """Number of wildcards in the names of folders."""
        return self._regex.groups - ("name" in self._regex.groupindex)

    @cached_property
    def prefix(self) -> str:
        """The folders before the first one that a wildcard or ``{name}`` stands in."""
        kept = []
        for part in self._folders:
            if self._is_open(part):
                break
            kept.append(part.replace("{split}", self.word))
        return "/".join(kept)

    def exact(self, name: Name) -> str | None:
        """Returns the one path that a name can have; None where wildcards are left."""
        if "{name}" not in self.pattern or (self.folders and self.folders != len(name.folders)):
            return None
        texts = iter(name.folders)
        parts = []
        for token, is_wildcard, in_folder in self._tokens:
            if is_wildcard and not in_folder:
                return None
            if is_wildcard:
                text = next(texts)
                parts.append(f"{text}/" if token == "**/" and text else text)
            else:
                parts.append(name.text if token == "{name}" else token)
        return "".join(parts)

    def files(self, root: Path) -> Iterator[tuple[Name, str]]:
        """Yields all files that match, with paths relative to ``root``; hidden ones are passed over."""
        prefix = self.prefix
        parts = self.pattern.split("/")[len(prefix.split("/")) if prefix else 0 :]
        for path in self._walk(root, f"{prefix}/" if prefix else "", parts):
            match = self._regex.fullmatch(path)
            if match is not None:
                groups = list(match.groups(default=""))
                place = self._regex.groupindex.get("name")
                text = groups.pop(place - 1) if place is not None else path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
                yield Name(tuple(group.rstrip("/") for group in groups), text), path

    def _walk(self, root: Path, folder: str, parts: list[str]) -> Iterator[str]:
        """Yields the files below a folder, as deep as the parts of the pattern that are left reach."""
        reaches_all = "{name}" in parts[0] or "**" in parts[0]
        wanted = None if reaches_all or len(parts) == 1 else re.compile(self._translate(parts[0], named=False))
        try:
            entries = list(os.scandir(root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name in OF_SYSTEMS:
                continue
            if entry.is_dir():
                if reaches_all:
                    yield from self._walk(root, f"{folder}{entry.name}/", parts)
                elif wanted is not None and wanted.fullmatch(entry.name):
                    yield from self._walk(root, f"{folder}{entry.name}/", parts[1:])
            elif reaches_all or len(parts) == 1:
                yield folder + entry.name

    @property
    def _folders(self) -> list[str]:
        return self.pattern.split("/")[:-1]

    @staticmethod
    def _is_open(part: str) -> bool:
        return any(token != "{split}" for token in TOKEN.findall(part))

    @cached_property
    def _tokens(self) -> list[tuple[str, bool, bool]]:
        """The pattern in pieces: its text, whether it is a wildcard, and whether it stands in a folder's name."""
        last = self.pattern.rfind("/")
        pieces, end = [], 0
        for match in TOKEN.finditer(self.pattern):
            pieces.append((self.pattern[end : match.start()], False, False))
            token, end = match.group(), match.end()
            is_wildcard = token not in ("{split}", "{name}")
            pieces.append((self.word if token == "{split}" else token, is_wildcard, match.start() <= last))
        return [*pieces, (self.pattern[end:], False, False)]

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(self._translate(self.pattern, named=True), re.DOTALL)

    def _translate(self, pattern: str, named: bool) -> str:
        """Returns a pattern's regular expression; ``named`` captures the name and the wildcards in folders' names."""
        last, end, text, seen = pattern.rfind("/"), 0, "", False
        for match in TOKEN.finditer(pattern):
            token = match.group()
            text += re.escape(pattern[end : match.start()])
            end = match.end()
            if token == "{split}":
                text += re.escape(self.word)
            elif token == "{name}":
                text += ("(?P=name)" if seen else "(?P<name>.+)") if named else ".+"
                seen = True
            else:
                piece = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}.get(token, "[^/]*")
                if token[0] == "[":
                    piece = f"[^{token[2:-1]}]" if token[1] in "!^" else token
                text += f"({piece})" if named and match.start() <= last else piece
        return text + re.escape(pattern[end:])


def check_pattern(key: str, pattern: str) -> None:
    """Refuses a pattern that can match nothing.

    Raises:
        UserError: it is absolute, ends in a slash, or names something else than ``{split}`` and ``{name}``.
    """
    if not pattern or pattern.startswith(("/", "~")) or pattern.endswith("/"):
        raise UserError(f"{key}={pattern} is no pattern within dataset.root: it takes a path relative to the root")
    unknown = [token for token in TOKEN.findall(pattern) if token[0] == "{" and token not in ("{split}", "{name}")]
    if unknown:
        raise UserError(f"{key}={pattern} names {unknown[0]}; it takes {{split}}, {{name}} and the wildcards of a glob")
