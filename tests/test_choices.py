"""Spaces of named choices, without a network: search, front and files work on them, too."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from apq_tune import (
    CandidateError,
    Choice,
    Constraint,
    Front,
    FunctionMetric,
    Objective,
    Problem,
    SearchSpace,
    SpaceError,
    search,
)
from apq_tune.choices import ChoiceEncoding

CHOICES = {"width": [8, 16, 32], "activation": ["relu", "gelu"], "rate": [0.1, 0.01, 0.001, 0.0001]}
SPACE = SearchSpace.from_choices(CHOICES, "mine")
ENCODING = ChoiceEncoding(SPACE)


def test_every_candidate_is_enumerated_once_and_comes_back() -> None:
    genomes = ENCODING.enumerate()
    candidates = ENCODING.decode(genomes)
    assert {candidate.values for candidate in candidates} == {
        tuple(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())
    }
    assert len(candidates) == ENCODING.size() == 24
    np.testing.assert_array_equal(ENCODING.encode(candidates), genomes)
    assert [Choice.from_dict(candidate.to_dict()) for candidate in candidates] == candidates


def test_features_are_one_hot_and_tell_all_candidates_apart() -> None:
    features = ENCODING.features(ENCODING.enumerate())
    assert features.shape == (24, 3 + 2 + 4)
    assert (features.sum(axis=1) == 3).all()
    assert len(np.unique(features, axis=0)) == 24


def cost(candidates: list[Choice]) -> list[float]:
    return [float(candidate["width"]) * (2 if candidate["activation"] == "gelu" else 1) for candidate in candidates]


def gain(candidates: list[Choice]) -> list[float]:
    return [c + 1 / float(candidate["rate"]) for c, candidate in zip(cost(candidates), candidates, strict=True)]


def test_search_finds_the_exact_front_of_metrics_on_candidates_and_the_front_survives_its_file(tmp_path: Path) -> None:
    price = FunctionMetric.of_candidates("price", "", cost, SPACE)
    worth = FunctionMetric.of_candidates("worth", "", gain, SPACE)
    problem = Problem(SPACE, [Objective(worth, "maximize"), Objective(price)], [Constraint(price, 32)])
    front = search(problem, n_evaluations=1000)
    assert sorted(set(front.metrics["price"])) == [8, 16, 32]
    assert {candidate["rate"] for candidate in front.candidates} == {0.0001}
    front.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json").candidates == front.candidates


def test_evolution_works_on_a_space_too_large_to_enumerate() -> None:
    space = SearchSpace.from_choices({f"x{i}": range(10) for i in range(12)})
    target = np.arange(12) % 10
    distance = FunctionMetric("distance", "", lambda genomes: np.abs(genomes - target).sum(axis=1).astype(float))
    front = search(Problem(space, [Objective(distance)]), n_evaluations=8000, seed=0)
    assert front.metrics["distance"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("choices", "said"), [({}, "no choices"), ({"a": []}, "a has no values"), ({"a": [1, 1]}, "a has a value twice")]
)
def test_choices_that_make_no_space_are_refused(choices: dict[str, list[int]], said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        SearchSpace.from_choices(choices)


def test_candidates_of_another_space_are_refused() -> None:
    with pytest.raises(CandidateError, match="candidate 0: width is 9; choose one of"):
        ENCODING.encode([Choice((("width", 9), ("activation", "relu"), ("rate", 0.1)))])
    with pytest.raises(CandidateError, match="candidate 0: has choices"):
        ENCODING.encode([Choice((("width", 8),))])
