"""Interpreter of programs in NumPy, the oracle for all other ways to run one.

Tensors hold levels in int32, accumulators are exact, and results are rounded as the kernels of onnxruntime on x86 do:

- Convolutions, linear layers and means: the int32 accumulator, converted to float32, times a float32 multiplier,
  rounded half to even, clamped to the levels of the output.
- Quantization and requantization: a float32 value (``level * scale``) divided by the float32 scale, then the same;
  concatenation requantizes each part.
- Sums: two fused multiply-adds in float32 on the levels plus their zero points in uint8, as ``AddStep`` has it, then
  the same.
- Products and means over windows: in float32 as ``MultiplyStep`` and ``AveragePoolStep`` have it, rounded with the zero
  point in uint8 added.
- Steps in floating point (``apq_tune.deploy.float_reference``): in float32, where onnxruntime may differ in the last
  bits, so that the next quantization may fall to either side of the edge of a level. All others are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.float_reference import activated, in_floats
from apq_tune.deploy.moves import moved, padded, windows
from apq_tune.deploy.program import (
    LOGITS,
    AddStep,
    AveragePoolStep,
    ConcatStep,
    ConvStep,
    FloatStep,
    FloatTensor,
    FunctionStep,
    IntegerTensor,
    LinearStep,
    MeanStep,
    MoveStep,
    MultiplyStep,
    Program,
    QuantizeStep,
    RequantizeStep,
    Step,
    WeightedStep,
)
from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE

Values = dict[str, NDArray[Any]]
"""Tensors by name: levels as int32, shape ``(n, *shape)``, or float32 numbers."""

LARGEST = 2**31
"""Bound of the magnitude of an accumulator."""


def run(program: Program, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of images, shape ``(n, classes)``.

    Args:
        program: Program.
        images: Images of the size that the program reads, shape ``(n, channels, height, width)``.

    Raises:
        DeployError: If an accumulator exceeds 32 bits, or there is no rule for an operation; the message names it.
    """
    return np.asarray(run_all(program, images)[LOGITS], np.float32)


def run_all(program: Program, images: NDArray[np.float32]) -> Values:
    """All tensors of a program by name; see ``run``."""
    values: Values = {IMAGE: np.asarray(images, np.float32)}
    for step in program.steps:
        values[step.output] = run_step(program, step, values)
    return values


def run_step(program: Program, step: Step, values: Values) -> NDArray[Any]:
    """Output of one step.

    Args:
        program: Program.
        step: Step of it.
        values: Tensors that the step reads, by name.

    Raises:
        DeployError: If an accumulator exceeds 32 bits, or there is no rule for the operation; the message names it.
    """
    return _RUN[type(step)](program, step, values)


def clamp(x: NDArray[np.floating[Any]], tensor: IntegerTensor) -> NDArray[np.int32]:
    """Round half to even and clamp to the levels of a tensor."""
    return np.asarray(np.clip(np.rint(x), tensor.low, tensor.high), np.int32)


def _quantize(program: Program, step: QuantizeStep, values: Values) -> NDArray[Any]:
    tensor = program.integer(step.output)
    return clamp(values[step.inputs[0]] / tensor.scale, tensor)


def _requantize(program: Program, step: RequantizeStep, values: Values) -> NDArray[Any]:
    source, tensor = program.integer(step.inputs[0]), program.integer(step.output)
    return clamp(values[source.name].astype(np.float32) * source.scale / tensor.scale, tensor)


