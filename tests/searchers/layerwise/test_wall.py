"""Walls of AMC and HAQ: policies against true costs, counted by enumeration or by loops of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from apq_tune import Constraint, FunctionMetric, ModelSpace, NetworkEncoding, Objective, Problem, ProblemError
from apq_tune.cost import bit_ops, macs, peak_activation_bytes, weight_bytes
from apq_tune.network.liveness import live_bits
from apq_tune.problem.costs import Costs
from apq_tune.searchers.layerwise.algorithm import LayerwiseDDPG
from apq_tune.searchers.layerwise.episode import Course
from apq_tune.searchers.layerwise.walk import Walk, has_order
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.tracing.trace import trace
from tests.methods.test_methods import flash, ram
from tests.tracing.zoo import example_of, network


def share(metric: Any, part: float) -> Constraint:
    low, high = metric.reachable()
    return Constraint(metric, low + part * (high - low))


def course(encoding: GeneEncoding, limits: Sequence[Constraint]) -> Course:
    return LayerwiseDDPG().within(limits, 0).course(Walk.of(encoding), np.zeros(encoding.n_genes))


def at_random(rng: np.random.Generator) -> Callable[[Any], float]:
    """Actions of any policy: uniform, nearly always the most, or nearly always the least."""
    power = float(rng.choice([0.05, 1.0, 20.0]))
    return lambda _: float(rng.random()) ** power


def policies(own: Course, n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    genomes = [own.run(at_random(rng), at_random(rng), [], np.zeros(0)) for _ in range(n)]
    return own.walk.encoding.canonicalise(np.stack(genomes))


LIMITS: dict[str, Callable[[Any], list[Constraint]]] = {
    "macs": lambda e: [share(macs(e), 0.2)],
    "nearly out of reach": lambda e: [share(weight_bytes(e), 0.001)],
    "three at once": lambda e: [
        share(weight_bytes(e), 0.2),
        share(bit_ops(e), 0.1),
        share(peak_activation_bytes(e), 0.3),
    ],
    "a cost that is no sum": lambda e: [share(peak_activation_bytes(e), 0.05)],
    "from below, too": lambda e: [
        share(weight_bytes(e), 0.5),
        Constraint(bit_ops(e), share(bit_ops(e), 0.2).bound, ">="),
    ],
}


@pytest.mark.parametrize("limits", LIMITS)
def test_no_policy_misses_its_budget(either: NetworkEncoding, limits: str) -> None:
    given = LIMITS[limits](either)
    genomes = policies(course(either, given), 60)
    nothing = FunctionMetric("nothing", "", lambda genomes: np.zeros(len(genomes)))
    assert Problem(either, [Objective(nothing)], given).evaluate(genomes).feasible.all()
    assert either.is_allowed(genomes).all()
    assert len(np.unique(genomes, axis=0)) > 1


def test_budgets_are_kept_by_costs_that_the_test_counts_itself(encoding: NetworkEncoding) -> None:
    given = Costs.of(encoding).budget("memory-tight")
    for candidate in encoding.decode(policies(course(encoding, given), 40)):
        assert flash(encoding.space, candidate) <= given[0].bound
        assert ram(encoding.space, candidate) <= given[1].bound


def test_on_a_users_model_the_memory_of_its_layers_is_kept() -> None:
    encoding = encoding_of(ModelSpace.of_graph(trace(network("resnet14"), example_of("resnet14")), step=4))
    given = [share(weight_bytes(encoding), 0.1), share(peak_activation_bytes(encoding), 0.3)]
    image, found = encoding.space.network.image(32), policies(course(encoding, given), 4)
    assert (weight_bytes(encoding)(found) <= given[0].bound).all()
    for candidate in encoding.decode(found):
        layers = encoding.space.plan(candidate).layers
        assert max(live_bits(layers, image).values()) / 8 <= given[1].bound


def test_a_cost_that_falls_with_bits_is_kept_by_its_true_value(encoding: NetworkEncoding) -> None:
    """A device on which 8 bits are the cheapest: the first values of all genes are the most expensive candidate."""
    top = encoding.n_choices - 1

    def odd(genomes: np.ndarray) -> np.ndarray:
        return (np.where(encoding.active_genes(genomes), top - genomes, 0) ** 2).sum(axis=1) + 5.0

    given = [Constraint(FunctionMetric("odd", "s", odd), 30.0)]
    own = course(encoding, given)
    assert odd(np.zeros((1, encoding.n_genes), np.int16))[0] > 30
    found = policies(own, 40)
    assert (odd(found) <= 30).all()
    assert len(np.unique(found, axis=0)) > 20


def test_the_wall_of_channels_gives_way_exactly_as_long_as_enumeration_finds_an_end(tiny: NetworkEncoding) -> None:
    given = [share(weight_bytes(tiny), 0.3), share(bit_ops(tiny), 0.25)]
    every = tiny.enumerate()
    every = every[np.max([c.violation(c.metric(every)) for c in given], axis=0) <= 0]
    own, walk = course(tiny, given), Walk.of(tiny)
    rng, limited = np.random.default_rng(0), 0
    for _ in range(30):
        wanted: list[float] = []

        def act(_: Any, wanted: list[float] = wanted) -> float:
            wanted.append(float(rng.random()) ** 0.3)
            return wanted[-1]

        genome = own.run(act, lambda _: 0.0, [], np.zeros(0))
        left = every
        for gene, action in zip(walk.active(genome, walk.channels), wanted, strict=True):
            rank = walk.rank(gene, action)
            there = np.unique(left[:, gene])
            below = there[there <= rank]
            assert genome[gene] == (below.max() if len(below) else there.min())
            limited += genome[gene] != rank
            left = left[left[:, gene] == genome[gene]]
    assert limited > 10


def test_bits_are_lowered_as_haq_does_step_by_step(encoding: NetworkEncoding) -> None:
    limit = share(weight_bytes(encoding), 0.3)
    own, walk, rng = course(encoding, [limit]), Walk.of(encoding), np.random.default_rng(3)
    for _ in range(10):
        base = own.run(lambda _: 0.4, lambda _: 0.0, [], np.zeros(0))
        bits = walk.active(base, walk.bits)
        genome = base.copy()
        genome[bits] = rng.integers(encoding.n_choices[bits])
        found = own.wall.lowered(genome, base, bits)
        expected = genome.copy()
        while limit.metric(encoding.canonicalise(expected[None]))[0] > limit.bound:
            for gene in bits[::-1]:
                if expected[gene] > 0:
                    expected[gene] -= 1
                if limit.metric(encoding.canonicalise(expected[None]))[0] <= limit.bound:
                    break
        np.testing.assert_array_equal(found, expected)


def test_bits_are_decided_layer_by_layer_weights_first(encoding: NetworkEncoding) -> None:
    walk = Walk.of(encoding)
    names = [encoding.names[gene] for gene in walk.bits]
    assert names[:4] == ["1.1 pw_w_bits", "1.1 pw_a_bits", "1.1 dw_w_bits", "1.1 dw_a_bits"]
    n = int(encoding.n_choices[walk.bits[0]])
    assert [walk.rank(walk.bits[0], a) for a in (0.0, 0.5, 1.0)] == [0, n // 2, n - 1]
    for gene in range(encoding.n_genes):
        for rank in range(encoding.n_choices[gene]):
            assert walk.rank(gene, walk.action(gene, rank)) == rank
    lowest, n = 2, 7  # HAQ's rule for 2 to 8 bits
    for action in np.linspace(0, 0.999, 50):
        assert lowest + min(int(action * n), n - 1) == round(lowest - 0.5 + action * n + 1e-9)
    kinds = [encoding.genes[gene].kind for gene in walk.channels]
    assert kinds[:2] == ["depth", "depth"]
    assert [has_order(values) for values in ((1, 2, 3), ("a", "b"), ("a", "b", "c"), (True, False, None))] == [
        True,
        True,
        False,
        False,
    ]


def test_states_are_the_published_ones_and_the_same_when_they_are_learned_from(encoding: NetworkEncoding) -> None:
    """AMC's shares of operations, counted for a walk that decides by constants."""
    cost = macs(encoding)
    own, walk, seen = course(encoding, [share(cost, 0.4)]), Walk.of(encoding), []

    def act(state: np.ndarray) -> float:
        seen.append(state)
        return 0.7

    genome = own.run(act, lambda _: 0.5, [], np.zeros(0))
    (states, actions), (bit_states, bit_actions) = own.steps(encoding.canonicalise(genome[None])[0], np.zeros(0))
    assert states.shape[1] == bit_states.shape[1] == 10
    np.testing.assert_allclose(np.stack(seen), states)
    steps = walk.active(genome, walk.channels)
    assert actions.tolist() == [walk.action(gene, int(genome[gene])) for gene in steps]
    assert bit_actions.tolist() == [walk.action(gene, int(genome[gene])) for gene in walk.active(genome, walk.bits)]
    largest = np.zeros(encoding.n_genes, np.int16) + (encoding.n_choices - 1)
    total = float(cost(largest[None])[0])
    for place in range(len(steps)):
        rest, most = np.zeros_like(largest), largest.copy()
        for done in steps[:place]:
            rest[done] = most[done] = genome[done]
        high, low = (float(cost(encoding.canonicalise(g[None]))[0]) for g in (most, rest))
        np.testing.assert_allclose(states[place, 7:9], [1 - high / total, (high - low) / total], atol=1e-9)
        assert states[place, 9] == (actions[place - 1] if place else 1.0)


def test_budgets_out_of_reach_are_refused_in_one_line(encoding: NetworkEncoding) -> None:
    size, ops = weight_bytes(encoding), bit_ops(encoding)
    apart = [share(size, 0.05), Constraint(ops, share(ops, 0.7).bound, ">=")]
    with pytest.raises(ProblemError, match=r"^no policy with weight_bytes <= .* and bit_ops >= .* was found; the"):
        course(encoding, apart)
