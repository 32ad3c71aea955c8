"""Exact choices against brute force, against published allocations, and where no choice keeps the budgets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apq_tune import ProblemError
from apq_tune.searchers.integer_program import exact_choice, greedy_choice
from apq_tune.searchers.program import Budget, Table

BITS = (4, 8)


def brute_force(losses: list[np.ndarray], budgets: list[Budget]) -> float:
    """Least loss of all choices that keep the budgets; infinite if there is none."""
    best = np.inf
    for choice in itertools.product(*(range(len(own)) for own in losses)):
        if all(budget.cost(np.array(choice)) <= budget.bound for budget in budgets):
            best = min(best, sum(own[i] for own, i in zip(losses, choice, strict=True)))
    return best


def drawn(seed: int) -> tuple[list[np.ndarray], list[Budget]]:
    """Random program over four variables: tables over one to three of them, forbidden entries, one or two costs."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, 4)
    losses = [rng.normal(size=n) for n in sizes]
    budgets = []
    for name in ("one", "two")[: rng.integers(1, 3)]:
        tables = []
        for n in (1, 2, 3):
            for _ in range(2):
                variables = tuple(int(v) for v in rng.permutation(4)[:n])
                values = rng.random([sizes[v] for v in variables]) * 10 ** float(rng.integers(0, 9))
                values[rng.random(values.shape) < 0.1] = np.inf
                tables.append(Table(variables, values))
        fixed = float(rng.normal())
        some = [Budget(name, 0.0, tuple(tables), fixed).cost(rng.integers(0, sizes)) for _ in range(4)]
        budgets.append(Budget(name, min(*some, 1e9), tuple(tables), fixed))
    return losses, budgets


@given(st.integers(0, 10**6))
def test_the_choice_is_the_best_of_all_choices_or_there_is_none(seed: int) -> None:
    losses, budgets = drawn(seed)
    best = brute_force(losses, budgets)
    if best == np.inf:
        with pytest.raises(ProblemError, match=r"the least reachable is|relax one"):
            exact_choice(losses, budgets)
        return
    choice = exact_choice(losses, budgets)
    assert all(budget.cost(choice) <= budget.bound for budget in budgets)
    assert sum(own[i] for own, i in zip(losses, choice, strict=True)) == pytest.approx(best, rel=1e-5, abs=1e-5)


def test_several_sums_of_one_name_bound_the_largest_of_them() -> None:
    losses = [np.array([1.0, 0.0])] * 2
    sums = [Table((0,), np.array([1.0, 5.0])), Table((1,), np.array([2.0, 3.0]))]
    peak = [Budget("peak", 4.0, (table,)) for table in sums]
    assert exact_choice(losses, peak).tolist() == [0, 1]
    with pytest.raises(ProblemError, match=r"no bits keep peak<=1; the least reachable is 2, relax the bound"):
        exact_choice(losses, [budget._replace(bound=1.0) for budget in peak])


def test_budgets_that_exclude_each_other_name_what_is_reachable_within_the_first() -> None:
    losses = [np.zeros(2)]
    one, two = Table((0,), np.array([1.0, 2.0])), Table((0,), np.array([20.0, 10.0]))
    with pytest.raises(ProblemError, match="no bits keep flash<=10 with ram<=1; the least reachable is 20"):
        exact_choice(losses, [Budget("ram", 1.0, (one,)), Budget("flash", 10.0, (two,))])


def test_a_bound_that_is_met_exactly_is_kept_and_one_below_it_is_not_at_a_billion() -> None:
    """The solver's tolerance must not let a cost pass that is over the bound by one part in a billion."""
    losses = [np.array([1.0, 0.0])] * 8
    tables = tuple(Table((v,), np.array([1e9, 2e9 + v])) for v in range(8))
    for choice in ([1] * 8, [1] * 7 + [0]):
        bound = Budget("bytes", 0.0, tables).cost(np.array(choice))
        assert exact_choice(losses, [Budget("bytes", bound, tables)]).sum() == sum(choice)
        below = exact_choice(losses, [Budget("bytes", bound - 1, tables)])
        assert Budget("bytes", 0.0, tables).cost(below) <= bound - 1


def test_greedy_choice_keeps_the_budgets_and_is_not_better_than_the_exact_one() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        losses = [np.sort(rng.random(4))[::-1] for _ in range(6)]
        tables = tuple(Table((v,), np.sort(rng.random(4))) for v in range(6))
        budget = Budget("bytes", 2.5, tables)
        try:
            greedy = greedy_choice(losses, [budget])
        except ProblemError:
            continue
        exact = exact_choice(losses, [budget])
        assert budget.cost(greedy) <= 2.5
        assert (
            sum(o[i] for o, i in zip(losses, exact, strict=True))
            <= sum(o[i] for o, i in zip(losses, greedy, strict=True)) + 1e-6
        )


def test_the_18_published_allocations_of_hawq_v3_are_found_and_one_is_improved(
    shared_data: Callable[[str], Path],
) -> None:
    better = []
    for network, own in json.loads(shared_data("hawq/hawq_v3_ilp.json").read_text()).items():
        tables = {name: np.array(values) for name, values in own["tables"].items()}
        layers = np.arange(len(own["layers"]))
        for one, other in own["equal_bits_pairs"]:
            layers[other] = layers[one]
        variables, variable_of = np.unique(layers, return_inverse=True)

        def rows(values: np.ndarray, n: int = len(variables), of: np.ndarray = variable_of) -> list[np.ndarray]:
            """Rows of layers that share their bits, added."""
            total = np.zeros((n, 2))
            np.add.at(total, of, values)
            return list(total)

        trace = tables["Hutchinson_trace"]
        changes = np.stack([tables["delta_weights_4bit_square"], tables["delta_weights_8bit_square"]], 1)
        losses = rows(trace[:, None] * changes)
        costs = {
            "modelsize": np.outer(tables["parameters"], BITS),
            "bops": np.outer(tables["bops"], np.square(BITS)),
            "latency": np.stack([tables["latency_int4"], tables["latency_int8"]], 1),
        }
        for name, published in own["published_bits"].items():
            kind, share = name.split("_")
            low, high = costs[kind].sum(0)
            parts = tuple(Table((v,), row) for v, row in enumerate(rows(costs[kind])))
            budget = Budget(kind, low + float(share) * (high - low), parts)
            choice = exact_choice(losses, [budget])
            theirs = np.array([BITS.index(bits) for bits in published])[np.unique(variable_of, return_index=True)[1]]
            assert budget.cost(theirs) <= budget.bound
            loss = [sum(row[i] for row, i in zip(losses, one, strict=True)) for one in (choice, theirs)]
            assert loss[0] <= loss[1] + 1e-12
            if choice.tolist() != theirs.tolist():
                better.append((network, name))
    assert better == [("resnet50", "modelsize_0.25")]
