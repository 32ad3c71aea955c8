"""Channels that width genes count: the parameters that scale them, and the layers that make and read them."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from apq_tune.network.layer import Layer
from apq_tune.supernet.elastic import ElasticConv


class WidthScale(NamedTuple):
    """Parameter that scales channels of a searched width and has nothing behind it that would undo this.

    Attributes:
        module: Module that has it.
        name: Name of the parameter in the module.
        units: Unit of the width that each entry of its first dimension belongs to, -1 for none.
    """

    module: nn.Module
    name: str
    units: Tensor


class SearchedWidth(NamedTuple):
    """Channels that a width gene counts, at their largest number.

    Attributes:
        gene: Name of the gene.
        n_units: Number of units, each a channel or several that are coupled.
        scales: Parameters of which the entries of a unit, all set to zero, make all its channels zero.
    """

    gene: str
    n_units: int
    scales: tuple[WidthScale, ...]


class WidthLayers(NamedTuple):
    """Layers that a width affects: those that make its channels, and those that read them."""

    makers: list[tuple[Layer, Any]]
    readers: list[tuple[Layer, Any]]
    depthwise: list[tuple[Layer, Any]]

    def by_weights(self) -> Tensor:
        """Order of the channels by the L1 norm of the weights that read them, most important first."""
        last = [own for _, own in self.readers if isinstance(own, ElasticConv)][-1]
        order: Tensor = last.weight.abs().sum(dim=(0, 2, 3)).argsort(descending=True)
        return order

    def reorder(self, order: Tensor) -> None:
        """Reorder the channels in place."""
        for _, own in self.readers:
            own.weight.copy_(own.weight[:, order])
        for _, own in self.makers:
            names = ("weight", "gamma", "beta") if isinstance(own, ElasticConv) else ("weight", "bias")
            for name in names:
                parameter = getattr(own, name)
                parameter.copy_(parameter[order])
