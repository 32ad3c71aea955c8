"""The folder of a fleet, and searches that go on from their checkpoints; without Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apq_tune import Evolution, FunctionMetric, NetworkEncoding, Objective, Problem, RunError, search
from apq_tune.searchers import Searching
from apq_tune.store.digests import Digests
from apq_tune.store.folder import digest
from apq_tune.studies.fleet import Fleet, finish


class Dying:
    """A metric that kills its search when it has scored so many candidates."""

    def __init__(self, encoding: NetworkEncoding, after: float = np.inf) -> None:
        self.scored, self._after = 0, after
        self._weights = np.random.default_rng(3).normal(size=encoding.n_genes)

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        self.scored += len(genomes)
        if self.scored > self._after:
            raise InterruptedError
        return np.sin(genomes @ self._weights)


def begin(encoding: NetworkEncoding, metric: Dying) -> Searching:
    return Searching(Problem(encoding, [Objective(FunctionMetric("m", "", metric))]), n_evaluations=4000, seed=2)


def test_a_search_whose_worker_dies_goes_on_from_its_checkpoint_to_the_same_end(
    encoding: NetworkEncoding, tmp_path: Path
) -> None:
    whole = begin(encoding, Dying(encoding))
    finish(whole, tmp_path / "none.npz")
    assert not (tmp_path / "none.npz").exists()
    with pytest.raises(InterruptedError):
        finish(begin(encoding, Dying(encoding, after=2500)), tmp_path / "a.npz", seconds=0)
    metric = Dying(encoding)
    resumed = begin(encoding, metric)
    finish(resumed, tmp_path / "a.npz", seconds=0)
    assert 1500 <= metric.scored < 4000
    assert resumed.front().to_json() == whole.front().to_json()


@pytest.mark.parametrize("content", [b"", b"PK rubbish"])
def test_a_damaged_checkpoint_costs_time_and_nothing_else(
    encoding: NetworkEncoding, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    metric = Dying(encoding)
    searching = begin(encoding, metric)
    finish(searching, tmp_path / "a.npz")
    assert metric.scored == 4000
    expected = search(searching.problem, Evolution(), n_evaluations=4000, seed=2)
    assert searching.front().to_json() == expected.to_json()


def test_a_folder_is_used_when_it_is_new_or_empty_or_of_the_same_question(tmp_path: Path) -> None:
    basis = {"seeds": 2, "limits": [("a", 1.0)]}
    Fleet(tmp_path / "new", "sweep", basis)
    Fleet(tmp_path / "new", "sweep", basis)
    Digests(tmp_path / "new").write("items/a.json", '{"n": 1}')
    assert Fleet(tmp_path / "new", "sweep", basis).finished() == {"a": {"n": 1}}
    (tmp_path / "empty").mkdir()
    Fleet(tmp_path / "empty", "sweep", basis)
    assert json.loads((tmp_path / "empty/fleet.json").read_text())["basis"]["seeds"] == 2


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Fleet(out, "sweep", {"seeds": 2})
    before = (out / "fleet.json").read_bytes()
    with pytest.raises(RunError, match="is a sweep whose seeds is 2, not 3; repeat what it began with"):
        Fleet(out, "sweep", {"seeds": 3})
    with pytest.raises(RunError, match="is a sweep, not a comparison; choose another --out"):
        Fleet(out, "comparison", {"seeds": 2})
    assert (out / "fleet.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(RunError, match="mine: exists and is not a sweep; choose another --out"):
        Fleet(tmp_path / "mine", "sweep", {})
    with pytest.raises(RunError, match=r"cannot reach a Ray cluster at '127.0.0.1:1'"):
        Fleet(tmp_path / "far", "sweep", {}, address="127.0.0.1:1")
    assert not (tmp_path / "far").exists()


def test_a_damaged_result_is_named_and_the_others_stay(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "sweep", {})
    for name in "abc":
        Digests(tmp_path).write(f"items/{name}.json", "{}")
    (tmp_path / "items/b.json").write_text('{"n": 1}')
    (tmp_path / "items/foreign.json").write_text("{}")
    fleet = Fleet(tmp_path, "sweep", {})
    with pytest.raises(RunError, match=r"b\.json: is damaged .*; delete it, the same command does that"):
        fleet.finished()
    (tmp_path / "items/b.json").unlink()
    assert set(fleet.finished()) == {"a", "c"}


def test_digests_tell_contents_and_names_apart(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    whole = digest(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    renamed = digest(tmp_path)
    (tmp_path / "c").write_text("2")
    assert len({whole, renamed, digest(tmp_path), digest(tmp_path / "a"), digest(tmp_path / "c")}) == 5
    assert digest(None) is None
