"""Kinds of genes that gates can run."""

from __future__ import annotations

from apq_tune.cost.sparse import is_sparse
from apq_tune.errors import SpaceError
from apq_tune.network.network import network_of
from apq_tune.space.gene_encoding import GeneEncoding

KINDS = ("depth", "resolution", "kernel", "width", "w_bits", "a_bits")


def check_kinds(encoding: GeneEncoding) -> None:
    """Refuse spaces with genes that gates cannot run.

    Raises:
        SpaceError: If there is one; the message names it.
    """
    if is_sparse(network_of(encoding.space)):
        raise SpaceError(
            f"{encoding.name}: has sparse weights, which differentiable search cannot mix; search with another method, "
            "or leave sparsity out of the space"
        )
    for gene in encoding.genes:
        if gene.kind not in KINDS and len(gene.values) > 1:
            raise SpaceError(
                f"{encoding.name}: gene {gene.name!r} is a {gene.kind}, which differentiable search cannot mix; search "
                "with another method, or give it one value"
            )
