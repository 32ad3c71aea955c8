"""Ranks of the coupled channels of a traced model: which of them smaller networks keep."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apq_tune.network.coupling import Coupling
from apq_tune.network.graph import WEIGHTED, Graph, NodeKind

Importance = Literal["l1", "norm", "taylor"]
"""Importance of channels: sum of the magnitudes of the weights that make them (Li 2017), magnitude of the scales of the
batch norm behind them (Liu 2017), or magnitude of the product of weights and their gradients (Molchanov 2019)."""


NORMS: tuple[NodeKind, ...] = ("norm",)


class ChannelRanks(nn.Module):
    """Units of each group of coupled channels by importance, as a buffer.

    Attributes:
        order: Units of all groups, those of each group from the most important one, shape ``(n_units,)``.
    """

    order: Tensor

    def __init__(self, coupling: Coupling) -> None:
        """Begin with the order that the channels have in the model."""
        super().__init__()
        self._sizes = [group.n_units for group in coupling.groups]
        self.register_buffer("order", torch.cat([torch.arange(n, dtype=torch.int32) for n in [0, *self._sizes]]))
        self._by_group: dict[int, NDArray[np.int64]] | None = None

    @property
    def by_group(self) -> Mapping[int, NDArray[np.int64]]:
        """Units of each group from the most important one; the same object until other ranks are set."""
        if self._by_group is None:
            parts = torch.split(self.order.cpu().long(), self._sizes)
            self._by_group = {group: part.numpy() for group, part in enumerate(parts)}
        return self._by_group

    def set(self, importance: Mapping[int, Tensor]) -> None:
        """Rank the units of each group by importance, equal ones in the order of the model.

        Args:
            importance: Importance of each unit by group, shape ``(n_units,)``.
        """
        orders = [importance[group].argsort(descending=True, stable=True) for group in range(len(self._sizes))]
        self.order.copy_(torch.cat(orders) if orders else self.order)
        self._by_group = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._by_group = None


def importance_of(
    graph: Graph,
    coupling: Coupling,
    tensors: Mapping[str, Tensor],
    kind: Importance,
    gradients: Mapping[str, Tensor] | None = None,
) -> dict[int, Tensor]:
    """Importance of the units of each group, summed over all layers that make their channels.

    Args:
        graph: Traced model.
        coupling: Its coupled channels.
        tensors: Parameters by name in the user's state dict.
        kind: Importance. Channels behind which there is no batch norm are ranked by ``"l1"`` instead of ``"norm"``.
        gradients: Gradients of a loss by name of the parameter, for ``"taylor"``.
    """
    weighted = _summed(graph, coupling, WEIGHTED, lambda name: _of_weights(tensors[name], None))
    if kind == "taylor":
        assert gradients is not None
        return _summed(graph, coupling, WEIGHTED, lambda name: _of_weights(tensors[name], gradients[name]))
    if kind == "norm":
        scales = _summed(graph, coupling, NORMS, lambda name: tensors[name].abs())
        return {group: own if bool(own.any()) else weighted[group] for group, own in scales.items()}
    return weighted


def _of_weights(weight: Tensor, gradient: Tensor | None) -> Tensor:
    """Importance of the output channels of a weight, shape ``(out,)``."""
    return weight.abs().flatten(1).sum(1) if gradient is None else (weight * gradient).flatten(1).sum(1).abs()


@torch.no_grad()
def _summed(
    graph: Graph, coupling: Coupling, kinds: Collection[NodeKind], of_channels: Callable[[str], Tensor]
) -> dict[int, Tensor]:
    """Importance of the units of each group, summed over the output channels of nodes of some kinds.

    Args:
        graph: Traced model.
        coupling: Its coupled channels.
        kinds: Kinds of the nodes.
        of_channels: Function from the name of a node's weight to the importance of its output channels.
    """
    total = {group: torch.zeros(own.n_units, dtype=torch.float64) for group, own in enumerate(coupling.groups)}
    for node in graph.nodes:
        if node.kind not in kinds or "weight" not in node.parameters:
            continue
        own, channels = of_channels(node.parameters["weight"]).double().cpu(), coupling.outputs[node.name]
        for group in np.unique(channels.group[channels.group >= 0]).tolist():
            places = np.flatnonzero(channels.group == group)
            total[group].index_add_(0, torch.from_numpy(channels.unit[places]), own[torch.from_numpy(places)])
    return total
