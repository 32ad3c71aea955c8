"""Pareto arithmetic against definitions written out as loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from apq_tune.problem.pareto import constrained_rank, crowding_distance, hypervolume, is_non_dominated

few_values = st.integers(0, 4).map(float)  # few, so that ties and duplicates are common
tables = st.integers(1, 3).flatmap(
    lambda m: hnp.arrays(np.float64, st.tuples(st.integers(1, 14), st.just(m)), elements=few_values)
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return all(a <= b) and any(a < b)


def ranks_by_peeling(F: np.ndarray) -> list[int]:
    ranks: dict[int, int] = {}
    for rank in itertools.count():
        rest = [i for i in range(len(F)) if i not in ranks]
        if not rest:
            return [ranks[i] for i in range(len(F))]
        front = [i for i in rest if not any(dominates(F[j], F[i]) for j in rest)]
        ranks |= dict.fromkeys(front, rank)
    raise AssertionError


@given(tables)
def test_is_non_dominated_marks_the_rows_that_no_row_dominates(F: np.ndarray) -> None:
    expected = [not any(dominates(other, row) for other in F) for row in F]
    assert is_non_dominated(F).tolist() == expected


def test_all_duplicates_of_an_optimal_row_are_marked() -> None:
    F = np.array([[1, 2], [2, 1], [1, 2], [2, 2], [1, 3], [1, 2]], float)
    assert is_non_dominated(F).tolist() == [True, True, True, False, False, True]


def test_single_objective_marks_every_minimum() -> None:
    assert is_non_dominated(np.array([[3.0], [1], [2], [1]])).tolist() == [False, True, False, True]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_no_rows_give_no_marks(m: int) -> None:
    assert is_non_dominated(np.zeros((0, m))).tolist() == []


@given(tables)
def test_rank_without_constraints_is_found_by_peeling_fronts(F: np.ndarray) -> None:
    assert constrained_rank(F, np.zeros((len(F), 0))).tolist() == ranks_by_peeling(F)


@given(tables, st.data())
def test_rank_puts_feasible_rows_first_and_infeasible_ones_by_their_violation(
    F: np.ndarray, data: st.DataObject
) -> None:
    G = data.draw(hnp.arrays(np.float64, (len(F), 2), elements=st.integers(-2, 2).map(float)))
    rank = constrained_rank(F, G)
    feasible = [all(row <= 0) for row in G]
    violation = [sum(max(g, 0) for g in row) for row in G]
    assert sorted(set(rank)) == list(range(len(set(rank))))
    assert rank[feasible].tolist() == ranks_by_peeling(F[feasible])
    for i, j in itertools.product(range(len(F)), repeat=2):
        if feasible[i] and not feasible[j]:
            assert rank[i] < rank[j]
        if not feasible[i] and not feasible[j]:
            assert (rank[i] < rank[j]) == (violation[i] < violation[j])


def crowding_by_definition(F: np.ndarray) -> list[float]:
    """Of distinct values in each objective, so that a row's neighbours are certain."""
    distances = []
    for i, row in enumerate(F):
        distance = 0.0
        for k, value in enumerate(row):
            column = sorted(F[:, k])
            below = [v for v in column if v < value]
            above = [v for v in column if v > value]
            if not below or not above:
                distance = np.inf
            else:
                distance += (above[0] - below[-1]) / (column[-1] - column[0])
        distances.append(distance)
        assert len(below) + len(above) == len(F) - 1, i
    return distances


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_crowding_distance_follows_the_definition(m: int, n: int, rng: np.random.Generator) -> None:
    F = rng.normal(size=(n, m))
    np.testing.assert_allclose(crowding_distance(F), crowding_by_definition(F), rtol=1e-12)


def test_crowding_distance_of_an_evenly_spaced_line() -> None:
    F = np.array([[0.0, 40], [1, 30], [2, 20], [3, 10], [4, 0]])[[3, 0, 2, 4, 1]]
    assert crowding_distance(F).tolist() == [1.0, np.inf, 1.0, np.inf, 1.0]


def test_crowding_distance_survives_an_objective_with_one_value() -> None:
    distances = crowding_distance(np.array([[1.0, 0], [1, 1], [1, 2], [1, 3]]))
    assert not np.isnan(distances).any()


@given(tables, st.integers(1, 5))
def test_hypervolume_counts_the_unit_cells_that_are_dominated(F: np.ndarray, side: int) -> None:
    cells = itertools.product(range(side), repeat=F.shape[1])
    n_dominated = sum(any(all(row <= cell) for row in F) for cell in cells)
    assert hypervolume(F, np.full(F.shape[1], float(side))) == pytest.approx(n_dominated, abs=1e-9)


def test_hypervolume_of_rows_that_do_not_dominate_the_reference_is_zero() -> None:
    assert hypervolume(np.array([[1.0, 0], [0, 2]]), np.array([1.0, 1.0])) == 0.0
    assert hypervolume(np.zeros((0, 2)), np.array([1.0, 1.0])) == 0.0
