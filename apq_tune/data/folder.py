"""Folders of images with one subfolder per class: their contents and their train, search and test splits."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from apq_tune.data.image import Look, decode, look, shown, value_range, white_of
from apq_tune.data.layout import ROLES, Layout, read_layout
from apq_tune.data.listing import Listed
from apq_tune.data.split import SEARCH_SHARE, Data, FileSplit, Split, stratified
from apq_tune.errors import RunError

IN_MEMORY = 2**30
"""Bytes; a split that is larger when decoded is decoded batch by batch instead of being held in memory."""

MIN_PER_CLASS = 5
"""Minimum number of images per class where a split has to be cut."""

FRESH = 2.0
"""Seconds after a change in which a file may change again under the same timestamp (coarsest file system clock)."""

CACHED_FILES = 2**20
"""Maximum number of files whose digests and headers are cached."""

T = TypeVar("T")


class Files(NamedTuple):
    """Labelled image files."""

    files: tuple[str, ...]
    labels: NDArray[np.int64]  # (n,)

    def take(self, rows: NDArray[np.int64]) -> Files:
        """Select rows in the given order."""
        return Files(tuple(self.files[row] for row in rows), self.labels[rows])


class Folder(NamedTuple):
    """Contents of a folder of images.

    Attributes:
        path: Path of the folder.
        classes: Class names in the order of the labels.
        parts: Files of the ``train``, ``search`` and ``test`` splits, each shuffled.
        origins: Description of the origin of each split's images, by split name.
        notes: Remarks on how the layout was interpreted and on files that were ignored.
    """

    path: Path
    classes: tuple[str, ...]
    parts: tuple[Files, Files, Files]
    origins: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """All image files, split by split."""
        return [file for part in self.parts for file in part.files]

    def looks(self) -> list[Look]:
        """Header information and digests of all files; unchanged files are not read again.

        Raises:
            RunError: If a file is not a readable image; the message names it.
        """
        return in_threads(_look, self.files)

    @property
    def channels(self) -> int:
        """Number of channels: 1 if all images are greyscale, otherwise 3."""
        return 1 if all(one.grey for one in self.looks()) else 3

    @property
    def size(self) -> int:
        """Median length of the images' shorter sides in pixels."""
        return int(np.median([one.side for one in self.looks()]))

    @property
    def digest(self) -> str:
        """Hash of the names and contents of all files; it changes with every image added, removed or modified."""
        content, looks = hashlib.sha256(), iter(self.looks())
        for name, part in zip(ROLES, self.parts, strict=True):
            for file in part.files:
                relative = os.fsencode(os.path.relpath(file, self.path))
                content.update(name.encode() + b" " + relative + b" " + next(looks).digest.encode() + b"\n")
        return content.hexdigest()[:16]

    def white(self) -> float | None:
        """Common white level of all float and 32-bit integer images; ``None`` if there are no such images.

        Raises:
            RunError: If no white level fits their values; the message names an image.
        """
        files = [file for file, one in zip(self.files, self.looks(), strict=True) if one.open_ended]
        if not files:
            return None
        largest = [high for _, high in in_threads(value_range, files)]
        return white_of(max(largest), files[int(np.argmax(largest))])

    def data(self, size: int, channels: int, *, white: float | None = None) -> Data:
        """Load the images: the shorter side is resized to ``size`` pixels, then the central square is cropped.

        Args:
            size: Side length of the images in pixels.
            channels: 1 for greyscale, 3 for colour.
            white: White level of float and 32-bit integer images; see ``Folder.white``.

        Raises:
            RunError: If an image cannot be read; the message names it.
        """
        return Data(*(_loaded(FileSplit(files, labels, channels, size, white)) for files, labels in self.parts))


