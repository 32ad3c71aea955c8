"""Folder layout of a data set: which folders are splits and which are classes."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from apq_tune.data.image import SUFFIXES, shown
from apq_tune.data.listing import Listed, has_images, images_in, list_images, visible_folders
from apq_tune.errors import RunError

ROLES = {
    "train": ("train", "training", "trn"),
    "search": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
"""Folder names of each split, in any case; a suffix ``set``, ``data``, ``images`` or ``split`` is allowed."""

ROLE = re.compile(
    "|".join(f"(?P<{role}>{'|'.join(names)})" for role, names in ROLES.items()).join(("(?:", ")"))
    + r"(?:[ ._-]?(?:set|data|images|imgs|split))?",
    re.IGNORECASE,
)

LAYOUT = "give a folder DIR with DIR/CLASS/IMAGE or DIR/train/CLASS/IMAGE"


class Layout(NamedTuple):
    """Layout of a data set.

    Attributes:
        places: Folder of each split; ``train`` is always present.
        classes: Class names, sorted.
        listed: Images of each class, by split.
        notes: Remarks on how the layout was interpreted and on files that were ignored.
    """

    places: Mapping[str, Path]
    classes: tuple[str, ...]
    listed: Mapping[str, tuple[Listed, ...]]
    notes: tuple[str, ...]


def role_of(name: str) -> str | None:
    """Split that a folder name stands for (``train``, ``search`` or ``test``); ``None`` if it is not a split name."""
    found = ROLE.fullmatch(name)
    return found.lastgroup if found else None


def read_layout(path: Path, *, val_is_test: bool = False) -> Layout:
    """Distinguish splits from classes and list the images of each.

    A folder with the name of a split is a split if it has subfolders with images. If only one such folder has images
    directly in it, next to folders with other names, it is a class of that name.

    Args:
        path: Folder of the data set.
        val_is_test: Whether ``val`` is the official test split, as in ImageNet.

    Raises:
        RunError: If the folder is missing, has no images or a single class, if a class is empty, if splits have
            different classes, or if splits and classes cannot be told apart.
    """
    if not path.is_dir():
        raise RunError(f"{shown(path)}: is not a folder; {LAYOUT}")
    _check_name(path)
    folders = visible_folders(path)
    named = [folder for folder in folders if role_of(folder.name) is not None]
    split = [folder for folder in named if _holds_classes(folder)]
    flat = [folder for folder in named if folder not in split and images_in(folder)]
    places, notes = _places(path, folders, split, flat)
    if split:
        notes += [f"{shown(folder.name)} holds no images" for folder in named if folder not in (*split, *flat)]
    if val_is_test and "search" in places:
        places["test"] = places.pop("search")
    classes: tuple[str, ...] = ()
    listed: dict[str, tuple[Listed, ...]] = {}
    for part, place in places.items():
        own, found = _classes(place, nested=not split)
        if part == "train":
            classes = own
        elif own != classes:
            odd = sorted(set(own) ^ set(classes))[0]
            raise RunError(
                f"{shown(place)}: class {odd!r} is in only one of it and {shown(places['train'])}; both need all"
            )
        listed[part] = found
    if split and (
        both := [
            folder.name for folder in folders if folder not in split and folder.name in classes and has_images(folder)
        ]
    ):
        raise RunError(
            f"{shown(path)}: has class {shown(both[0])} beside {shown(places['train'].name)} and in it; put all images "
            f"to train on there, or give it alone: --data {shown(places['train'])}"
        )
    return Layout(places, classes, listed, (*notes, *_not_taken(listed, places)))


def _holds_classes(folder: Path) -> bool:
    """Whether a folder with the name of a split is one: it has subfolders with images, or no images outside of them."""
    inner = visible_folders(folder)
    return any(has_images(one) for one in inner) or (bool(inner) and not images_in(folder))


def _places(
    path: Path, folders: Sequence[Path], split: Sequence[Path], flat: Sequence[Path]
) -> tuple[dict[str, Path], list[str]]:
    """Folder of each split, ``train`` first, and remarks on how the layout was interpreted."""
    if not split:
        if len(flat) > 1 or (flat and len(folders) == 1):
            raise RunError(f"{shown(flat[0])}: has images, but none in a folder of its class; {LAYOUT}")
        return {"train": path}, [
            f"{shown(folder.name)} has images but no subfolders, so it is taken as a class and not as a split"
            for folder in flat
        ]
    places: dict[str, Path] = {}
    for part in ROLES:
        of_part = [folder for folder in split if role_of(folder.name) == part]
        if len(of_part) > 1:
            names = " and ".join(shown(folder.name) for folder in of_part)
            kind = {"train": "to train on", "search": "for choices", "test": "to report on"}[part]
            raise RunError(f"{shown(path)}: {names} are both images {kind}; put them together, or move one elsewhere")
        places |= {part: of_part[0]} if of_part else {}
    beside = [folder for folder in folders if folder not in split and has_images(folder)]
    if "train" not in places:
        have, *others = [shown(folder.name) for folder in split]
        more = f" and {', '.join(others)}" if others else ""
        remedy = (
            f"move {', '.join(shown(folder.name) for folder in beside[:3])}{' ...' if len(beside) > 3 else ''} into a "
            "folder train, or rename them"
            if beside
            else "name the folder of images to train on train, or give one of them alone, to have all parts cut from it"
        )
        raise RunError(f"{shown(path)}: has {have}{more}, which look like splits, and no folder train; {remedy}")
    return places, [
        f"{shown(folder.name)} beside {shown(places['train'].name)} was not taken: "
        f"{len(list_images(folder).files)} images" + (", in no folder of a class" if folder in flat else "")
        for folder in beside
    ]


def _classes(path: Path, *, nested: bool) -> tuple[tuple[str, ...], tuple[Listed, ...]]:
    """Names and images of the classes of one split."""
    folders = visible_folders(path)
    found = [list_images(folder) for folder in folders]
    if not any(listed.files for listed in found):
        if images_in(path):
            raise RunError(f"{shown(path)}: has images, but none in a folder of its class; {LAYOUT}")
        kinds = " and ".join(sorted({kind for listed in (*found, list_images(path)) for kind in listed.others}))
        have = f" but files {kinds}" if kinds else ""
        raise RunError(f"{shown(path)}: has no images ({', '.join(SUFFIXES)}){have}; {LAYOUT}")
    if nested:
        _check_nested(path, folders)
    for folder, listed in zip(folders, found, strict=True):
        if not listed.files:
            have = f" but {_counts(listed.others)}" if listed.others else ""
            raise RunError(f"{shown(folder)}: holds no images{have}; put some there, or remove the folder")
        _check_name(folder)
    if len(folders) < 2:
        raise RunError(
            f"{shown(path)}: has one class alone, {shown(folders[0].name)!r}; classification needs two folders at least"
            + _deeper(folders[0])
        )
    names = [unicodedata.normalize("NFC", folder.name) for folder in folders]
    order = sorted(range(len(names)), key=names.__getitem__)
    for before, after in itertools.pairwise(order):
        if names[before] == names[after]:
            raise RunError(f"{shown(path)}: has two folders that read {names[after]!r}; put them together")
    return tuple(names[i] for i in order), tuple(found[i] for i in order)


def _check_nested(path: Path, folders: Sequence[Path]) -> None:
    """Refuse classes that have splits of their own, and a folder too many around the splits."""
    for folder in folders:
        inner = [one for one in visible_folders(folder) if role_of(one.name) and has_images(one)]
        if len({role_of(one.name) for one in inner}) < 2 and not (inner and len(folders) == 1):
            continue
        names = " and ".join(shown(one.name) for one in inner)
        if any(visible_folders(one) for one in inner):
            raise RunError(f"{shown(folder)}: holds {names}, which look like splits; give --data {shown(folder)}")
        raise RunError(
            f"{shown(folder)}: holds {names}, which look like splits of one class; move them to "
            f"{shown(path / inner[0].name / folder.name)} and so on"
        )


def _deeper(folder: Path) -> str:
    """Remedy to append to a message if the classes seem to be one level deeper; otherwise empty."""
    inner = [one for one in visible_folders(folder) if has_images(one)]
    if len(inner) < 2:
        return ""
    return f"; if {shown(inner[0].name)} and {shown(inner[1].name)} are classes, give --data {shown(folder)}"


def _check_name(folder: Path) -> None:
    """Refuse folder names that are not UTF-8: class names are written to files and shown, image names are not."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise RunError(f"{shown(folder)}: its name is not UTF-8; rename the folder") from None


def _counts(others: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {'file' if n == 1 else 'files'} {kind}" for kind, n in sorted(others.items()))


def _not_taken(listed: Mapping[str, Sequence[Listed]], places: Mapping[str, Path]) -> list[str]:
    """Remarks on files that were ignored: other files in class folders, and images outside of them."""
    others: Counter[str] = Counter()
    for found in listed.values():
        for one in found:
            others.update(one.others)
    loose = [f"{n} images directly in {shown(place)}" for place in places.values() if (n := len(images_in(place)))]
    return [f"not taken: {', '.join([*loose, *([_counts(others)] if others else [])])}"] if loose or others else []
