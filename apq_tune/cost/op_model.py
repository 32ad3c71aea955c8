"""Cost models of devices as functions of one operation, and a check that they cover all operations of a space."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost.direct import DirectSum
from apq_tune.cost.model import CostModel
from apq_tune.cost.sparse import noted
from apq_tune.cost.sums import sum_over_ops
from apq_tune.errors import TableError
from apq_tune.network.described import choices_of
from apq_tune.network.layer import Layer, Op
from apq_tune.network.network import Network, network_of, ops


class OpModel(NamedTuple):
    """Cost of single operations on a device; those of a network add up.

    Layers without weights cost nothing, as in the published models. Pruned weights cost as much as others, since the
    kernels that were modelled multiply them all.

    Attributes:
        name: Name of the metric, which ends with its unit.
        unit: Unit of its values.
        cost: Function from an operation, whose numbers may be broadcasting arrays, to its cost; NaN where the source
            does not cover the operation.
        covers: What the source covers, for messages.
        monotone: Whether the cost never falls as channels or bits grow; see ``sum_over_parts``.
        note: Remark for those who limit the metric, if it depends on bits less than they may expect.
    """

    name: str
    unit: str
    cost: Callable[[Op], Any]
    covers: str
    monotone: bool = True
    note: str = ""

    def of(self, encoding: Any, *, strict: bool = True) -> CostModel:
        """Cost of the networks of a search space.

        Args:
            encoding: Encoding of a search space that has networks.
            strict: Whether to refuse spaces with a layer that the source does not cover; else networks with such a
                layer have an infinite cost, so that they keep no limit.

        Raises:
            TableError: If the space allows a layer that the source does not cover; the message names it.
        """
        network = network_of(encoding.space)
        try:
            check_covered(self, network)
            model = sum_over_ops(self.name, self.unit, encoding, self.cost, monotone=self.monotone)
        except TableError:
            if strict:
                raise
            model = DirectSum(
                self.name,
                self.unit,
                network,
                functools.partial(_or_infinite, self.cost),
                lambda size: float(_or_infinite(self.cost, network.fixed_layers(size))),
                monotone=False,
            )
        if any(gene.kind == "w_bits" and len(gene.values) > 1 for gene in encoding.genes):
            model.note = self.note
        return noted(model, encoding)


def _or_infinite(cost: Callable[[Op], Any], layers: tuple[Layer, ...], _size: int = 0) -> Any:
    """Sum over the operations of layers, infinite if one is not covered."""
    if any(_is_unknown(layer) for layer in layers):
        return np.inf
    total = sum(np.asarray(cost(op), np.float64) for op in ops(layers))
    return np.where(np.isnan(total), np.inf, total)


def _is_unknown(layer: Layer) -> bool:
    """Whether a layer is an operation of no known kind that depends on more than the values at the same place."""
    return layer.kind == "opaque" and not layer.settings.get("pointwise")


def is_depthwise(op: Op) -> Any:
    """Whether each output channel reads one input channel of its own."""
    return (op.groups > 1) & (np.asarray(op.groups) == op.in_channels) & (np.asarray(op.groups) == op.out_channels)


def kernel_of(op: Op) -> tuple[Any, Any]:
    """Height and width of the kernel."""
    return op.kernel_size, op.kernel_size if op.kernel_width is None else op.kernel_width


def output_of(op: Op) -> tuple[int, int]:
    """Height and width of the output in pixels."""
    return op.out_size, op.out_size if op.out_width is None else op.out_width


def check_covered(model: OpModel, network: Network) -> None:
    """Refuse a search space with an allowed operation that a cost model does not cover.

    Raises:
        TableError: The message names the layer, what it is, and what is covered.
    """
    for part, size in ((part, size) for size in network.sizes for part in network.parts):
        layers, allowed = choices_of(network, part, size)
        for layer in layers:
            if (said := _uncovered(model, layer, allowed)) is not None:
                raise TableError(
                    f"{model.name}: does not know layer {layer.name!r} ({said}), its source has {model.covers}; "
                    f"narrow the search space to that, or leave {model.name} out"
                )


def _uncovered(model: OpModel, layer: Layer, allowed: NDArray[np.bool_]) -> str | None:
    """Description of the first allowed operation of a layer that is not covered; ``None`` if there is none."""
    if _is_unknown(layer):
        return str(layer.settings.get("target", layer.kind))
    if layer.op is None:
        return None
    bad = np.isnan(np.broadcast_to(np.asarray(model.cost(layer.op), np.float64), allowed.shape)) & allowed
    if not bad.any():
        return None
    at = np.unravel_index(int(bad.argmax()), bad.shape)
    numbers: dict[str, Any] = {
        name: int(np.broadcast_to(value, bad.shape)[at])
        for name, value in layer.op._asdict().items()
        if value is not None and name != "padding"
    }
    return described(layer.op._replace(**numbers), layer.kind)


def described(op: Op, kind: str) -> str:
    """Short description of one operation."""
    bits = f"{op.w_bits}-bit weights, {op.a_bits}-bit inputs"
    if kind == "linear":
        return f"linear, {bits}"
    height, width = kernel_of(op)
    groups = "depthwise " if is_depthwise(op) else f"in {op.groups} groups, " if op.groups > 1 else ""
    dilated = f", dilation {op.dilation}" if op.dilation > 1 else ""
    return f"{height}x{width} {groups}convolution{dilated}, {bits}"
