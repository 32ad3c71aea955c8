"""The model-based searcher: formulas against simulation, habits by law, worth against random search and NSGA-II."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from apq_tune import (
    Constraint,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    SearchSpace,
    cost_models,
)
from apq_tune.problem.pareto import Yardstick, hypervolume
from apq_tune.searchers import NSGA2, ModelBased, RandomSearch, search
from apq_tune.searchers.algorithms import Algorithm
from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.gain import ExactValues, ModelledValues, expected_gain
from apq_tune.searchers.model.process import JITTER, ARDKernel, Posterior, likeliest
from apq_tune.searchers.model.propose import ProposalSettings, propose
from apq_tune.searchers.model.surrogates import Observations
from apq_tune.searchers.model.warp import Warp

CHOICES = {f"layer {place}": ("skip", "narrow", "wide", "odd") for place in range(7)}
WORTH = np.array([0.0, 1.0, 1.6, 0.3])
PRICE = np.array([0.0, 1.0, 2.5, 2.0])


def trade_off() -> Problem:
    """Words as choices; accuracy with diminishing returns and a pair that needs each other, against cost: all known."""
    space = SearchSpace.from_choices(CHOICES, "synthetic")
    by_layer = np.linspace(0.5, 1.5, len(CHOICES))

    def loss(genomes: np.ndarray) -> np.ndarray:
        isolated = (genomes[:, 2] == 2) & (genomes[:, 3] == 0)
        return np.exp(-(WORTH[genomes] * by_layer).sum(axis=1) / 4) + 0.1 * isolated

    def cost(genomes: np.ndarray) -> np.ndarray:
        return (PRICE[genomes] * by_layer[::-1]).sum(axis=1)

    return Problem(space, [Objective(FunctionMetric("loss", "", loss)), Objective(FunctionMetric("cost", "", cost))])


@pytest.fixture(scope="module")
def distributions() -> list[ModelledValues]:
    """Two objectives of 30 candidates after 12 observations."""
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(42, 4)), np.arange(4)
    found = []
    for shift in (0.0, 2.0):
        values = np.exp(features[:12] @ rng.normal(size=4) / 2) + shift
        warp = Warp.of(values)
        kernel = ARDKernel(np.ones(4), 0.3, 0.8, 0.01)
        found.append(ModelledValues(Posterior.of(kernel, groups, features[:12], warp(values), features[12:]), warp))
    return found


def test_a_posterior_is_what_the_joint_normal_distribution_says() -> None:
    rng = np.random.default_rng(1)
    features, groups = rng.normal(size=(9, 3)), np.array([0, 0, 1])
    kernel = ARDKernel(np.array([0.5, 2.0]), 0.4, 1.1, 0.05)
    target = rng.normal(size=5)
    found = Posterior.of(kernel, groups, features[:5], target, features[5:])
    every = kernel(kernel.scaled(features, groups), kernel.scaled(features, groups))
    solved = np.linalg.inv(every[:5, :5] + (0.05 + JITTER) * np.eye(5))
    np.testing.assert_allclose(found.mean, every[5:, :5] @ solved @ target, rtol=1e-9)
    np.testing.assert_allclose(
        found.variance, np.diag(every[5:, 5:] - every[5:, :5] @ solved @ every[:5, 5:]), rtol=1e-9
    )


def test_conditioning_on_the_mean_is_to_observe_it() -> None:
    rng = np.random.default_rng(2)
    features, groups = rng.normal(size=(10, 3)), np.arange(3)
    kernel, target = ARDKernel(np.ones(3), 0.4, 1.0, 0.02), rng.normal(size=6)
    before = Posterior.of(kernel, groups, features[:6], target, features[6:])
    after = before.condition_on_mean(1).condition_on_mean(3)
    seen = np.append(target, before.mean[[1, 3]])
    known = features[[0, 1, 2, 3, 4, 5, 7, 9]]
    refitted = Posterior.of(kernel, groups, known, seen, features[6:])
    np.testing.assert_allclose(after.mean, refitted.mean, atol=1e-9)
    np.testing.assert_allclose(after.variance, refitted.variance, atol=1e-9)


def test_what_matters_is_found_relevant() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(60, 3)) / np.sqrt(3)
    kernel = likeliest(features, np.arange(3), np.sin(4 * features[:, 1]))
    assert kernel.relevance[1] > 3 * max(kernel.relevance[0], kernel.relevance[2])
    assert kernel.noise < 0.05


@pytest.mark.parametrize("values", [np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.1, 1.3, 40.0])])
def test_a_warp_can_be_undone_and_its_gain_is_that_of_draws(values: np.ndarray) -> None:
    warp = Warp.of(values)
    assert np.isinf(warp.low) == (values[-1] < 10)  # a long tail is taken away, an even spread is not
    np.testing.assert_allclose(warp.restore(warp(values)), values, rtol=1e-12)
    draws = warp.restore(0.3 + 0.8 * np.random.default_rng(0).normal(size=400_000))
    thresholds = np.array([1.5, 3.0, 20.0])
    expected = np.maximum(thresholds - draws[:, None], 0).mean(axis=0)
    np.testing.assert_allclose(warp.gain(np.array([0.3]), np.array([0.8]), thresholds)[0], expected, rtol=0.01)


def test_expected_gain_of_two_objectives_is_that_of_draws(distributions: list[ModelledValues]) -> None:
    front, reference = np.array([[0.5, 5.0], [1.0, 3.5], [2.0, 3.0]]), np.array([4.0, 7.0])
    found = expected_gain(distributions, front, reference)
    rng = np.random.default_rng(0)
    for row in (0, 7, 19):
        draws = np.stack([distribution.draws(rng.normal(size=4000))[:, row] for distribution in distributions], axis=1)
        alone = hypervolume(front, reference)
        gains = [hypervolume(np.vstack([front, draw]), reference) - alone for draw in draws]
        assert found[row] == pytest.approx(np.mean(gains), abs=5 * np.std(gains) / np.sqrt(len(gains)) + 1e-9)


def test_expected_gain_of_one_objective_is_expected_improvement(distributions: list[ModelledValues]) -> None:
    front = np.array([[0.7], [0.9]])
    np.testing.assert_array_equal(
        expected_gain(distributions[:1], front, np.array([9.0])), distributions[0].gain(np.array([0.7]))[:, 0]
    )


def test_gain_of_three_known_objectives_ranks_as_their_hypervolume_does() -> None:
    rng = np.random.default_rng(4)
    values, front = rng.random((40, 3)), rng.random((6, 3))
    known = [ExactValues(values[:, place]) for place in range(3)]
    found = expected_gain(known, front, np.ones(3))
    alone = hypervolume(front, np.ones(3))
    true = np.array([hypervolume(np.vstack([front, row]), np.ones(3)) - alone for row in values])
    assert np.corrcoef(found, true)[0, 1] > 0.97
    assert (found[true < 1e-12] < 0.02 * found.max()).all()


def blank(encoding: NetworkEncoding, n: int, constraints: int = 0) -> Observations:
    genomes = np.unique(encoding.sample(3 * n, np.random.default_rng(0)), axis=0)[:n]
    F = np.random.default_rng(1).random((n, 1))
    none = genomes[:0]
    return Observations(genomes, F, np.zeros((n, constraints)), none)


@pytest.mark.parametrize("n", [3, 14])
def test_proposals_are_new_distinct_and_repeatable_by_seed(tiny: NetworkEncoding, n: int) -> None:
    known = blank(tiny, n)
    known = known._replace(genomes=known.genomes[:-2], F=known.F[:-2], G=known.G[:-2], pending=known.genomes[-2:])
    ask = functools.partial(propose, known, 4, tiny, Columns.of(tiny), ProposalSettings(initial=10, pool=200))
    found = ask(np.random.default_rng(5))
    np.testing.assert_array_equal(found, ask(np.random.default_rng(5)))
    assert (tiny.canonicalise(found) == found).all()
    taken = {row.tobytes() for row in (*known.genomes, *known.pending)}
    assert len({row.tobytes() for row in found} - taken) == len(found) == 4


def test_an_exhausted_space_is_proposed_to_its_end() -> None:
    encoding = Problem(SearchSpace.from_choices({"a": (1, 2, 3), "b": ("x", "y")}, "six"), [Objective(ONE)]).encoding
    every = encoding.enumerate()
    known = Observations(every[:4], np.arange(4.0)[:, None], np.zeros((4, 0)), every[4:5])
    ask = functools.partial(propose, n=3, encoding=encoding, columns=Columns.of(encoding), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(ask(known, settings=ProposalSettings(initial=2)), every[5:])
    assert len(ask(known._replace(pending=every[4:]), settings=ProposalSettings(initial=2))) == 0


ONE = FunctionMetric("one", "", lambda genomes: np.ones(len(genomes)))


def test_limits_on_cost_models_are_kept_from_the_first_candidate_on_if_the_problem_is_known(
    tiny: NetworkEncoding,
) -> None:
    costs = {model.name: model for model in cost_models(tiny)}
    low, high = costs["bit_ops"].reachable()
    loss = FunctionMetric("loss", "", lambda genomes: 1 / costs["macs"](genomes))
    problem = Problem(tiny, [Objective(loss)], [Constraint(costs["bit_ops"], low + 0.1 * (high - low))])
    asked: list[np.ndarray] = []

    class Watched(Problem):
        def evaluate(self, genomes: np.ndarray):  # type: ignore[no-untyped-def]
            asked.append(genomes)
            return super().evaluate(genomes)

    watched = Watched(tiny, problem.objectives, problem.constraints)
    given = tiny.uniform_policies()
    search(watched, ModelBased.of(problem), n_evaluations=len(given) + 12, seed=0)
    kept = problem.evaluate(np.concatenate(asked)).feasible[len(given) :]
    assert kept.all()


def test_limits_that_have_to_be_measured_are_learned() -> None:
    problem = trade_off()
    loss, cost = (objective.metric for objective in problem.objectives)
    limited = Problem(problem.encoding, [Objective(loss)], [Constraint(cost, 4.0)])
    front = search(limited, ModelBased(), n_evaluations=60, seed=0)
    every = limited.evaluate(limited.encoding.enumerate())
    assert front.metrics["loss"].min() <= np.sort(every.F[every.feasible, 0])[20]


@pytest.mark.parametrize("objectives", [1, 3])
def test_one_and_three_objectives_are_searched_and_a_seed_repeats(objectives: int) -> None:
    problem = trade_off()
    third = FunctionMetric("odd", "", lambda genomes: (genomes == 3).sum(axis=1) - genomes[:, 0] / 4)
    every = (*problem.objectives, Objective(third, "maximize"))[:objectives]
    problem = Problem(problem.encoding, every)
    one, other = (search(problem, ModelBased(), n_evaluations=25, seed=3) for _ in range(2))
    assert one.candidates == other.candidates
    assert one.provenance["n_evaluations"] == 25


def test_with_fifty_evaluations_it_finds_more_than_random_search_and_nsga2() -> None:
    problem = trade_off()
    every = problem.evaluate(problem.encoding.enumerate()).F
    yardstick = Yardstick.of(every)

    def shares(algorithm: Algorithm) -> list[float]:
        fronts = [search(problem, algorithm, n_evaluations=50, seed=seed) for seed in range(10)]
        return [yardstick.share(front.metrics[["loss", "cost"]].to_numpy()) for front in fronts]

    own = shares(ModelBased(pool=300))
    for other in (RandomSearch(batch=10), NSGA2()):
        assert mannwhitneyu(own, shares(other), alternative="greater").pvalue < 0.01
    assert np.median(own) > 0.97


def test_after_its_model_nsga2_goes_on() -> None:
    front = search(trade_off(), ModelBased(modelled=12), n_evaluations=200, seed=0)
    assert front.provenance["n_evaluations"] == 200


@pytest.mark.parametrize(("name", "value"), [("initial", 0), ("modelled", 0), ("pool", 3), ("batch", 0)])
def test_settings_without_sense_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ProblemError, match=f"^{name} is {value}; give at least"):
        ModelBased(**{name: value})


def test_what_is_exact_are_cost_models_and_nothing_else(tiny: NetworkEncoding) -> None:
    costs = cost_models(tiny)
    problem = Problem(tiny, [Objective(ONE), Objective(costs[0], "maximize")], [Constraint(costs[1], 1e12)])
    exact = Exact.of(problem)
    genomes = tiny.sample(4, np.random.default_rng(0))
    assert exact.objectives[0] is None
    assert exact.objectives[1] is not None
    np.testing.assert_array_equal(exact.objectives[1](genomes), -costs[0](genomes))
    assert len(exact.constraints) == 1
    assert exact.constraints[0] is not None
