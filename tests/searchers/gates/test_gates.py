"""Gates over genes: gradients against finite differences, expectations against enumeration and samples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apq_tune import (
    Constraint,
    FunctionMetric,
    ModelSpace,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    RunError,
    SearchSpace,
    search,
)
from apq_tune.cost import bit_ops, cost_models, weight_bytes
from apq_tune.searchers.gates.costs import CostLoss, ExpectedCost
from apq_tune.searchers.gates.distribution import GeneDistribution
from apq_tune.searchers.gates.draws import Gates, binary_gates, fixed_gates, gumbel_gates, keep_others
from apq_tune.searchers.gates.training import GateTraining, train_gates
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.tracing.trace import trace
from tests.conftest import TINY
from tests.tracing.zoo import example_of, network

FREE = {key: value for key, value in TINY.items() if key != "forbidden"}
"""The tiny space with all combinations allowed, and three bit-widths, so that two of them are drawn."""
FREE["choices"] = {**TINY["choices"], "pw_w_bits": [2, 4, 8]}


@pytest.fixture(scope="module")
def tiny() -> NetworkEncoding:
    return NetworkEncoding(SearchSpace.from_dict(FREE))


def drawn(encoding: GeneEncoding, seed: int = 0) -> GeneDistribution:
    """Distribution with random parameters."""
    found = GeneDistribution(encoding)
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=found.offered.shape))
    found.logits = (found.logits.detach() + noise).requires_grad_()
    return found


def toy(seed: int = 0) -> Any:
    """Two layers of mixed operations, whose gates are the first two rows: a function of them that is not linear."""
    rng = np.random.default_rng(seed)
    first, second = (torch.from_numpy(rng.normal(size=(3, 4, 4))) for _ in range(2))
    x, target = (torch.from_numpy(rng.normal(size=(5, 4))) for _ in range(2))

    def loss(values: Tensor) -> Tensor:
        hidden = torch.tanh(sum(values[0, j] * (x @ first[j]) for j in range(3)))
        return (sum(values[1, j] * (hidden @ second[j]) for j in range(3)) - target).square().mean()

    return loss


def three(encoding: GeneEncoding) -> list[int]:
    """Two genes with three values."""
    return np.flatnonzero(encoding.n_choices == 3)[:2].tolist()


def test_gradients_of_binary_gates_are_those_of_the_paper_by_finite_differences(tiny: NetworkEncoding) -> None:
    loss, distribution = toy(), drawn(tiny)
    genes = three(tiny)
    gates, pair = binary_gates(distribution, np.random.default_rng(3))
    (own,) = torch.autograd.grad(loss(gates.values[genes]), distribution.logits)
    values, step = gates.values[genes].detach(), 1e-6
    for row, gene in enumerate(genes):
        i, k = pair[gene].tolist()
        assert sorted(values[row].tolist()) == [0, 0, 1]
        assert values[row, i] + values[row, k] == 1
        slopes = {}
        for j in (i, k):
            shift = torch.zeros_like(values)
            shift[row, j] = step
            slopes[j] = float(loss(values + shift) - loss(values - shift)) / (2 * step)
        weights = np.exp(distribution.logits.detach()[gene, [i, k]].numpy())
        p = dict(zip((i, k), weights / weights.sum(), strict=True))
        for j in (i, k):
            expected = sum(slopes[other] * p[other] * ((other == j) - p[j]) for other in (i, k))
            assert float(own[gene, j]) == pytest.approx(expected, rel=1e-6)
        rest = ({0, 1, 2} - {i, k}).pop()
        assert float(own[gene, rest]) == 0
        assert not gates.used[gene, rest]


def test_gradients_of_gumbel_gates_by_finite_differences(tiny: NetworkEncoding) -> None:
    loss, distribution, genes = toy(1), drawn(tiny, 1), three(tiny)

    def at(logits: Tensor) -> Tensor:
        other = drawn(tiny, 1)
        other.logits = logits
        return loss(gumbel_gates(other, 0.7, np.random.default_rng(5)).values[genes])

    (own,) = torch.autograd.grad(at(distribution.logits), distribution.logits)
    for gene, j in itertools.product(genes, range(3)):
        shift = torch.zeros_like(own)
        shift[gene, j] = 1e-6
        with torch.no_grad():
            slope = float(at(distribution.logits + shift) - at(distribution.logits - shift)) / 2e-6
        assert float(own[gene, j]) == pytest.approx(slope, rel=1e-5)


def test_one_of_two_values_runs_as_often_as_it_is_probable(tiny: NetworkEncoding) -> None:
    distribution, rng = drawn(tiny, 2), np.random.default_rng(0)
    n = 3000
    total = sum(binary_gates(distribution, rng)[0].values.detach() for _ in range(n))
    of_two = tiny.n_choices == 2
    shares, expected = (total / n).numpy(), distribution.probabilities().detach().numpy()
    assert np.abs(shares - expected)[of_two].max() < 4 * 0.5 / np.sqrt(n)
    assert np.allclose(shares.sum(axis=1), 1)


def test_probabilities_of_all_other_values_stay_what_they_were(tiny: NetworkEncoding) -> None:
    distribution = drawn(tiny)
    _, pair = binary_gates(distribution, np.random.default_rng(0))
    before = distribution.probabilities().detach()
    old = distribution.logits.detach().clone()
    with torch.no_grad():
        distribution.logits.scatter_add_(1, pair, torch.tensor([[0.7, -0.2]]).double().expand(len(pair), 2))
    keep_others(distribution, old, pair)
    after = distribution.probabilities().detach()
    (gene, *_) = three(tiny)
    rest = ({0, 1, 2} - set(pair[gene].tolist())).pop()
    assert float(after[gene, rest]) == pytest.approx(float(before[gene, rest]), rel=1e-12)
    assert float(after[gene, pair[gene, 0]]) > float(before[gene, pair[gene, 0]])


@pytest.mark.parametrize("gate", ["tiny", "resnet8"])
def test_expected_costs_are_means_over_all_networks(gate: str, tiny: NetworkEncoding) -> None:
    encoding: GeneEncoding = tiny
    if gate == "resnet8":
        encoding = encoding_of(ModelSpace.of_graph(trace(network(gate), example_of(gate)), step=8, least=0.5))
    distribution, rng = drawn(encoding, 4), np.random.default_rng(1)
    weights = distribution.probabilities().detach()
    for metric in cost_models(encoding):
        if metric.name == "peak_activation_bytes":
            continue
        cost = ExpectedCost(metric)
        assert cost.exact
        found = float(cost(distribution, weights, rng))
        if gate == "tiny":  # each network by its probability
            genomes = encoding.enumerate()
            p = distribution.log_probability(genomes).detach().exp().numpy()
            assert p.sum() == pytest.approx(1)
            assert found == pytest.approx(float(p @ metric(genomes)), rel=1e-9)
        costs = metric(distribution.sample(4000, rng))
        assert abs(found - costs.mean()) < 4 * costs.std() / np.sqrt(len(costs)), metric.name


def test_the_gradient_of_an_estimated_cost_is_that_of_the_exact_one(tiny: NetworkEncoding) -> None:
    exact, rng = bit_ops(tiny), np.random.default_rng(2)
    estimate = ExpectedCost(FunctionMetric("cost", "", exact))
    assert not estimate.exact
    distribution = drawn(tiny, 5)
    (slope,) = torch.autograd.grad(
        ExpectedCost(exact)(distribution, distribution.probabilities(), rng), distribution.logits
    )
    found = [
        torch.autograd.grad(estimate(distribution, distribution.probabilities(), rng), distribution.logits)[0]
        for _ in range(400)
    ]
    mean, spread = torch.stack(found).mean(dim=0), torch.stack(found).std(dim=0) / 20
    close = (mean - slope).abs() <= 5 * spread + 1e-9
    assert bool(close[torch.from_numpy(distribution.offered)].all())


def test_networks_that_run_alone_have_their_own_cost(tiny: NetworkEncoding) -> None:
    metric, rng = weight_bytes(tiny), np.random.default_rng(0)
    for genome in tiny.sample(5, rng):
        gates = fixed_gates(genome, int(tiny.n_choices.max()))
        assert float(ExpectedCost(metric)(drawn(tiny), gates.values, rng)) == pytest.approx(
            float(metric(genome[None])[0])
        )


@pytest.mark.parametrize("gate", ["binary", "gumbel"])
def test_a_huge_weight_on_the_cost_finds_the_cheapest_network(tiny: NetworkEncoding, gate: Any) -> None:
    metric, distribution = bit_ops(tiny), GeneDistribution(tiny)
    settings = GateTraining(gate, 150, 0.2, costs=CostLoss("linear", 1e6))
    rng = np.random.default_rng(9)
    noise = torch.from_numpy(rng.normal(size=distribution.offered.shape))
    train_gates(
        distribution, lambda gates, _: (gates.values * noise).sum(), [Constraint(metric, 1e6)], settings, seed=1
    )
    every = tiny.enumerate()
    np.testing.assert_array_equal(distribution.mode()[0], every[metric(every).argmin()])


@pytest.mark.parametrize("gate", ["binary", "gumbel"])
def test_an_additive_loss_is_minimised_and_a_resumed_search_is_the_same(tiny: NetworkEncoding, gate: Any) -> None:
    noise = np.random.default_rng(7).normal(size=(tiny.n_genes, int(tiny.n_choices.max())))
    table = torch.from_numpy(noise)

    def loss(gates: Gates, _: int) -> Tensor:
        return (gates.values * table).sum()

    settings, saved = GateTraining(gate, 200, 0.1), {}
    whole, rest = GeneDistribution(tiny), GeneDistribution(tiny)
    train_gates(
        whole, loss, [], settings, 3, after_step=lambda n, state: saved.update({n: state()}) if n == 77 else None
    )
    train_gates(rest, loss, [], settings, 3, checkpoint=saved[77])
    assert torch.equal(whole.logits, rest.logits)
    best = np.where(whole.offered, noise, np.inf).argmin(axis=1).astype(np.int16)[None]
    np.testing.assert_array_equal(whole.mode(), tiny.canonicalise(best))
    with pytest.raises(RunError, match="damaged"):
        train_gates(GeneDistribution(tiny), loss, [], settings, 3, checkpoint=b"no")


def test_limits_are_kept_by_the_hinge_on_average(tiny: NetworkEncoding) -> None:
    metric = weight_bytes(tiny)
    every = metric(tiny.enumerate())
    limit = Constraint(metric, float(np.quantile(every, 0.3)))
    wish = np.where(np.arange(int(tiny.n_choices.max())) == tiny.n_choices[:, None] - 1, -1.0, 0.0)
    distribution = GeneDistribution(tiny)
    train_gates(
        distribution,
        lambda gates, _: (gates.values * torch.from_numpy(wish)).sum(),
        [limit],
        GateTraining(steps=300, learning_rate=0.1, costs=CostLoss(weight=100.0)),
        0,
    )
    weights = distribution.probabilities().detach()
    expected = float(ExpectedCost(metric)(distribution, weights, np.random.default_rng(0)))
    assert 0.8 * limit.bound < expected < 1.02 * limit.bound


def test_forms_of_the_loss_are_the_stated_equations() -> None:
    metric = FunctionMetric("latency_us", "us", lambda genomes: np.zeros(len(genomes)))
    loss, cost, limit = torch.tensor(1.5).double(), torch.tensor(300.0).double(), Constraint(metric, 200.0)
    found = {
        form: float(CostLoss(form, 0.1)(loss, [cost], [limit])) for form in ("hinge", "linear", "proxyless", "fbnet")
    }
    assert found["hinge"] == found["linear"] == pytest.approx(1.5 + 0.1 * 0.5)
    assert found["proxyless"] == pytest.approx(0.2 * 1.5 * (np.log(300) / np.log(200)) ** 0.3)
    assert found["fbnet"] == pytest.approx(0.2 * 1.5 * np.log(300) ** 0.6)
    with pytest.raises(ProblemError, match="above 1 us"):
        CostLoss("fbnet")(loss, [torch.tensor(0.5)], [limit])


def test_samples_keep_what_is_forbidden_and_closed_genes_and_a_prior_begins_with_the_most_probable() -> None:
    encoding = NetworkEncoding(SearchSpace.from_dict(TINY))
    rng = np.random.default_rng(0)
    bits = encoding.places_of(["w_bits", "a_bits"])
    base = encoding.ends()[1]
    rest = np.setdiff1d(np.arange(encoding.n_genes), bits)
    distribution = GeneDistribution(encoding, rest, base)
    genomes = distribution.sample(200, rng)
    active = encoding.active_genes(genomes)
    assert (genomes == base)[:, bits][active[:, bits]].all()
    assert len(np.unique(genomes, axis=0)) > 10
    every = drawn(encoding, 3)
    assert encoding.is_allowed(every.sample(500, rng)).all()
    prior = every.prior(8, rng)
    p = every.log_probability(prior).detach().numpy()
    assert len(np.unique(prior, axis=0)) == 8
    assert (np.diff(p) <= 0).all()
    with pytest.raises(ProblemError, match="give a genome"):
        GeneDistribution(encoding, rest)
    asked: list[np.ndarray] = []

    def metric(genomes: np.ndarray) -> np.ndarray:
        asked.append(genomes)
        return genomes.sum(axis=1).astype(float)

    search(Problem(encoding, [Objective(FunctionMetric("sum", "", metric))]), n_evaluations=200, initial=prior)
    np.testing.assert_array_equal(asked[0][: len(prior)], prior)
