"""The whole network with channels set to zero, which the network without these channels must equal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from apq_tune.network.coupling import Coupling
from apq_tune.network.graph import Graph
from apq_tune.network.layer import IMAGE
from apq_tune.network.slicing import slice_graph
from apq_tune.tracing.functions import compute, run_graph

Kept = Mapping[int, NDArray[np.bool_]]
Tensors = Mapping[str, torch.Tensor]


def masked(graph: Graph, coupling: Coupling, kept: Kept, tensors: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Output of the whole network if removed channels are zero after each node, whatever the node made of them."""
    outputs = {IMAGE: x}
    for node in graph.nodes:
        parameters = {role: tensors[name] for role, name in node.parameters.items()}
        own = compute(node, [outputs[name] for name in node.inputs], parameters)
        channels = coupling.outputs[node.name]
        units = zip(channels.group.tolist(), channels.unit.tolist(), strict=True)
        stays = torch.tensor([group not in kept or bool(kept[group][unit]) for group, unit in units])
        if not stays.all():
            shape = [-1 if axis == coupling.axes[node.name] else 1 for axis in range(own.ndim - 1)]
            own = own.masked_fill(~stays.reshape(shape), 0)
        outputs[node.name] = own
    return outputs[graph.nodes[-1].name]


def difference(graph: Graph, coupling: Coupling, kept: Kept, tensors: Tensors, x: torch.Tensor) -> float:
    """Largest difference of the sliced network's outputs to the masked one's, relative to the largest output."""
    sliced = slice_graph(graph, coupling, kept)
    small = {name: tensors[name] for name in graph.shapes}
    for name, takes in sliced.takes.items():
        for axis, own in enumerate(takes):
            if own is not None:
                small[name] = small[name].index_select(axis, torch.from_numpy(own))
        assert tuple(small[name].shape) == sliced.graph.shapes[name]
    want, got = masked(graph, coupling, kept, tensors, x), run_graph(sliced.graph, small, x)
    assert got.shape == want.shape
    assert want.abs().max() > 0
    return float((want - got).abs().max() / want.abs().max())


def random_kept(coupling: Coupling, rng: np.random.Generator) -> Kept:
    """A random number of units of each group that can shrink, at random places."""
    sizes = {index: coupling.groups[index].n_units for index in coupling.shrinkable}
    return {index: rng.permutation(size) < rng.integers(1, size + 1) for index, size in sizes.items()}
