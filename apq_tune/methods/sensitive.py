"""Staged searches whose bits come from an integer program: sensitivities gene by gene, added up.

Architecture and channels are those of ``staged``. The bits with the least sum of sensitivities within the limits are
then found exactly (HAWQ-V3, Yao 2021); the program's first choice is measured, then its next best ones as long as
evaluations are left. Sensitivities are either measured losses of each bit-width of each gene alone, all others being at
the most bits, of which each costs an evaluation; or mean traces of Hessians times squared quantization errors (HAWQ-V2,
Dong 2020), which cost as many evaluations as take the same time.
"""

from __future__ import annotations

from collections.abc import Callable

from apq_tune.methods.bench import Question
from apq_tune.methods.bit_program import best_bits, one_gene_lower, sensitivities, without_noise
from apq_tune.methods.by_rule import BitRule, ChosenBits, staged_by_rule
from apq_tune.space.encoding import Genomes


def sensitivity(question: Question) -> Genomes:
    """Bits by the exact program from measured losses, for the networks of the first two stages."""
    bench, encoding = question.bench, question.encoding

    def choose(network: Genomes, most: Callable[[], int]) -> ChosenBits:
        measured = sensitivities(encoding, network, bench.proxy)
        table = {gene: without_noise(encoding.choices[gene], row) for gene, row in measured.items()}
        cells, _ = one_gene_lower(encoding, network)
        return ChosenBits(best_bits(encoding, network, table, question.limits, most()), cells)

    return staged_by_rule(question, BitRule(lambda network: len(one_gene_lower(encoding, network)[0]), choose))


def hawq(question: Question) -> Genomes:
    """Bits by the exact program from traces of Hessians, for the networks of the first two stages."""
    bench, encoding = question.bench, question.encoding

    def choose(network: Genomes, most: Callable[[], int]) -> ChosenBits:
        table = bench.curvature(network)
        return ChosenBits(best_bits(encoding, network, table, question.limits, most()), network[None][:0])

    return staged_by_rule(question, BitRule(lambda _: bench.curvature_price, choose))
