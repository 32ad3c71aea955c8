"""What the agents of AMC and HAQ see of the layer that a gene describes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.network.layer import Op
from apq_tune.network.network import Network, Part, has_network, network_of, ops
from apq_tune.space.gene import Gene

Floats = NDArray[np.float64]

FACTS = ("depthwise", "in_channels", "out_channels", "stride", "kernel_size", "n_weights", "in_size")
"""Names of the columns of ``layer_facts``."""


def layer_facts(space: object, genes: Sequence[Gene]) -> Floats:
    """Facts of the layer that each gene describes in the largest network, each scaled to the range of 0 to 1.

    It is the first convolution or linear layer that the gene changes; for channels the first that reads them, other
    than a depthwise one, as AMC decides the inputs of layers. A gene of the whole network has zeros, and so has every
    gene of a space without networks.

    Args:
        space: Search space.
        genes: Its genes.

    Returns:
        Array of shape ``(n_genes, len(FACTS))``.
    """
    facts = np.zeros((len(genes), len(FACTS)))
    if not has_network(space):
        return facts
    network, known = network_of(space), {gene.name: row for row, gene in enumerate(genes)}
    found: dict[int, tuple[bool, Op]] = {}
    for part in network.searched:
        for name in part.genes:
            row = known.get(name)
            if row is None or (row in found and found[row][0]):
                continue
            for op, reads in _changed(network, part, name):
                sought = genes[row].kind != "width" or reads
                if row not in found or (sought and not found[row][0]):
                    found[row] = sought, op
    for row, (_, op) in found.items():
        n = [float(np.max(value)) for value in (op.groups, op.in_channels, op.out_channels, op.stride)]
        kernel, weights = float(np.max(op.kernel_size)), float(np.max(op.n_weights))
        facts[row] = n[0] > 1, n[1], n[2], n[3], kernel, weights, op.in_size
    span = np.ptp(facts, axis=0) if len(facts) else np.ones(len(FACTS))
    return np.asarray((facts - facts.min(axis=0, initial=0)) / np.where(span > 0, span, 1))


def _changed(network: Network, part: Part, name: str) -> list[tuple[Op, bool]]:
    """Ops of a part that a gene changes, and whether they read more channels by it and are not depthwise."""
    values = {gene: network.genes[gene][-1] for gene in part.genes}
    size = network.sizes[-1]
    largest = ops(part.describe(size, *values.values()))
    values[name] = network.genes[name][0]
    smallest = ops(part.describe(size, *values.values()))
    return [
        (op, bool(op.in_channels != other.in_channels and op.groups == 1))
        for op, other in zip(largest, smallest, strict=True)
        if op != other
    ]
