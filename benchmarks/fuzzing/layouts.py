"""Folder layouts as they occur: each must give the classes and images that a person sees in it, or be refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fuzzing.harness import PROBE, Case, Said
from fuzzing.material import CLASSES, FAST, picture


class Held(NamedTuple):
    """Expected contents of a folder."""

    classes: int = CLASSES
    images: int = 36  # number of images in all splits
    test: int | None = None  # number of images in a test folder


Layout = Callable[[Path], Held | None]
"""Function that creates a folder and returns its contents, or ``None`` if it has to be refused."""


def fill(folder: Path, n: int = 12, classes: int = CLASSES, first: int = 0) -> None:
    """Create class folders with distinct images."""
    for label in range(classes):
        place = folder / f"c{label}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + n):
            Image.fromarray(picture(label % CLASSES, 100 * label + number)).save(place / f"{number:03d}.png")


def parts(*names: str) -> Layout:
    """Layout with split folders of the given names: 12 images per class in the first one and 6 in the others."""

    def make(folder: Path) -> Held:
        for number, name in enumerate(names):
            fill(folder / name, 6 if number else 12, first=20 * number)
        lower = [name.lower() for name in names]
        test = next((6 * CLASSES for name in lower if name in ("test", "testing")), None)
        return Held(images=CLASSES * (12 + 6 * (len(names) - 1)), test=test)

    return make


def plain(change: Callable[[Path], object], held: Held | None = Held()) -> Layout:  # noqa: B008
    """Usual layout with an unusual addition."""

    def make(folder: Path) -> Held | None:
        fill(folder)
        change(folder)
        return held

    return make


def copied(name: str) -> Callable[[Path], None]:
    """Subfolder of a class with copies of its images, such as notebooks leave."""

    def make(folder: Path) -> None:
        for label in range(CLASSES):
            shutil.copytree(folder / f"c{label}", folder / f"c{label}" / name)

    return make


def beside(path: str, content: bytes = b"x") -> Callable[[Path], None]:
    """File that is not an image."""

    def make(folder: Path) -> None:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    return make


def linked(folder: Path) -> None:
    """Class folder that is a link to another place."""
    (folder / "c0").rename(folder.parent / "away")
    (folder / "c0").symlink_to(folder.parent / "away")


def eight_of_five(folder: Path) -> Held:
    """Many classes with few images and all splits given."""
    fill(folder / "train", 5, classes=8)
    fill(folder / "test", 5, classes=8, first=50)
    return Held(8, 80, 40)


def no_utf8(folder: Path) -> None:
    """Class with a Latin-1 name."""
    (folder / "c0").rename(folder / os.fsdecode(b"caf\xe9"))


def other_classes(folder: Path) -> None:
    """Class that only ``test`` has."""
    fill(folder / "train")
    fill(folder / "test", classes=2)


def refused(make: Callable[[Path], object]) -> Layout:
    """Turn a layout into one that must be refused."""

    def layout(folder: Path) -> None:
        make(folder)

    return layout


def nested(folder: Path) -> Held:
    """Classes with images in subfolders."""
    for label in range(CLASSES):
        for half in range(2):
            place = folder / f"c{label}" / f"camera_{half}"
            place.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(picture(label, 10 * half + number)).save(place / f"{number}.png")
    return Held()


LAYOUTS: Mapping[str, Layout] = {
    "classes": plain(lambda _: None),
    "train and test": parts("train", "test"),
    "train, val and test": parts("train", "val", "test"),
    "Train and Test": parts("Train", "Test"),
    "TRAIN, VAL, TEST": parts("TRAIN", "VAL", "TEST"),
    "training and testing": parts("training", "testing"),
    "train and validation": parts("train", "validation"),
    "test and val without train": refused(parts("test", "val")),
    "train and Train": refused(parts("train", "Train")),
    "notebook checkpoints in classes": plain(copied(".ipynb_checkpoints")),
    "hidden folder of thumbnails": plain(copied(".thumbnails")),
    "__MACOSX beside classes": plain(beside("__MACOSX/c0/._000.png")),
    "Thumbs.db and .DS_Store": plain(lambda f: (beside("c0/Thumbs.db")(f), beside(".DS_Store")(f))),
    "hidden image": plain(lambda f: shutil.copy(f / "c0" / "000.png", f / "c0" / "._000.png")),
    "labels.csv beside classes": plain(beside("labels.csv", b"a,b\n")),
    "link to its own parent": plain(lambda f: (f / "c0" / "loop").symlink_to(f / "c0")),
    "link that leads nowhere": plain(lambda f: (f / "c0" / "broken.png").symlink_to(f / "nothing"), None),
    "class of a link": plain(linked),
    "empty class": plain(lambda f: (f / "empty").mkdir(), None),
    "class named test": plain(lambda f: (f / "c0").rename(f / "test")),
    "a class of one image": plain(lambda f: beside("one/0.png", (f / "c0" / "000.png").read_bytes())(f), None),
    "one class": refused(lambda f: fill(f, classes=1)),
    "no folders": refused(lambda f: Image.fromarray(picture(0, 0)).save(f / "0.png")),
    "nothing": refused(lambda _: None),
    "eight classes of five with a test folder": eight_of_five,
    "a class name that is no UTF-8": plain(no_utf8),
    "a class name with spaces and signs": plain(lambda f: (f / "c0").rename(f / "it's, 100% [b]ähnlich \n new")),
    "classes that differ between parts": refused(other_classes),
    "nested folders in classes": nested,
    "a folder named like an image": plain(lambda f: (f / "c0" / "folder.png").mkdir()),
    "a file that may not be read": plain(lambda f: (f / "c0" / "000.png").chmod(0)),
}


def layout_cases(out: Path) -> Iterator[Case]:
    """Cases of every layout, run up to the start of the work."""
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        yield _case(name, layout, out / f"{number:02d}")


def _case(name: str, layout: Layout, folder: Path) -> Case:
    held: list[Held | None] = []

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "images").mkdir(parents=True)
        held.append(layout(folder / "images"))

    def judge(said: Said) -> str:
        expected = held[-1]
        if said.status:
            return ""
        with np.load(folder / PROBE) as arrays:
            labels = {part: arrays[f"{part}_labels"] for part in ("train", "search", "test")}
            images = np.concatenate([arrays[f"{part}_images"] for part in labels])
        n_classes, n = len(np.unique(np.concatenate(list(labels.values())))), len(images)
        if expected is None:
            return f"taken as {n_classes} classes, {n} images"
        if len({image.tobytes() for image in images}) < n:
            return "an image is there more than once"
        if (n_classes, n) != (expected.classes, expected.images):
            return f"taken as {n_classes} classes, {n} images, not {expected.classes} and {expected.images}"
        if expected.test is not None and len(labels["test"]) != expected.test:
            return f"{len(labels['test'])} test images, not {expected.test}"
        return ""

    arguments = ("run", "--data", str(folder / "images"), "--out", str(folder / "run"), *FAST)
    return Case("layouts", name, arguments, folder, prepare, judge)
