"""Expressions against loops, and the evolution of a proxy on targets that were planted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from apq_tune import ProblemError
from apq_tune.predict.evolution import (
    EvolvedProxy,
    ProxyEvolution,
    crossed,
    evolve_proxy,
    mutated,
    random_expression,
)
from apq_tune.predict.expressions import (
    REDUCTIONS,
    TENSORS,
    Expression,
    LayerTensors,
    canonical,
    parts_of,
    replaced,
    scores_of,
    shape_of,
    size_of,
    text_of,
    values_by_layer,
    values_of,
)

LAYERS = tuple("abcdef")
SNIP: Expression = ("sum", ("abs", ("multiply", "weight", "gradient")))
LARGEST: Expression = ("largest", ("log", "activation"))
QUICK = ProxyEvolution(evaluations=400)


def layer(rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    """Tensors of a layer whose sizes and scales are its own."""
    n = {"weights": int(rng.integers(5, 40)), "channels": int(rng.integers(2, 6))}
    return {name: rng.normal(size=n[shape]) * 10 ** rng.uniform(-1, 1) for name, shape in TENSORS.items()}


def drawn(seed: int = 0, n: int = 60, architectures: int = 5) -> tuple[LayerTensors, list[Any]]:
    """Candidates of a few architectures, of which some lack a layer, and the tensors of all entries."""
    rng = np.random.default_rng(seed)
    tensors = [layer(rng) for _ in range(architectures * len(LAYERS))]
    entries = np.arange(len(tensors)).reshape(architectures, -1)[rng.integers(architectures, size=n)]
    missing = rng.random(entries.shape) < 0.1
    bits = np.where(missing, 0, rng.choice([4.0, 8, 16], entries.shape))
    return LayerTensors.of(LAYERS, tensors, np.where(missing, -1, entries), bits), tensors


def test_scores_are_sums_over_layers_of_numbers_times_bits() -> None:
    tensors, own = drawn()
    by_hand = {
        "mean": lambda e: (np.abs(e["weight"]) + e["gradient"] ** 2).mean(),
        "sum": lambda e: (np.abs(e["weight"]) + e["gradient"] ** 2).sum(),
        "norm": lambda e: np.linalg.norm(np.abs(e["weight"]) + e["gradient"] ** 2),
        "std": lambda e: (np.abs(e["weight"]) + e["gradient"] ** 2).std(),
        "largest": lambda e: np.abs(np.abs(e["weight"]) + e["gradient"] ** 2).max(),
    }
    assert tuple(by_hand) == REDUCTIONS
    for name, function in by_hand.items():
        expression = (name, ("add", ("abs", "weight"), ("square", "gradient")))
        pairs = zip(tensors.entries, tensors.bits, strict=True)
        expected = [sum(function(own[e]) * b for e, b in zip(*row, strict=True) if e >= 0) for row in pairs]
        np.testing.assert_allclose(scores_of(expression, tensors), expected)
        picked = np.array([7, 3, 3, 40])
        np.testing.assert_allclose(scores_of(expression, tensors.rows(picked)), np.array(expected)[picked])
    found = values_by_layer(("largest", "activation"), tensors, 3)
    assert found == {
        LAYERS[i]: pytest.approx(np.abs(own[e]["activation"]).max()) for i, e in enumerate(tensors.entries[3]) if e >= 0
    }


def test_guards_give_numbers_or_nothing() -> None:
    zero = dict.fromkeys(TENSORS, np.zeros(3)) | {"weight": np.array([1e20, -1e20, 0.0])}
    tensors = LayerTensors.of(("a",), [zero], np.zeros((2, 1), np.intp), np.array([[4.0], [8.0]]))
    for operation in ("log", "sqrt", "inverse", "exp", "tanh", "relu"):
        assert scores_of(("sum", (operation, "gradient")), tensors) is not None, operation
    assert scores_of(("sum", ("divide", "weight", "gradient")), tensors).tolist() == [0, 0]
    assert scores_of(("sum", ("square", "weight")), tensors) is None
    nan = LayerTensors.of(("a",), [zero | {"weight": np.array([np.nan])}], np.zeros((1, 1), np.intp), np.ones((1, 1)))
    assert scores_of(("sum", "weight"), nan) is None
    with pytest.raises(ProblemError, match=r"abs\(weight\) gives a tensor for each layer; reduce it by mean, sum"):
        scores_of(("abs", "weight"), tensors)
    with pytest.raises(ProblemError, match=r"sum\(weight\) is not finite for a candidate"):
        EvolvedProxy(("sum", "weight"), 1.0, 1.0, 1, {})(nan)


def test_what_is_drawn_mutated_and_crossed_is_well_formed() -> None:
    rng, (tensors, _) = np.random.default_rng(0), drawn(n=5)
    one: Expression = SNIP
    for _ in range(300):
        other = random_expression("number", rng, 3)
        for child in (other, mutated(one, rng, 3), crossed(one, other, rng)):
            assert shape_of(child) == "number"
            assert values_of(child, tensors).shape == (5 * len(LAYERS),) or len(tensors.starts["weights"]) < 30
            for path, part in parts_of(child):
                assert replaced(child, path, part) == child
        one = other
    assert canonical(("add", ("mean", "weight"), ("add", ("sum", "weight"), ("mean", "gradient")))) == canonical(
        ("add", ("add", ("mean", "gradient"), ("sum", "weight")), ("mean", "weight"))
    )
    assert (size_of(SNIP), text_of(SNIP)) == (5, "sum(abs(multiply(weight, gradient)))")


@pytest.mark.parametrize("planted", [("norm", ("multiply", "weight", "gradient")), ("norm", "gradient"), LARGEST])
def test_a_planted_expression_is_found_or_one_that_ranks_as_well(planted: Expression) -> None:
    tensors, _ = drawn(1)
    target = -np.log(1e3 + scores_of(planted, tensors))  # of the opposite order
    known, unseen = np.arange(45), np.arange(45, 60)
    trivial = abs(spearmanr(tensors.bits.sum(1), target).statistic)
    runs = [evolve_proxy(tensors.rows(known), target[known], seed=seed, settings=QUICK) for seed in range(4)]
    found = max(runs, key=lambda run: run.fitness)
    assert found.fitness == pytest.approx(spearmanr(found(tensors.rows(known)), target[known]).statistic)
    assert found.fitness > 0.99 > 0.95 > trivial
    assert spearmanr(found(tensors.rows(unseen)), target[unseen]).statistic > 0.95


def test_evolution_finds_better_expressions_than_as_many_random_ones() -> None:
    tensors, _ = drawn(1)
    target = scores_of(SNIP, tensors)
    settings = [ProxyEvolution(evaluations=200, newcomers=share) for share in (0.1, 1.0)]
    evolved, random = (
        [evolve_proxy(tensors, target, seed=s, settings=own).fitness for s in range(5)] for own in settings
    )
    assert np.mean(evolved) > np.mean(random) + 0.01


def test_equal_seeds_give_equal_proxies_and_rejections_are_counted() -> None:
    tensors, _ = drawn(2)
    target = np.random.default_rng(0).normal(size=60)
    one, again, other = (evolve_proxy(tensors, target, seed=seed, settings=QUICK) for seed in (0, 0, 1))
    assert one == again and one.expression != other.expression
    assert one.evaluated == 400 and one.rejected["same"] > 0 and one.rejected["equivalent"] > 0
    assert size_of(one.expression) <= QUICK.size


def test_constant_expressions_and_impossible_pairs_are_refused() -> None:
    tensors, _ = drawn(3)
    with pytest.raises(ProblemError, match="4 pairs, of 4 values; measure others, too"):
        evolve_proxy(tensors.rows(np.arange(4)), np.arange(4.0))
    with pytest.raises(ProblemError, match="60 pairs, of 1 values"):
        evolve_proxy(tensors, np.ones(60))
    same = tensors.rows(np.zeros(8, np.intp))
    with pytest.raises(ProblemError, match="no expression tells the candidates apart"):
        evolve_proxy(same, np.arange(8.0), settings=ProxyEvolution(evaluations=5))
