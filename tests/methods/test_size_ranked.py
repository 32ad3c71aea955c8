"""Bits by the sizes of layers, against a plain loop and against bisection; uniform policies where choices differ."""

from __future__ import annotations

import numpy as np
import pytest

from apq_tune import Candidate, Constraint, NetworkEncoding, ProblemError, SearchSpace
from apq_tune.cost import weight_bytes
from apq_tune.methods.projections import at_bits, four_bits, levels
from apq_tune.methods.size_ranked import ranked_by_size, size_policies
from apq_tune.methods.subspace import Subspace
from tests.methods.test_methods import ALLOWED, METHODS, question


def space_of(**choices: list[int]) -> SearchSpace:
    data = SearchSpace.load("digits").to_dict()
    data["choices"] |= choices
    return SearchSpace.from_dict(data)


@pytest.fixture(scope="module")
def weights_only() -> NetworkEncoding:
    """As on most devices: activations of 8 bits only."""
    return NetworkEncoding(space_of(pw_a_bits=[8], dw_a_bits=[8]))


def sizes(candidate: Candidate, encoding: NetworkEncoding) -> list[tuple[int, float, int, str]]:
    """Weights, and weights of each output, of the genes of a candidate in the order of execution, counted by hand."""
    found = []
    slots = [slot for slot in encoding.space.slots if slot.position < candidate.depths[slot.stage]]
    for number, (slot, block) in enumerate(zip(slots, candidate.blocks, strict=True)):
        n_pw = (slot.in_channels + slot.out_channels) * block.channels
        found.append((n_pw, n_pw / (block.channels + slot.out_channels), number, f"{slot.name} pw_w_bits"))
        found.append((block.kernel_size**2 * block.channels, block.kernel_size**2, number, f"{slot.name} dw_w_bits"))
    return found


def test_layers_are_ranked_by_their_weights(encoding: NetworkEncoding) -> None:
    for genome in encoding.sample(20, np.random.default_rng(0)):
        names = [encoding.genes[gene].name for gene in ranked_by_size(encoding, genome)]
        own = sizes(encoding.decode(genome[None])[0], encoding)
        expected = [name for *_, name in sorted(own, key=lambda one: (-one[0], one[1], -one[2]))]
        assert names == expected


def test_the_first_policy_within_the_limit_is_the_one_that_bisection_finds(weights_only: NetworkEncoding) -> None:
    encoding, cost = weights_only, weight_bytes(weights_only)
    genome = encoding.sample(1, np.random.default_rng(1))[0]
    (policies,) = size_policies(encoding, genome)
    costs = cost(policies)
    assert (np.diff(costs) < 0).all()  # so that bisection is right
    n = len(ranked_by_size(encoding, genome))
    assert len(policies) == 1 + 2 * n  # of 8, 4 and 2 bits
    bits = [[b for block in c.blocks for b in (block.pw_w_bits, block.dw_w_bits)] for c in encoding.decode(policies)]
    assert set(bits[0]) == {8}
    assert set(bits[n]) == {4}
    assert set(bits[-1]) == {2}
    bound = float(np.quantile(costs, 0.6))
    low, high = 0, len(policies) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if costs[middle] <= bound else (middle + 1, high)
    assert low == int(np.argmax(costs <= bound))


def test_the_largest_layers_lose_their_bits_and_activations_keep_theirs(weights_only: NetworkEncoding) -> None:
    cost = weight_bytes(weights_only)
    low, high = cost.reachable()
    asked = question(weights_only, [Constraint(cost, low + 0.25 * (high - low))])
    METHODS["size-rank"].propose(asked)
    measured = asked.bench.measured("proxy").genomes
    assert len(measured) + asked.bench.count("fp32") == ALLOWED.proxy
    known = {policy.tobytes() for genome in measured for one in size_policies(weights_only, genome) for policy in one}
    assert sum(genome.tobytes() in known for genome in measured) >= 3  # one for each network that was pruned


@pytest.mark.parametrize("method", ["staged", "staged-bits-first", "hawq", "size-rank", "uniform-4", "uniform-8"])
def test_staged_searches_know_uniform_weights_where_activations_have_no_choice(
    weights_only: NetworkEncoding, method: str
) -> None:
    assert weights_only.uniform_bits() == [8]
    assert levels(weights_only) == [2, 4, 8]
    cost = weight_bytes(weights_only)
    share = 0.5 if method == "uniform-8" else 0.05  # which no network of 8 bits keeps
    low, high = cost.reachable()
    limit = Constraint(cost, low + share * (high - low))
    found = METHODS[method].propose(question(weights_only, [limit]))
    assert len(found) == ALLOWED.short
    assert (cost(found) <= limit.bound).all()
    widths = {b for c in weights_only.decode(found) for block in c.blocks for b in (block.pw_w_bits, block.dw_w_bits)}
    assert widths == {int(method[-1])} if method.startswith("uniform") else len(widths) > 1


def test_tensors_without_a_width_get_the_next_larger_one() -> None:
    encoding = NetworkEncoding(space_of(pw_w_bits=[2, 4, 8], dw_w_bits=[8], pw_a_bits=[4, 8], dw_a_bits=[8]))
    assert levels(encoding) == [2, 4, 8]
    part = Subspace(encoding, four_bits(encoding))
    for candidate in encoding.decode(part.sample(5, np.random.default_rng(0))):
        assert {block[2:] for block in candidate.blocks} == {(4, 4, 8, 8)}
    for candidate in encoding.decode(Subspace(encoding, at_bits(encoding, 2)).sample(5, np.random.default_rng(0))):
        assert {block[2:] for block in candidate.blocks} == {(2, 4, 8, 8)}
    eight = NetworkEncoding(space_of(pw_w_bits=[8], dw_w_bits=[8], pw_a_bits=[8], dw_a_bits=[8]))
    with pytest.raises(ProblemError, match="digits: 4 bits are open to no layer; there is no uniform policy of 4 bits"):
        four_bits(eight)
