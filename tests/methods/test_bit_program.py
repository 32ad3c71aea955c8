"""Bits that the integer program chooses for networks of a space, against all policies, and costs of any form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from apq_tune import Constraint, FunctionMetric, NetworkEncoding, ProblemError, SearchSpace
from apq_tune.methods.bit_program import best_bits, budgets_of, one_gene_lower, open_bits, without_noise
from apq_tune.problem.costs import Costs


@pytest.fixture(scope="module")
def shallow() -> NetworkEncoding:
    """Two blocks of two bit-widths or three, so that all policies can be tried, and a forbidden pair."""
    data = SearchSpace.load("digits").model_dump(mode="json", exclude_none=True)
    for stage in data["stages"]:
        stage["depth"] = [1]
    data["choices"] |= {"pw_w_bits": [2, 4, 8], "pw_a_bits": [2, 4, 8], "dw_w_bits": [4, 8], "dw_a_bits": [4, 8]}
    data["forbidden"] = [{"pw_w_bits": 2, "pw_a_bits": 8}]
    return NetworkEncoding(SearchSpace.from_dict(data))


def policies(encoding: NetworkEncoding, genome: np.ndarray) -> np.ndarray:
    genes = open_bits(encoding, genome)
    rows = np.array(list(itertools.product(*(range(encoding.n_choices[gene]) for gene in genes))), np.int16)
    genomes = np.repeat(genome[None].astype(np.int16), len(rows), axis=0)
    genomes[:, genes] = rows
    return genomes


@pytest.mark.parametrize("names", [("weight_bytes",), ("bit_ops", "peak_activation_bytes"), ("latency_ms",)])
def test_the_program_finds_the_best_of_all_policies_in_order(shallow: NetworkEncoding, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    genome = shallow.sample(1, rng)[0]
    genes = open_bits(shallow, genome)
    table = {int(gene): np.sort(rng.random(shallow.n_choices[gene]))[::-1] for gene in genes}
    everything = policies(shallow, genome)
    costs = Costs.of(shallow).metrics
    limits = [Constraint(costs[name], float(np.quantile(costs[name](everything), 0.3))) for name in names]
    kept = everything[shallow.is_allowed(everything)]
    kept = kept[np.all([limit.metric(kept) <= limit.bound for limit in limits], axis=0)]
    losses = sum(table[int(gene)][kept[:, gene]] for gene in genes)
    order = np.argsort(losses, kind="stable")[:5]
    found = best_bits(shallow, genome, table, limits, 5)
    np.testing.assert_array_equal(found, kept[order])
    greedy = best_bits(shallow, genome, table, limits, greedy=True)
    assert all(limit.metric(greedy)[0] <= limit.bound for limit in limits)


def test_costs_that_are_known_by_their_values_alone_have_the_same_tables(shallow: NetworkEncoding) -> None:
    genome = shallow.sample(1, np.random.default_rng(2))[0]
    cost = Costs.of(shallow).metrics["bit_ops"]
    blind = FunctionMetric("bit_ops", "BitOps", cost)
    everything = policies(shallow, genome)
    (known,), (probed,) = (
        [b for b in budgets_of(shallow, genome, [Constraint(m, 1e9)]) if b.name == "bit_ops"] for m in (cost, blind)
    )
    for one in everything[shallow.is_allowed(everything)][::5]:
        choice = one[open_bits(shallow, genome)].astype(np.intp)
        assert probed.cost(choice) == pytest.approx(known.cost(choice)) == pytest.approx(float(cost(one[None])[0]))


def test_a_cost_that_is_no_sum_over_layers_and_a_lower_bound_are_refused(shallow: NetworkEncoding) -> None:
    genome = shallow.sample(1, np.random.default_rng(2))[0]
    costs = Costs.of(shallow).metrics
    peak = FunctionMetric("peak", "bytes", costs["peak_activation_bytes"])
    with pytest.raises(ProblemError, match="peak is no sum over layers"):
        budgets_of(shallow, genome, [Constraint(peak, 1e9)])
    with pytest.raises(ProblemError, match="upper bounds only"):
        budgets_of(shallow, genome, [Constraint(costs["macs"], 1.0, ">=")])


def test_limits_that_no_bits_keep_are_refused_with_the_least_that_they_reach(shallow: NetworkEncoding) -> None:
    genome = shallow.sample(1, np.random.default_rng(3))[0]
    table = {int(gene): np.zeros(shallow.n_choices[gene]) for gene in open_bits(shallow, genome)}
    cost = Costs.of(shallow).metrics["weight_bytes"]
    everything = policies(shallow, genome)
    least = float(cost(everything[shallow.is_allowed(everything)]).min())
    with pytest.raises(ProblemError, match=f"the least reachable is {least:.15g}, relax"):
        best_bits(shallow, genome, table, [Constraint(cost, least - 1)])
    assert float(cost(best_bits(shallow, genome, table, [Constraint(cost, least)]))[0]) == least


def test_the_cells_of_a_table_differ_from_the_network_of_most_bits_in_one_gene(shallow: NetworkEncoding) -> None:
    genome = shallow.sample(1, np.random.default_rng(4))[0]
    genomes, cells = one_gene_lower(shallow, genome)
    assert len(np.unique(genomes, axis=0)) == len(genomes) == 1 + len(cells) == 1 + 2 * (2 + 2 + 1 + 1)
    assert ((genomes != genomes[0]).sum(axis=1)[1:] == 1).all()


def test_losses_without_noise_fall_to_zero_no_faster_than_the_error_of_a_uniform_quantizer() -> None:
    bits = (3, 4, 5, 6, 7, 8)
    law = 7.0 * (4.0 ** -np.array(bits) - 4.0**-8)
    np.testing.assert_allclose(without_noise(bits, law), law, atol=1e-12)
    slower = np.array([1.0, 0.8, 0.6, 0.5, 0.2, 0.0])
    np.testing.assert_allclose(without_noise(bits, slower), slower, atol=1e-6)
    noisy = without_noise(bits, law + np.array([0.0, -0.05, 0.02, -0.01, 0.01, 0.0]))
    assert (np.diff(noisy) < 0).all() and noisy[-1] == 0
    np.testing.assert_array_equal(without_noise(bits, np.array([-1.0, -2, -3, -1, -2, 0])), np.zeros(6))
    assert without_noise((2, 8), np.array([0.5, 0.0])).tolist() == [0.5, 0.0]
