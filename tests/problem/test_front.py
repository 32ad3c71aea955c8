"""Fronts: what they keep, the way to a file and back, and what they say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apq_tune import Candidate, Constraint, Front, FunctionMetric, NetworkEncoding, Objective, Problem, RunError
from apq_tune.problem.front import Axis

VALUES = {  # of eight candidates
    "loss": [3.0, 1.0, 2.0, 2.0, 4.0, 0.5, 3.5, 1.0],
    "gain": [6.0, 2.0, 4.0, 3.0, 6.0, 9.0, 7.0, 2.0],
    "size": [1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0],
}
BEST = [1, 7, 2, 0, 6]  # by rising loss; 3 and 4 are dominated, 5 is too large
SIZE_AT_MOST = 5.0


@pytest.fixture
def genomes(tiny: NetworkEncoding) -> np.ndarray:
    return tiny.enumerate()[100:108]


@pytest.fixture
def problem(tiny: NetworkEncoding, genomes: np.ndarray) -> Problem:
    row = {genome.tobytes(): number for number, genome in enumerate(genomes)}
    metrics = {
        name: FunctionMetric(name, unit, lambda g, values=values: np.array([values[row[x.tobytes()]] for x in g]))
        for (name, values), unit in zip(VALUES.items(), ["nats", "points", "bytes"], strict=True)
    }
    return Problem(
        tiny,
        [Objective(metrics["loss"]), Objective(metrics["gain"], "maximize")],
        [Constraint(metrics["size"], SIZE_AT_MOST)],
    )


@pytest.fixture
def front(problem: Problem, genomes: np.ndarray) -> Front:
    provenance = {"space": "tiny", "constraints": ["size <= 5"], "seed": 0}
    return Front.from_evaluation(problem, genomes, problem.evaluate(genomes), provenance)


def test_a_front_keeps_exactly_the_feasible_non_dominated_rows_best_first(
    front: Front, tiny: NetworkEncoding, genomes: np.ndarray
) -> None:
    candidates = tiny.decode(genomes)
    assert list(front.candidates) == [candidates[i] for i in BEST]
    assert len(front) == len(BEST)
    for name, values in VALUES.items():
        assert front.metrics[name].tolist() == [values[i] for i in BEST]
    assert front.objectives == (Axis("loss", "nats", "minimize"), Axis("gain", "points", "maximize"))


def test_a_front_holds_a_candidate_that_was_evaluated_twice_only_once(problem: Problem, genomes: np.ndarray) -> None:
    genomes = genomes.copy()
    genomes[7] = genomes[1]
    front = Front.from_evaluation(problem, genomes, problem.evaluate(genomes), {})
    assert front.metrics["loss"].tolist() == [1.0, 2.0, 3.0, 3.5]


def test_a_front_of_a_maximised_first_objective_starts_with_its_largest_value(
    problem: Problem, genomes: np.ndarray
) -> None:
    turned = Problem(problem.encoding, problem.objectives[::-1], problem.constraints)
    front = Front.from_evaluation(turned, genomes, turned.evaluate(genomes), {})
    assert front.metrics["gain"].tolist() == [7.0, 6.0, 4.0, 2.0, 2.0]


def test_a_front_of_nothing_feasible_is_empty(problem: Problem, genomes: np.ndarray) -> None:
    strict = Problem(problem.encoding, problem.objectives, [Constraint(problem.constraints[0].metric, 0.5)])
    assert len(Front.from_evaluation(strict, genomes, strict.evaluate(genomes), {})) == 0


def test_save_and_load_give_back_all_of_it(front: Front, tmp_path: Path) -> None:
    front.save(tmp_path / "front.json")
    again = Front.load(tmp_path / "front.json")
    assert again.candidates == front.candidates
    assert again.objectives == front.objectives
    assert again.provenance == front.provenance
    pd.testing.assert_frame_equal(again.metrics, front.metrics, check_exact=True)
    pd.testing.assert_frame_equal(again.to_dataframe(), front.to_dataframe(), check_exact=True)


def test_values_survive_the_file_to_the_last_bit(front: Front, tmp_path: Path) -> None:
    exact = Front(front.candidates, front.metrics / 3 * 1e-7, front.objectives)
    exact.save(tmp_path / "front.json")
    assert (Front.load(tmp_path / "front.json").metrics == exact.metrics).all(axis=None)


@pytest.mark.parametrize("content", [b"", b"garbage", b"[1, 2]", b"null", b'{"format": 2}', b"{}", b"\xff\xfe\x00"])
def test_load_refuses_what_is_no_front_naming_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "front.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"front\.json: is (not a|an incomplete) "):
        Front.load(path)


def test_load_refuses_a_missing_file_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent\.json: is not a readable front"):
        Front.load(tmp_path / "absent.json")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_load_refuses_a_truncated_file(front: Front, tmp_path: Path, share: float) -> None:
    text = front.to_json()
    path = tmp_path / "front.json"
    path.write_text(text[: int(len(text) * share)])
    with pytest.raises(RunError, match=r"front\.json"):
        Front.load(path)


@pytest.mark.parametrize("key", ["objectives", "provenance", "metrics", "candidates"])
@pytest.mark.parametrize("how", ["missing", "of the wrong type"])
def test_load_refuses_a_front_with_a_part_that_is_missing_or_wrong(
    front: Front, tmp_path: Path, key: str, how: str
) -> None:
    data = json.loads(front.to_json())
    data[key] = 3
    if how == "missing":
        del data[key]
    path = tmp_path / "front.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"front\.json"):
        Front.load(path)


def test_load_refuses_a_front_with_fewer_rows_than_candidates(front: Front, tmp_path: Path) -> None:
    data = json.loads(front.to_json())
    del data["candidates"][0]
    path = tmp_path / "front.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"front\.json"):
        Front.load(path)


def test_to_dataframe_adds_the_candidates_as_text_and_as_json(front: Front) -> None:
    frame = front.to_dataframe()
    assert list(frame.columns) == ["loss", "gain", "size", "candidate", "candidate_json"]
    assert [Candidate.from_json(text) for text in frame["candidate_json"]] == list(front.candidates)
    assert frame["candidate"].tolist() == [str(candidate) for candidate in front.candidates]
    assert list(front.metrics.columns) == ["loss", "gain", "size"]


def test_plot_draws_all_points_and_labels_the_axes_with_metric_and_unit(front: Front) -> None:
    ax = front.plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("gain (points)", "loss (nats)")
    (line,) = ax.get_lines()
    assert line.get_xdata().tolist() == [2.0, 2.0, 4.0, 6.0, 7.0]
    assert line.get_ydata().tolist() == [1.0, 1.0, 2.0, 3.0, 3.5]


def test_plot_draws_where_and_how_it_is_told(front: Front) -> None:
    ax = front.plot()
    assert front.plot(ax, linestyle="none", label="again") is ax
    assert [line.get_linestyle() for line in ax.get_lines()] == ["-", "None"]
    assert ax.get_lines()[1].get_label() == "again"


def test_plot_needs_two_objectives(front: Front) -> None:
    with pytest.raises(ValueError, match=r"two objectives.*only loss"):
        Front(front.candidates, front.metrics, front.objectives[:1]).plot()


def test_hypervolume_is_the_area_of_a_staircase_in_raw_units(front: Front) -> None:
    # loss <= 5 and gain >= 1: steps at gain 2, 4, 6, 7 whose losses are 1, 2, 3, 3.5
    area = (2 - 1) * (5 - 1) + (4 - 2) * (5 - 2) + (6 - 4) * (5 - 3) + (7 - 6) * (5 - 3.5)
    assert front.hypervolume({"loss": 5.0, "gain": 1.0}) == pytest.approx(area, rel=1e-12)


def test_hypervolume_is_zero_where_the_reference_is_better_than_the_front(front: Front) -> None:
    assert front.hypervolume({"loss": 0.5, "gain": 1.0}) == 0.0


def test_hypervolume_needs_a_value_for_each_objective(front: Front) -> None:
    with pytest.raises(KeyError, match="gain"):
        front.hypervolume({"loss": 5.0})
