"""What the demo does with a file, and which files it takes. Nothing of the engine is in here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

__all__ = ["Counts", "Source", "count", "default_folder", "read_folder", "recount"]

_WORD = re.compile(r"[^\W_]+")
_SYMBOL = re.compile(r"[^\w\s]|_")
_LARGEST = 4 * 1024 * 1024
_LEFT_OUT = {"__pycache__", "node_modules", "site-packages", "dist-packages"}


class Counts(BaseModel):
    """What is counted, of one file or of many."""

    files: int = 0
    words: int = 0
    symbols: int = 0
    lines: int = 0
    bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = self.model_dump(), other.model_dump()
        return Counts(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was when the demo began."""

    path: str
    size: int
    changed: int

    @property
    def unchanged(self) -> bool:
        """Whether it still is as it was."""
        try:
            now = Path(self.path).stat()
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) == (self.size, self.changed)


def count(path: str) -> Counts:
    """Count the words and the symbols of a text file.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """
    content = Path(path).read_bytes()
    text = content.decode(errors="replace")
    return Counts(
        files=1,
        words=sum(1 for _ in _WORD.finditer(text)),
        symbols=sum(1 for _ in _SYMBOL.finditer(text)),
        lines=text.count("\n"),
        bytes=len(content),
    )


def recount(sources: list[Source]) -> dict[str, Counts]:
    """The plain count: one process, one file after the other, no database.

    Args:
        sources: The files.
    """
    return {source.path: count(source.path) for source in sources}


def default_folder() -> Path:
    """The sources of Python's own standard library."""
    return Path(os.__file__).resolve().parent


def read_folder(folder: Path, most: int) -> list[Source]:
    """The text files below a folder: all, or as many as wanted, evenly spread.

    Args:
        folder: Hidden folders in it, and those of installed packages, are left out.
        most: How many at most.
    """
    only = ".py" if folder == default_folder() else None
    found = sorted(_sources(folder, only), key=lambda one: one.path)
    if len(found) <= most:
        return found
    return [found[place * len(found) // most] for place in range(most)]


def _sources(folder: Path, suffix: str | None) -> Iterator[Source]:
    for base, folders, names in os.walk(folder):
        folders[:] = [one for one in folders if one not in _LEFT_OUT and not one.startswith(".")]
        for name in names:
            path = Path(base, name)
            if name.startswith(".") or (suffix is not None and path.suffix != suffix):
                continue
            try:
                seen = path.lstat()
                if path.is_symlink() or not path.is_file() or seen.st_size > _LARGEST:
                    continue
                if suffix is None and not _is_text(path):
                    continue
                path.open("rb").close()  # What we may not read, no worker may.
                # A name that is no Unicode could not be a payload.
                str(path).encode()
            except (OSError, UnicodeEncodeError):
                continue
            yield Source(str(path.resolve()), seen.st_size, seen.st_mtime_ns)


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(8192)
