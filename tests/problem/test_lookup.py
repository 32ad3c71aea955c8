"""Tables of measured candidates as they occur: names that look like nothing, other metrics, rows that are not there."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apq_tune import ProblemError, TableError
from apq_tune.problem.lookup import describe_estimates, load_lookup


def table(**columns: object) -> pd.DataFrame:
    rows = itertools.product(["None", "NA", "nan"], [1, 2, 4], [0.5, 1.0])
    frame = pd.DataFrame(rows, columns=["op", "width", "rate"])
    merit = frame["width"] + 10.0 * frame["op"].map({"None": 0, "NA": 1, "nan": 2}) + frame["rate"]
    return frame.assign(merit=merit, cost=frame["width"] * 3, **columns)


def written(frame: pd.DataFrame, path: Path, **how: object) -> Path:
    frame.to_csv(path, **({"index": False} | how))  # type: ignore[call-overload]
    return path


@pytest.mark.parametrize("how", [{}, {"index": True}, {"sep": ";"}])
def test_names_that_look_like_nothing_are_names_and_an_index_is_none(tmp_path: Path, how: dict[str, object]) -> None:
    problem = load_lookup(written(table(), tmp_path / "t.csv", **how), ["merit"], ["cost"])
    assert problem.encoding.space.choices == {"op": ("None", "NA", "nan"), "width": (1, 2, 4), "rate": (0.5, 1.0)}
    genomes = problem.encoding.enumerate()
    np.testing.assert_array_equal(-problem.evaluate(genomes).F[:, 0], table()["merit"])
    assert describe_estimates(problem) == ""


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (np.linspace(1, 2, 18), r"column 'second' has 18 values in 18 rows, .* give --ignore second, or --choice"),
        (np.arange(18) // 1.5, "column 'second' has 12 values in 18 rows"),
        (np.arange(100, 118), "column 'second' has 18 values"),
        (np.arange(18) % 3, "column 'second' has 3 values in 18 rows"),
    ],
)
def test_a_second_metric_is_told_and_may_be_ignored_by_name(tmp_path: Path, second: np.ndarray, said: str) -> None:
    path = written(table(second=second), tmp_path / "t.csv")
    with pytest.raises(TableError, match=said):
        load_lookup(path, ["merit"], ["cost"])
    for how in ({"ignore": ["second"]}, {"choices": ["op", "width", "rate"]}, {"constraints": ["second<=1e9"]}):
        problem = load_lookup(path, ["merit"], ["cost"], **how)  # type: ignore[arg-type]
        assert tuple(problem.encoding.space.choices) == ("op", "width", "rate")


def test_limits_are_kept(tmp_path: Path) -> None:
    path = written(table(energy=np.arange(18) % 3), tmp_path / "t.csv")
    problem = load_lookup(path, ["merit"], [], constraints=["cost<=6", "energy=1"])
    scores = problem.evaluate(problem.encoding.enumerate())
    np.testing.assert_array_equal(scores.feasible, (table()["cost"] <= 6) & (np.arange(18) % 3 <= 1))
    with pytest.raises(ProblemError, match="cannot read"):
        load_lookup(path, ["merit"], [], constraints=["cost<=many"], ignore=["energy"])
    with pytest.raises(TableError, match="has no column 'price'; it has op, width"):
        load_lookup(path, ["merit"], [], constraints=["price<=3"])


def test_what_was_not_measured_is_answered_as_asked_and_said_so(tmp_path: Path) -> None:
    whole = table()
    part = whole.drop(index=[0, 7])
    path = written(part, tmp_path / "t.csv")
    with pytest.raises(TableError, match=r"has no row for op=None, width=1, rate=0.5 .*or --missing nearest, gp or"):
        load_lookup(path, ["merit"], ["cost"])
    nearest = load_lookup(path, ["merit"], ["cost"], missing="nearest")
    assert describe_estimates(nearest) == (
        "16 of 18 combinations of op, width, rate are measured; the others are estimated by the nearest measured one"
    )
    names = {key: i for i, key in enumerate(zip(whole["op"], whole["width"], whole["rate"], strict=True))}
    genomes = nearest.encoding.enumerate()
    rows = [names[tuple(dict(c.values)[n] for n in ("op", "width", "rate"))] for c in nearest.encoding.decode(genomes)]
    found = dict(zip(rows, -nearest.evaluate(genomes).F[:, 0], strict=True))
    for row, value in whole["merit"].items():
        if row in part.index:
            assert found[row] == value
    assert found[0] == whole["merit"][2]  # half a step of width is nearer than another rate or op
    for missing in ("gp", "ridge"):
        fitted = load_lookup(path, ["merit"], ["cost"], missing=missing)  # type: ignore[arg-type]
        said = dict(zip(rows, -fitted.evaluate(genomes).F[:, 0], strict=True))
        assert all(said[row] == whole["merit"][row] for row in part.index)
        assert [said[0], said[7]] == pytest.approx([whole["merit"][0], whole["merit"][7]], abs=3)
        assert "the others are estimated by a surrogate fitted to the rows" in describe_estimates(fitted)


def test_a_row_twice_and_a_choice_that_is_an_objective_are_refused(tmp_path: Path) -> None:
    path = written(pd.concat([table(), table()[3:4]]), tmp_path / "t.csv")
    with pytest.raises(TableError, match="rows 4 and 19 are the same candidate"):
        load_lookup(path, ["merit"], ["cost"], missing="nearest")
    with pytest.raises(TableError, match="'cost' is an objective; do not name it as a choice"):
        load_lookup(path, ["merit"], ["cost"], choices=["cost"])
