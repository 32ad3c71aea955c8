"""Exact solutions of additive problems against all candidates of small spaces, and published allocations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apq_tune import (
    AdditiveMetric,
    ChoiceSpace,
    Constraint,
    Evolution,
    FunctionMetric,
    GeneTable,
    ModelSpace,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    SearchSpace,
    search,
    solve_exactly,
)
from apq_tune.problem.costs import Costs
from apq_tune.searchers import is_additive, program
from apq_tune.searchers.interactions import forbidden, interactions
from apq_tune.space.encodings import encoding_of
from apq_tune.space.measured import within
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import ResNet


def small_blocks() -> NetworkEncoding:
    """One block or two, forbidden combinations."""
    data = SearchSpace.load("digits").model_dump(mode="json", exclude_none=True)
    data["stages"] = [{"channels": 16, "stride": 1, "depth": [1, 2], "kernel_size": [3, 5]}]
    data["choices"] |= {"expand_ratio": {"min_ratio": 1, "max_ratio": 2, "step": 8}, "pw_w_bits": [2, 8]}
    data["choices"] |= {"pw_a_bits": [4, 8], "dw_w_bits": [4, 8], "dw_a_bits": [8]}
    data["forbidden"] = [{"pw_w_bits": 2, "pw_a_bits": 8}, {"kernel_size": 5, "dw_w_bits": 4}]
    return NetworkEncoding(SearchSpace.from_dict(data))


@pytest.fixture(scope="module", params=["blocks", "graph", "within"])
def encoding(request: pytest.FixtureRequest) -> Any:
    if request.param == "graph":
        fixed = {"layer2*": {"w_bits": [8], "a_bits": [8]}}
        graph = trace(ResNet(1, widths=(4, 4, 8)), torch.zeros(1, 3, 6, 6))
        return encoding_of(ModelSpace.of_graph(graph, w_bits=[4, 8], a_bits=[4, 8], step=4, genes=fixed))
    found = small_blocks()
    if request.param == "within":
        mask = np.arange(int(found.n_choices.max())) < found.n_choices[:, None]
        mask[found.names.index("1.1 pw_w_bits"), 0] = False
        return within(found, mask)
    return found


def loss_of(encoding: Any, seed: int = 0) -> AdditiveMetric:
    """Random losses of all genes."""
    rng = np.random.default_rng(seed)
    return AdditiveMetric.of_genes(
        "loss", "nats", encoding, {gene: rng.normal(size=n) for gene, n in enumerate(encoding.n_choices)}
    )


def test_the_optimum_within_limits_is_that_of_all_candidates(encoding: Any) -> None:
    every = encoding.enumerate()
    costs = Costs.of(encoding).metrics
    for seed, names in enumerate([("weight_bytes",), ("bit_ops", "weight_bytes"), ("peak_activation_bytes", "macs")]):
        if names[0].startswith("peak") and isinstance(encoding.space, ModelSpace):
            continue
        limits = [Constraint(costs[name], float(np.quantile(costs[name](every), 0.4))) for name in names]
        limits.append(Constraint(costs["bit_ops"], float(np.quantile(costs["bit_ops"](every), 0.05)), ">="))
        problem = Problem(encoding, [Objective(loss_of(encoding, seed))], limits)
        scores = problem.evaluate(every)
        front = solve_exactly(problem)
        assert len(front) == 1
        assert front.metrics["loss"][0] == pytest.approx(scores.F.min(), abs=1e-9)
        assert front.provenance["algorithm"] == "milp"
        assert problem.evaluate(encoding.encode(front.candidates)).feasible.all()


def test_the_front_is_that_of_all_candidates(encoding: Any) -> None:
    costs = Costs.of(encoding).metrics
    size, every = costs["weight_bytes"], encoding.enumerate()
    limit = Constraint(size, float(np.quantile(size(every), 0.03)))
    problem = Problem(encoding, [Objective(loss_of(encoding, 3)), Objective(size)], [limit])
    scores = problem.evaluate(every)
    every = scores.F[scores.feasible]
    best = [F for F in np.unique(every, axis=0) if not ((every <= F).all(1) & (every < F).any(1)).any()]
    found = solve_exactly(problem, points=None).metrics[["loss", "weight_bytes"]].to_numpy()
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], np.array(best), atol=1e-9)
    few = solve_exactly(problem, points=3)
    assert len(few) == 3 and {0, len(best) - 1} <= {
        int(np.argmin(np.abs(np.array(best) - row).sum(1))) for row in few.metrics[["loss", "weight_bytes"]].to_numpy()
    }


def test_three_objectives_and_a_maximised_one_give_points_of_the_front(encoding: Any) -> None:
    costs = Costs.of(encoding).metrics
    wanted = [Objective(loss_of(encoding, 4), "maximize"), Objective(costs["weight_bytes"]), Objective(costs["macs"])]
    problem = Problem(encoding, wanted)
    every = problem.evaluate(encoding.enumerate()).F
    front = solve_exactly(problem, points=7)
    F = front.metrics[["loss", "weight_bytes", "macs"]].to_numpy() * [-1, 1, 1]
    assert 3 <= len(F) <= 7
    for row in F:
        assert not ((every <= row + 1e-12).all(1) & (every < row - 1e-9).any(1)).any()


def test_tied_genes_have_the_same_value() -> None:
    encoding = small_blocks()
    problem = Problem(encoding, [Objective(loss_of(encoding, 5))])
    every = encoding.enumerate()
    one, other = (encoding.names.index(name) for name in ("1.1 pw_w_bits", "1.2 pw_w_bits"))
    kept = every[(every[:, one] == every[:, other]) | ~encoding.active_genes(every)[:, other]]
    for ties in (["* pw_w_bits"], [("1.1 pw_w_bits", "1.2 pw_w_bits")]):
        front = solve_exactly(problem, ties=ties)
        assert front.metrics["loss"][0] == pytest.approx(problem.evaluate(kept).F.min())
    values = encoding.encode(solve_exactly(problem, ties=[("1.1 pw_w_bits", "1.1 dw_w_bits")]).candidates)[0]
    names = {name: choices[i] for name, choices, i in zip(encoding.names, encoding.choices, values, strict=True)}
    assert names["1.1 pw_w_bits"] == names["1.1 dw_w_bits"] == 8  # the only one that both have
    with pytest.raises(ProblemError, match=r"ties: .* has no gene 'x'; give names such as"):
        solve_exactly(problem, ties=["x"])
    with pytest.raises(ProblemError, match=r"ties: '1\.1 pw_w_bits' is one gene"):
        solve_exactly(problem, ties=["1.1 pw_w_bits"])


def test_what_cannot_be_solved_is_refused_in_one_line() -> None:
    encoding = small_blocks()
    costs = Costs.of(encoding).metrics
    loss, size = loss_of(encoding), costs["weight_bytes"]
    blind = FunctionMetric("blind", "", lambda genomes: genomes.sum(axis=1))
    with pytest.raises(ProblemError, match=r"^blind is no sum of terms over few genes"):
        solve_exactly(Problem(encoding, [Objective(blind)]))
    with pytest.raises(ProblemError, match="peak_activation_bytes is the largest of several sums and is maximised"):
        solve_exactly(Problem(encoding, [Objective(costs["peak_activation_bytes"], "maximize")]))
    with pytest.raises(ProblemError, match="points is 0; give a whole number"):
        solve_exactly(Problem(encoding, [Objective(loss)]), points=0)
    every = encoding.enumerate()
    bound = float(np.quantile(size(every), 0.05))
    least = float(loss(every[size(every) <= bound]).min())
    limits = [Constraint(size, bound), Constraint(loss, least - 0.01)]
    said = r"no candidates keep loss<=.* with weight_bytes<=.*; the least reachable is (\S+), relax the bound"
    with pytest.raises(ProblemError, match=said) as error:
        solve_exactly(Problem(encoding, [Objective(costs["macs"])], limits))
    assert float(re.findall(said, str(error.value))[0]) == pytest.approx(least)
    limits = [Constraint(size, size.reachable()[0]), Constraint(costs["macs"], costs["macs"].reachable()[1], ">=")]
    with pytest.raises(ProblemError, match=r"no candidate keeps weight_bytes <= .* and macs >= .* together; relax one"):
        solve_exactly(Problem(encoding, [Objective(loss)], limits))


def test_search_solves_an_additive_problem_and_starts_from_its_front() -> None:
    encoding = NetworkEncoding(SearchSpace.load("digits"))
    loss, size = loss_of(encoding), Costs.of(encoding).metrics["weight_bytes"]
    one = Problem(encoding, [Objective(loss)], [Constraint(size, 0.4 * size.reachable()[1])])
    assert is_additive(one)
    front = search(one, n_evaluations=200)
    assert front.provenance["algorithm"] == "milp"
    assert front.metrics["loss"][0] <= search(one, Evolution(), n_evaluations=500).metrics["loss"][0] + 1e-9
    assert search(one, "milp").candidates == front.candidates


def test_programs_that_are_too_large_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = NetworkEncoding(SearchSpace.load("digits"))
    monkeypatch.setattr(program, "MOST_UNKNOWNS", 100)
    problem = Problem(encoding, [Objective(Costs.of(encoding).metrics["bit_ops"])])
    with pytest.raises(ProblemError, match="unknowns, more than 100; open fewer choices"):
        solve_exactly(problem)
    assert "Evolution" in search(problem, n_evaluations=100).provenance["algorithm"]


def test_tables_are_split_into_what_depends_on_each_other() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(0, 9, shape).astype(float) for shape in ((3, 4), (4,), (2, 5)))
    values = a[:, :, None, None] + b[None, :, None, None] + c[None, None] + 7
    tables = interactions((5, 6, 7, 8), values)
    assert {table.variables for table in tables} == {(5, 6), (7, 8)}
    for index in np.ndindex(values.shape):
        place = dict(zip((5, 6, 7, 8), index, strict=True))
        total = sum(float(table.values[tuple(place[v] for v in table.variables)]) for table in tables)
        assert total == pytest.approx(values[index], abs=1e-9)
    product = rng.random((3, 1, 4))
    assert [table.variables for table in interactions((1, 2, 3), product)] == [(1, 3)]


def test_forbidden_combinations_are_named_by_the_fewest_variables() -> None:
    allowed = np.ones((3, 4, 5), bool)
    allowed[0, :, 2] = False
    allowed[:, 3] = False
    tables = forbidden((1, 2, 3), allowed)
    assert [table.variables for table in tables] == [(2,), (1, 3)]
    both = np.isfinite(tables[0].values)[None, :, None] & np.isfinite(tables[1].values)[:, None]
    np.testing.assert_array_equal(both, allowed)


def test_published_allocations_of_hawq_v3_are_found_as_problems(shared_data: Callable[[str], Path]) -> None:
    """As in ``test_integer_program``, but by genes, tables of genes, and ties (Yao 2021)."""
    better = []
    for network, own in json.loads(shared_data("hawq/hawq_v3_ilp.json").read_text()).items():
        tables = {name: np.array(values) for name, values in own["tables"].items()}
        names = [f"{number} {layer}" for number, layer in enumerate(own["layers"])]
        space = ChoiceSpace(network, dict.fromkeys(names, (4, 8)))

        def metric(name: str, four: np.ndarray, eight: np.ndarray, space: ChoiceSpace = space) -> AdditiveMetric:
            rows = {layer: {"4": a, "8": b} for layer, a, b in zip(space.choices, four, eight, strict=True)}
            return GeneTable(name, rows).metric(encoding_of(space))

        errors = [tables[f"delta_weights_{bits}bit_square"] for bits in (4, 8)]
        loss = metric("loss", *(tables["Hutchinson_trace"] * error for error in errors))
        costs = {
            "modelsize": metric("modelsize", 4 * tables["parameters"], 8 * tables["parameters"]),
            "bops": metric("bops", 16 * tables["bops"], 64 * tables["bops"]),
            "latency": metric("latency", tables["latency_int4"], tables["latency_int8"]),
        }
        ties = [(names[one], names[other]) for one, other in own["equal_bits_pairs"]]
        for name, published in own["published_bits"].items():
            kind, share = name.split("_")
            low, high = costs[kind](np.array([[0] * len(names), [1] * len(names)], np.int16))
            problem = Problem(space, [Objective(loss)], [Constraint(costs[kind], low + float(share) * (high - low))])
            front = solve_exactly(problem, ties=ties)
            found = [bits for _, bits in front.candidates[0].values]
            if found != published:
                theirs = np.array([[(4, 8).index(bits) for bits in published]], np.int16)
                assert problem.evaluate(theirs).F[0, 0] > front.metrics["loss"][0]
                better.append((network, name))
    assert better == [("resnet50", "modelsize_0.25")]
