"""Interpreter of integer programs in NumPy, the oracle for all other ways to run one.

Tensors hold levels in int32, accumulators are exact, and results are rounded as the kernels of onnxruntime on x86 do:

- Convolutions, linear layers and means: the int32 accumulator, converted to float32, times a float32 multiplier,
  rounded half to even, clamped to the levels of the output.
- Quantization and requantization: a float32 value (``level * scale``) divided by the float32 scale, then the same.
- Sums: two fused multiply-adds in float32 on the levels plus their zero points in uint8, as ``AddStep`` has it, then
  the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.program import (
    LOGITS,
    AddStep,
    ConvStep,
    IntegerTensor,
    LinearStep,
    MeanStep,
    Program,
    QuantizeStep,
    RequantizeStep,
    ResizeStep,
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
        program: Program without floating-point steps.
        images: Images as the data loader yields them, shape ``(n, channels, size, size)``, or resized already.

    Raises:
        DeployError: If a step needs floating point; the message names it.
    """
    return np.asarray(run_all(program, images)[LOGITS], np.float32)


def run_all(program: Program, images: NDArray[np.float32]) -> Values:
    """All tensors of a program by name; see ``run``."""
    check_integer(program)
    values: Values = {IMAGE: np.asarray(images, np.float32)}
    for step in program.steps:
        values[step.output] = _RUN[type(step)](program, step, values)
    return values


def check_integer(program: Program) -> None:
    """Refuse programs with steps in floating point.

    Raises:
        DeployError: If there is one; the message names it.
    """
    for step in program.steps:
        if step.name in program.float_steps or type(step) not in _RUN:
            raise DeployError(
                f"step {step.name}: squeeze-excite and hard swish have no integer form; export as onnx or torch, or "
                "choose a space without them"
            )


def clamp(x: NDArray[np.floating[Any]], tensor: IntegerTensor) -> NDArray[np.int32]:
    """Round half to even and clamp to the levels of a tensor."""
    return np.asarray(np.clip(np.rint(x), tensor.low, tensor.high), np.int32)


def _resize(program: Program, step: ResizeStep, values: Values) -> NDArray[Any]:
    return resized(values[step.inputs[0]], program.tensors[step.output].shape[-1])


def resized(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Images of another size by antialiased linear interpolation, shape ``(n, channels, size, size)``."""
    if images.shape[-1] == size:
        return images
    matrix = resize_matrix(images.shape[-1], size)
    return np.asarray(matrix @ images @ matrix.T, np.float32)


def resize_matrix(before: int, after: int) -> NDArray[np.float32]:
    """Weights of antialiased linear interpolation along one side, shape ``(after, before)``.

    A triangle filter, as wide as a pixel of the larger of the two grids, at the centres of the new pixels.
    """
    ratio = before / after
    width = max(ratio, 1.0)
    centres = (np.arange(after) + 0.5) * ratio
    distance = np.abs(np.arange(before) + 0.5 - centres[:, None]) / width
    weights = np.maximum(0, 1 - distance)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _quantize(program: Program, step: QuantizeStep, values: Values) -> NDArray[Any]:
    tensor = program.integer(step.output)
    return clamp(values[step.inputs[0]] / tensor.scale, tensor)


def _requantize(program: Program, step: RequantizeStep, values: Values) -> NDArray[Any]:
    source, tensor = program.integer(step.inputs[0]), program.integer(step.output)
    return clamp(values[source.name].astype(np.float32) * source.scale / tensor.scale, tensor)


def _conv(program: Program, step: ConvStep, values: Values) -> NDArray[Any]:
    x, weights = values[step.inputs[0]], step.weights.values
    out, k, pad, stride = len(weights), weights.shape[-1], step.padding, step.stride
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    size = (padded.shape[-1] - k) // stride + 1
    n, groups = len(x), step.groups
    total = np.zeros((n, groups, out // groups, size * size))
    for i in range(k):
        for j in range(k):
            window = padded[:, :, i : i + stride * size : stride, j : j + stride * size : stride]
            part = window.reshape(n, groups, -1, size * size).astype(np.float64)
            total += _times(weights[:, :, i, j].reshape(groups, out // groups, -1), part)
    return _rescaled(program, step, total.reshape(n, out, size, size))


def _times(weights: NDArray[np.int8], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products of integer matrices, exact in float64, whose products NumPy computes quickly."""
    if weights.shape[1:] == (1, 1):
        return weights.astype(np.float64) * x
    return np.asarray(weights.astype(np.float64) @ x)


def _linear(program: Program, step: LinearStep, values: Values) -> NDArray[Any]:
    total = values[step.inputs[0]].astype(np.float64) @ step.weights.values.T.astype(np.float64)
    return _rescaled(program, step, total)


def _rescaled(program: Program, step: WeightedStep, total: NDArray[np.float64]) -> NDArray[Any]:
    """Add the bias to exact sums and rescale each channel."""
    along = (1, -1, *[1] * (total.ndim - 2))
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
    total = values[step.inputs[0]].sum(axis=(2, 3), dtype=np.int32)
    return clamp(total.astype(np.float32) * step.multiplier, program.integer(step.output))


_RUN = cast(
    "Mapping[type[Step], Callable[[Program, Step, Values], NDArray[Any]]]",
    {
        ResizeStep: _resize,
        QuantizeStep: _quantize,
        RequantizeStep: _requantize,
        ConvStep: _conv,
        LinearStep: _linear,
        AddStep: _add,
        MeanStep: _mean,
    },
)
