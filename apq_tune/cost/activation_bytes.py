"""RAM: peak size of live activations in bytes, with images processed one at a time.

While a layer runs, its inputs and its output are in memory, packed at their bits, together with every other tensor that
a later layer reads; see ``apq_tune.network.liveness``. Additions and global pooling work in place. Requantising a
tensor for a layer that reads it at fewer bits takes no buffer.
"""

from __future__ import annotations

from typing import Any

from apq_tune.cost.direct import DirectPeak
from apq_tune.cost.model import CostModel, term_of
from apq_tune.network.liveness import PACKED, BufferModel, working_sets
from apq_tune.network.network import network_of


def peak_activation_bytes(encoding: Any) -> CostModel:
    """Largest working set of any layer, in bytes.

    Args:
        encoding: Encoding of a search space that has networks.
    """
    return peak_of("peak_activation_bytes", encoding, PACKED)


def peak_of(name: str, encoding: Any, buffers: BufferModel) -> CostModel:
    """Largest working set of any layer in a buffer model, in bytes.

    Args:
        name: Name of the cost.
        encoding: Encoding of a search space that has networks.
        buffers: What takes memory.
    """
    network = network_of(encoding.space)
    if network.direct:
        return DirectPeak(name, "bytes", network, buffers)
    sets = {size: working_sets(network, size, buffers) for size in network.sizes}
    genes = {part: memory.genes for part, memory in sets[network.sizes[-1]].items()}
    terms = [
        term_of(network, part, lambda size, own=part.name: sets[size][own].bits / 8, genes[part.name])  # type: ignore[misc]
        for part in network.parts
        if part.searched or genes[part.name]
    ]
    alone = [part.name for part in network.fixed if not genes[part.name]]
    fixed = [max((float(sets[size][own].bits) for own in alone), default=0.0) / 8 for size in network.sizes]
    exact = all(memory.exact for own in sets.values() for memory in own.values())
    return CostModel(name, "bytes", network, fixed, terms, "max", exact=exact)
