"""Signs, limits and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apq_tune import (
    NSGA2,
    Constraint,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    SearchSpace,
    parse_constraint,
    search,
)
from apq_tune.cost import bit_ops, macs

small = FunctionMetric("small", "s", lambda genomes: np.arange(1.0, len(genomes) + 1))
large = FunctionMetric("large", "l", lambda genomes: 10.0 * np.arange(len(genomes)))


def test_minimised_objectives_keep_their_sign_and_maximised_ones_change_it(tiny: NetworkEncoding) -> None:
    problem = Problem(tiny, [Objective(small), Objective(large, "maximize")])
    evaluation = problem.evaluate(tiny.enumerate()[:3])
    assert evaluation.F.tolist() == [[1, 0], [2, -10], [3, -20]]
    assert evaluation.metrics.tolist() == [[1, 0], [2, 10], [3, 20]]


@pytest.mark.parametrize(
    ("sense", "bound", "expected"),
    [
        ("<=", 2.0, [-0.5, 0.0, 0.5]),
        (">=", 2.0, [0.5, 0.0, -0.5]),
        ("<=", -2.0, [1.5, 2.0, 2.5]),
        ("<=", 0.0, [1.0, 2.0, 3.0]),
        (">=", 0.0, [-1.0, -2.0, -3.0]),
    ],
)
def test_violation_is_positive_where_the_bound_is_missed_as_a_share_of_it(
    tiny: NetworkEncoding, sense: str, bound: float, expected: list[float]
) -> None:
    problem = Problem(tiny, [Objective(large)], [Constraint(small, bound, sense)])  # type: ignore[arg-type]
    evaluation = problem.evaluate(tiny.enumerate()[:3])
    assert evaluation.G.tolist() == [[value] for value in expected]
    assert evaluation.feasible.tolist() == [value <= 0 for value in expected]


def test_a_candidate_is_feasible_only_if_it_keeps_all_constraints(tiny: NetworkEncoding) -> None:
    problem = Problem(tiny, [Objective(small)], [Constraint(small, 3), Constraint(large, 10, ">=")])
    assert problem.evaluate(tiny.enumerate()[:4]).feasible.tolist() == [False, True, True, False]


def test_without_constraints_everything_is_feasible(tiny_space: SearchSpace, everything: np.ndarray) -> None:
    evaluation = Problem(tiny_space, [Objective(small)]).evaluate(everything[:4])
    assert evaluation.G.shape == (4, 0)
    assert evaluation.feasible.all()


def test_a_metric_that_is_named_several_times_is_evaluated_once(tiny: NetworkEncoding, everything: np.ndarray) -> None:
    calls = []

    def count(genomes: np.ndarray) -> np.ndarray:
        calls.append(len(genomes))
        return np.ones(len(genomes))

    shared = FunctionMetric("shared", "", count)
    problem = Problem(tiny, [Objective(small), Objective(shared)], [Constraint(shared, 2)], also=[shared, large])
    problem.evaluate(everything[:7])
    assert calls == [7]
    assert [metric.name for metric in problem.metrics] == ["small", "shared", "large"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_naming_metric_and_candidate(tiny: NetworkEncoding, value: float) -> None:
    genomes = tiny.enumerate()[:3]
    broken = FunctionMetric("broken", "", lambda _: np.array([1.0, value, value]))
    with pytest.raises(ProblemError) as error:
        Problem(tiny, [Objective(small)], also=[broken]).evaluate(genomes)
    assert "broken" in str(error.value)
    assert str(value) in str(error.value)
    assert str(tiny.decode(genomes)[1]) in str(error.value)


@pytest.mark.parametrize("shape", [(), (2,), (3, 1)])
def test_a_wrong_shape_is_refused_with_both_shapes(tiny: NetworkEncoding, shape: tuple[int, ...]) -> None:
    broken = FunctionMetric("broken", "", lambda _: np.zeros(shape))
    with pytest.raises(ProblemError, match=r"broken returned shape \(.*\) for 3 genomes; return \(n,\)"):
        Problem(tiny, [Objective(broken)]).evaluate(tiny.enumerate()[:3])


def test_two_metrics_of_one_name_are_refused(tiny: NetworkEncoding) -> None:
    other = FunctionMetric("small", "s", lambda genomes: np.zeros(len(genomes)))
    for arguments in (
        ([Objective(small), Objective(other)],),
        ([Objective(small)], [Constraint(other, 1)]),
        ([Objective(small)], [], [other]),
    ):
        with pytest.raises(ProblemError, match="two different metrics are called 'small'; rename one"):
            Problem(tiny, *arguments)


def test_no_objective_is_refused(tiny: NetworkEncoding) -> None:
    with pytest.raises(ProblemError, match="at least one objective"):
        Problem(tiny, [], [Constraint(small, 1)])


def test_unknown_directions_senses_and_bounds_are_refused() -> None:
    with pytest.raises(ProblemError, match="direction of small is 'max'; use 'minimize' or 'maximize'"):
        Objective(small, "max")  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="constraint on small uses '<'; use '<=' or '>='"):
        Constraint(small, 1, "<")  # type: ignore[arg-type]
    for bound in (np.nan, np.inf):
        with pytest.raises(ProblemError, match=f"bound of small is {bound}; give a finite number"):
            Constraint(small, bound)


@pytest.mark.parametrize(("sense", "end", "step"), [("<=", 0, -1), (">=", 1, 1)])
def test_a_bound_out_of_reach_is_refused_with_the_smallest_and_the_largest_value(
    tiny: NetworkEncoding, everything: np.ndarray, sense: str, end: int, step: int
) -> None:
    metric = bit_ops(tiny)
    ends = metric(everything).min(), metric(everything).max()
    Problem(tiny, [Objective(small)], [Constraint(metric, ends[end], sense)])  # type: ignore[arg-type]
    with pytest.raises(ProblemError) as error:
        Problem(tiny, [Objective(small)], [Constraint(metric, ends[end] + step, sense)])  # type: ignore[arg-type]
    message = str(error.value)
    assert f"no candidate reaches bit_ops {sense}" in message
    assert f"from {ends[0]:.6g} to {ends[1]:.6g} BitOps" in message


def test_a_bound_on_a_metric_of_unknown_range_is_taken_as_it_is(tiny: NetworkEncoding) -> None:
    Problem(tiny, [Objective(small)], [Constraint(small, -1e9)])


@pytest.mark.parametrize(
    ("text", "name", "sense", "bound"),
    [
        ("macs<=2e6", "macs", "<=", 2e6),
        ("  bit_ops  >= 1000 ", "bit_ops", ">=", 1000),
        ("macs <= 25%", "macs", "<=", 50.0),
        ("macs >= 12.5%", "macs", ">=", 25.0),
        ("macs <= 150%", "macs", "<=", 300.0),
        ("macs <= -1", "macs", "<=", -1),
    ],
)
def test_parse_constraint_reads_numbers_and_percentages_of_the_reference(
    tiny: NetworkEncoding, text: str, name: str, sense: str, bound: float
) -> None:
    metrics = [macs(tiny), bit_ops(tiny)]
    constraint = parse_constraint(text, metrics, {"macs": 200.0})
    assert constraint.metric is metrics[name == "bit_ops"]
    assert (constraint.sense, constraint.bound) == (sense, bound)


@pytest.mark.parametrize("text", ["", "macs", "macs < 3", "macs = 3", "macs <=", "<= 3"])
def test_parse_constraint_refuses_what_is_no_comparison(tiny: NetworkEncoding, text: str) -> None:
    with pytest.raises(ProblemError, match=r"cannot read constraint .*write METRIC<=NUMBER"):
        parse_constraint(text, [macs(tiny)])


def test_parse_constraint_refuses_an_unknown_metric_with_the_known_ones(tiny: NetworkEncoding) -> None:
    with pytest.raises(ProblemError, match=r"unknown metric 'mac' in .*known: macs, bit_ops"):
        parse_constraint("mac <= 3", [macs(tiny), bit_ops(tiny)])


@pytest.mark.parametrize("number", ["much", "2e", "x%", "%", "25%%", "3 4", "3 <= 4", "1,000", "0x10"])
def test_parse_constraint_refuses_what_is_no_number(tiny: NetworkEncoding, number: str) -> None:
    with pytest.raises(ProblemError, match=r"cannot read 'macs <= .*(not a finite number|not a unit of|plain number)"):
        parse_constraint(f"macs <= {number}", [macs(tiny)], {"macs": 200.0})


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_parse_constraint_refuses_numbers_that_are_not_finite(tiny: NetworkEncoding, number: str) -> None:
    with pytest.raises(ProblemError, match="not a finite number"):
        parse_constraint(f"macs <= {number}", [macs(tiny)])


@pytest.mark.parametrize("reference", [None, {}, {"bit_ops": 100.0}])
def test_parse_constraint_refuses_a_percentage_of_nothing(
    tiny: NetworkEncoding, reference: dict[str, float] | None
) -> None:
    with pytest.raises(ProblemError, match="25%"):
        parse_constraint("macs <= 25%", [macs(tiny)], reference)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _, __: Objective(lambda genomes: genomes), "an objective needs a metric.*make one with FunctionMetric"),
        (lambda _, __: Constraint("m", 3.0), "a constraint needs a metric, got 'm'"),
        (lambda _, m: Constraint(m, True), "bound of m is True; give a finite number"),
        (lambda _, m: Constraint(m, "20000"), "bound of m is '20000'; give a finite number"),
        (lambda s, m: Problem(s, Objective(m)), "objectives of a problem come as a list"),
        (lambda s, m: Problem(s, [m]), "objectives of a problem are Objective"),
        (lambda s, m: Problem(s, [Objective(m)], ["m<=3"]), "constraints of a problem are Constraint"),
        (lambda s, m: Problem(s, [Objective(m), Objective(m)]), "m is an objective twice; give it once"),
        (
            lambda s, m: search(Problem(s, [Objective(m)]), "nsga"),
            "algorithm is 'nsga'; give one of 'evolution', 'nsga2'",
        ),
        (lambda s, m: search(Problem(s, [Objective(m)]), NSGA2), "or an object such as NSGA2"),
        (lambda s, m: search(Problem(s, [Objective(m)]), seed=2**64), "seed: give a whole number from 0 to 4294967295"),
        (lambda s, m: search(Problem(s, [Objective(m)]), islands=10**6), "islands: give a whole number from 1 to"),
    ],
)
def test_what_is_no_problem_is_told_with_the_remedy(make: Any, said: str) -> None:
    metric = FunctionMetric("m", "", lambda genomes: genomes.sum(axis=1) * 1.0)
    with pytest.raises(ProblemError, match=said):
        make(SearchSpace.from_choices({"a": [1, 2, 3], "b": [1, 2]}), metric)


def test_an_algorithm_by_name_and_a_count_with_an_exponent() -> None:
    metric = FunctionMetric("m", "", lambda genomes: genomes.sum(axis=1) * 1.0)
    problem = Problem(SearchSpace.from_choices({"a": [1, 2, 3], "b": [1, 2]}), [Objective(metric)])
    by_name, by_object = search(problem, "nsga2", n_evaluations=1e3), search(problem, NSGA2(), n_evaluations=1000)
    assert by_name.to_json() == by_object.to_json()
