"""Folders of images, one subfolder a class: what is in them, and how they become splits."""

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
"""Bytes; a part that decodes to more is decoded batch by batch."""

LEAST = 5
"""Images of a class that is to be split."""

FRESH = 2.0
"""Seconds for which a file's time of change does not tell two contents apart: the coarsest clock of a file system."""

KNOWN = 2**20
"""Files whose digests and headers are remembered while the program runs."""

T = TypeVar("T")


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
        origins: part -> where its images are from, in words.
        notes: what was decided about the layout, or not taken.
    """

    path: Path
    classes: tuple[str, ...]
    parts: tuple[Files, Files, Files]
    origins: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """All of them, part by part."""
        return [file for part in self.parts for file in part.files]

    def looks(self) -> list[Look]:
        """What headers and bytes of all files tell; those that did not change since are not read again.

        Raises:
            RunError: if one is no readable image, naming it.
        """
        return in_threads(_look, self.files)

    @property
    def channels(self) -> int:
        """1 if all images are grey, else 3."""
        return 1 if all(one.grey for one in self.looks()) else 3

    @property
    def size(self) -> int:
        """Median of the shorter sides, pixels."""
        return int(np.median([one.side for one in self.looks()]))

    @property
    def digest(self) -> str:
        """Hash of names and contents of the files: another one if images came, went or changed."""
        content, looks = hashlib.sha256(), iter(self.looks())
        for name, part in zip(ROLES, self.parts, strict=True):
            for file in part.files:
                relative = os.fsencode(os.path.relpath(file, self.path))
                content.update(name.encode() + b" " + relative + b" " + next(looks).digest.encode() + b"\n")
        return content.hexdigest()[:16]

    def white(self) -> float | None:
        """White of images of floats or of 32-bit integers, the same for all; ``None`` if there are none.

        Raises:
            RunError: if no white suits them, naming one.
        """
        files = [file for file, one in zip(self.files, self.looks(), strict=True) if one.open_ended]
        if not files:
            return None
        largest = [high for _, high in in_threads(value_range, files)]
        return white_of(max(largest), files[int(np.argmax(largest))])

    def data(self, size: int, channels: int, *, white: float | None = None) -> Data:
        """The images at a size: shorter side resized to it, then the square in the middle.

        Raises:
            RunError: if an image cannot be read, naming it.
        """
        return Data(*(_loaded(FileSplit(files, labels, channels, size, white)) for files, labels in self.parts))


def read_folder(path: str | Path, *, val_is_test: bool = False) -> Folder:
    """List a folder and check its layout.

    ``train``, ``val`` (the search part) and ``test``, by these names or the usual others, case aside, are taken as they
    are; what is missing is cut from ``train``, by class, the same in every run: a fifth of all for each, or a sixth for
    ``search`` where there is a ``test`` folder.

    Args:
        path: the folder, ``CLASS/IMAGE`` or ``train/CLASS/IMAGE``.
        val_is_test: ``val`` is an official test part, as ImageNet's.

    Raises:
        RunError: if it is missing, has no images, one class alone, an empty or a tiny class, other classes in one part
            than in another, one file in two parts or classes, or if splits and classes cannot be told apart.
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
    if missing and counts.min() < LEAST:
        raise RunError(
            f"{shown(layout.places['train'])}: class {shown(layout.classes[counts.argmin()])!r} has {counts.min()} "
            f"images; to cut {' and '.join(missing)} from it, give it at least {LEAST}, or give those folders, too"
        )
    if test is None:
        rows, own_rows = stratified(train.labels, 0.2)
        train, test = train.take(rows), train.take(own_rows)
        search_share = 0.25  # of the four fifths that are left: a fifth of all
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
    """One result for each file, in their order."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4) as pool:
        return list(pool.map(work, files))


def _look(file: str) -> Look:
    """At a file, or at what is remembered of it if nothing touched it since."""
    try:
        status = Path(file).stat()
    except OSError:
        return look(file)  # which says what is wrong
    if time.time() - max(status.st_mtime, status.st_ctime) < FRESH:
        return look(file)
    return _look_once(file, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(KNOWN)
def _look_once(file: str, *_: int) -> Look:
    return look(file)


def _check_once(layout: Layout) -> None:
    """No file is in two parts or in two classes, by links."""
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
    """All classes of one part."""
    files = tuple(file for listed in found for file in listed.files)
    labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(listed.files) for listed in found])
    return Files(files, labels).take(np.random.default_rng(0).permutation(len(labels)))


def _loaded(split: FileSplit) -> Split | FileSplit:
    """In memory, if it fits."""
    if len(split.files) * int(np.prod(split.shape)) > IN_MEMORY:
        return split
    images = in_threads(lambda file: decode(file, split.channels, split.size, white=split.white), split.files)
    return Split(np.stack(images), split.labels)


def repeated(folder: Folder) -> Mapping[str, int]:
    """How many images are there byte for byte more than once.

    Returns:
        ``"train and test"`` and the like -> images of the latter part that are in the former one, too; ``"classes"`` ->
        different images that are in several classes. Only what there is.
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
