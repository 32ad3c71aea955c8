"""The example on EfficientNet-Lite0: what it does before and after networks are measured, which takes too long here."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from apq_tune import RunError

FILE = Path(__file__).parents[1] / "examples" / "efficientnet_lite0.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("efficientnet_lite0", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # where its dataclasses look for their names
        spec.loader.exec_module(module)
    return module


def photo(path: Path, colour: int, size: tuple[int, int] = (300, 280)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 255 - colour)).save(path, quality=95)


def test_images_of_a_folder_and_of_a_zip_file_are_the_same_in_the_same_order(
    example: ModuleType, tmp_path: Path
) -> None:
    for number in range(6):
        photo(tmp_path / "all" / f"n{number}" / f"{40 * number:04d}.jpg", 40 * number)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (tmp_path / "all").rglob("*.jpg"):
            archive.write(path, path.relative_to(tmp_path / "all"))
    images, classes = example.read_images(tmp_path / "all")
    again, same = example.read_images(tmp_path / "all.zip")
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(classes, same)
    assert images.shape == (6, 3, 224, 224) and sorted(classes) == [0, 40, 80, 120, 160, 200]
    assert np.abs(images[:, 0, 100, 100].astype(int) - classes).max() <= 3  # each image with its class
    assert np.abs(example.as_inputs(images).numpy()[:, 0, 9, 9] - (images[:, 0, 9, 9] - 127.0) / 128).max() < 1e-6


def test_names_that_are_no_classes_and_too_few_images_are_refused(example: ModuleType, tmp_path: Path) -> None:
    photo(tmp_path / "cat.jpg", 0)
    with pytest.raises(RunError, match=r"the name of cat\.jpg is no class from 0 to 999; name images INDEX\.jpg"):
        example.read_images(tmp_path)
    (tmp_path / "cat.jpg").unlink()
    photo(tmp_path / "1.jpg", 0)
    with pytest.raises(RunError, match="has 1 images"):
        example.read_images(tmp_path)


def test_mcnemar_counts_only_images_on_which_two_networks_differ(example: ModuleType) -> None:
    one = np.array([1, 1, 1, 1, 1, 1, 0, 0, 1, 0], bool)
    other = np.array([0, 0, 0, 0, 0, 1, 0, 0, 1, 0], bool)
    assert example.mcnemar(one, other) == pytest.approx(2 / 2**5)
    assert example.mcnemar(one, one) == 1


def test_results_are_shown_and_drawn_with_and_without_costs(example: ModuleType, tmp_path: Path) -> None:
    rows = [{"limited": "", "like": "", "bits": "full precision", "accuracy": 0.9, "n": 8}]
    for limited in ("weight_bytes", "bit_ops"):
        for like, cost in (("w4a8", 1e6), ("w5a8", 2e6)):
            own = {"limited": limited, "like": like, "weight_bytes": cost, "bit_ops": cost * 1e3, "n": 8}
            rows += [own | {"bits": "uniform", "accuracy": 0.5}, own | {"bits": "mixed", "accuracy": 0.75, "p": 0.03}]
    console = Console(record=True, width=120)
    example.show(pd.DataFrame(rows), console)
    text = console.export_text()
    assert "0.750" in text and "0.03" in text and "nan" not in text
    example.draw(pd.DataFrame(rows), tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").size[0] > 500