def _conv(program: Program, step: ConvStep, values: Values) -> NDArray[Any]:
    weights, groups = step.weights.values, step.groups
    out, _, *kernel = weights.shape
    x = padded(values[step.inputs[0]], step.padding, 0)
    total: NDArray[np.float64] | None = None
    for (i, j), window in windows(x, (kernel[0], kernel[1]), step.stride, step.dilation):
        n, pixels = len(window), window.shape[2] * window.shape[3]
        part = window.reshape(n, groups, -1, pixels).astype(np.float64)
        product = _times(weights[:, :, i, j].reshape(groups, out // groups, -1), part)
        total = product if total is None else total + product
        shape = n, out, *window.shape[2:]
    assert total is not None
    return _rescaled(program, step, total.reshape(shape), axis=1)


def _times(weights: NDArray[np.int8], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products of integer matrices, exact in float64, whose products NumPy computes quickly."""
    if weights.shape[1:] == (1, 1):
        return weights.astype(np.float64) * x
    return np.asarray(weights.astype(np.float64) @ x)


def _linear(program: Program, step: LinearStep, values: Values) -> NDArray[Any]:
    total = values[step.inputs[0]].astype(np.float64) @ step.weights.values.T.astype(np.float64)
    return _rescaled(program, step, total, axis=-1)


def _rescaled(program: Program, step: WeightedStep, total: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """Add the bias to exact sums and rescale each channel along an axis."""
    along = [1] * total.ndim
    along[axis] = -1
    total = total + step.weights.bias.reshape(along)
    if np.abs(total).max(initial=0) >= LARGEST:
        raise DeployError(f"step {step.name}: an accumulator exceeds 32 bits; give the layer fewer inputs or bits")
    scaled = total.astype(np.int32).astype(np.float32) * step.multipliers.reshape(along)
    output = program.tensors[step.output]
    return clamp(scaled, output) if isinstance(output, IntegerTensor) else scaled


def _add(program: Program, step: AddStep, values: Values) -> NDArray[Any]:
    one, two = (program.integer(name) for name in step.inputs)
    output = program.integer(step.output)
    inner = _fma(values[two.name] + two.zero, step.ratios[1], step.offset)
    total = np.rint(_fma(values[one.name] + one.zero, step.ratios[0], inner))
    return clamp(np.asarray(total - output.zero, np.float32), output)


def _fma(levels: NDArray[np.int32], factor: np.float32, added: Any) -> NDArray[np.float32]:
    """``levels * factor + added`` rounded once: the product of 8 and 24 bits is exact in float64."""
    return np.asarray(levels * np.float64(factor) + np.asarray(added, np.float64), np.float32)


def _mean(program: Program, step: MeanStep, values: Values) -> NDArray[Any]:
    output = program.integer(step.output)
    total = values[step.inputs[0]].sum(axis=(2, 3), dtype=np.int32).reshape(-1, *output.shape)
    return clamp(total.astype(np.float32) * step.multiplier, output)


def _average(program: Program, step: AveragePoolStep, values: Values) -> NDArray[Any]:
    source, output = program.integer(step.inputs[0]), program.integer(step.output)
    x = padded(values[source.name].astype(np.float32) * source.scale, step.padding, 0)
    inside = padded(np.ones((1, 1, *source.shape[1:]), np.float32), step.padding, float(step.count_padding))
    total = sum(window for _, window in windows(x, step.kernel, step.stride))
    count = sum(window for _, window in windows(inside, step.kernel, step.stride))
    zero = np.float32(output.zero)
    return clamp(np.rint(np.asarray(total, np.float32) / count / output.scale + zero) - zero, output)


def _multiply(program: Program, step: MultiplyStep, values: Values) -> NDArray[Any]:
    output = program.integer(step.output)
    zero = np.float32(output.zero)
    product = (values[step.inputs[0]] * values[step.inputs[1]]).astype(np.float32)
    return clamp(np.rint(product * step.ratio + zero) - zero, output)


def _concat(program: Program, step: ConcatStep, values: Values) -> NDArray[Any]:
    output = program.integer(step.output)
    real = [values[name].astype(np.float32) * program.integer(name).scale for name in step.inputs]
    return clamp(np.concatenate(real, axis=1) / output.scale, output)


def _move(program: Program, step: MoveStep, values: Values) -> NDArray[Any]:
    real = isinstance(program.tensors[step.output], FloatTensor)
    x = real_values(program, step.inputs[0], values) if real else values[step.inputs[0]]
    return moved(step, x, program.tensors[step.output].shape)


def _function(program: Program, step: FunctionStep, values: Values) -> NDArray[Any]:
    return activated(step.function, real_values(program, step.inputs[0], values), step.settings)


def _float(program: Program, step: FloatStep, values: Values) -> NDArray[Any]:
    inputs = [real_values(program, name, values) for name in step.inputs]
    return in_floats(step, inputs, program.tensors[step.output].shape)


def real_values(program: Program, name: str, values: Values) -> NDArray[np.float32]:
    """Real values of a tensor."""
    tensor = program.tensors[name]
    if isinstance(tensor, FloatTensor):
        return values[name]
    return np.asarray(values[name].astype(np.float32) * tensor.scale, np.float32)


_RUN = cast(
    "Mapping[type[Step], Callable[[Program, Step, Values], NDArray[Any]]]",
    {
        QuantizeStep: _quantize,
        RequantizeStep: _requantize,
        ConvStep: _conv,
        LinearStep: _linear,
        AddStep: _add,
        MeanStep: _mean,
        AveragePoolStep: _average,
        MultiplyStep: _multiply,
        ConcatStep: _concat,
        MoveStep: _move,
        FunctionStep: _function,
        FloatStep: _float,
    },
)
