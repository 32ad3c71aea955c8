"""Number of networks of a traced model, whose genes matter only while one of their residual blocks is there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from apq_tune.space.gene import BIT_KINDS, Gene
from apq_tune.space.model_choices import Choices

MOST_DEPTHS = 16
"""Most genes of depth that share genes for which all combinations are counted; beyond, these count as always active."""

Depths = frozenset[str] | None


def n_networks(choices: Choices, *, bits: bool = True) -> int:
    """Number of networks, or an upper bound if more than 16 genes of depth share genes.

    Args:
        choices: What is open in the model.
        bits: Whether to count bit policies, too.
    """
    genes = [gene for gene in choices.genes if bits or gene.kind not in BIT_KINDS]
    depths = {gene.name: choices.depths_of(gene) for gene in genes}
    return count(genes, depths, lambda gene: list(range(len(gene.values))))


def count(genes: Sequence[Gene], depths_of: Mapping[str, Depths], open_values: Callable[[Gene], Sequence[int]]) -> int:
    """Number of canonical combinations of genes.

    Args:
        genes: Genes.
        depths_of: For each gene by name, the genes of depth of which one must be 1; ``None`` if it always matters.
        open_values: Indices of the values that a gene may have.
    """
    total = 1
    depths = {gene.name: gene for gene in genes if gene.kind == "depth"}
    shared: dict[str, set[str]] = {name: {name} for name in depths}
    for own in depths_of.values():
        if own is not None:
            together = set().union(*(shared[name] for name in own)) if own else set()
            for name in together:
                shared[name] = together
    for gene in genes:
        if gene.name not in depths and depths_of[gene.name] is None:
            total *= len(open_values(gene))
    for members in {frozenset(own) for own in shared.values()}:
        names = sorted(members)
        own_genes = [gene for gene in genes if (of := depths_of[gene.name]) is not None and of & members]
        if len(names) > MOST_DEPTHS:
            total *= math.prod(len(open_values(depths[name])) for name in names)
            total *= math.prod(len(open_values(gene)) for gene in own_genes)
            continue
        found = 0
        for values in itertools.product(*(open_values(depths[name]) for name in names)):
            there = {name for name, value in zip(names, values, strict=True) if depths[name].values[value]}
            found += math.prod(len(open_values(gene)) for gene in own_genes if (depths_of[gene.name] or set()) & there)
        total *= found
    return total
