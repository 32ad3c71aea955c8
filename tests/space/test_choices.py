"""Spaces of named choices, without a network: search, front and files work on them, too."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from apq_tune import (
    CandidateError,
    Configuration,
    Constraint,
    Front,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    SearchSpace,
    SpaceError,
    TableError,
    cost_models,
    load_cost_table,
    search,
)
from apq_tune.space.files import load_network_space
from apq_tune.space.flat_encoding import FlatEncoding

CHOICES = {"width": [8, 16, 32], "activation": ["relu", "gelu"], "rate": [0.1, 0.01, 0.001, 0.0001]}
SPACE = SearchSpace.from_choices(CHOICES, "mine")
ENCODING = FlatEncoding(SPACE)


def test_every_candidate_is_enumerated_once_and_comes_back() -> None:
    genomes = ENCODING.enumerate()
    candidates = ENCODING.decode(genomes)
    assert {candidate.values for candidate in candidates} == {
        tuple(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())
    }
    assert len(candidates) == ENCODING.size() == 24
    np.testing.assert_array_equal(ENCODING.encode(candidates), genomes)
    assert [Configuration.from_dict(candidate.to_dict()) for candidate in candidates] == candidates


def test_features_are_one_hot_and_tell_all_candidates_apart() -> None:
    features = ENCODING.features(ENCODING.enumerate())
    assert features.shape == (24, 3 + 2 + 4)
    assert (features.sum(axis=1) == 3).all()
    assert len(np.unique(features, axis=0)) == 24


def cost(candidates: list[Configuration]) -> list[float]:
    return [float(candidate["width"]) * (2 if candidate["activation"] == "gelu" else 1) for candidate in candidates]


def gain(candidates: list[Configuration]) -> list[float]:
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
        ENCODING.encode([Configuration((("width", 9), ("activation", "relu"), ("rate", 0.1)))])
    with pytest.raises(CandidateError, match="candidate 0: has choices"):
        ENCODING.encode([Configuration((("width", 8),))])


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"a": 5}, r"mine: a is 5; give a list of values, such as \[5\]"),
        ({"a": "abc"}, r"a is 'abc'; give a list of values, such as \['abc'\]"),
        ({"a": {1, 2}}, r"a is \{1, 2\}; give a list of values"),
        ({"a": {"x": 1}}, "a is {'x': 1}; give a list of values"),
        ({1: [2]}, "the name 1 is not text; files hold names as text only: give '1'"),
        ({"": [2]}, "the name '' is not text"),
        (
            {"a": [1.0, float("nan")]},
            "a: nan cannot be the value of a choice; give a finite number, or text such as 'nan'",
        ),
        ({"a": [np.inf]}, "a: inf cannot be the value of a choice"),
        ({"a": [{"x": 1}]}, "a: {'x': 1} is a dict; values are numbers, text, true or false, or lists of these"),
        ({"a": [b"x"]}, "a: b'x' is a bytes; values are"),
        ({"a": [1, True]}, "a has a value twice: True"),
        ({"a": [[1, 1], (1, 1)]}, r"a has a value twice: \(1, 1\)"),
        ({"a": range(70_000)}, "a has 70000 values; give at most 32767"),
        ([1, 2], "choices are a list; give names with their values"),
        (None, "choices are a NoneType; give names with their values"),
    ],
)
def test_what_no_file_could_hold_is_refused(choices: object, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        SearchSpace.from_choices(choices, "mine")  # type: ignore[arg-type]


ODD = {
    "width": np.arange(8, 40, 8),
    "rate": np.array([0.1, 0.25], np.float32),
    "stride": [(1, 1), [2, 2], np.array([1, 2])],
    "op": np.array(["none", "conv"]),
    "None": [None, "None", "nan", ""],
    "flag": [np.bool_(True), False],
    "nested": [((1, 2), "a"), [[1, 3], "a"]],
}


def test_values_of_all_kinds_are_the_same_after_every_way_through_a_file(tmp_path: Path) -> None:
    space = SearchSpace.from_choices(ODD, "odd")
    encoding = FlatEncoding(space)
    problem = Problem(space, [Objective(FunctionMetric("m", "", lambda genomes: genomes[:, 0] * 1.0))])
    front = search(problem, n_evaluations=50)
    front.save(tmp_path / "new" / "folder" / "front.json")
    assert Front.load(tmp_path / "new" / "folder" / "front.json").candidates == front.candidates
    genomes = encoding.enumerate()[:: encoding.size() // 50]
    candidates = encoding.decode(genomes)
    read = [Configuration.from_dict(json.loads(candidate.to_json())) for candidate in candidates]
    assert read == candidates
    np.testing.assert_array_equal(encoding.encode(read), genomes)
    for text, suffix in ((json.dumps(space.to_dict()), "json"), (yaml.safe_dump(space.to_dict()), "YAML")):
        (tmp_path / f"choices.{suffix}").write_text(text)
        again = SearchSpace.load(tmp_path / f"choices.{suffix}")
        assert again == space
    for candidate in candidates:
        assert space.from_config(json.loads(json.dumps(space.to_config(candidate)))) == candidate


def test_true_is_not_one() -> None:
    encoding = FlatEncoding(SearchSpace.from_choices({"a": [0, 1, 2], "b": [False, True]}))
    assert encoding.encode([Configuration((("a", 1), ("b", True)))]).tolist() == [[1, 1]]
    for a, b, said in ((True, True, r"a is True; choose one of \[0, 1, 2\]"), (1, 1, "b is 1; choose one of")):
        with pytest.raises(CandidateError, match=said):
            encoding.encode([Configuration((("a", a), ("b", b)))])
        with pytest.raises(CandidateError, match="config: "):
            encoding.space.from_config({"a": a, "b": b})
    with pytest.raises(CandidateError, match=r"config: a: \{\} is a dict"):
        encoding.space.from_config({"a": {}, "b": True})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"choices": {"a": [1, 1]}}', "c.json: c: a has a value twice"),
        ('{"choices": {"a": 1}}', "c.json: c: a is 1; give a list"),
        ('{"choices": [1]}', r"c.json: choices are \[1\]; give names with lists of values"),
        ('{"choices": null}', "c.json: choices are None"),
        ('{"name": 3, "choices": {"a": [1]}}', "c.json: name is 3; give text"),
        ('{"choices": {"a": [1], "a": [2]}}', 'c.json: line 1: key "a" comes twice'),
        ('{"choices": {"a": [NaN]}}', "c.json: is not valid JSON: NaN is not a JSON number"),
        ("[" * 100_000, "c.json: line 1: nested deeper"),
        ("[1]", "c.json: holds list, not a mapping"),
        ("", "c.json: is not valid JSON"),
    ],
)
def test_a_file_of_choices_is_refused_by_its_name(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(SpaceError, match=said):
        SearchSpace.load(tmp_path / "c.json")


def test_what_needs_a_network_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="mine: holds named choices and no network"):
        NetworkEncoding(SPACE)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="'mine' has no network whose costs could be counted"):
        cost_models(ENCODING)
    content = json.dumps(SPACE.to_dict())
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(SpaceError, match=r"c\.json: holds named choices and no network to train"):
        load_network_space(tmp_path / "c.json")
    (tmp_path / "t.csv").write_text("op,latency_ms\nfixed,1\n")
    with pytest.raises(TableError, match=r"t\.csv: prices the blocks of networks, mine holds named choices"):
        load_cost_table(tmp_path / "t.csv").models(ENCODING)
    with pytest.raises(SpaceError, match="'digits' is not a search space; give one, such as"):
        NetworkEncoding("digits")  # type: ignore[arg-type]
