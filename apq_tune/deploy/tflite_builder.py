"""Building graphs of TensorFlow Lite of programs: tensors, scalings, levels, convolutions.

``apq_tune.deploy.tflite_graph`` says how levels become int8.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.onnx_writer import pack
from apq_tune.deploy.program import (
    LOGITS,
    FloatStep,
    FloatTensor,
    IntegerTensor,
    MoveStep,
    Program,
    QuantizeStep,
    Step,
)
from apq_tune.deploy.tflite_writer import Scaling, TFLiteWriter, Value
from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE
from apq_tune.supernet.folded import LARGEST_BIAS

BOTTOM, TOP = -128, 127
"""Smallest and largest integer of int8."""

FULL_BITS = 8
"""Bits of int8."""

PACKED_BITS = 4
"""Most bits of weights that are stored in 4."""

ONE = 64
"""Integer that means 1 where a tensor is only rescaled."""

CHOICES = 5
"""Number of logits of each image that int8 has to hold."""

MARGIN = 0.05
"""Share of the range of logits that is added at either end."""

REMEDY = "export with --format onnx or torch"


class GraphBuilder:
    """Operators and tensors so far.

    Attributes:
        program: Program.
        writer: What is written.
        values: Tensors of the program in the file, by name.
        n_int4: Number of layers whose weights are int4.
        n_int8: Number of layers with weights of fewer than 8 bits that are int8.
        last: Names of the float tensors that are logits, or become them without arithmetic.
    """

    def __init__(self, program: Program, logits: Scaling, *, pack_weights: bool) -> None:
        self.program, self.writer = program, TFLiteWriter()
        self.values: dict[str, Value] = {}
        self.n_int4 = self.n_int8 = 0
        self._logits, self._pack = logits, pack_weights
        self.last = {LOGITS}
        for step in reversed(program.steps):
            if step.output in self.last and (isinstance(step, MoveStep) or _is_concat(step)):
                self.last |= {own for own in step.inputs if isinstance(program.tensors[own], FloatTensor)} - {IMAGE}

    def image(self) -> None:
        """Input: int8 if all that read the image quantize it alike, else float32."""
        readers = [step for step in self.program.steps if IMAGE in step.inputs]
        found = {self.program.integer(own.output)[2:] for own in readers if isinstance(own, QuantizeStep)}
        whole = len(found) == 1 and all(isinstance(own, QuantizeStep) for own in readers)
        scaling = scaling_of(self.program.integer(readers[0].output)) if whole else None
        self.values[IMAGE] = self.writer.value(IMAGE, self.shape(IMAGE), scaling)

    def shape(self, name: str) -> tuple[int, int, int]:
        """Height, width and channels of a tensor of the program.

        Raises:
            DeployError: If it has other dimensions.
        """
        own = self.program.tensors[name].shape
        if len(own) not in (1, 3):
            raise DeployError(
                f"layer {name}: its output has the shape {own}, and the tflite format has images and vectors; {REMEDY}"
            )
        return (1, 1, own[0]) if len(own) == 1 else (own[1], own[2], own[0])

    def scaling(self, name: str) -> Scaling:
        """Scaling of an integer tensor of the program, or of logits."""
        tensor = self.program.tensors[name]
        return scaling_of(tensor) if isinstance(tensor, IntegerTensor) else self._logits

    def emit(
        self, kind: str, inputs: list[int], step: Step, version: int, options: Any = None, *, fused: bool = True
    ) -> None:
        """Append the operator that makes the output of a step, and what keeps it within its levels.

        Args:
            kind: Operator.
            inputs: Numbers of its inputs.
            step: Step.
            version: Version of the operator.
            options: Options of the operator.
            fused: Whether the options can have a ReLU.
        """
        tensor, scaling, shape = self.program.tensors[step.output], self.scaling(step.output), self.shape(step.output)
        if not isinstance(tensor, IntegerTensor) and step.output not in self.last:
            self.refuse(step, "has an output in floating point")
        narrow = isinstance(tensor, IntegerTensor) and tensor.bits < FULL_BITS
        if fused and isinstance(tensor, IntegerTensor) and not tensor.signed:
            options.fusedActivationFunction, narrow = self.writer.schema.ActivationFunctionType.RELU, False
        value = self.writer.value(f"{step.output}/wide" if narrow else step.output, shape, scaling)
        self.writer.operator(kind, inputs, value.number, version, options)
        self.values[step.output] = self.narrowed(value, step.output) if narrow else value

    def narrowed(self, value: Value, name: str) -> Value:
        """Tensor kept to at least the smallest level of a tensor of the program, the end of int8 being its largest."""
        tensor, scaling = self.program.integer(name), value.scaling
        assert scaling is not None
        if tensor.bits == FULL_BITS:
            return value
        low = self.writer.constant(f"{name}/low", np.full((1, 1, 1, 1), tensor.low + scaling.zero, np.int8), scaling)
        own = self.writer.value(name, value.shape, scaling)
        self.writer.operator("MAXIMUM", [value.number, low], own.number, 2, self.writer.schema.MaximumMinimumOptionsT())
        return own

    def requantized(self, source: Value, name: str, own: str) -> Value:
        """Tensor at the scaling and levels of a tensor of the program.

        Args:
            source: Tensor, also a float one.
            name: Tensor of the program.
            own: Name of the result.
        """
        scaling, tensor = self.scaling(name), self.program.tensors[name]
        narrow = isinstance(tensor, IntegerTensor) and tensor.bits < FULL_BITS
        if source.scaling == scaling:
            return self.narrowed(source, name) if narrow else source
        schema, saturates = self.writer.schema, isinstance(tensor, IntegerTensor) and not tensor.signed
        narrow = narrow and (source.scaling is None or not saturates)
        value = self.writer.value(f"{own}/wide" if narrow else own, source.shape, scaling)
        if source.scaling is None:
            self.writer.operator("QUANTIZE", [source.number], value.number, 1, schema.QuantizeOptionsT())
        else:
            unit = Scaling(np.float32(1 / ONE), 0)
            one = self.writer.constant(f"{own}/one", np.full((1, 1, 1, 1), ONE, np.int8), unit)
            activation = schema.ActivationFunctionType
            options = schema.MulOptionsT(activation.RELU if saturates else activation.NONE)
            version = 2 if source.scaling.scale * unit.scale < scaling.scale else 3
            self.writer.operator("MUL", [source.number, one], value.number, version, options)
        return self.narrowed(value, name) if narrow else value

    def padded(
        self,
        x: Value,
        padding: tuple[int, int, int, int],
        name: str,
        value: float | None = None,
        channels: tuple[int, int] = (0, 0),
    ) -> Value:
        """Images with rows and columns of a value around them.

        Args:
            x: Images.
            padding: Rows and columns above, left, below and right.
            name: Name of the result.
            value: Value, an integer of int8 tensors; by default that which means zero.
            channels: Channels of it before and behind.
        """
        (top, left, bottom, right), (before, behind), (height, width, n) = padding, channels, x.shape
        out = self.writer.value(name, (height + top + bottom, width + left + right, n + before + behind), x.scaling)
        sides = np.array([[0, 0], [top, bottom], [left, right], [before, behind]], np.int32)
        inputs, version = [x.number, self.writer.constant("numbers", sides)], 1 if x.scaling is None else 2
        if value is None:
            self.writer.operator("PAD", inputs, out.number, version, self.writer.schema.PadOptionsT())
            return out
        padded = np.array(value, np.float32 if x.scaling is None else np.int8)
        inputs.append(self.writer.constant(f"{name}/value", padded, x.scaling))
        self.writer.operator("PADV2", inputs, out.number, version, self.writer.schema.PadV2OptionsT())
        return out

    def convolution(
        self,
        step: Step,
        x: Value,
        weights: NDArray[np.int8],
        scales: NDArray[np.float32],
        bias: NDArray[np.int32],
        *,
        groups: int = 1,
        bits: int = FULL_BITS,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
    ) -> None:
        """Append a convolution that makes the output of a step.

        Args:
            step: Step.
            x: Its input.
            weights: Weights, shape ``(out, in / groups, h, w)``.
            scales: Scale of each output channel.
            bias: Bias of each output channel.
            groups: Number of groups.
            bits: Bits of the weights; up to 4 they are packed if the input has 8 bits.
            stride: Stride, vertical and horizontal.
            padding: Rows and columns of zeros above, left, below and right.
            dilation: Distance of the taps of the kernel, vertical and horizontal.
        """
        assert x.scaling is not None
        unit = x.scaling.scale
        own, kernel = self.writer.schema, (weights.shape[2], weights.shape[3])
        same = any(padding) and pads_as_same(x.shape[:2], kernel, stride, dilation, padding)
        if any(padding) and not same:
            x = self.padded(x, padding, f"{step.name}/padded")
        depthwise = groups > 1 and groups == x.shape[2] and weights.shape[1] == 1
        ordered = weights.transpose(1, 2, 3, 0) if depthwise else weights.transpose(0, 2, 3, 1)
        ordered = np.ascontiguousarray(ordered)
        packable = groups == 1 and bits <= PACKED_BITS and self.program.integer(step.inputs[0]).bits == FULL_BITS
        packed = pack(ordered, 4) if self._pack and packable else None
        self.n_int4, self.n_int8 = (
            self.n_int4 + (packed is not None),
            self.n_int8 + (packed is None and bits < FULL_BITS),
        )
        if packed is None:
            factor = _factor(weights, bias)
            ordered, scales, bias = ordered * np.int8(factor), scales / np.float32(factor), bias * np.int32(factor)
        axis = 3 if depthwise else 0
        inputs = [
            x.number,
            self.writer.weights(f"{step.name}/weights", ordered, scales, axis, packed),
            self.writer.weights(f"{step.name}/bias", bias, unit * scales, 0),
        ]
        options: Any = (own.DepthwiseConv2DOptionsT if depthwise else own.Conv2DOptionsT)()
        options.padding = own.Padding.SAME if same else own.Padding.VALID
        options.strideH, options.strideW = stride
        options.dilationHFactor, options.dilationWFactor = dilation
        if depthwise:
            options.depthMultiplier = len(weights) // groups
            self.emit("DEPTHWISE_CONV_2D", inputs, step, 3, options)
        else:
            self.emit("CONV_2D", inputs, step, 7 if packed is not None else 3 if groups == 1 else 6, options)

    def refuse(self, step: Step, reason: str) -> NoReturn:
        """Raise a ``DeployError`` that names the layer of a step."""
        raise DeployError(f"layer {step.name}: {reason}, which the tflite format does not have; {REMEDY}")


def _factor(weights: NDArray[np.int8], bias: NDArray[np.int32]) -> int:
    """Power of two by which weights fit into int8, and the bias into int32 with room for sums."""
    weight, offset = (int(np.abs(own.astype(np.int64)).max(initial=1)) for own in (weights, bias))
    return 1 << max(0, min((TOP // max(weight, 1)).bit_length(), (LARGEST_BIAS // max(offset, 1)).bit_length()) - 1)


def scaling_of(tensor: IntegerTensor) -> Scaling:
    """Scaling of a tensor in int8."""
    return Scaling(tensor.scale, TOP - tensor.high)


def logits_scaling(logits: NDArray[np.float32]) -> Scaling:
    """Scaling in which int8 has the range of the five largest of given logits, and a twentieth more at either end.

    Smaller ones saturate, which changes none of the first choices; a step is then about half as large.

    Args:
        logits: Logits of images, shape ``(n, classes)``.
    """
    fifth = np.sort(logits, axis=1)[:, -min(CHOICES, logits.shape[1])]
    low, high = min(0.0, float(fifth.min())), max(0.0, float(logits.max()))
    scale = np.float32(max((1 + 2 * MARGIN) * (high - low), 1e-6) / (TOP - BOTTOM))
    zero = round(BOTTOM - (low - MARGIN * (high - low)) / float(scale))
    return Scaling(scale, int(np.clip(zero, BOTTOM, TOP)))


def pads_as_same(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, int, int, int],
) -> bool:
    """Whether TensorFlow's ``SAME`` pads like rows and columns above, left, below and right."""
    for axis in range(2):
        n, before, after = size[axis], padding[axis], padding[axis + 2]
        reach = (kernel[axis] - 1) * dilation[axis] + 1
        out = -(-n // stride[axis])
        added = max((out - 1) * stride[axis] + reach - n, 0)
        if before != added // 2 or (n + before + after - reach) // stride[axis] + 1 != out:
            return False
    return True


def _is_concat(step: Step) -> bool:
    return isinstance(step, FloatStep) and step.kind == "concat"
