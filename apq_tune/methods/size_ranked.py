"""Staged search whose bits follow the sizes of layers: those with the most weights get fewer bits.

This is what a vendor's tool does for microcontrollers (STM32 model zoo, quantization tool, mode ``full_auto``): weights
are ranked by their number, ties by fewer weights for each output channel, then by later execution, and bisection finds
how many of the ranking get 4 bits and not 8; activations keep their bits. There the accuracy is the limit. Here the
costs are, of which all policies of the ranking are computed at once. With further bit-widths the ranking is gone
through once for each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.bit_program import one_gene_lower, open_bits
from apq_tune.methods.by_rule import BitRule, ChosenBits, staged_by_rule
from apq_tune.methods.projections import everything, nearest_value
from apq_tune.methods.subspace import Subspace
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding


def size_rank(question: Question) -> Genomes:
    """Bits by the sizes of layers, for the networks of the first two stages."""
    encoding, limits = question.encoding, question.limits
    whole = Subspace(encoding, everything)

    def choose(network: Genomes, most: Callable[[], int]) -> ChosenBits:
        found = []
        for policies in size_policies(encoding, network):
            kept = np.flatnonzero(whole.violations(policies, limits) <= 0)
            found += [policies[kept[0]]] if len(kept) else []
        return ChosenBits(np.array(found, np.int16).reshape(-1, encoding.n_genes)[: most()], network[None][:0])

    return staged_by_rule(question, BitRule(lambda _: 0, choose))


def size_policies(encoding: GeneEncoding, genome: Genomes) -> list[Genomes]:
    """Policies in the order in which the largest layers lose bits, for each bit-width of the activations.

    Args:
        encoding: Encoding of the search space.
        genome: Network, shape ``(n_genes,)``; its bits do not matter.

    Returns:
        For each bit-width of the activations, the most bits first: canonical genomes of shape ``(n, n_genes)``, from
        all weights at the most bits to all at the fewest.
    """
    top = one_gene_lower(encoding, genome)[0][0]
    genes = [int(gene) for gene in open_bits(encoding, genome)]
    inputs = [gene for gene in genes if encoding.genes[gene].kind == "a_bits"]
    ranking = ranked_by_size(encoding, genome)
    steps: list[tuple[int, int]] = []
    for bits in sorted({bits for gene in ranking for bits in encoding.choices[gene]}, reverse=True)[1:]:
        own = [gene for gene in ranking if bits in encoding.choices[gene]]
        steps += [(gene, encoding.choices[gene].index(bits)) for gene in own]
    found: dict[bytes, Genomes] = {}
    for bits in sorted({bits for gene in inputs for bits in encoding.choices[gene]}, reverse=True) or [0]:
        policies = np.repeat(top[None], 1 + len(steps), axis=0)
        for gene in inputs:
            policies[:, gene] = nearest_value(encoding.choices[gene], bits)
        for number, (gene, value) in enumerate(steps, start=1):
            policies[number:, gene] = value
        policies = np.asarray(encoding.canonicalise(policies), np.int16)
        found.setdefault(policies[0].tobytes(), policies)
    return list(found.values())


def ranked_by_size(encoding: GeneEncoding, genome: Genomes) -> list[int]:
    """Open genes of the bits of weights of a network, those of the largest layers first.

    Args:
        encoding: Encoding of the search space.
        genome: Network, shape ``(n_genes,)``.
    """
    genomes, cells = one_gene_lower(encoding, genome)
    space = encoding.space
    top, *lower = (
        [layer.op for layer in space.network.at(space.values_of(candidate)) if layer.op is not None]
        for candidate in encoding.decode(genomes)
    )
    ranks: dict[int, tuple[int, float, int]] = {}
    for (gene, _), ops in zip(cells, lower, strict=True):
        if encoding.genes[gene].kind != "w_bits" or gene in ranks:
            continue
        own = [(place, op) for place, (op, most) in enumerate(zip(ops, top, strict=True)) if op.w_bits != most.w_bits]
        n, outputs = sum(int(op.n_weights) for _, op in own), sum(int(op.out_channels) for _, op in own)
        last = max((place for place, _ in own), default=-1)
        ranks[gene] = (-n, n / max(1, outputs), -last)
    return sorted(ranks, key=ranks.__getitem__)
