"""Staged search whose bits come from a rule: architecture and channels of ``staged``, then the rule's bits for them.

What is left of the evaluations goes to bits near the best ones, as in ``staged_haq``, so that methods differ in their
rules only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.bit_program import one_gene_lower
from apq_tune.methods.explore import best_of, explore, joined, without
from apq_tune.methods.projections import fixed
from apq_tune.methods.staged import prune
from apq_tune.methods.subspace import Subspace
from apq_tune.methods.together import shortlist
from apq_tune.predict import Pairs
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import ARCHITECTURE_KINDS

NEXT = 12
"""Number of choices of a rule that are measured for each network, if the evaluations suffice."""


class ChosenBits(NamedTuple):
    """What a rule has found for a network.

    Attributes:
        genomes: Candidates within the limits, best first, shape ``(n, n_genes)``.
        measured: Genomes that it measured to find them, most of which are above the limits.
    """

    genomes: Genomes
    measured: Genomes


class BitRule(NamedTuple):
    """Rule that chooses the bits of a network.

    Attributes:
        price: Function from a network of shape ``(n_genes,)`` to the evaluations that the rule needs for it.
        choose: Function from a network and the largest number of choices to what it found.
    """

    price: Callable[[Genomes], int]
    choose: Callable[[Genomes, Callable[[], int]], ChosenBits]


def staged_by_rule(question: Question, rule: BitRule) -> Genomes:
    """Bits by a rule for the networks of the first two stages.

    Evaluations that are left when the rule can no longer be paid for go to bits near the best ones, as in
    ``staged_haq``; so do those of a budget that is too small for a single network.
    """
    bench, encoding, limits = question.bench, question.encoding, question.limits
    own = Pairs(np.zeros((0, encoding.n_genes), np.int16), np.zeros(0))
    for each in prune(question):
        own = joined(own, Pairs(each.networks.genomes, bench.proxy(each.networks.genomes)))
    seen = own  # with what rules measure, which the predictor learns from, though most of it is above the limits
    architectures: set[bytes] = set()
    for network in best_of(own, len(own.target)).genomes:
        key = one_gene_lower(encoding, network)[0][0].tobytes()
        wanted = max(1, bench.left.fine - len(own.target))  # candidates within the limits to look at closely
        if key in architectures or bench.left.proxy < rule.price(network) + wanted:
            continue
        architectures.add(key)
        found = rule.choose(network, lambda: min(NEXT, bench.left.proxy))
        new = without(found.genomes, own.genomes)  # a uniform policy may be what the rule chooses
        pairs = Pairs(new, bench.proxy(new))
        own = joined(own, pairs)
        seen = joined(seen, joined(Pairs(found.measured, bench.proxy(found.measured)), pairs))
    for number, network in enumerate(best_of(own, len(own.target)).genomes):
        if not bench.left.proxy:
            break
        subspace = Subspace(encoding, fixed(encoding, network, (*ARCHITECTURE_KINDS, "width")))
        rest = explore(question, subspace, limits, bench.proxy, bench.left.proxy, question.rng(3, number), known=seen)
        own, seen = joined(own, rest), joined(seen, rest)
    return shortlist(question, own)
