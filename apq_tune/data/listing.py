"""Listing of the image files in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from apq_tune.data.image import SUFFIXES, shown
from apq_tune.errors import RunError

HIDDEN = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini", "__pycache__")
"""Lower-case names of system files and folders that are ignored, in addition to names that begin with a dot."""


class Listed(NamedTuple):
    """Contents of a folder, subfolders included.

    Attributes:
        files: Paths of the images, sorted by folder, then by name.
        identities: Device and inode of each image, equal for two paths to the same file.
        others: Number of ignored files, by kind.
    """

    files: tuple[str, ...]
    identities: tuple[tuple[int, int], ...]
    others: Mapping[str, int]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is ignored."""
    return name.startswith(".") or name.lower() in HIDDEN


def visible_folders(path: Path) -> list[Path]:
    """Subfolders of a folder, sorted by name, without links to the folder itself or to one of its parents.

    Raises:
        RunError: If the folder cannot be read.
    """
    above = _above(path)
    return [path / entry.name for entry in _entries(path) if entry.is_dir() and _identity(entry.stat()) not in above]


def images_in(path: Path) -> list[Path]:
    """Images directly in a folder.

    Raises:
        RunError: If the folder cannot be read.
    """
    return [path / entry.name for entry in _entries(path) if _is_image(entry)]


def has_images(path: Path) -> bool:
    """Whether there is an image in a folder or in any of its subfolders."""
    return bool(images_in(path)) or bool(list_images(path).files)


def list_images(path: Path) -> Listed:
    """List all images in a folder and its subfolders.

    Links are followed, but each folder is visited once and parents are not. A file with several paths is listed once,
    under the first of them.

    Raises:
        RunError: If a folder cannot be read.
    """
    files: dict[tuple[int, int], str] = {}
    others: Counter[str] = Counter()
    for entry in _walk(path, _above(path)):
        if _is_image(entry):
            try:
                identity = _identity(entry.stat())
            except OSError as error:
                raise RunError(f"{shown(entry.path)}: cannot be read ({error.strerror}); repair or remove it") from None
            files.setdefault(identity, entry.path)
        else:
            others[_kind(entry)] += 1
    identities, names = list(files), list(files.values())
    order = sorted(range(len(names)), key=lambda i: os.path.split(names[i]))
    return Listed(tuple(names[i] for i in order), tuple(identities[i] for i in order), dict(others))


def _above(path: Path) -> set[tuple[int, int]]:
    """Identities of a folder and of all its parents."""
    return {_identity(one.stat()) for one in (path, *path.parents, *path.resolve().parents)}


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    """Entries of a folder that are not ignored, sorted by name."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise RunError(f"{shown(path)}: cannot be read ({error.strerror}); repair or remove it") from None


def _walk(path: str | Path, seen: set[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    for entry in _entries(path):
        if not entry.is_dir():
            yield entry
        elif (identity := _identity(entry.stat())) not in seen:
            seen.add(identity)
            yield from _walk(entry.path, seen)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is an image by its suffix; broken links count and are refused when they are read."""
    if Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())


def _kind(entry: os.DirEntry[str]) -> str:
    """Kind of an ignored file, worded to follow "3 files"."""
    if not entry.is_file():
        return "(special, or a link to nothing)"
    suffix = Path(entry.name).suffix.lower()
    return f"of kind {shown(suffix)}" if suffix else "without a suffix"
