"""What of a folder counts: splits by their looks, classes, links, hidden files, odd names; and what is told of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from apq_tune import SearchSpace
from apq_tune.data import check_images, data_digest, load_data, space_for, taken
from apq_tune.data.folder import read_folder
from apq_tune.data.layout import role_of
from apq_tune.data.split import stratified
from apq_tune.errors import RunError

NUMBER = iter(range(10**9))


def fill(path: Path, *names: str, n: int = 6, kind: str = "png") -> None:
    """Folders with images that all differ."""
    for name in names:
        (path / name).mkdir(parents=True, exist_ok=True)
        for k in range(n):
            pixels = np.random.default_rng(next(NUMBER)).integers(0, 256, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(path / name / f"{k}.{kind}")


def lines(path: Path) -> str:
    return "\n".join(taken(space_for(str(path))))


ROLES = {
    "train": ("Train", "TRAINING", "training_set", "train-images", "trainset"),
    "search": ("VAL", "valid", "Validation", "validation set", "dev", "eval"),
    "test": ("Test", "testing", "test_set", "tst"),
    None: ("trains", "contest", "testament", "valley", "devil", "retrain", "attest", "evaluated"),
}


@pytest.mark.parametrize(("name", "role"), [(name, role) for role, names in ROLES.items() for name in names])
def test_what_looks_like_a_split(name: str, role: str | None) -> None:
    assert role_of(name) == role


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAINING", "testing"), ("training_set", "test_set")])
def test_splits_are_known_by_any_usual_name(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        fill(tmp_path / name, "cat", "dog")
    folder = read_folder(tmp_path)
    assert folder.classes == ("cat", "dog")
    assert {Path(file).parents[1].name for file in folder.parts[2].files} == {names[1]}
    assert [len(part.labels) for part in folder.parts] == [10, 2, 12]
    assert f"test: 12 images to report on, 6 of each class; folder {names[1]}" in lines(tmp_path)
    assert f"search: 2 images for every choice, 1 of each class; a sixth of folder {names[0]}, by class" in lines(
        tmp_path
    )


def no_train(path: Path) -> None:
    fill(path / "test", "cat", "dog")
    fill(path / "val", "cat", "dog")


def two_of_a_kind(path: Path) -> None:
    for name in ("train", "val", "validation"):
        fill(path / name, "cat", "dog")


def two_cases(path: Path) -> None:
    fill(path / "train", "cat", "dog")
    fill(path / "Train", "cat", "dog")


def classes_beside(path: Path) -> None:
    fill(path / "train", "cat", "dog")
    fill(path, "cat", "dog")


def split_beside_classes(path: Path) -> None:
    fill(path, "cat", "dog")
    fill(path / "test", "cat", "dog")


def flat_splits(path: Path) -> None:
    fill(path, "train", "test")


def around(path: Path) -> None:
    fill(path / "photos" / "train", "cat", "dog")
    fill(path / "photos" / "test", "cat", "dog")


def around_classes(path: Path) -> None:
    fill(path / "photos", "cat", "dog")


def splits_of_classes(path: Path) -> None:
    fill(path / "cat", "train", "test")
    fill(path / "dog", "train", "test")


def several_around(path: Path) -> None:
    for name in ("first", "second"):
        fill(path / name / "train", "cat", "dog")
        fill(path / name / "test", "cat", "dog")


def linked_split(path: Path) -> None:
    fill(path / "train", "cat", "dog")
    fill(path / "val", "cat", "dog")
    (path / "test").symlink_to("val")


def hard_links(path: Path) -> None:
    fill(path / "train", "cat", "dog")
    fill(path / "test", "cat", "dog")
    for k in range(2):
        os.link(path / "train" / "cat" / f"{k}.png", path / "test" / "cat" / f"again{k}.png")


def linked_class(path: Path) -> None:
    fill(path, "cat", "dog")
    (path / "mouse").symlink_to("cat")


def only_unknown(path: Path) -> None:
    fill(path, "cat", "dog")
    (path / "mouse").mkdir()
    for k in range(3):
        (path / "mouse" / f"{k}.heic").write_bytes(b"x")


def all_unknown(path: Path) -> None:
    (path / "cat").mkdir()
    (path / "cat" / "a.HEIC").write_bytes(b"x")


def odd_class(path: Path) -> None:
    fill(path, "cat", "dog", "caf\udce9")


def two_readings(path: Path) -> None:
    fill(path, "cafe\u0301", "caf\u00e9", "dog")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_train, "has test and val, which look like splits, and no folder train; name the folder"),
        (two_of_a_kind, "val and validation are both images for choices"),
        (two_cases, "Train and train are both images to train on"),
        (
            classes_beside,
            "has class cat beside train and in it; put all images to train on there, or give it alone: --data",
        ),
        (
            split_beside_classes,
            "has test, which look like splits, and no folder train; move cat, dog into a folder train",
        ),
        (flat_splits, "has images, but none in a folder of its class"),
        (around, "photos: holds test and train, which look like splits; give --data "),
        (
            around_classes,
            "has one class alone, 'photos'; classification needs two folders at least; if cat and dog are",
        ),
        (splits_of_classes, "cat: holds test and train, which look like splits of one class; move them to "),
        (several_around, "first: holds test and train, which look like splits; give --data"),
        (linked_split, "0.png, so it would be in two splits (12 files are in two places); remove it from one of them"),
        (hard_links, "so it would be in two splits (2 files are in two places)"),
        (linked_class, "so it would be in two classes"),
        (only_unknown, "mouse: holds no images but 3 files of kind .heic"),
        (all_unknown, "but files of kind .heic; give a folder DIR"),
        (odd_class, "caf\\xe9: its name is not UTF-8; rename the folder"),
        (two_readings, "has two folders that read 'caf\u00e9'"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path)
    with pytest.raises(RunError) as caught:
        read_folder(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_one_flat_folder_called_like_a_split_is_a_class_and_said_so(tmp_path: Path) -> None:
    fill(tmp_path, "bus", "car", "train")
    assert read_folder(tmp_path).classes == ("bus", "car", "train")
    assert "train has images but no subfolders, so it is taken as a class and not as a split" in lines(tmp_path)


def test_a_class_of_splits_may_be_called_like_a_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        fill(tmp_path / part, "train", "test", "other")
    (tmp_path / "val").mkdir()
    assert read_folder(tmp_path).classes == ("other", "test", "train")
    assert "val holds no images" in lines(tmp_path)


def test_what_lies_beside_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "train", "cat", "dog")
    fill(tmp_path, "test", "unlabelled")
    fill(tmp_path / "train", ".", n=2)
    (tmp_path / "train" / "cat" / "a.heic").write_bytes(b"x")
    (tmp_path / "train" / "cat" / "b.heic").write_bytes(b"x")
    (tmp_path / "train" / "dog" / "README").write_bytes(b"x")
    (tmp_path / "train" / "dog" / "gone.txt").symlink_to("nowhere")
    told = lines(tmp_path)
    assert "test beside train was not taken: 6 images, in no folder of a class" in told
    assert "unlabelled beside train was not taken: 6 images" in told
    assert "not taken: 2 images directly in" in told
    assert "1 file (special, or a link to nothing), 2 files of kind .heic, 1 file without a suffix" in told


def test_hidden_files_and_folders_never_count(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    before = read_folder(tmp_path)
    fill(tmp_path / "cat", ".ipynb_checkpoints", "__MACOSX", "@eaDir")
    fill(tmp_path / "__MACOSX", "cat", "dog")
    fill(tmp_path, ".git", ".thumbnails")
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "cat" / "._0.png")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    after = read_folder(tmp_path)
    assert after.files == before.files
    assert after.notes == ()


def test_a_link_to_its_own_parent_counts_each_image_once(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    before = read_folder(tmp_path)
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    os.link(tmp_path / "cat" / "0.png", tmp_path / "cat" / "same.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "all").symlink_to(tmp_path)
    assert len(read_folder(tmp_path).files) == len(before.files) == 12


def test_links_to_images_elsewhere_are_images(tmp_path: Path) -> None:
    fill(tmp_path / "pool", "all", n=12)
    for k in range(12):
        name = ("cat", "dog")[k % 2]
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name / f"{k}.png").symlink_to(tmp_path / "pool" / "all" / f"{k}.png")
    assert len(read_folder(tmp_path / "set").files) == 12


@pytest.mark.parametrize("kind", ["gif", "jfif", "jpe", "tif", "avif", "JPG", "qoi"])
def test_kinds_that_count(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, "cat", "dog")
    for name in ("cat", "dog"):
        for k in range(6):
            with Image.open(tmp_path / name / f"{k}.png") as image:
                image.convert("RGB").save(tmp_path / name / f"more{k}.{kind}", format="JPEG" if "j" in kind else None)
    assert len(read_folder(tmp_path).files) == 24
    load_data(space_for(str(tmp_path)))


def test_names_of_any_bytes(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "caf\udce9\n.png")
    before = data_digest(space_for(str(tmp_path)))
    assert before is not None
    assert len(load_data(space_for(str(tmp_path))).train.labels) == 6
    (tmp_path / "cat" / "caf\udce9\n.png").write_bytes(b"no image")
    with pytest.raises(RunError, match=r"caf\\xe9\\n\.png: is not a readable image"):
        data_digest(SearchSpace.load("digits").model_copy(update={"data": str(tmp_path)}))


@pytest.mark.parametrize("old", [True, False])  # only what is old enough is remembered
def test_the_digest_is_of_contents(tmp_path: Path, old: bool) -> None:
    fill(tmp_path, "cat", "dog", kind="bmp")

    def settle() -> None:
        for file in tmp_path.rglob("*.bmp"):
            os.utime(file, (1e9, 1e9)) if old else None

    settle()
    space = space_for(str(tmp_path))
    before = data_digest(space)
    assert data_digest(space) == before
    for file in tmp_path.rglob("*.bmp"):
        with Image.open(file) as image:
            inverted = ImageChops.invert(image)
        inverted.save(file)
    settle()
    assert data_digest(space) != before


def test_equal_images_in_two_parts_or_two_classes_are_counted(tmp_path: Path) -> None:
    for part in ("train", "test"):
        fill(tmp_path / part, "cat", "dog")
    for k in range(3):
        shutil.copy(tmp_path / "train" / "cat" / f"{k}.png", tmp_path / "test" / "cat" / f"copy{k}.png")
    shutil.copy(tmp_path / "test" / "dog" / "0.png", tmp_path / "test" / "cat" / "dog.png")
    told = lines(tmp_path)
    assert "images of test are in train, too, byte for byte" in told
    assert "1 images are in several classes" in told


@pytest.mark.parametrize(("classes", "n"), [(8, 5), (3, 5), (2, 6), (10, 7), (40, 5)])
@pytest.mark.parametrize("with_test", [True, False])
def test_few_images_of_each_class_are_split_so_that_all_parts_have_all_classes(
    tmp_path: Path, classes: int, n: int, with_test: bool
) -> None:
    place = tmp_path / "train" if with_test else tmp_path
    fill(place, *(f"c{i}" for i in range(classes)), n=n)
    if with_test:
        fill(tmp_path / "test", *(f"c{i}" for i in range(classes)), n=1)
    for part in read_folder(tmp_path).parts:
        assert set(part.labels) == set(range(classes))


def test_a_cut_of_enough_images_is_scikit_learns(tmp_path: Path) -> None:
    from sklearn.model_selection import train_test_split

    labels = np.repeat(np.arange(3), [40, 50, 60])
    expected = train_test_split(np.arange(150), test_size=0.25, stratify=labels, random_state=0)
    for found, known in zip(stratified(labels, 0.25), expected, strict=True):
        assert np.array_equal(found, known)


def test_what_was_taken_is_told(tmp_path: Path) -> None:
    fill(tmp_path, *(f"c{i:02}" for i in range(12)))
    fill(tmp_path, "c00", n=9)
    Image.new("RGBA", (16, 20)).save(tmp_path / "c01" / "0.png")
    told = taken(space_for(str(tmp_path)))
    assert told[0] == f"images: {tmp_path}, 12 classes: {', '.join(f'c{i:02}' for i in range(10))}, ..."
    assert told[1].startswith("train: 45 images to train on, from 3 (c0")
    assert told[4] == (
        "pixels: 1 in colour and 74 grey, shorter side 8 to 16, median 8; networks see the square in the middle, 8 x "
        "8, in colour"
    )
    assert "1 images may have transparent pixels" in told[5]
    assert taken(SearchSpace.load("digits")) == ()


def test_images_that_are_all_the_same_teach_nothing(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for k in range(6):
            Image.new("L", (8 + k, 8)).save(tmp_path / name / f"{k}.png")
    space = space_for(str(tmp_path))
    with pytest.raises(RunError, match="all images to train on are the same"):
        check_images(space, load_data(space))