def read_folder(path: str | Path, *, val_is_test: bool = False) -> Folder:
    """List a folder of images and check its layout.

    Subfolders ``train``, ``val`` (the search split) and ``test``, under these or other common names in any case, are
    used as they are. Missing splits are cut from ``train``, stratified by class and identical in every run: a fifth of
    all images each, or a sixth for ``search`` where there is a ``test`` folder.

    Args:
        path: Folder of the form ``CLASS/IMAGE`` or ``train/CLASS/IMAGE``.
        val_is_test: Whether ``val`` is the official test split, as in ImageNet.

    Raises:
        RunError: If the folder is missing, has no images or a single class, if a class is empty or too small to be
            split, if splits have different classes, if a file is in two splits or classes, or if splits and classes
            cannot be told apart.
    """
    path = Path(path).expanduser().resolve()
    layout = read_layout(path, val_is_test=val_is_test)
    _check_once(layout)
    given = {part: _shuffled(layout.listed[part]) for part in layout.listed}
    train, search, test = given["train"], given.get("search"), given.get("test")
    where = {part: f"folder {shown(place.name)}" for part, place in layout.places.items()}
    source = where["train"] if len(where) > 1 or layout.places["train"] != path else "all images"
    missing = [part for part in ROLES if part not in given]
    counts = np.bincount(train.labels)
    if missing and counts.min() < MIN_PER_CLASS:
        raise RunError(
            f"{shown(layout.places['train'])}: class {shown(layout.classes[counts.argmin()])!r} has {counts.min()} "
            f"images; to cut {' and '.join(missing)} from it, give it at least {MIN_PER_CLASS}, "
            "or give those folders, too"
        )
    if test is None:
        rows, own_rows = stratified(train.labels, 0.2)
        train, test = train.take(rows), train.take(own_rows)
        search_share = 0.25  # a quarter of the remaining four fifths is a fifth of all images
        where["test"] = f"a fifth of {source}, by class"
    else:
        search_share = SEARCH_SHARE
    if search is None:
        rows, own_rows = stratified(train.labels, search_share)
        train, search = train.take(rows), train.take(own_rows)
        where["search"] = f"a {'fifth' if 'test' in missing else 'sixth'} of {source}, by class"
    if missing:
        where["train"] = f"what is left of {source}"
    return Folder(path, layout.classes, (train, search, test), where, layout.notes)


def in_threads(work: Callable[[str], T], files: Sequence[str]) -> list[T]:
    """Apply ``work`` to each file in a thread pool; results are in the order of the files."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4) as pool:
        return list(pool.map(work, files))


def _look(file: str) -> Look:
    """Read a file, or return the cached result if the file has not changed since."""
    try:
        status = Path(file).stat()
    except OSError:
        return look(file)  # raises an error that says what is wrong
    if time.time() - max(status.st_mtime, status.st_ctime) < FRESH:
        return look(file)
    return _look_once(file, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(CACHED_FILES)
def _look_once(file: str, *_: int) -> Look:
    return look(file)


def _check_once(layout: Layout) -> None:
    """Check that no file is, by way of links, in two splits or in two classes."""
    first: dict[tuple[int, int], tuple[str, str, str]] = {}
    twice = []
    for part, found in layout.listed.items():
        for name, listed in zip(layout.classes, found, strict=True):
            for file, identity in zip(listed.files, listed.identities, strict=True):
                before = first.setdefault(identity, (file, part, name))
                if before[0] != file:
                    twice.append((file, before, "splits" if before[1] != part else "classes"))
    if twice:
        file, (before_file, *_), kind = twice[0]
        more = f" ({len(twice)} files are in two places)" if len(twice) > 1 else ""
        raise RunError(
            f"{shown(file)}: is the same file as {shown(before_file)}, so it would be in two {kind}{more}; remove it "
            "from one of them"
        )


def _shuffled(found: Sequence[Listed]) -> Files:
    """All files of one split, shuffled."""
    files = tuple(file for listed in found for file in listed.files)
    labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(listed.files) for listed in found])
    return Files(files, labels).take(np.random.default_rng(0).permutation(len(labels)))


def _loaded(split: FileSplit) -> Split | FileSplit:
    """Decode a split into memory if it is small enough."""
    if len(split.files) * int(np.prod(split.shape)) > IN_MEMORY:
        return split
    images = in_threads(lambda file: decode(file, split.channels, split.size, white=split.white), split.files)
    return Split(np.stack(images), split.labels, split.normalisation)


def repeated(folder: Folder) -> Mapping[str, int]:
    """Count images that occur more than once, byte for byte.

    Returns:
        For each pair of splits, such as ``"train and test"``, the number of images of the latter that are in the
        former, too; for ``"classes"`` the number of distinct images with several labels. Zero counts are left out.
    """
    looks = iter(folder.looks())
    contents = {
        name: [(next(looks).digest, int(label)) for label in part.labels]
        for name, part in zip(ROLES, folder.parts, strict=True)
    }
    found: dict[str, int] = {}
    for one, other in (("train", "search"), ("train", "test"), ("search", "test")):
        seen = {digest for digest, _ in contents[one]}
        found[f"{one} and {other}"] = sum(digest in seen for digest, _ in contents[other])
    classes = Counter(digest for digest, _ in {pair for part in contents.values() for pair in part})
    found["classes"] = sum(n > 1 for n in classes.values())
    return {where: n for where, n in found.items() if n}
