"""DDPG as a search: what it proposes, learns from and ends with."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from apq_tune import (
    Constraint,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    RandomSearch,
    SearchSpace,
    search,
)
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.problem.pareto import Floats
from apq_tune.problem.problem import Evaluation
from apq_tune.searchers import ALGORITHMS
from apq_tune.searchers.layerwise.algorithm import LayerwiseDDPG
from apq_tune.searchers.layerwise.episode import draw_unordered
from apq_tune.searchers.layerwise.rewards import rewards_of, weights_of
from apq_tune.searchers.layerwise.settings import AMC, HAQ, AgentSettings
from apq_tune.searchers.layerwise.walk import Walk
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of

SMALL = AgentSettings(hidden=16, batch=16, actor_rate=1e-3, critic_rate=1e-2, follow=0.1)
QUICK = LayerwiseDDPG(replace(AMC, warm_up=15, agent=SMALL), replace(HAQ, warm_up=15, agent=SMALL, decay=0.95))


class Asked(Problem):
    """Remembers what it was asked."""

    def evaluate(self, genomes: Genomes) -> Evaluation:
        self.genomes = [*getattr(self, "genomes", []), *genomes]
        return super().evaluate(genomes)


def limited(encoding: NetworkEncoding) -> tuple[Asked, Constraint]:
    """Each gene has its own weight; half of the range of weights' bytes is open."""
    worth = np.random.default_rng(2).random(encoding.n_genes) ** 2
    low, high = weight_bytes(encoding).reachable()
    limit = Constraint(weight_bytes(encoding), low + 0.3 * (high - low))
    size = np.maximum(1, encoding.n_choices - 1)
    loss = FunctionMetric("loss", "nats", lambda genomes: np.exp(-(genomes / size) @ worth / 2))
    return Asked(encoding, [Objective(loss)], [limit]), limit


def test_every_candidate_of_a_search_keeps_the_limit_and_is_new(encoding: NetworkEncoding) -> None:
    problem, limit = limited(encoding)
    search(problem, QUICK, n_evaluations=28, seed=0, initial=np.zeros((0, encoding.n_genes), np.int16))
    genomes = np.stack(problem.genomes)
    assert (limit.metric(genomes) <= limit.bound).all()
    assert len(np.unique(genomes, axis=0)) == len(genomes) == 28
    again, _ = limited(encoding)
    search(again, QUICK, n_evaluations=28, seed=0, initial=np.zeros((0, encoding.n_genes), np.int16))
    np.testing.assert_array_equal(again.genomes, genomes)


def test_a_limit_that_has_to_be_measured_has_no_wall(encoding: NetworkEncoding) -> None:
    problem, limit = limited(encoding)
    measured = FunctionMetric("measured", "B", limit.metric)
    unknown = Problem(encoding, problem.objectives, [Constraint(measured, limit.bound)])
    prepared = QUICK.prepared(unknown, 0)
    assert (len(prepared.constraints), prepared.seed) == (0, 0)
    assert (len(QUICK.prepared(problem, 7).constraints), QUICK.prepared(problem, 7).seed) == (1, 7)
    genomes = prepared.ask(None, 30, encoding, np.random.default_rng(0))
    assert (limit.metric(encoding.canonicalise(genomes)) > limit.bound).any()


def test_it_learns_what_random_search_does_not_find() -> None:
    """Twelve numbers, small ones of which are better in the first half and large ones in the second."""
    space = SearchSpace.from_choices({f"x{i}": range(5) for i in range(12)})
    encoding, best = encoding_of(space), np.repeat([0, 4], 6)
    far = FunctionMetric("far", "", lambda genomes: np.abs(genomes - best).sum(axis=1).astype(float))
    agent = replace(SMALL, hidden=64, batch=64)
    ddpg = LayerwiseDDPG(replace(AMC, warm_up=30, decay=0.98, agent=agent))
    found: dict[str, list[float]] = {"ddpg": [], "random": []}
    for name, algorithm in (("ddpg", ddpg), ("random", RandomSearch())):
        for seed in range(2):
            first = encoding.sample(1, np.random.default_rng(seed))
            front = search(Problem(space, [Objective(far)]), algorithm, n_evaluations=100, seed=seed, initial=first)
            found[name].append(float(front.to_dataframe()["far"].min()))
    assert max(found["ddpg"]) < 5 < min(found["random"])


def test_rewards_are_scaled_by_the_warm_up_and_limits_cost_more_than_any_spread() -> None:
    F: Floats = np.array([[1.0], [2.0], [3.0], [np.inf], [2e9]])
    G: Floats = np.array([[-1.0], [0.0], [0.0], [0.5], [0.0]])
    assert rewards_of(F, G, np.ones((5, 1)), 3).tolist() == [1.0, 0.0, -1.0, -3.5, -5.0]
    assert rewards_of(F[3:4], G[3:4], np.ones((1, 1)), 3).tolist() == [-3.5]
    two = np.array([[1.0, 30.0], [2.0, 20.0], [3.0, 10.0]])
    shares = np.array([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    assert rewards_of(two, np.zeros((3, 0)), shares, 3).tolist() == [1.0, 0.0, 0.5]
    drawn = np.stack([weights_of(0, i, 3) for i in range(300)])
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    np.testing.assert_allclose(drawn.mean(axis=0), 1 / 3, atol=0.05)


def test_values_without_an_order_follow_the_best_quarter() -> None:
    encoding = encoding_of(SearchSpace.from_choices({"op": ["conv", "pool", "skip"], "n": [1, 2, 3]}))
    walk = Walk.of(encoding)
    assert (walk.unordered, walk.channels, walk.bits) == ((0,), (1,), ())
    genomes = np.array([[2, 0]] * 10 + [[0, 0]] * 30, np.int16)
    rewards = np.array([1.0] * 10 + [0.0] * 30)
    rng = np.random.default_rng(0)
    drawn = np.bincount([draw_unordered(walk, genomes, rewards, rng)[0][1] for _ in range(2000)]) / 2000
    np.testing.assert_allclose(drawn, np.array([1, 1, 11]) / 13, atol=0.03)


def test_a_front_is_found_by_weights_and_the_algorithm_can_be_pickled(tiny: NetworkEncoding) -> None:
    cost = bit_ops(tiny)
    problem = Problem(tiny, [Objective(weight_bytes(tiny), "maximize"), Objective(cost)])
    algorithm = pickle.loads(pickle.dumps(QUICK.prepared(problem, 1)))
    front = search(problem, algorithm, n_evaluations=40, seed=1)
    assert len(front) > 3
    assert pickle.loads(pickle.dumps(algorithm)) == algorithm
    assert isinstance(ALGORITHMS["ddpg"](), LayerwiseDDPG)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ProblemError, match=r"^warm_up is 0; give at least 1"):
        replace(AMC, warm_up=0)
    with pytest.raises(ProblemError, match=r"^decay is 1\.5; give a factor above 0, at most 1"):
        replace(AMC, decay=1.5)
