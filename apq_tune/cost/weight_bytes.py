"""Flash: size of the packed parameters of the integer network in bytes.

Sparse layers are stored as a bitmap and the values that are not pruned, N:M ones as values with their places, or like
dense ones if that is less (``apq_tune.network.sparse``).
"""

from __future__ import annotations

from typing import Any

from apq_tune.cost.model import CostModel
from apq_tune.cost.sparse import is_sparse
from apq_tune.cost.sums import sum_over_parts
from apq_tune.network.layer import Layer, Op
from apq_tune.network.network import network_of

BYTES_PER_CHANNEL = 8  # an int32 bias and a 32-bit rescaling factor for each output channel (Jacob 2018)
BYTES_PER_FLOAT = 4


def op_weight_bytes(op: Op) -> Any:
    """Size of the packed weights and the per-channel constants of one convolution in bytes."""
    return op.weight_bits / 8 + op.out_channels * BYTES_PER_CHANNEL


def layer_weight_bytes(layer: Layer) -> Any:
    """Size of all parameters of one layer in bytes; those that have no integer form are float32."""
    packed = 0 if layer.op is None else op_weight_bytes(layer.op)
    return packed + BYTES_PER_FLOAT * layer.float_parameters


def _of_layers(layers: tuple[Layer, ...], _size: int = 0) -> Any:
    return sum(layer_weight_bytes(layer) for layer in layers)


def weight_bytes(encoding: Any) -> CostModel:
    """Size of all parameters in bytes, with batch norm folded where it can be."""
    network = network_of(encoding.space)
    fixed = lambda size: float(_of_layers(network.fixed_layers(size)))  # noqa: E731
    model = sum_over_parts("weight_bytes", "bytes", encoding, _of_layers, fixed, monotone=True)
    if is_sparse(network):
        model.note = (
            "weight_bytes: sparse layers count as a bitmap and the weights that are kept, N:M ones as values with "
            "their places, or dense if that is less; exported files hold their zeros, compress them"
        )
    return model
