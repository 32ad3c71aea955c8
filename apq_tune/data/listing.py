"""Which files of a folder count as images, and which do not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from apq_tune.data.image import SUFFIXES, shown
from apq_tune.errors import RunError

HIDDEN = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini", "__pycache__")
"""Names, in lower case, of what programs leave in folders; beside all names that begin with a dot."""


class Listed(NamedTuple):
    """What is below a folder.

    Attributes:
        files: of images, sorted by folder, then by name.
        identities: of each one, equal for two paths to the same file.
        others: what they are -> number of files that do not count.
    """

    files: tuple[str, ...]
    identities: tuple[tuple[int, int], ...]
    others: Mapping[str, int]


def is_hidden(name: str) -> bool:
    """Whether what has this name never counts."""
    return name.startswith(".") or name.lower() in HIDDEN


def visible_folders(path: Path) -> list[Path]:
    """The folders in a folder, sorted by name; without links that lead to it or to what it is in.

    Raises:
        RunError: if it cannot be read.
    """
    above = _above(path)
    return [path / entry.name for entry in _entries(path) if entry.is_dir() and _identity(entry.stat()) not in above]


def images_in(path: Path) -> list[Path]:
    """The images directly in a folder.

    Raises:
        RunError: if it cannot be read.
    """
    return [path / entry.name for entry in _entries(path) if _is_image(entry)]


def has_images(path: Path) -> bool:
    """Whether a folder, or any below it, has an image."""
    return bool(images_in(path)) or bool(list_images(path).files)


def list_images(path: Path) -> Listed:
    """All images in a folder and in the folders below it.

    Links are followed, each folder once, and not to what the folder is in; each file counts once, by its first path.

    Raises:
        RunError: if a folder cannot be read.
    """
    files: dict[tuple[int, int], str] = {}
    others: Counter[str] = Counter()
    for entry in _walk(path, _above(path)):
        if _is_image(entry):
            try:
                identity = _identity(entry.stat())
            except OSError as error:
                raise RunError(f"{shown(entry.path)}: cannot be read ({error.strerror}); mend or remove it") from None
            files.setdefault(identity, entry.path)
        else:
            others[_kind(entry)] += 1
    identities, names = list(files), list(files.values())
    order = sorted(range(len(names)), key=lambda i: os.path.split(names[i]))
    return Listed(tuple(names[i] for i in order), tuple(identities[i] for i in order), dict(others))


def _above(path: Path) -> set[tuple[int, int]]:
    """A folder and all that it is in."""
    return {_identity(one.stat()) for one in (path, *path.parents, *path.resolve().parents)}


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    """What is visible in a folder, sorted by name."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise RunError(f"{shown(path)}: cannot be read ({error.strerror}); mend or remove it") from None


def _walk(path: str | Path, seen: set[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    for entry in _entries(path):
        if not entry.is_dir():
            yield entry
        elif (identity := _identity(entry.stat())) not in seen:
            seen.add(identity)
            yield from _walk(entry.path, seen)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """By its suffix; a link to nothing counts, too, and is refused when it is read."""
    if Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())


def _kind(entry: os.DirEntry[str]) -> str:
    """What follows "3 files"."""
    if not entry.is_file():
        return "(special, or a link to nothing)"
    suffix = Path(entry.name).suffix.lower()
    return f"of kind {shown(suffix)}" if suffix else "without a suffix"
