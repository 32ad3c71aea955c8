"""Data sets with a name: files in every layout, what is said if there are none, and the splits."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from apq_tune import SearchSpace
from apq_tune.data import load_data
from apq_tune.data.named import read_idx
from apq_tune.data.split import Split, pooled, stratified
from apq_tune.errors import RunError

FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """240 training and 40 test images of 28 x 28; the classes take turns."""
    rng = np.random.default_rng(0)
    found = {}
    for part, n in (("train", 240), ("t10k", 40)):
        found[f"{part}-images-idx3"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        found[f"{part}-labels-idx1"] = np.arange(n, dtype=np.uint8) % 10
    return found


@pytest.mark.parametrize("folder", [".", "FashionMNIST/raw", "fashion-mnist"])
@pytest.mark.parametrize("compressed", [True, False])
def test_fashion_mnist_is_found_in_every_layout(
    arrays: dict[str, np.ndarray], tmp_path: Path, folder: str, compressed: bool
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in FILES:
        content = idx(arrays[name])
        file = tmp_path / folder / f"{name}-ubyte{'.gz' if compressed else ''}"
        file.write_bytes(gzip.compress(content) if compressed else content)
    data = load_data(SearchSpace.load("mobilenet_fashion_mnist"), tmp_path)
    assert [len(part.labels) for part in data] == [200, 40, 40]
    assert np.array_equal(data.test.images[:, 0], arrays["t10k-images-idx3"])  # as it was, and nothing else
    train = {image.tobytes() for image in arrays["train-images-idx3"]}
    assert {image.tobytes() for part in data[:2] for image in part.images} == train
    assert [np.bincount(part.labels).tolist() for part in data] == [[20] * 10, [4] * 10, [4] * 10]
    small = load_data(SearchSpace.load("mobilenet_fashion_mnist_14"), tmp_path)
    assert np.array_equal(small.search.labels, data.search.labels)
    corner = data.search.images[0, 0, 26:, :2].astype(float).mean() / 255
    assert small.search.images[0, 0, 13, 0] == pytest.approx(corner)


def test_what_is_not_there_is_told_in_one_line(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading\nno network")

    space = SearchSpace.load("mobilenet_fashion_mnist")
    with pytest.raises(RunError, match=r"data root .*nowhere: is not a folder"):
        load_data(space, tmp_path / "nowhere")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", refuse)
    with pytest.raises(RunError, match=r"cannot be downloaded \(Error downloading no network\); put .* --data-root"):
        load_data(space, tmp_path)
    for name in FILES:
        (tmp_path / f"{name}-ubyte").write_bytes(idx(arrays[name])[:-1])
    with pytest.raises(RunError, match=r"train-images-idx3-ubyte: is not a complete idx file of 3 dimensions"):
        load_data(space, tmp_path)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(idx(arrays[FILES[1]]))[:-9])
    with pytest.raises(RunError, match=r"cut\.gz: cannot be read"):
        read_idx(tmp_path / "cut.gz", 1)


def test_splits_are_disjoint_stratified_and_the_same_every_time() -> None:
    labels = np.repeat(np.arange(3), [600, 60, 12])
    first, second = stratified(labels, 1 / 6)
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert np.bincount(labels[second]).tolist() == [100, 10, 2]
    again = stratified(labels, 1 / 6)
    assert np.array_equal(first, again[0])
    assert np.array_equal(second, again[1])
    assert len(set(labels[first[:60]])) > 1  # shuffled: the first images are of more than one class


def test_a_size_that_does_not_divide_is_refused() -> None:
    split = Split(np.zeros((1, 1, 28, 28), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(RunError, match="images of 28 pixels cannot be pooled to 12"):
        pooled(split, 12)
