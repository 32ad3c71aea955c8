"""Data sets with a name. All but the digits are files under a data root, downloaded there if they are not."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.data.split import SEARCH_SHARE, Data, Split, stratified
from apq_tune.errors import RunError

DEFAULT_ROOT = Path("~/.cache/apq_tune/data")
"""Where data sets are looked for, and downloaded to, unless a data root is given."""

IDX_PARTS = {"train": "train", "test": "t10k"}


class Place(NamedTuple):
    """Where the files of data sets are.

    Attributes:
        root: the folder.
        given: whether the user named it.
    """

    root: Path
    given: bool

    @classmethod
    def of(cls, root: str | Path | None) -> Place:
        """The given folder, or the default one.

        Raises:
            RunError: if the given one does not exist.
        """
        if root is None:
            return cls(DEFAULT_ROOT.expanduser(), False)
        path = Path(root).expanduser()
        if not path.is_dir():
            raise RunError(f"data root {path}: is no folder; give one that has the data set's files, or leave it out")
        return cls(path, True)


def digits(_: Place) -> Data:
    """scikit-learn's handwritten digits (Alpaydin 1998): 8 x 8 pixels, split 50 / 25 / 25, classes balanced."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    whole = Split((images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64))
    first, second = stratified(whole.labels, 0.5)
    rest = whole.take(second)
    search, test = stratified(rest.labels, 0.5)
    return Data(whole.take(first), rest.take(search), rest.take(test))


def fashion_mnist(place: Place) -> Data:
    """Zalando's articles of clothing (Xiao 2017): 28 x 28 grey pixels, 10 classes, 50,000 / 10,000 / 10,000.

    Files are found in torchvision's layout, ``FashionMNIST/raw``, in a folder ``fashion-mnist`` as Debian's
    ``/usr/share/datasets`` has it, or directly in the data root; with ``.gz`` or without.
    """
    folders = [place.root / "FashionMNIST" / "raw", place.root / "fashion-mnist", place.root]

    def part(name: str) -> Split | None:
        for folder in folders:
            images, labels = (
                _idx_file(folder / f"{IDX_PARTS[name]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
            )
            if images is not None and labels is not None:
                return Split(read_idx(images, 3)[:, None], read_idx(labels, 1).astype(np.int64))
        return None

    def download() -> None:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(place.root), download=True)

    return _official("fashion_mnist", place, part, download, "train-images-idx3-ubyte and its three companions")


def cifar10(place: Place) -> Data:
    """Small colour photographs (Krizhevsky 2009): 32 x 32 pixels, 10 classes, 41,667 / 8,333 / 10,000."""
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, place)


def cifar100(place: Place) -> Data:
    """The same with 100 classes."""
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, place)


DATA: dict[str, Callable[[Place], Data]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}


def _cifar(name: str, kind: Any, place: Place) -> Data:
    root = place.root.parent if place.root.name == kind.base_folder else place.root

    def part(split: str) -> Split | None:
        try:
            found = kind(str(root), train=split == "train")
        except RuntimeError:  # torchvision: not found or corrupted
            return None
        images = np.ascontiguousarray(np.transpose(found.data, (0, 3, 1, 2)))
        return Split(images, np.array(found.targets, np.int64))

    return _official(name, place, part, lambda: kind(str(root), download=True), f"the folder {kind.base_folder}")


def _official(
    name: str, place: Place, part: Callable[[str], Split | None], download: Callable[[], object], files: str
) -> Data:
    """A set with official training and test parts: ``search`` is cut from the former.

    Raises:
        RunError: if it is neither there nor can be downloaded.
    """
    if part("train") is None or part("test") is None:
        _download(name, place, download, files)
    train, test = part("train"), part("test")
    if train is None or test is None:
        raise RunError(f"{name}: {place.root} lacks {files}; put them there, or name their folder with --data-root")
    fit, search = stratified(train.labels, SEARCH_SHARE)
    return Data(train.take(fit), train.take(search), test)


def _download(name: str, place: Place, download: Callable[[], object], files: str) -> None:
    print(f"{name} is not in {place.root}; downloading it there, once", file=sys.stderr)
    try:
        place.root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision reports every mirror
            download()
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"{name}: is not in {place.root} and cannot be downloaded ({reason}); put {files} there, or name the "
            "folder that has them with --data-root DIR"
        ) from None


def _idx_file(path: Path) -> Path | None:
    """The file itself, or its compressed form."""
    return next((found for found in (path, path.with_name(f"{path.name}.gz")) if found.is_file()), None)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an array of bytes in LeCun's idx format, compressed or not.

    Args:
        path: of the file.
        dimensions: that it must have.

    Raises:
        RunError: if it is damaged or of another kind.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise RunError(f"{path}: cannot be read ({error}); fetch it anew") from None
    magic, header = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions  # 8: unsigned bytes
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4")) if len(content) >= header else ()
    if content[:4] != magic or len(content) - header != math.prod(shape):
        raise RunError(f"{path}: is no idx file of {dimensions} dimensions, or not all of one; fetch it anew")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
