"""Named data sets. All but the digits are read from files under a data root and downloaded to it if missing."""

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

from apq_tune.data.folder import read_folder
from apq_tune.data.split import SEARCH_SHARE, Data, Split, stratified
from apq_tune.errors import RunError

DEFAULT_ROOT = Path("~/.cache/apq_tune/data")
"""Default data root."""

IDX_PARTS = {"train": "train", "test": "t10k"}


class DataRoot(NamedTuple):
    """Data root.

    Attributes:
        root: Folder with the files of data sets.
        given: Whether the user specified it.
        download: Whether missing files are downloaded.
    """

    root: Path
    given: bool
    download: bool = True

    @classmethod
    def of(cls, root: str | Path | None) -> DataRoot:
        """Use the given folder, or the default one.

        Raises:
            RunError: If the given folder does not exist.
        """
        if root is None:
            return cls(DEFAULT_ROOT.expanduser(), False)
        path = Path(root).expanduser()
        if not path.is_dir():
            raise RunError(f"data root {path}: is not a folder; give one with the data set's files, or leave it out")
        return cls(path, True)


def digits(_: DataRoot) -> Data:
    """Handwritten digits of scikit-learn (Alpaydin 1998): 8 x 8 grey pixels, 10 classes, split 50 / 25 / 25 %."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    whole = Split((images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64))
    first, second = stratified(whole.labels, 0.5)
    rest = whole.take(second)
    search, test = stratified(rest.labels, 0.5)
    return Data(whole.take(first), rest.take(search), rest.take(test))


def fashion_mnist(place: DataRoot) -> Data:
    """Fashion-MNIST (Xiao 2017): 28 x 28 grey pixels, 10 classes, 50,000 / 10,000 / 10,000 images.

    The idx files, compressed or not, are looked for in torchvision's folder ``FashionMNIST/raw``, in ``fashion-mnist``
    (as in Debian's ``/usr/share/datasets``), and in the data root itself.
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


def cifar10(place: DataRoot) -> Data:
    """CIFAR-10 (Krizhevsky 2009): 32 x 32 colour pixels, 10 classes, 41,667 / 8,333 / 10,000 images."""
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, place)


def cifar100(place: DataRoot) -> Data:
    """CIFAR-100 (Krizhevsky 2009): 32 x 32 colour pixels, 100 classes, 41,667 / 8,333 / 10,000 images."""
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, place)


def imagenet(place: DataRoot, size: int) -> Data:
    """ImageNet (Deng 2009): 1000 classes; ``test`` is the validation set, ``search`` is cut from the training set.

    Raises:
        RunError: If there are neither folders ``train`` and ``val`` nor the archives that torchvision unpacks.
    """
    from torchvision.datasets import ImageNet

    root = next((p for p in (place.root, place.root / "imagenet") if (p / "val").is_dir()), place.root)
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        try:
            for split in ("train", "val"):
                ImageNet(str(root), split)  # unpacks its archives
        except (OSError, RuntimeError) as error:
            raise RunError(
                f"imagenet: {root} has no folders train and val and cannot get them ({' '.join(str(error).split())}); "
                "it may not be downloaded freely: name a folder that has them with --data-root DIR"
            ) from None
    return read_folder(root, val_is_test=True).data(size, 3)


class Shape(NamedTuple):
    """Shape of a data set's images (channels, side length in pixels) and number of classes."""

    channels: int
    size: int
    classes: int


SHAPES = {
    "digits": Shape(1, 8, 10),
    "fashion_mnist": Shape(1, 28, 10),
    "cifar10": Shape(3, 32, 10),
    "cifar100": Shape(3, 32, 100),
    "imagenet": Shape(3, 224, 1000),
}

DATA: dict[str, Callable[[DataRoot], Data]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}


def _cifar(name: str, kind: Any, place: DataRoot) -> Data:
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
    name: str, place: DataRoot, part: Callable[[str], Split | None], download: Callable[[], object], files: str
) -> Data:
    """Load a data set with official training and test parts, and cut ``search`` from the former.

    Raises:
        RunError: If the files are missing and cannot be downloaded.
    """
    if place.download and (part("train") is None or part("test") is None):
        _download(name, place, download, files)
    train, test = part("train"), part("test")
    if train is None or test is None:
        raise RunError(f"{name}: {place.root} lacks {files}; put them there, or name their folder with --data-root")
    fit, search = stratified(train.labels, SEARCH_SHARE)
    return Data(train.take(fit), train.take(search), test)


def _download(name: str, place: DataRoot, download: Callable[[], object], files: str) -> None:
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
    """Path of an idx file or of its compressed form; ``None`` if there is neither."""
    return next((found for found in (path, path.with_name(f"{path.name}.gz")) if found.is_file()), None)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an array of bytes in the idx format of MNIST (LeCun 1998), compressed or not.

    Args:
        path: Path of the file.
        dimensions: Expected number of dimensions.

    Raises:
        RunError: If the file is damaged or of another kind.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise RunError(f"{path}: cannot be read ({error}); download it again") from None
    magic, header = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions  # 8: unsigned bytes
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4")) if len(content) >= header else ()
    if content[:4] != magic or len(content) - header != math.prod(shape):
        raise RunError(f"{path}: is not a complete idx file of {dimensions} dimensions; download it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
