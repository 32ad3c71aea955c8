"""Number of networks of a traced model, whose genes matter only while one of their residual blocks is there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from apq_tune.space.gene import BIT_KINDS, Gene
from apq_tune.space.model_choices import Choices

MOST_BLOCKS = 16
"""Most blocks that share genes for which all combinations are counted; beyond, their genes count as always active."""

Blocks = frozenset[str] | None


def n_networks(choices: Choices, *, bits: bool = True) -> int:
    """Number of networks, or an upper bound if more than 16 blocks share genes.

    Args:
        choices: What is open in the model.
        bits: Whether to count bit policies, too.
    """
    genes = [gene for gene in choices.genes if bits or gene.kind not in BIT_KINDS]
    depth_of = {depth.gene: name for name, depth in choices.depths.items() if depth.gene}
    blocks = {gene.name: choices.blocks_of(gene) for gene in genes}
    return count(genes, depth_of, blocks, lambda gene: list(range(len(gene.values))))


def count(
    genes: Sequence[Gene],
    depth_of: dict[str, str],
    blocks: dict[str, Blocks],
    open_values: Callable[[Gene], Sequence[int]],
) -> int:
    """Number of canonical combinations of genes.

    Args:
        genes: Genes.
        depth_of: Block of each gene of depth, by name.
        blocks: For each gene by name, the blocks of which one must be there; ``None`` if it always matters.
        open_values: Indices of the values that a gene may have.
    """
    total = 1
    shared: dict[str, set[str]] = {block: {block} for block in depth_of.values()}
    for own in blocks.values():
        if own is not None:
            together = set().union(*(shared[block] for block in own)) if own else set()
            for block in together:
                shared[block] = together
    depths = {depth_of[gene.name]: gene for gene in genes if gene.name in depth_of}
    for gene in genes:
        if gene.name not in depth_of and blocks[gene.name] is None:
            total *= len(open_values(gene))
    for members in {frozenset(own) for own in shared.values()}:
        names = sorted(members & depths.keys())
        own_genes = [gene for gene in genes if (of := blocks[gene.name]) is not None and of & members]
        if len(names) > MOST_BLOCKS:
            total *= math.prod(len(open_values(depths[name])) for name in names)
            total *= math.prod(len(open_values(gene)) for gene in own_genes)
            continue
        found = 0
        for values in itertools.product(*(open_values(depths[name]) for name in names)):
            there = {name for name, value in zip(names, values, strict=True) if depths[name].values[value]}
            found += math.prod(len(open_values(gene)) for gene in own_genes if (blocks[gene.name] or set()) & there)
        total *= found
    return total
