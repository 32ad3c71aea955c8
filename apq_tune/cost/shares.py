"""What each layer of one network contributes to a cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from apq_tune.cost.bit_ops import op_bit_ops
from apq_tune.cost.bitfusion import op_energy_mj, op_latency_ms
from apq_tune.cost.device_ram import BUFFERS
from apq_tune.cost.named_costs import op_cost_of
from apq_tune.cost.table import CostTable
from apq_tune.cost.weight_bytes import layer_weight_bytes
from apq_tune.network.layer import Op
from apq_tune.network.liveness import PACKED, live_bits
from apq_tune.network.network import Network

PER_OP: Mapping[str, Callable[[Op], float]] = {
    "macs": lambda op: float(op.macs),
    "bit_ops": lambda op: float(op_bit_ops(op)),
    "latency_ms": lambda op: float(op_latency_ms(op)),
    "energy_mj": lambda op: float(op_energy_mj(op)),
}
"""Built-in costs that are sums over the ops of a network."""

FLASH = "weight_bytes"
"""Cost that also counts parameters of layers that are no ops."""

PEAKS = ("peak_activation_bytes", *BUFFERS)
"""Costs that are the maximum over layers."""


def layer_costs(
    metric: str, network: Network, values: Mapping[str, int], tables: Sequence[CostTable] = ()
) -> dict[str, float] | None:
    """Contribution of each layer of a candidate to a cost, by name of the layer.

    Args:
        metric: Name of the cost.
        network: Networks of the search space.
        values: Value of each gene of the candidate, by name.
        tables: Cost tables, whose metrics replace built-in ones of the same name.

    Returns:
        Contributions in the unit of the cost: summands, or of memory the bytes that are alive while
        the layer runs, of which the cost is the maximum. A table that has one value for all fixed parts leaves their
        layers out. ``None`` if nothing is known of single layers, as in tables of whole blocks.
    """
    layers = network.at(values)
    size = network.sizes[-1] if network.size_gene is None else values[network.size_gene]
    table = next((table for table in tables if metric in table.metrics), None)
    if table is not None:
        fixed = {layer.name for layer in network.fixed_layers(size)}
        searched = [layer for layer in layers if layer.name not in fixed]
        return table.of_layers(searched, size, table.metrics.index(metric))
    if metric in PEAKS:
        alive = live_bits(layers, network.image(size), BUFFERS.get(metric, PACKED))
        return {name: bits / 8 for name, bits in alive.items()}
    if metric == FLASH:
        counted = (layer for layer in layers if layer.op is not None or layer.float_parameters)
        return {layer.name: float(layer_weight_bytes(layer)) for layer in counted}
    cost = PER_OP.get(metric) or op_cost_of(metric)
    if cost is None:
        return None
    return {layer.name: cost(layer.op) for layer in layers if layer.op is not None}
