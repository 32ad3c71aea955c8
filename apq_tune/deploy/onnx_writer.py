"""ONNX graphs as they are written: nodes, initializers, quantized tensors and packed weights.

``apq_tune.deploy.onnx_graph`` says what the nodes of each step are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from apq_tune.deploy.program import FloatTensor, IntegerTensor, Program, Step

SMALLEST_SPLIT = 1024
"""Number of weights of 5 or 6 bits from which two parts, of 4 and 2 bits, are smaller than INT8 and one node less."""

OPSETS = {"plain": 14, "layer_norm": 17, "resize": 18, "wrap": 19, "gelu": 20, "int4": 21, "int2": 25}
"""First operator set that has what a graph needs."""


Attributes = tuple[str, Mapping[str, Any]]
"""Operator with its attributes."""


class GraphWriter:
    """Nodes and initializers of a graph so far.

    Attributes:
        nodes: Nodes.
        constants: Initializers by name.
        opset: First operator set that has what the graph needs.
        tensors: Tensors of the program by name.
    """

    def __init__(self, program: Program, *, pack_weights: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.opset = OPSETS["plain"]
        self.tensors, self._pack_weights = program.tensors, pack_weights
        self._floats: dict[str, str] = {}  # dequantized values of integer tensors
        self._scales: dict[str, str] = {}  # their scales
        self._count = 0

    def need(self, kind: str) -> None:
        """Require the operator set of a key of ``OPSETS``."""
        self.opset = max(self.opset, OPSETS[kind])

    def packed(self, values: NDArray[np.int8], bits: int) -> str:
        """Name of int8 weights that are stored at the smallest type that holds their bits."""
        if not self._pack_weights or bits > 6 or (bits > 4 and values.size < SMALLEST_SPLIT):
            return self.constant(values)
        if bits <= 4:
            kind = "INT2" if bits == 2 else "INT4"
            return self.node("Cast", [self._stored(values, kind)], self.new(), to=TensorProto.INT8)
        high, low = (self._stored(part, kind) for part, kind in ((values >> 2, "INT4"), (values & 3, "UINT2")))
        wide = [self.node("Cast", [part], self.new(), to=TensorProto.INT32) for part in (high, low)]
        four = self.constant(np.array(4, np.int32), "four")
        total = self.node("Add", [self.node("Mul", [wide[0], four], self.new()), wide[1]], self.new())
        return self.node("Cast", [total], self.new(), to=TensorProto.INT8)

    def _stored(self, values: NDArray[np.int8], kind: str) -> str:
        """Name of an initializer of 2 or 4 bits."""
        bits = int(kind[-1])
        self.need(f"int{bits}")
        name = self.new()
        stored = getattr(TensorProto, kind)
        self.constants[name] = helper.make_tensor(name, stored, values.shape, pack(values, bits), raw=True)
        return name

    def into(
        self,
        kind: str,
        inputs: list[str],
        step: Step,
        attributes: Mapping[str, Any] | None = None,
        then: Attributes | None = None,
    ) -> None:
        """Append a node whose output is quantized, if that is an integer tensor.

        Args:
            kind: Operator.
            inputs: Names of its inputs.
            step: Step of the program whose output it makes.
            attributes: Its attributes.
            then: Operator with attributes that is applied to the output, after quantization.
        """
        is_float = isinstance(self.tensors[step.output], FloatTensor)
        name = step.output if is_float and then is None else self.new()
        value = self.node(kind, inputs, name, step.name, **(attributes or {}))
        if not is_float:
            self.quantize(value, step.output, then=then)
        elif then is not None:
            self.node(then[0], [value], step.output, **then[1])

    def quantize(self, value: str, name: str, *, then: Attributes | None = None) -> None:
        """Quantize a float value into an integer tensor of the program, and apply an operator to the integers."""
        tensor = self.tensors[name]
        assert isinstance(tensor, IntegerTensor)
        clipped = tensor.bits < 8
        value = self.node("QuantizeLinear", [value, *self._scale(tensor)], self.new() if clipped or then else name)
        if clipped:
            ends = [limit + tensor.zero for limit in (tensor.low, tensor.high)]
            limits = [self.constant(np.array(end, np.uint8), f"u{end}") for end in ends]
            value = self.node("Clip", [value, *limits], self.new() if then else name)
        if then is not None:
            self.node(then[0], [value], name, **then[1])

    def real(self, name: str, moved: str | None = None) -> str:
        """Name of the real values of a tensor.

        Args:
            name: Tensor of the program.
            moved: Name of its integers in another order, if those are wanted.
        """
        tensor = self.tensors[name]
        if isinstance(tensor, FloatTensor):
            return name
        if moved is not None:
            return self.node("DequantizeLinear", [moved, *self._scale(tensor)], self.new())
        if name not in self._floats:
            self._floats[name] = self.node("DequantizeLinear", [name, *self._scale(tensor)], self.new())
        return self._floats[name]

    def _scale(self, tensor: IntegerTensor) -> list[str]:
        """Names of the scale and of the zero point of a tensor."""
        if tensor.name not in self._scales:
            self._scales[tensor.name] = self.constant(np.array(tensor.scale, np.float32))
        return [self._scales[tensor.name], self.constant(np.array(tensor.zero, np.uint8), f"u{tensor.zero}")]

    def new(self) -> str:
        """Name of a value that is no tensor of the program; short, as small networks consist of names."""
        self._count += 1
        name = f"_{self._count:x}"
        return self.new() if name in self.tensors else name

    def constant(self, values: NDArray[Any], name: str | None = None) -> str:
        """Name of an initializer; equal names must mean equal values."""
        name = name or self.new()
        while name in self.tensors:  # users may give their modules any name
            name += "_"
        self.constants[name] = onnx.numpy_helper.from_array(values, name)
        return name

    def node(self, kind: str, inputs: list[str], output: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node.

        Returns:
            Name of its output.
        """
        self.nodes.append(helper.make_node(kind, inputs, [output], name, **attributes))
        return output


def pack(values: NDArray[np.int8], bits: int) -> bytes:
    """Pack signed integers of 2 or 4 bits into bytes, the first in the lowest bits, as ONNX stores INT2 and INT4."""
    per_byte = 8 // bits
    flat = values.reshape(-1).astype(np.uint8) & (2**bits - 1)
    flat = np.pad(flat, (0, -len(flat) % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    return bytes(np.bitwise_or.reduce(flat << shifts, axis=1).astype(np.uint8))


def unpack(packed: bytes, bits: int, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Inverse of ``pack``."""
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    levels = (np.frombuffer(packed, np.uint8)[:, None] >> shifts & (2**bits - 1)).reshape(-1)[: int(np.prod(shape))]
    half = np.int8(2 ** (bits - 1))
    return np.asarray((levels.astype(np.int8) ^ half) - half, np.int8).reshape(shape)
