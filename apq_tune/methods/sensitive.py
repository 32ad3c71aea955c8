"""Staged search whose bits come from an integer program: sensitivities gene by gene, added up (HAWQ-V3, Yao 2021).

Architecture and channels are those of ``staged``. For the best pruned networks, the increase of the proxy loss is then
measured for each bit-width of each gene alone, all others being at the most bits: this table costs as many evaluations
as it has cells, and they count like any others. The bits with the least sum of increases within the limits are found
exactly; the program's first choice is measured, then its next best ones as long as evaluations are left.
"""

from __future__ import annotations

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.bit_program import best_bits, one_gene_lower, sensitivities, without_noise
from apq_tune.methods.explore import best_of, explore, joined
from apq_tune.methods.projections import fixed
from apq_tune.methods.staged import prune
from apq_tune.methods.subspace import Subspace
from apq_tune.methods.together import shortlist
from apq_tune.predict import Pairs
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import ARCHITECTURE_KINDS

NEXT = 12
"""Number of choices of the program that are measured for each network, if the evaluations suffice."""


def sensitivity(question: Question) -> Genomes:
    """Bits by the exact program from measured sensitivities, for the networks of the first two stages.

    Evaluations that are left when no further table can be paid for go to bits near the best ones, as in ``staged_haq``;
    so do those of a budget that is too small for a single table.
    """
    bench, encoding, limits = question.bench, question.encoding, question.limits
    own = Pairs(np.zeros((0, encoding.n_genes), np.int16), np.zeros(0))
    for each in prune(question):
        own = joined(own, Pairs(each.networks.genomes, bench.proxy(each.networks.genomes)))
    seen = own  # with the cells of tables, which the predictor learns from, though most of them are above the limits
    architectures: set[bytes] = set()
    for network in best_of(own, len(own.target)).genomes:
        cells, _ = one_gene_lower(encoding, network)
        wanted = max(1, bench.left.fine - len(own.target))  # candidates within the limits to look at closely
        if cells[0].tobytes() in architectures or bench.left.proxy < len(cells) + wanted:
            continue
        architectures.add(cells[0].tobytes())
        measured = sensitivities(encoding, network, bench.proxy)
        table = {gene: without_noise(encoding.choices[gene], row) for gene, row in measured.items()}
        found = best_bits(encoding, network, table, limits, min(NEXT, bench.left.proxy))
        pairs = Pairs(found, bench.proxy(found))
        own, seen = joined(own, pairs), joined(seen, joined(Pairs(cells, bench.proxy(cells)), pairs))
    for number, network in enumerate(best_of(own, len(own.target)).genomes):
        if not bench.left.proxy:
            break
        subspace = Subspace(encoding, fixed(encoding, network, (*ARCHITECTURE_KINDS, "width")))
        rest = explore(question, subspace, limits, bench.proxy, bench.left.proxy, question.rng(3, number), known=seen)
        own, seen = joined(own, rest), joined(seen, rest)
    return shortlist(question, own)
