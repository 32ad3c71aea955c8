"""Integer programs as ONNX graphs of quantize and dequantize nodes, which runtimes fuse to integer kernels.

Every activation is ``QuantizeLinear -> [Clip] -> DequantizeLinear`` in uint8: unsigned tensors with zero point 0,
signed ones with zero point 128. Below 8 bits the integers are clipped after quantization, because a clip before it
would keep onnxruntime from fusing. Weights are packed, 2 bits as INT2, 3 and 4 bits as INT4, 5 and 6 bits as INT4 and
UINT2, 7 and 8 bits as INT8, and cast to int8 where they are read: onnxruntime folds that when it loads the file, and
runs the kernels that it has for 8 bits.
Squeeze-excite and hard swish are computed in floating point between DequantizeLinear and QuantizeLinear.

On x86 processors without VNNI (``avx512_vnni`` or ``avx_vnni`` in /proc/cpuinfo) onnxruntime adds products of uint8 and
int8 in pairs in 16 bits, which can saturate. There a session needs the option ``session.x64quantprecision = "1"``;
``apq_tune.deploy.onnx_session`` finds out and sets it. On others the option only costs time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from apq_tune.deploy.program import (
    LOGITS,
    AddStep,
    ConvStep,
    FloatTensor,
    FunctionStep,
    IntegerTensor,
    LinearStep,
    MeanStep,
    MultiplyStep,
    Program,
    ProgramTensor,
    QuantizeStep,
    RequantizeStep,
    ResizeStep,
    Step,
    WeightedStep,
)
from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE, Function

BATCH = "n"
"""Name of the batch dimension."""

SMALLEST_SPLIT = 1024
"""Number of weights of 5 or 6 bits from which two parts, of 4 and 2 bits, are smaller than INT8 and one node less."""

OPSETS = {"plain": 14, "resize": 18, "int4": 21, "int2": 25}
"""First operator set that has what a graph needs."""


def graph_of(program: Program, *, pack_weights: bool = True) -> tuple[onnx.GraphProto, int]:
    """ONNX graph of a program, and the version of the operator set that it needs.

    Args:
        program: Program to write.
        pack_weights: Whether weights below 7 bits are packed, which needs a recent runtime (INT2: operator set 25);
            otherwise all weights are INT8.
    """
    writer = _Writer(program, pack_weights=pack_weights)
    for step in program.steps:
        writer.write(step)
    ends = [_value(program.tensors[name]) for name in (IMAGE, LOGITS)]
    graph = helper.make_graph(writer.nodes, "network", ends[:1], ends[1:], list(writer.constants.values()))
    return graph, writer.opset


def _value(tensor: ProgramTensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, [BATCH, *tensor.shape])


class _Writer:
    """Nodes and initializers of a graph so far."""

    def __init__(self, program: Program, *, pack_weights: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.opset = OPSETS["plain"]
        self._tensors, self._pack_weights = program.tensors, pack_weights
        self._floats: dict[str, str] = {}  # dequantized values of integer tensors
        self._scales: dict[str, str] = {}  # their scales
        self._count = 0

    def write(self, step: Step) -> None:
        """Append the nodes of one step."""
        for kind, write in _WRITERS.items():
            if isinstance(step, kind):
                write(self, step)
                return
        raise DeployError(f"step {step.name}: a {type(step).__name__} has no ONNX form yet")

    def resize(self, step: Step) -> None:
        self.opset = max(self.opset, OPSETS["resize"])
        size = self._tensors[step.output].shape[-1]
        inputs = [step.inputs[0], "", "", self._constant(np.array([size, size], np.int64))]
        self._node("Resize", inputs, step.output, step.name, mode="linear", antialias=1, exclude_outside=1, axes=[2, 3])

    def quantize(self, step: Step) -> None:
        self._quantize(self._float(step.inputs[0]), step.output)

    def conv(self, step: ConvStep) -> None:
        attributes: dict[str, Any] = {"strides": [step.stride] * 2} if step.stride > 1 else {}
        attributes |= {"pads": [step.padding] * 4} if step.padding else {}
        attributes |= {"group": step.groups} if step.groups > 1 else {}
        self._weighted("Conv", step, attributes)

    def linear(self, step: LinearStep) -> None:
        self._weighted("Gemm", step, {"transB": 1})

    def add(self, step: AddStep) -> None:
        self._into("Add", [self._float(name) for name in step.inputs], step)

    def mean(self, step: MeanStep) -> None:
        pooled = self._node("GlobalAveragePool", [self._float(step.inputs[0])], self._new(), step.name)
        self._quantize(pooled, step.output, flat=True)

    def multiply(self, step: MultiplyStep) -> None:
        axes = self._constant(np.array([2, 3], np.int64), "pixel_axes")
        spread = self._node("Unsqueeze", [self._float(step.inputs[1]), axes], self._new())
        self._into("Mul", [self._float(step.inputs[0]), spread], step)

    def function(self, step: FunctionStep) -> None:
        name, attributes = _FUNCTIONS[step.function]
        self._node(name, [self._float(step.inputs[0])], step.output, step.name, **attributes)

    def _weighted(self, kind: str, step: WeightedStep, attributes: Mapping[str, Any]) -> None:
        source, weights = self._tensors[step.inputs[0]], step.weights
        assert isinstance(source, IntegerTensor)
        if kind == "Conv" and isinstance(self._tensors[step.output], FloatTensor):
            self._float_conv(step, source.scale, attributes)
            return
        quantized = [self._packed(weights.values, weights.bits), self._constant(weights.scales)]
        # Not shared by layers, as onnxruntime then fails with session.x64quantprecision.
        quantized.append(self._constant(np.zeros(len(weights.scales), np.int8)))
        weight = self._node("DequantizeLinear", quantized, self._new(), axis=0)
        units = [self._constant(weights.bias), self._constant(source.scale * weights.scales)]
        bias = self._node("DequantizeLinear", units, self._new(), axis=0)
        self._into(kind, [self._float(source.name), weight, bias], step, attributes)

    def _float_conv(self, step: WeightedStep, scale: np.float32, attributes: Mapping[str, Any]) -> None:
        """Append a convolution that runs in floating point, before an activation function that does.

        Its weights are Cast and Mul instead of DequantizeLinear: onnxruntime folds these when it loads the file, while
        it would dequantize the weights in every run, and has its fastest kernels for constant weights only.
        """
        weights = step.weights
        spread = weights.scales.reshape(-1, *[1] * (weights.values.ndim - 1))
        factors = (
            (self._packed(weights.values, weights.bits), spread),
            (self._constant(weights.bias), scale * weights.scales),
        )
        parts = [
            self._node(
                "Mul",
                [self._node("Cast", [levels], self._new(), to=TensorProto.FLOAT), self._constant(own)],
                self._new(),
            )
            for levels, own in factors
        ]
        self._into("Conv", [self._float(step.inputs[0]), *parts], step, attributes)

    def _packed(self, values: NDArray[np.int8], bits: int) -> str:
        """Name of int8 weights that are stored at the smallest type that holds their bits."""
        if not self._pack_weights or bits > 6 or (bits > 4 and values.size < SMALLEST_SPLIT):
            return self._constant(values)
        if bits <= 4:
            kind = "INT2" if bits == 2 else "INT4"
            return self._node("Cast", [self._stored(values, kind)], self._new(), to=TensorProto.INT8)
        high, low = (self._stored(part, kind) for part, kind in ((values >> 2, "INT4"), (values & 3, "UINT2")))
        wide = [self._node("Cast", [part], self._new(), to=TensorProto.INT32) for part in (high, low)]
        four = self._constant(np.array(4, np.int32), "four")
        total = self._node("Add", [self._node("Mul", [wide[0], four], self._new()), wide[1]], self._new())
        return self._node("Cast", [total], self._new(), to=TensorProto.INT8)

    def _stored(self, values: NDArray[np.int8], kind: str) -> str:
        """Name of an initializer of 2 or 4 bits."""
        bits = int(kind[-1])
        self.opset = max(self.opset, OPSETS[f"int{bits}"])
        name = self._new()
        stored = getattr(TensorProto, kind)
        self.constants[name] = helper.make_tensor(name, stored, values.shape, pack(values, bits), raw=True)
        return name

    def _into(self, kind: str, inputs: list[str], step: Step, attributes: Mapping[str, Any] | None = None) -> None:
        """Append a node whose output is quantized, if that is an integer tensor."""
        is_float = isinstance(self._tensors[step.output], FloatTensor)
        value = self._node(kind, inputs, step.output if is_float else self._new(), step.name, **(attributes or {}))
        if not is_float:
            self._quantize(value, step.output)

    def _quantize(self, value: str, name: str, *, flat: bool = False) -> None:
        """Quantize a float value into an integer tensor of the program; with ``flat``, without its pixels."""
        tensor = self._tensors[name]
        assert isinstance(tensor, IntegerTensor)
        clipped = tensor.bits < 8
        value = self._node("QuantizeLinear", [value, *self._scale(tensor)], self._new() if clipped or flat else name)
        if clipped:
            ends = [limit + tensor.zero for limit in (tensor.low, tensor.high)]
            limits = [self._constant(np.array(end, np.uint8), f"u{end}") for end in ends]
            value = self._node("Clip", [value, *limits], self._new() if flat else name)
        if flat:
            self._node("Flatten", [value], name)

    def _float(self, name: str) -> str:
        """Name of the real values of a tensor."""
        tensor = self._tensors[name]
        if isinstance(tensor, FloatTensor):
            return name
        if name not in self._floats:
            self._floats[name] = self._node("DequantizeLinear", [name, *self._scale(tensor)], self._new())
        return self._floats[name]

    def _scale(self, tensor: IntegerTensor) -> list[str]:
        """Names of the scale and of the zero point of a tensor."""
        if tensor.name not in self._scales:
            self._scales[tensor.name] = self._constant(np.array(tensor.scale, np.float32))
        return [self._scales[tensor.name], self._constant(np.array(tensor.zero, np.uint8), f"u{tensor.zero}")]

    def _new(self) -> str:
        """Name of a value that is no tensor of the program; short, as small networks consist of names."""
        self._count += 1
        return f"_{self._count:x}"

    def _constant(self, values: NDArray[Any], name: str | None = None) -> str:
        name = name or self._new()
        self.constants[name] = onnx.numpy_helper.from_array(values, name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, name: str | None = None, **attributes: Any) -> str:
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


_FUNCTIONS: dict[Function, tuple[str, dict[str, Any]]] = {
    "h_swish": ("HardSwish", {}),
    "h_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
}

_WRITERS = cast(
    "Mapping[type[Step], Callable[[_Writer, Step], None]]",
    {
        ResizeStep: _Writer.resize,
        QuantizeStep: _Writer.quantize,
        RequantizeStep: _Writer.quantize,
        ConvStep: _Writer.conv,
        LinearStep: _Writer.linear,
        AddStep: _Writer.add,
        MeanStep: _Writer.mean,
        MultiplyStep: _Writer.multiply,
        FunctionStep: _Writer.function,
    },
)
