"""What sparsity saves: bytes of weights in a stated format, and multiply-accumulates in theory (Blalock 2020)."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apq_tune.cost.weight_bytes import BYTES_PER_FLOAT, layer_weight_bytes
from apq_tune.errors import ModelError, RunError
from apq_tune.network.layer import Layer
from apq_tune.network.sparse import Pattern
from apq_tune.sparsity.formats import StorageFormat, stored_bits
from apq_tune.sparsity.layers import TRANSPOSED, weighted_layers
from apq_tune.supernet.graph_subnet import FoldedWeights
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.quantize import quantize_weight

FLOAT_BITS = 32


class LayerFootprint(NamedTuple):
    """Weights of one layer.

    Attributes:
        name: Name of the layer.
        weights: Number of weights.
        kept: Number of those that are not zero as they are stored.
        bits: Bits of a weight.
        stored_bits: Bits of all weights in the format.
        macs: Multiply-accumulates for one image if every weight is multiplied.
    """

    name: str
    weights: int
    kept: int
    bits: int
    stored_bits: int
    macs: int


class Footprint(NamedTuple):
    """Size and work of a sparse network.

    Multiply-accumulates and speed-up are theoretical: dense kernels, those of PyTorch, onnxruntime and CMSIS-NN among
    them, multiply zeros, too, and take the same time. N:M sparsity is faster only on hardware that has it.

    Attributes:
        storage: Format of the weights.
        layers: Layers with weights.
        other_bytes: Bytes of all other parameters: biases, rescaling factors, batch norm.
        dense_bytes: Bytes of all parameters if every weight is stored.
    """

    storage: StorageFormat
    layers: tuple[LayerFootprint, ...]
    other_bytes: float
    dense_bytes: float

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights of convolutions and linear layers."""
        return 1 - sum(layer.kept for layer in self.layers) / sum(layer.weights for layer in self.layers)

    @property
    def weight_bytes(self) -> float:
        """Bytes of all parameters."""
        return sum(layer.stored_bits for layer in self.layers) / 8 + self.other_bytes

    @property
    def compression(self) -> float:
        """Bytes of all parameters if every weight is stored, over those in the format."""
        return self.dense_bytes / self.weight_bytes

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of layers with weights for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def macs(self) -> float:
        """Multiply-accumulates of layers with weights for one image, without those by zero."""
        return sum(layer.macs * layer.kept / layer.weights for layer in self.layers)

    @property
    def speed_up(self) -> float:
        """Theoretical speed-up, the multiply-accumulates of the dense network over those without zeros."""
        return self.dense_macs / max(self.macs, 1e-12)


@torch.no_grad()
def footprint(
    module: nn.Module, example: Tensor | None = None, *, storage: StorageFormat = "bitmap", pattern: str | None = None
) -> Footprint:
    """Size and work of a network whose pruned weights are zero.

    Args:
        module: Found network, whose weights are counted as its integers are, at its bits; or any torch module, in
            float32.
        example: Input of one image for modules, which are run once to count multiply-accumulates, shape ``(1, ...)``.
        storage: Format of the weights.
        pattern: Pattern of ``n_of_m``, such as ``"2:4"``.

    Raises:
        ModelError: If the work of a layer cannot be counted.
        RunError: If the format is unknown, or an argument is missing.
    """
    if storage not in get_args(StorageFormat):
        raise RunError(f"storage is {storage!r}; choose {', '.join(map(repr, get_args(StorageFormat)))}")
    own = None if pattern is None else Pattern.of(pattern)
    if isinstance(module, AnySubnet):
        return _of_subnet(module, storage, own)
    if example is None:
        raise RunError("example is missing; give an input of one image, shape (1, channels, height, width)")
    return _of_module(module, example, storage, own)


def _of_subnet(subnet: AnySubnet, storage: StorageFormat, pattern: Pattern | None) -> Footprint:
    weighted = subnet.weighted()
    layers: list[Layer] = list(subnet.layers)
    rows = []
    for layer in layers:
        if layer.op is None:
            continue
        own: Any = weighted[layer.name]
        bits = int(layer.op.w_bits)
        factor = own.factor(bits) if isinstance(own, FoldedWeights) else None
        stored = quantize_weight(own.weight, bits, factor)
        rows.append(_row(layer.name, stored, bits, int(layer.op.macs), storage, pattern))
    dense = float(sum(layer_weight_bytes(layer) for layer in layers))
    return Footprint(storage, tuple(rows), dense - sum(row.weights * row.bits for row in rows) / 8, dense)


def _of_module(module: nn.Module, example: Tensor, storage: StorageFormat, pattern: Pattern | None) -> Footprint:
    layers = weighted_layers(module)
    with _counted(module) as macs:
        module(example)
    rows = []
    for layer in layers:
        if layer.name not in macs:
            raise ModelError(
                f"{layer.name}: its multiply-accumulates cannot be counted, as it is not called as a "
                "module; call it, or trace the model (ModelSpace)"
            )
        rows.append(_row(layer.name, layer.weight, FLOAT_BITS, macs[layer.name], storage, pattern))
    weights = sum(row.weights for row in rows)
    total = sum(parameter.numel() for parameter in module.parameters())
    return Footprint(storage, tuple(rows), BYTES_PER_FLOAT * (total - weights), BYTES_PER_FLOAT * total)


def _row(
    name: str, weight: Tensor, bits: int, macs: int, storage: StorageFormat, pattern: Pattern | None
) -> LayerFootprint:
    kept: NDArray[np.bool_] = (weight != 0).cpu().numpy()
    return LayerFootprint(name, kept.size, int(kept.sum()), bits, stored_bits(kept, bits, storage, pattern), macs)


@contextlib.contextmanager
def _counted(module: nn.Module) -> Iterator[Counter[str]]:
    """Count multiply-accumulates of layers by name while a module runs, in evaluation mode."""
    names = {part: layer.name for layer in weighted_layers(module) for part in layer.modules}
    macs: Counter[str] = Counter()

    def count(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        weight = cast(Tensor, part.weight)
        moved = inputs[0] if isinstance(part, TRANSPOSED) else output
        macs[names[part]] += moved.numel() * weight[0].numel()

    hooks = [part.register_forward_hook(count) for part in names]
    training = module.training
    module.eval()
    try:
        yield macs
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
