"""Folders of images, one subfolder a class: what is in them, and how they become splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.data.split import SEARCH_SHARE, Data, FileSplit, Split, decode, stratified
from apq_tune.errors import RunError

PARTS = {"train": ("train",), "search": ("val", "valid", "validation"), "test": ("test",)}
"""Names of the folders that hold a part."""

IN_MEMORY = 2**30
"""Bytes; a part that decodes to more is decoded batch by batch."""

N_LOOKED_AT = 1000
"""Images whose headers tell colour and size."""

LEAST = 5
"""Images of a class that is to be split."""

LAYOUT = "give a folder DIR with DIR/CLASS/IMAGE or DIR/train/CLASS/IMAGE"


class Files(NamedTuple):
    """Labelled image files."""

    files: tuple[str, ...]
    labels: NDArray[np.int64]  # (n,)

    def take(self, rows: NDArray[np.int64]) -> Files:
        """Some of them, in this order."""
        return Files(tuple(self.files[row] for row in rows), self.labels[rows])


class Folder(NamedTuple):
    """What a folder of images holds.

    Attributes:
        path: the folder.
        classes: names, in the order of the labels.
        parts: ``train``, ``search`` and ``test``, each shuffled.
        channels: 1 if all images are grey, else 3.
        size: median of the shorter sides, pixels.
    """

    path: Path
    classes: tuple[str, ...]
    parts: tuple[Files, Files, Files]
    channels: int
    size: int

    @property
    def digest(self) -> str:
        """Hash of names and sizes of the files: another one if images came, went or changed."""
        content = hashlib.sha256()
        for part in self.parts:
            for file in part.files:
                content.update(f"{Path(file).relative_to(self.path)} {Path(file).stat().st_size}\n".encode())
        return content.hexdigest()[:16]

    def data(self, size: int, channels: int) -> Data:
        """The images at a size: shorter side resized to it, then the square in the middle.

        Raises:
            RunError: if an image cannot be read, naming it.
        """
        return Data(*(_loaded(FileSplit(files, labels, channels, size)) for files, labels in self.parts))


def read_folder(path: str | Path, *, val_is_test: bool = False) -> Folder:
    """List a folder and check its layout.

    ``train``, ``val`` (the search part) and ``test`` are taken as they are; what is missing is cut from ``train``, by
    class, the same in every run: a fifth of all for each, or a sixth for ``search`` where there is a ``test`` folder.

    Args:
        path: the folder, ``CLASS/IMAGE`` or ``train/CLASS/IMAGE``.
        val_is_test: ``val`` is an official test part, as ImageNet's.

    Raises:
        RunError: if it is missing, has no images, one class alone, an empty or a tiny class, other classes in one part
            than in another, or unreadable images.
    """
    path = Path(path).expanduser().absolute()
    if not path.is_dir():
        raise RunError(f"{path}: is no folder; {LAYOUT}")
    places = {part: _first_folder(path, names) for part, names in PARTS.items()}
    if places["train"] is None:
        places = {"train": path, "search": None, "test": None}
    elif val_is_test:
        places = {"train": places["train"], "search": None, "test": places["search"]}
    listed = {part: _listed(place) for part, place in places.items() if place is not None}
    classes = listed["train"][0]
    for part, (own, _) in listed.items():
        if own != classes:
            odd = sorted(set(own) ^ set(classes))[0]
            raise RunError(f"{places[part]}: class {odd!r} is in only one of it and {places['train']}; both need all")
    train, search, test = (listed[part][1] if part in listed else None for part in PARTS)
    assert train is not None
    missing = [part for part in PARTS if part not in listed]
    counts = np.bincount(train.labels)
    if missing and counts.min() < LEAST:
        raise RunError(
            f"{places['train']}: class {classes[counts.argmin()]!r} has {counts.min()} images; to cut "
            f"{' and '.join(missing)} from it, give it at least {LEAST}, or give those folders, too"
        )
    if test is None:
        rows, own_rows = stratified(train.labels, 0.2)
        train, test = train.take(rows), train.take(own_rows)
        search_share = 0.25  # of the four fifths that are left: a fifth of all
    else:
        search_share = SEARCH_SHARE
    if search is None:
        rows, own_rows = stratified(train.labels, search_share)
        train, search = train.take(rows), train.take(own_rows)
    parts = (train, search, test)
    return Folder(path, classes, parts, *_look([file for part in parts for file in part.files]))


def _first_folder(path: Path, names: Sequence[str]) -> Path | None:
    """The first of these folders that has folders of its own: one without is a class of that name."""
    for name in names:
        if (path / name).is_dir() and any(entry.is_dir() for entry in (path / name).iterdir()):
            return path / name
    return None


def _listed(path: Path) -> tuple[tuple[str, ...], Files]:
    """Classes and shuffled files of one part."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    class Visible(ImageFolder):  # type: ignore[misc]
        def find_classes(self, _: str | Path) -> tuple[list[str], dict[str, int]]:
            return names, {name: i for i, name in enumerate(names)}

    found: Any = Visible(str(path), allow_empty=True) if names else None
    if found is None or not found.samples:
        flat = any(entry.suffix.lower() in IMG_EXTENSIONS for entry in path.iterdir())
        raise RunError(
            f"{path}: has images, but none in a folder of its class; {LAYOUT}"
            if flat
            else f"{path}: has no images ({', '.join(IMG_EXTENSIONS)}); {LAYOUT}"
        )
    classes = tuple(found.classes)
    counts = np.bincount(found.targets, minlength=len(classes))
    if not counts.all():
        raise RunError(f"{path / classes[counts.argmin()]}: holds no images; put some there, or remove the folder")
    if len(classes) < 2:
        raise RunError(f"{path}: has one class alone, {classes[0]!r}; classification needs two folders at least")
    files = Files(tuple(str(file) for file, _ in found.samples), np.array(found.targets, np.int64))
    return classes, files.take(np.random.default_rng(0).permutation(len(files.labels)))


def _look(files: Sequence[str]) -> tuple[int, int]:
    """Channels and median shorter side, from the headers of some images."""
    grey, sides = True, []
    for file in files[:: max(1, len(files) // N_LOOKED_AT)]:
        mode, side = _header(file)
        grey &= mode in ("1", "L", "LA", "I", "I;16", "F")
        sides.append(side)
    return (1 if grey else 3), int(np.median(sides))


def _header(file: str) -> tuple[str, int]:
    """Mode and shorter side of an image."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.mode, min(image.size)
    except (OSError, Image.DecompressionBombError) as error:
        raise RunError(f"{file}: is no readable image ({type(error).__name__}); mend or remove it") from None


def _loaded(split: FileSplit) -> Split | FileSplit:
    """In memory, if it fits."""
    if len(split.files) * int(np.prod(split.shape)) > IN_MEMORY:
        return split
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4) as pool:
        images = list(pool.map(lambda file: decode(file, split.channels, split.size), split.files))
    return Split(np.stack(images), split.labels)
