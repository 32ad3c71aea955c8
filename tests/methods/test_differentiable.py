"""Differentiable methods on additive losses whose best candidate within the limits is known by enumeration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apq_tune import AdditiveMetric, Constraint, NetworkEncoding, RunError, SearchSpace
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.methods import METHODS, Bench, Question, differentiable
from apq_tune.methods.bench import Counts, GateSearch
from apq_tune.methods.differentiable import most_probable
from apq_tune.methods.projections import at_bits, both, largest
from apq_tune.methods.proxyless_amc_haq import by_gates
from apq_tune.methods.subspace import Subspace
from apq_tune.searchers.gates.costs import ExpectedCost
from apq_tune.searchers.gates.distribution import GeneDistribution
from apq_tune.searchers.gates.training import GateTraining, train_gates
from tests.conftest import TINY


@pytest.fixture(scope="module")
def encoding() -> NetworkEncoding:
    return NetworkEncoding(SearchSpace.from_dict(TINY))


def losses(encoding: NetworkEncoding, seed: int) -> AdditiveMetric:
    """Sum of random losses of all values of all genes."""
    rng = np.random.default_rng(seed)
    return AdditiveMetric.of_genes(
        "loss", "nats", encoding, {gene: rng.normal(size=n) for gene, n in enumerate(encoding.n_choices.tolist())}
    )


def question(encoding: NetworkEncoding, loss: AdditiveMetric, limits: Any, seed: int, sign: int = 1) -> Question:
    def train(distribution: GeneDistribution, limits: Any, training: GateTraining, seed: int, quantize: bool) -> None:
        rng, expected = np.random.default_rng(0), ExpectedCost(loss)
        train_gates(distribution, lambda own, _: sign * expected(distribution, own.values, rng), limits, training, seed)

    bench = Bench(encoding, dict.fromkeys(("fp32", "proxy", "fine", "short"), loss), Counts.of(40, 3))
    bench.gates = GateSearch({"binary": 0.2, "gumbel": 0.2}, train)
    return Question(encoding, limits, bench, seed)


@pytest.fixture(autouse=True)
def short_inner_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differentiable, "EVALUATIONS", 1000)


@pytest.mark.parametrize("method", ["proxyless", "fbnet"])
def test_the_best_network_within_the_limits_is_found(encoding: NetworkEncoding, method: str) -> None:
    every, ranks, wrong = encoding.enumerate(), [], []
    for seed in range(2):
        loss = losses(encoding, seed)
        costs = [weight_bytes(encoding), bit_ops(encoding)]
        limits = tuple(Constraint(cost, float(np.quantile(cost(every), 0.4))) for cost in costs)
        kept = every[np.all([limit.violation(limit.metric(every)) <= 0 for limit in limits], axis=0)]
        for sign, found in ((1, ranks), (-1, wrong))[: 2 - seed]:
            asked = question(encoding, loss, limits, seed, sign)
            best = METHODS[method].propose(asked)[:1]
            assert asked.bench.charged_gates == 24
            assert asked.bench.left.proxy == 0
            found.append(int((loss(kept) < loss(best)[0] - 1e-9).sum()) / len(kept))
    assert np.mean(ranks) < 0.002  # the best of 16 random ones of thousands would be at 0.06
    assert np.mean(wrong) > 20 * np.mean(ranks) + 0.01  # gates that go the wrong way are seen


def test_most_probable_candidates_are_those_of_an_enumeration(encoding: NetworkEncoding) -> None:
    every, cost = encoding.enumerate(), weight_bytes(encoding)
    limit = Constraint(cost, float(np.quantile(cost(every), 0.1)))
    distribution = GeneDistribution(encoding)
    with_noise = np.random.default_rng(1).normal(size=distribution.offered.shape)
    distribution.logits.data += distribution.logits.data.new_tensor(with_noise)
    asked = question(encoding, losses(encoding, 0), (limit,), 0)
    found = most_probable(asked, distribution, 5)
    kept = every[cost(every) <= limit.bound]
    p = distribution.log_probability(kept).detach().numpy()
    np.testing.assert_allclose(distribution.log_probability(found).detach().numpy(), np.sort(p)[::-1][:5], rtol=1e-9)


def test_steps_are_paid_for(encoding: NetworkEncoding) -> None:
    asked = question(encoding, losses(encoding, 0), (), 0)
    with pytest.raises(RunError, match="201 steps of gates cost 41 evaluations, 40 are left; ask for fewer"):
        asked.bench.train_gates(GeneDistribution(encoding), (), GateTraining(steps=201), 0)
    asked.bench.gates = None
    with pytest.raises(RunError, match="no supernet that runs gates"):
        METHODS["proxyless"].propose(asked)


def test_an_architecture_stage_measures_the_most_probable_architectures(encoding: NetworkEncoding) -> None:
    """Of six architectures, by the loss of which gates learn, two are measured beside the steps."""
    subspace = Subspace(encoding, both(largest(encoding, ["width"]), at_bits(encoding, 8)))
    every = np.unique(subspace.canonicalise(encoding.enumerate()), axis=0)
    assert len(every) == 6
    better: dict[int, list[int]] = {1: [], -1: []}
    for sign, seed in ((1, 0), (1, 1), (1, 2), (-1, 0), (-1, 1), (-1, 2)):
        loss = losses(encoding, seed)
        asked = question(encoding, loss, (), seed, sign)
        found = by_gates(asked, subspace, (), asked.bench.proxy, 6, np.random.default_rng(seed))
        assert (asked.bench.charged_gates, len(found.target)) == (4, 2)
        assert (subspace.canonicalise(found.genomes) == found.genomes).all()
        better[sign].append(int((loss(every) < found.target[0] - 1e-9).sum()))
    assert sum(better[1]) + 4 < sum(better[-1])
    asked = question(encoding, losses(encoding, 0), (), 0)
    assert len(by_gates(asked, subspace, (), asked.bench.proxy, 1, np.random.default_rng(0)).target) == 1
