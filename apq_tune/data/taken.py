"""Description of the images that a run uses, shown before the run starts and stored with its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apq_tune.data.folder import Folder, read_folder, repeated
from apq_tune.data.image import Look, shown
from apq_tune.data.layout import ROLES
from apq_tune.space.network_space import NetworkSpace

SHOWN = 10
"""Maximum number of class names in the description."""

FEW = 30
"""Size of a split below which one image makes more difference than most networks differ by."""

PURPOSE = {"train": "to train on", "search": "for every choice", "test": "to report on"}


def taken(space: NetworkSpace) -> tuple[str, ...]:
    """Describe the images that a search space names: classes, splits, colours, sizes and ignored files.

    Args:
        space: Search space whose ``data`` is a folder; for a named data set there is nothing to describe.

    Returns:
        Lines of text.

    Raises:
        RunError: If the folder cannot be used.
    """
    if space.data is None or not Path(space.data).is_absolute():
        return ()
    return describe(read_folder(space.data), space)


def describe(folder: Folder, space: NetworkSpace) -> tuple[str, ...]:
    """Describe a folder of images as it is used by a search space, in lines of text."""
    names = ", ".join(map(shown, folder.classes[:SHOWN])) + (", ..." if len(folder.classes) > SHOWN else "")
    looks = folder.looks()
    lines = [f"images: {shown(folder.path)}, {len(folder.classes)} classes: {names}"]
    for name, part in zip(ROLES, folder.parts, strict=True):
        counts = np.bincount(part.labels, minlength=len(folder.classes))
        each = f"{counts.min()} of each class" if counts.min() == counts.max() else _spread(folder, counts)
        few = "; too few to tell most networks apart" if name != "train" and len(part.labels) < FEW else ""
        lines.append(f"{name}: {len(part.labels)} images {PURPOSE[name]}, {each}; {folder.origins[name]}{few}")
    return (*lines, _pixels(looks, space), *_odd(looks), *folder.notes, *_repeated(folder))


def _spread(folder: Folder, counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    least, most = int(counts.argmin()), int(counts.argmax())
    return f"from {counts[least]} ({shown(folder.classes[least])}) to {counts[most]} ({shown(folder.classes[most])})"


def _pixels(looks: Sequence[Look], space: NetworkSpace) -> str:
    """Describe the colours and sizes of the images and how they are converted."""
    colour = sum(not one.grey for one in looks)
    kind = {0: "grey", len(looks): "colour"}.get(colour, f"{colour} in colour and {len(looks) - colour} grey")
    sides = [one.side for one in looks]
    sizes = (
        f"{sides[0]}" if min(sides) == max(sides) else f"{min(sides)} to {max(sides)}, median {np.median(sides):.0f}"
    )
    size, channels = space.resolutions[-1], space.input.channels
    become = "grey" if channels == 1 else "colour"
    return f"pixels: {kind}, shorter side {sizes}; networks see the square in the middle, {size} x {size}, in {become}"


def _odd(looks: Sequence[Look]) -> list[str]:
    alpha, animated = sum(one.alpha for one in looks), sum(one.animated for one in looks)
    open_ended = sum(one.open_ended for one in looks)
    lines = []
    if alpha:
        lines.append(
            f"{alpha} images may have transparent pixels: they are composited on white, or on black if "
            "hardly any contrast is left on white"
        )
    if animated:
        lines.append(f"{animated} images have several frames: the first one is taken")
    if open_ended:
        lines.append(
            f"{open_ended} images are floats or 32-bit integers: white is the least of 1, 255, 511, 1023, ... that "
            "holds the values of all"
        )
    return lines


def _repeated(folder: Folder) -> list[str]:
    found = repeated(folder)
    lines = [
        f"{n} images of {where.split()[-1]} are in {where.split()[0]}, too, byte for byte: accuracies look better than "
        "they are; remove them from one"
        for where, n in found.items()
        if where != "classes"
    ]
    if n := found.get("classes"):
        lines.append(f"{n} images are in several classes, byte for byte: one of their labels is wrong")
    return lines
