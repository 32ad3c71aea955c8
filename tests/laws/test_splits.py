"""Laws of the three splits, on whole commands: train fits weights, search makes every choice, test tells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apq_tune.data import Data

pytestmark = pytest.mark.slow

OF_TEST_ALONE = {"means.csv", "tests.csv"}
"""Tables of test scores and nothing else."""

VOLATILE = {"seconds", "command", "seconds.csv", "sha256", "digests.sha256"}
"""Times, where a folder is, and digests of what has these in it."""

OF_JOURNALS = {"worker_id", "datetime_start", "datetime_complete"}
"""Keys of Optuna's journals that differ from one writing to the next."""


def reading(folder: Path) -> dict[str, Any]:
    """Name -> content of every file of a folder, and what was printed, less test scores, times and places."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("[!.]*")) if path.is_file()}
    return {
        name: _content(path, folder.parent)
        for name, path in files.items()
        if path.suffix != ".png" and path.name not in OF_TEST_ALONE | VOLATILE
    }


def _content(path: Path, folder: Path) -> Any:
    if path.suffix == ".json":
        return _less_test(json.loads(path.read_text().replace(str(folder), "")))
    if path.suffix == ".log":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [_less_test({key: line[key] for key in line if key not in OF_JOURNALS}) for line in lines]
    if path.suffix == ".html":  # shows test scores: the networks that it recommends are compared
        return re.findall(r"--(?:candidate|constraint) \S+", path.read_text())
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str)
        return table[[name for name in table if not name.startswith("test_")]].to_csv()
    return path.read_bytes()


def _less_test(value: Any) -> Any:
    if isinstance(value, dict):
        left = {k: v for k, v in value.items() if k not in VOLATILE and k != "test" and not k.startswith("test_")}
        digests = {k for k, v in left.items() if isinstance(v, str) and re.fullmatch(r"\S+\.(json|csv)", k)}
        left = {k: v for k, v in left.items() if k not in digests}  # their contents are compared
        return {name: _less_test(own) for name, own in left.items()}
    return [_less_test(own) for own in value] if isinstance(value, list) else value


def words(path: Path) -> list[str]:
    """What a command printed at its end, its numbers and places left out."""
    lines = path.with_name(f"{path.name}.txt").read_text().replace(str(path), "").splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("["))  # of a stage: before are times
    return [word for word in " ".join(lines[last + 1 :]).split() if not re.fullmatch(r"[-+(]*\d[\d.]*[%),]*", word)]


def test_the_test_split_changes_test_columns_and_nothing_else(world, data: Data, base, wrong, tmp_path: Path) -> None:
    """Its labels are all wrong now, so whatever it chose is another choice; all else repeats the run to the byte."""
    changed = data._replace(test=wrong(data.test))
    run = world.run(changed, tmp_path / "run")
    refined = world.refine(changed, run, tmp_path / "refine")
    compared = world.versus(changed, run, tmp_path / "versus")
    for before, after in ((base.run, run), (base.refine, refined), (base.versus, compared)):
        known, found = reading(before), reading(after)
        assert set(known) == set(found)
        assert [name for name in known if known[name] != found[name]] == []
        scores = [pd.read_csv(folder / "results.csv")["test_loss"].dropna().to_numpy() for folder in (before, after)]
        assert (scores[1] != scores[0]).all()
        assert scores[1].mean() > scores[0].mean() + 0.1
    for before, after in ((base.run, run), (base.refine, refined)):
        assert words(before) == words(after)


def test_the_search_split_trains_nothing(world, data: Data, base, wrong, tmp_path: Path) -> None:
    changed = data._replace(search=wrong(data.search))
    run = world.run(changed, tmp_path / "run")
    for name in ("1_supernet/weights.pt", "2_quantized_supernet/weights.pt"):
        assert (run / name).read_bytes() == (base.run / name).read_bytes(), name
    for name in ("3_fp32_losses", "4_proxy_losses", "5_qat_pairs"):
        before, after = (pd.read_csv(folder / name / "losses.csv") for folder in (base.run, run))
        assert before["candidate"].tolist() == after["candidate"].tolist()
        assert (before["loss"] != after["loss"]).all()
    before, after = (pd.read_csv(folder / "results.csv").set_index("candidate_json") for folder in (base.run, run))
    both = before.index.intersection(after.index)
    assert len(both) >= 2  # the largest network at its two widths
    for candidate in both:
        old, new = before.loc[candidate], after.loc[candidate]
        weights = (run / "9_finalists" / f"{new['name']}.pt").read_bytes()
        assert weights == (base.run / "9_finalists" / f"{old['name']}.pt").read_bytes()
        assert new[["test_loss", "test_accuracy"]].tolist() == old[["test_loss", "test_accuracy"]].tolist()
        assert new["search_loss"] != old["search_loss"]


def test_labels_of_the_train_split_change_everything_that_is_trained(world, data: Data, base, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).permutation(data.train.labels)
    run = world.run(data._replace(train=data.train._replace(labels=labels)), tmp_path / "run")
    names = {name for name in reading(base.run) if name.endswith((".pt", ".npz"))}
    assert {"1_supernet/weights.pt", "7_predictors/predictor.npz", "9_finalists/largest_8bit.pt"} <= names
    after = reading(run)
    assert [name for name in names if name in after and reading(base.run)[name] == after[name]] == []
    for name in ("3_fp32_losses", "4_proxy_losses", "5_qat_pairs"):
        old, new = (pd.read_csv(folder / name / "losses.csv") for folder in (base.run, run))
        assert old["candidate"].tolist() == new["candidate"].tolist()
        assert (old["loss"] < new["loss"]).mean() > 0.8  # what was learned is worth less on images with true labels


FINAL = re.compile(r"finalists-|raised|rung_2/|versus/")
"""Where the test split may be scored: finalists, the raised one, the last rung, the winners of a comparison."""


@pytest.mark.parametrize("command", ["run", "refine", "versus"])
def test_networks_are_trained_on_train_scored_on_search_and_told_of_test_at_the_end(base, data: Data, command) -> None:
    seen = base.seen(command)
    assert {split for own in seen if own.trained for split in own.splits} == {"train"}
    assert {split for own in seen if own.network == "Supernet" for split in own.splits} == {"train"}  # batch norm, too
    scored = [own for own in seen if own.network == "Subnet" and not own.trained]
    assert all(len(own.splits) == 1 for own in scored)
    assert {split for own in scored for split in own.splits if not FINAL.search(own.doing)} <= {"search"}
    assert {split for own in scored for split in own.splits} == {"search", "test"}


@pytest.mark.parametrize("command", ["run", "refine", "versus"])
def test_what_is_scored_or_calibrates_is_the_split_as_it_is(base, data: Data, n_search: int, command) -> None:
    """No augmentation, no image twice, none left out."""
    whole = {name: getattr(data, name).images for name in Data._fields}
    for own in base.seen(command):
        if not own.trained:
            (split,) = own.splits
            few = {"run": n_search, "refine": None, "versus": 60}[command]
            few = None if FINAL.search(own.doing) else few
            if not own.doing:  # before trials: an estimate of times, which has fewer
                few = calibrating = len(own.images)
            else:
                calibrating = 32  # n_calibration
            expected = whole[split][: few if own.network == "Subnet" else calibrating]
            np.testing.assert_array_equal(own.images, expected)
