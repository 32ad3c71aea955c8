"""Folders of images: layouts that work, layouts that do not, and how images become tensors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apq_tune import SearchSpace
from apq_tune.data import FileSplit, Split, data_digest, load_data, space_for
from apq_tune.data import folder as folder_module
from apq_tune.data.folder import read_folder
from apq_tune.errors import ApqError, RunError
from apq_tune.supernet.batches import batches, first_images


def write(path: Path, counts: dict[str, int], *, size: tuple[int, int] = (8, 8), mode: str = "L", tag: int = 0) -> None:
    """Images whose grey level tells class, tag and number."""
    for i, (name, n) in enumerate(counts.items()):
        (path / name).mkdir(parents=True, exist_ok=True)
        for k in range(n):
            Image.new("L", size, 80 * i + 20 * tag + k).convert(mode).save(path / name / f"{k}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "pets", {"cat": 20, "dog": 10})
    return tmp_path / "pets"


def test_a_flat_folder_is_split_by_class_the_same_every_time(folder: Path) -> None:
    found, again = read_folder(folder), read_folder(folder)
    assert found.classes == ("cat", "dog")
    assert [np.bincount(part.labels).tolist() for part in found.parts] == [[12, 6], [4, 2], [4, 2]]
    files = [file for part in found.parts for file in part.files]
    assert len(set(files)) == 30
    assert files == [file for part in again.parts for file in part.files]
    assert all(Path(f).parent.name == found.classes[y] for part in found.parts for f, y in zip(*part, strict=True))


def test_folders_named_train_val_and_test_are_taken_as_they_are(tmp_path: Path) -> None:
    for tag, (part, n) in enumerate({"train": 18, "val": 4, "test": 3}.items()):
        write(tmp_path / part, {"cat": n, "dog": n}, tag=tag)
    parts = read_folder(tmp_path).parts
    assert [{Path(f).parents[1].name for f in part.files} for part in parts] == [{"train"}, {"val"}, {"test"}]
    assert len(set(parts[0].labels[:8])) == 2  # shuffled: the first images calibrate
    shutil.rmtree(tmp_path / "test")
    assert [len(part.labels) for part in read_folder(tmp_path).parts] == [28, 8, 8]
    shutil.rmtree(tmp_path / "val")
    write(tmp_path / "test", {"cat": 3, "dog": 3})
    assert [len(part.labels) for part in read_folder(tmp_path).parts] == [30, 6, 6]


def spoil_empty(path: Path) -> None:
    (path / "mouse").mkdir()


def spoil_one_class(path: Path) -> None:
    shutil.rmtree(path / "dog")


def spoil_flat(path: Path) -> None:
    shutil.move(path / "cat" / "0.png", path / "0.png")
    shutil.rmtree(path / "cat")
    shutil.rmtree(path / "dog")


def spoil_few(path: Path) -> None:
    write(path, {"mouse": 3})


def spoil_test(path: Path) -> None:
    write(path / "train", {"cat": 6, "dog": 6})
    write(path / "test", {"cat": 6, "cow": 6})


def spoil_image(path: Path) -> None:
    (path / "cat" / "3.png").write_text("no image")


def spoil_end_of_image(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path / "cat" / "3.png")
    (path / "cat" / "3.png").write_bytes((path / "cat" / "3.png").read_bytes()[:2000])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "pets: is not a folder; give a folder DIR with DIR/CLASS/IMAGE"),
        (spoil_empty, "pets/mouse: holds no images"),
        (spoil_one_class, "pets: has one class alone, 'cat'"),
        (spoil_flat, "pets: has images, but none in a folder of its class"),
        (spoil_few, "class 'mouse' has 3 images; to cut search and test from it, give it at least 5"),
        (spoil_test, "pets/test: class 'cow' is in only one of it and "),
        (spoil_image, "cat/3.png: is not a readable image"),
        (spoil_end_of_image, "cat/3.png: is not a readable image"),
    ],
)
def test_wrong_layouts_are_told_in_one_line(folder: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    with pytest.raises(RunError) as caught:
        load_data(space_for(str(folder)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_images_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no images \(\.jpg, "):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("side", "name"),
    [
        (8, "digits"),
        (30, "mobilenet_cifar"),
        (28, "mobilenet_fashion_mnist"),
        (64, "mobilenet_cifar"),
        (120, "apq_mobilenet"),
    ],
)
def test_the_space_is_the_one_of_the_nearest_size(tmp_path: Path, side: int, name: str) -> None:
    write(tmp_path, {"a": 5, "b": 5, "c": 5}, size=(side, side + 9), mode="RGB")
    chosen = space_for(str(tmp_path))
    assert (chosen.name, chosen.classes, chosen.input.channels) == (name, 3, 3)
    assert chosen.data == str(tmp_path)
    mine = space_for(str(tmp_path), SearchSpace.load("mobilenet_fashion_mnist"))
    assert (mine.name, mine.input.size, mine.input.channels) == ("mobilenet_fashion_mnist", (20, 24, 28), 3)


def test_a_named_set_can_be_put_into_another_space() -> None:
    assert space_for("cifar100").classes == 100
    with pytest.raises(ApqError, match=r"images of digits are 1 x 8 x 8"):
        load_data(space_for("digits", SearchSpace.load("mobilenet_cifar")))


def test_images_of_any_size_become_the_square_in_the_middle(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(5):
            pixels = np.zeros((8, 24 if k else 12), np.uint8)
            pixels[:, pixels.shape[1] // 2 - 4 : pixels.shape[1] // 2 + 4] = 200  # the middle; black at both sides
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
    data = load_data(space_for(str(tmp_path), SearchSpace.load("digits")))
    assert all((part.images == 200).all() for part in data)
    data = load_data(space_for(str(tmp_path), SearchSpace.load("mobilenet_fashion_mnist_14")))
    assert data.train.shape == (1, 14, 14)
    assert data.train.images[:, :, :, 3:11].min() == 200


def test_files_decoded_batch_by_batch_are_the_images_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_for(str(folder))
    memory = load_data(space).train
    monkeypatch.setattr(folder_module, "IN_MEMORY", 0)
    lazy = load_data(space).train
    assert isinstance(memory, Split)
    assert isinstance(lazy, FileSplit)
    order = np.random.default_rng(0).permutation(len(lazy.labels))
    for (x, y), (other, labels) in zip(batches(lazy, order, 5), batches(memory, order, 5), strict=True):
        assert torch.equal(x, other)
        assert torch.equal(y, labels)
    assert torch.equal(first_images(lazy, 7), first_images(memory, 7))
    Path(lazy.files[order[1]]).write_text("gone")
    with pytest.raises(RunError, match=r"png: is not a readable image"):
        list(batches(lazy, order, 5))


@pytest.mark.parametrize("lazily", [True, False])
def test_augmentation_differs_from_image_to_image_and_depends_on_the_seed_and_the_number_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lazily: bool
) -> None:
    ramp = np.tile(np.arange(16, dtype=np.uint8) * 10, (16, 1))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(15):
            Image.fromarray(ramp).save(tmp_path / name / f"{k}.png")
    monkeypatch.setattr(folder_module, "IN_MEMORY", 0 if lazily else 2**30)
    split = load_data(space_for(str(tmp_path), SearchSpace.load("mobilenet_fashion_mnist_14"))).train
    order = np.arange(18)

    def seen(seed: int, first: int = 0) -> list[torch.Tensor]:
        return [x for x, _ in batches(split, order, 6, first=first, augment="crop_flip", seed=(seed,))]

    once = seen(0)
    assert len({image.numpy().tobytes() for batch in once for image in batch}) > 4
    assert any((image[0, 5].diff() < 0).any() for image in once[0])  # mirrored
    assert all(torch.equal(a, b) for a, b in zip(once[2:], seen(0, first=2), strict=True))
    assert not torch.equal(once[0], seen(1)[0])
    state = torch.get_rng_state()
    seen(0)
    assert torch.equal(state, torch.get_rng_state())


def test_the_digest_tells_when_images_come(folder: Path) -> None:
    space = space_for(str(folder))
    before = data_digest(space)
    assert before == data_digest(space)
    write(folder, {"cat": 21})
    assert data_digest(space) != before
    assert data_digest(SearchSpace.load("digits")) is None
