"""Costs that are sums over the parts of a network, or over its convolutions and linear layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from apq_tune.cost.direct import DirectSum
from apq_tune.cost.model import CostModel, PartCost, term_of
from apq_tune.network.layer import Layer, Op
from apq_tune.network.network import network_of, ops


def sum_over_parts(
    name: str,
    unit: str,
    encoding: Any,
    part_cost: PartCost,
    fixed_cost: Callable[[int], float],
    *,
    monotone: bool = False,
) -> CostModel:
    """Build a cost that is the sum over the parts of a network.

    Args:
        name: Name of the metric.
        unit: Unit of its values.
        encoding: Encoding of a search space that has networks.
        part_cost: Cost of a searched part.
        fixed_cost: Function from the image size to the cost of all fixed parts.
        monotone: Whether the cost of a part never falls as one of its genes other than that of the image size grows.
            It is used where parts depend on too many genes for tables: then the smallest and the largest network have
            the least and the greatest cost.
    """
    network = network_of(encoding.space)
    if network.direct:
        return DirectSum(name, unit, network, part_cost, fixed_cost, monotone=monotone)
    terms = [
        term_of(network, part, lambda size, part=part: part_cost(network.layers(part, size), size))  # type: ignore[misc]
        for part in network.searched
    ]
    return CostModel(name, unit, network, [fixed_cost(size) for size in network.sizes], terms)


def sum_over_ops(
    name: str, unit: str, encoding: Any, op_cost: Callable[[Op], Any], *, monotone: bool = False
) -> CostModel:
    """Build a cost that is the sum over all ops of a network, fixed parts included.

    Args:
        name: Name of the metric.
        unit: Unit of its values.
        encoding: Encoding of a search space that has networks.
        op_cost: Function from an op, whose numbers may be arrays, to its cost.
        monotone: Whether the cost never falls as channels or bits grow; see ``sum_over_parts``.
    """
    network = network_of(encoding.space)
    return sum_over_parts(
        name,
        unit,
        encoding,
        functools.partial(_of_ops, op_cost),
        lambda size: float(sum(op_cost(op) for op in ops(network.fixed_layers(size)))),
        monotone=monotone,
    )


def _of_ops(op_cost: Callable[[Op], Any], layers: tuple[Layer, ...], _size: int) -> Any:
    return sum(op_cost(op) for op in ops(layers))
