"""Staged search in the other order: the bits of the largest network first, then its architecture and channels.

Quantizing before pruning is what users do who have a trained network and a tool for mixed precision. Staged design does
not say how far the network is quantized before its size is known. Here, as in ``apq_tune.methods.staged``, every
uniform bit-width is tried: the policy of the largest network may cost no more than that uniform policy does, and the
network is then pruned at its policy until it keeps the limits.
"""

from __future__ import annotations

import numpy as np

from apq_tune.errors import ProblemError
from apq_tune.methods.bench import Question
from apq_tune.methods.explore import best_of, explore, joined
from apq_tune.methods.projections import at_bits, both, fixed, largest, levels
from apq_tune.methods.subspace import Subspace
from apq_tune.methods.together import shortlist
from apq_tune.predict import Pairs
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import ARCHITECTURE_KINDS, BIT_KINDS
from apq_tune.space.gene_encoding import GeneEncoding

BITS = 0.45
"""Share of the evaluations for the policies of the largest network, as much as ``staged`` spends before its bits."""


def staged_bits_first(question: Question) -> Genomes:
    """Bits of the largest network first, then depth, kernels and channels at these bits.

    Raises:
        ProblemError: If the limits cannot be kept at any of the policies.
    """
    encoding, bench, limits = question.encoding, question.bench, question.limits
    whole = Subspace(encoding, largest(encoding, (*ARCHITECTURE_KINDS, "width")))
    widths = levels(encoding)[::-1]  # those at which pruning can fail come first, and leave the rest their share
    policies: dict[bytes, Genomes] = {}
    for number, bits in enumerate(widths, start=1):
        n = round(bench.allowed.proxy * BITS * number / len(widths)) - bench.count("proxy")
        wider = _as_uniform(encoding, limits, bits)
        best = best_of(explore(question, whole, wider, bench.proxy, n, question.rng(1, bits)), 1).genomes[0]
        policies.setdefault(best.tobytes(), best)
    own = Pairs(np.zeros((0, encoding.n_genes), np.int16), np.zeros(0))
    for number, policy in enumerate(policies.values()):
        pruned = Subspace(encoding, fixed(encoding, policy, BIT_KINDS))
        n = bench.left.proxy // (len(policies) - number)
        try:
            found = explore(question, pruned, limits, bench.proxy, n, question.rng(2, number), known=own)
        except ProblemError:  # too large at these bits even with the fewest channels
            continue
        own = joined(own, found)
    if not len(own.target):
        words = " and ".join(map(str, limits))
        raise ProblemError(f"no network with {words} at the bits that suit the largest one; relax a limit")
    return shortlist(question, own)


def _as_uniform(encoding: GeneEncoding, limits: tuple[Constraint, ...], bits: int) -> tuple[Constraint, ...]:
    """Limits that the largest network just keeps at a uniform bit-width; limits that it keeps anyway stay."""
    project = both(largest(encoding, (*ARCHITECTURE_KINDS, "width")), at_bits(encoding, bits))
    network = encoding.canonicalise(project(np.zeros((1, encoding.n_genes), np.int16)))
    return tuple(_widened(limit, float(limit.metric(network)[0])) for limit in limits)


def _widened(limit: Constraint, cost: float) -> Constraint:
    bound = max(limit.bound, cost) if limit.sense == "<=" else min(limit.bound, cost)
    return Constraint(limit.metric, bound, limit.sense)
