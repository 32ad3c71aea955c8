"""Free upgrades: bits are raised and never lowered, limits and latencies hold, and nothing more could be raised."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from apq_tune import Constraint, FunctionMetric, NetworkEncoding
from apq_tune.cost import weight_bytes
from apq_tune.cost.bitfusion import bitfusion_latency_ms
from apq_tune.methods.raised import raise_bits, raises
from apq_tune.problem.costs import Costs
from apq_tune.space.gene import BIT_KINDS


def bits(encoding: Any, genomes: Any) -> Any:
    """Bit-widths of all genes of bits, shape ``(n, n_bits)``."""
    places = encoding.places_of(BIT_KINDS)
    return np.array([[encoding.choices[gene][genome[gene]] for gene in places] for genome in genomes])


@pytest.mark.parametrize("with_latency", [False, True])
def test_bits_only_rise_and_limits_and_latencies_hold(
    either: NetworkEncoding, rng: np.random.Generator, with_latency: bool
) -> None:
    genomes = either.sample(30, rng)
    costs = Costs.of(either)
    size = costs.metrics["weight_bytes"]
    limits = [Constraint(size, float(np.quantile(size(genomes), 0.7)))]
    latencies = [costs.metrics["latency_ms"]] if with_latency else []
    inside = limits[0].violation(size(genomes)) <= 0
    after = raise_bits(either, genomes, limits, latencies)
    places = either.places_of(BIT_KINDS)
    rest = np.setdiff1d(np.arange(either.n_genes), places)
    assert (after[:, rest] == genomes[:, rest]).all()
    assert (bits(either, after) >= bits(either, genomes)).all()
    assert (after[~inside] == genomes[~inside]).all()
    assert (size(after[inside]) <= limits[0].bound).all()
    assert either.is_allowed(after).all()
    assert (either.canonicalise(after) == after).all()
    for latency in latencies:
        assert (latency(after) <= latency(genomes) * (1 + 1e-9)).all()
    if not with_latency:
        assert (after != genomes).any()
    assert (raise_bits(either, genomes, limits, latencies) == after).all()
    assert (raise_bits(either, after[inside], limits, latencies) == after[inside]).all()  # nothing is left to raise


def test_no_further_gene_could_be_raised(tiny: NetworkEncoding, rng: np.random.Generator) -> None:
    size = weight_bytes(tiny)
    genomes = tiny.sample(10, rng)
    for genome in genomes:
        limit = Constraint(size, float(size(genome[None])[0]) * 1.1)
        (after,) = raise_bits(tiny, genome[None], [limit])
        active = tiny.active_genes(after[None])[0]
        for gene in tiny.places_of(BIT_KINDS):
            for value in range(after[gene] + 1, tiny.n_choices[gene]) if active[gene] else ():
                more = after.copy()
                more[gene] = value
                assert limit.violation(size(more[None]))[0] > 0 or not tiny.is_allowed(more[None])[0]


def test_the_fewest_bits_are_raised_first(tiny: NetworkEncoding) -> None:
    """With room for one more step only the layer with two bits gets it, though another one comes before."""
    places = tiny.places_of(BIT_KINDS)
    genome = tiny.at_largest(tiny.sample(1, np.random.default_rng(0)), BIT_KINDS)[0]
    eight = [gene for gene in places if tiny.active_genes(genome[None])[0][gene] and tiny.n_choices[gene] == 2]
    at_two = next(gene for gene in reversed(eight) if tiny.choices[gene][0] == 2)
    at_four = next(gene for gene in eight if tiny.choices[gene][0] == 4)
    genome[[at_two, at_four]] = 0
    steps = FunctionMetric("steps", "", lambda genomes: genomes[:, places].sum(axis=1).astype(float))
    room = Constraint(steps, float(steps(genome[None])[0]) + 1)
    (after,) = raise_bits(tiny, genome[None], [room])
    (one,) = raises(tiny, genome, after)
    assert (one.gene, one.before, one.after) == (tiny.names[at_two], 2, 8)
    assert str(one) == f"{one.of} from 2 to 8 bits"
    assert one.of.split()[0] == ("weights" if tiny.genes[at_two].kind == "w_bits" else "input")


def test_bits_that_go_only_together_are_raised_together(tiny: NetworkEncoding) -> None:
    genome = np.zeros(tiny.n_genes, np.int16)
    layers: dict[tuple[str, str], list[int]] = {}
    for gene in tiny.places_of(BIT_KINDS):
        if tiny.n_choices[gene] > 1 and tiny.active_genes(genome[None])[0][gene]:
            layers.setdefault((tiny.genes[gene].block, tiny.genes[gene].layer), []).append(int(gene))
    pair = next(own for own in layers.values() if len(own) == 2)
    others = [g for g in range(tiny.n_genes) if g not in pair]

    def broken(genomes: Any) -> Any:
        same = genomes[:, pair[0]] == genomes[:, pair[1]]
        return (~same).astype(float) + genomes[:, others].sum(axis=1)

    limit = Constraint(FunctionMetric("apart", "", broken), 0.0)
    (after,) = raise_bits(tiny, genome[None], [limit])
    assert after[pair].tolist() == [1, 1]
    assert (after[others] == 0).all()


def test_latencies_that_fall_with_bits_are_used(tiny: NetworkEncoding, rng: np.random.Generator) -> None:
    """On a processor whose kernels unpack, more bits may be faster; then all are raised."""
    slow = bitfusion_latency_ms(tiny)
    faster = FunctionMetric("faster", "ms", lambda genomes: 1 / slow(genomes))
    genomes = tiny.sample(5, rng)
    after = raise_bits(tiny, genomes, [], [faster])
    for genome, more in itertools.zip_longest(genomes, after):
        if tiny.is_allowed(tiny.at_largest(genome[None], BIT_KINDS))[0]:
            assert (more == tiny.at_largest(genome[None], BIT_KINDS)[0]).all()
