"""``apq-tune run --data FOLDER`` as a user would: from PNG files to a front, and again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from apq_tune import ApqError, SearchSpace, load_run
from apq_tune.cli import cli
from apq_tune.pipeline.run import PipelineRun

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("serial")]

CHANGES = {
    "supernet.epochs": 1,
    "supernet.augment": "crop",
    "quantized.epochs": 1,
    "n_fp32": 10,
    "n_proxy": 10,
    "n_pairs": 10,
    "pair.images": 32,
    "folds": 2,
    "final.epochs": 1,
    "n_evaluations": 200,
    "n_front": 1,
}


def draw(path: Path, rng: np.random.Generator) -> None:
    """25 crosses and 25 squares of differing sizes, in colour."""
    for name in ("cross", "square"):
        (path / name).mkdir(parents=True)
        for k in range(25):
            side = int(rng.integers(8, 10))
            image = Image.fromarray(rng.integers(0, 80, (side, side, 3), dtype=np.uint8))
            pen, (x, y) = ImageDraw.Draw(image), map(int, rng.integers(0, 3, 2))
            if name == "square":
                pen.rectangle([x, y, x + 5, y + 5], outline=(255, 255, 255))
            else:
                pen.line([x, y, x + 5, y + 5], fill=(255, 255, 255))
                pen.line([x, y + 5, x + 5, y], fill=(255, 255, 255))
            image.save(path / name / f"{k}.png")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, serial: None) -> tuple[Path, Path]:
    """The folder and the run directory."""
    base = tmp_path_factory.mktemp("own")
    draw(base / "shapes", np.random.default_rng(0))
    settings = [f"--set={name}={value}" for name, value in CHANGES.items()]
    arguments = ["run", "--data", str(base / "shapes"), f"--out={base / 'run'}", "--num-cpus=1", *settings]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.exception
    assert "best" in result.stdout
    assert "train: 30 images to train on, 15 of each class; what is left of all images" in result.stdout
    return base / "shapes", base / "run"


def test_a_run_on_a_folder_ends_with_test_accuracies_of_its_own_images(done: tuple[Path, Path]) -> None:
    folder, out = done
    table = pd.read_csv(out / "results.csv")
    assert set(np.round(table["test_accuracy"] * 10, 6)) <= set(range(11))  # of ten test images
    space = SearchSpace.load(out / "space.yaml")
    assert (space.name, space.data, space.classes, space.input.channels) == ("digits", str(folder), 2, 3)
    record = json.loads((out / "run.json").read_text())
    assert record["taken"][0] == f"images: {folder}, 2 classes: cross, square"
    assert record["taken"][-1].startswith("space: digits, 8 pixels, nearest to the images' ")
    settings = record["settings"]
    assert settings["quantized"]["augment"] == "crop_flip"  # the default for colour
    assert settings["supernet"]["augment"] == "crop"


def test_its_directory_is_all_that_goes_on_from_it_needs(done: tuple[Path, Path]) -> None:
    run = load_run(done[1])
    assert run.space.data == str(done[0])
    assert [len(part.labels) for part in run.supernet.data] == [30, 10, 10]
    assert run.supernet.calibration.shape == (30, 3, 8, 8)


def test_the_same_images_are_not_trained_on_again_and_other_ones_are(done: tuple[Path, Path]) -> None:
    folder, out = done

    class Heard:
        def __init__(self) -> None:
            self.notes: dict[str, str] = {}

        def planned(self, seconds: object, concurrency: int) -> None: ...

        def stage(self, name: str, number: int, total: int) -> None: ...

        def advance(self, stage: str, done: int, total: int) -> None: ...

        def finished(self, name: str, seconds: float, note: str) -> None:  # noqa: ARG002
            self.notes[name] = note

    space = SearchSpace.load(out / "space.yaml")
    heard = Heard()
    PipelineRun(space, None, out, changes=CHANGES, num_cpus=1, listener=heard).run()
    assert set(heard.notes.values()) == {"already done"}
    copy = folder.with_name("copy")
    with pytest.raises(ApqError, match=r"is a run on .*shapes, not on .*copy; choose another --out"):
        draw(copy, np.random.default_rng(1))
        PipelineRun(space.model_copy(update={"data": str(copy)}), None, out, changes=CHANGES)
    (folder / "cross" / "0.png").unlink()
    with pytest.raises(ApqError, match=r"shapes: its images are not those that .*run was trained on; put those back"):
        _ = load_run(out).supernet
    PipelineRun(space, None, out, changes=CHANGES, listener=heard).run_until("supernet")
    assert heard.notes["supernet"] == "done again: the images changed"
