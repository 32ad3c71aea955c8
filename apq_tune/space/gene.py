"""Genes of genomes, with their kind and the block and layer that they describe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["depth", "resolution", "kernel", "width", "w_bits", "a_bits", "sparsity", "choice"]
"""Quantity that a gene selects: number of blocks of a stage, image size, kernel size, channels, bits of the weights and
of the input of a layer, sparsity of its weights, or any other named choice (``choice``)."""

BIT_KINDS: tuple[Kind, ...] = ("w_bits", "a_bits")
"""Kinds that make up a bit policy."""

ARCHITECTURE_KINDS: tuple[Kind, ...] = ("depth", "resolution", "kernel")
"""Kinds that describe a network before pruning and quantization."""


class Gene(NamedTuple):
    """One gene of a genome.

    Attributes:
        name: Readable name, unique in its space, such as ``"depth 2"`` or ``"1.2 pw_w_bits"``.
        kind: Quantity that the gene selects.
        values: Values to choose from, in order.
        block: Name of the block, or of the layer of a network without blocks, that the gene describes; empty for a
            gene of the whole network.
        layer: Name of the layer within the block, such as ``"pw"``; it relates genes of the same layer, such as the
            bits of its weights and of its input.
    """

    name: str
    kind: Kind
    values: tuple[Any, ...]
    block: str = ""
    layer: str = ""


def places_of(genes: Iterable[Gene], kinds: Iterable[Kind]) -> NDArray[np.intp]:
    """Indices of the genes of the given kinds, ascending."""
    wanted = set(kinds)
    return np.array([place for place, gene in enumerate(genes) if gene.kind in wanted], np.intp)


def common_bits(genes: Iterable[Gene]) -> list[int]:
    """Bit-widths that the weights and the inputs of all layers have in common, ascending."""
    values = [set(gene.values) for gene in genes if gene.kind in BIT_KINDS]
    return sorted(set.intersection(*values)) if values else []
