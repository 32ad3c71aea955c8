"""Genes by kind: what a gene decides, and to which block and layer it belongs, whatever the space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["depth", "resolution", "kernel", "width", "w_bits", "a_bits", "sparsity", "choice"]
"""What a gene decides: blocks of a stage, input pixels along a side, kernel size, channels, bits of a layer's weights
and of its input, share of weights that are zero, or something of which nothing is known (``choice``)."""

BIT_KINDS: tuple[Kind, ...] = ("w_bits", "a_bits")
"""Kinds that make up a bit policy."""

ARCHITECTURE_KINDS: tuple[Kind, ...] = ("depth", "resolution", "kernel")
"""Kinds that describe a network before pruning and quantization."""


class Gene(NamedTuple):
    """One gene of a genome.

    Attributes:
        name: Readable name, unique in its space, such as ``"depth 2"`` or ``"1.2 pw_w_bits"``.
        kind: What the gene decides.
        values: Values to choose from, in order.
        block: Name of the block, or of the layer of a network without blocks, that the gene describes; empty for a
            gene of the whole network.
        layer: Name of the layer within the block, such as ``"pw"``; genes of one block and one layer belong together,
            as the bits of its weights and of its input do.
    """

    name: str
    kind: Kind
    values: tuple[Any, ...]
    block: str = ""
    layer: str = ""


def places_of(genes: Iterable[Gene], kinds: Iterable[Kind]) -> NDArray[np.intp]:
    """Places of the genes of some kinds, ascending."""
    wanted = set(kinds)
    return np.array([place for place, gene in enumerate(genes) if gene.kind in wanted], np.intp)


def common_bits(genes: Iterable[Gene]) -> list[int]:
    """Bit-widths that the weights and the inputs of every layer can take, ascending."""
    values = [set(gene.values) for gene in genes if gene.kind in BIT_KINDS]
    return sorted(set.intersection(*values)) if values else []
