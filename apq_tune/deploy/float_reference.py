"""Rules in NumPy of steps in floating point, in float32; see ``FunctionStep`` and ``FloatStep``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf, expit

from apq_tune.deploy.moves import moved, padded, windows
from apq_tune.deploy.program import FloatStep, MoveStep
from apq_tune.errors import DeployError
from apq_tune.network.layer import Function
from apq_tune.tracing.opaque import run_opaque

Floats = NDArray[np.float32]
Settings = Mapping[str, Any]
Constants = Mapping[str, Floats]


def activated(function: Function, x: Floats, settings: Settings) -> Floats:
    """Activation function of real values.

    Args:
        function: Function.
        x: Input.
        settings: Its settings, as in ``FunctionStep``.
    """
    return np.asarray(_FUNCTIONS[function](x, settings), np.float32)


def in_floats(step: FloatStep, inputs: Sequence[Floats], shape: tuple[int, ...]) -> Floats:
    """Output of a step in floating point.

    Args:
        step: Step.
        inputs: Real values of its inputs, each of shape ``(n, ...)``.
        shape: Shape of its output without the batch.

    Raises:
        DeployError: If there is no rule for the operation.
    """
    if step.kind not in _RULES:
        raise DeployError(f"step {step.name}: a {step.kind} has no rule in the reference yet")
    output = _RULES[step.kind](step, inputs)
    kind = output.dtype if output.dtype == np.bool_ else np.float32
    return np.asarray(output, kind).reshape(len(inputs[0]), *shape)


def along(values: Floats, axis: int, dimensions: int) -> Floats:
    """One value for each index along an axis, not counting the batch, of a tensor with that many dimensions."""
    shape = [1] * (dimensions - 1)
    shape[axis] = -1
    return values.reshape(shape)


def norm_factors(step: FloatStep) -> tuple[Floats, Floats]:
    """Factor and offset of each channel of a batch norm with stored statistics."""
    own = step.parameters
    factor = 1 / np.sqrt(own["variance"].astype(np.float64) + step.settings["eps"])
    factor = factor * own["weight"] if "weight" in own else factor
    offset = -own["mean"] * factor + own.get("bias", np.float32(0))
    return np.asarray(factor, np.float32), np.asarray(offset, np.float32)


def _add(_: FloatStep, inputs: Sequence[Floats]) -> Floats:
    return inputs[0] + inputs[1]


def _multiply(_: FloatStep, inputs: Sequence[Floats]) -> Floats:
    one, two = inputs
    return np.asarray(one * (two if two.ndim == one.ndim else two[:, :, None, None]), np.float32)


def _concat(_: FloatStep, inputs: Sequence[Floats]) -> Floats:
    return np.concatenate(inputs, axis=1)


def _mean(_: FloatStep, inputs: Sequence[Floats]) -> Floats:
    return np.asarray(inputs[0].mean(axis=(2, 3)), np.float32)


def _average(step: FloatStep, inputs: Sequence[Floats]) -> Floats:
    kernel, stride, padding, count = (step.settings[key] for key in ("kernel", "stride", "padding", "count_padding"))
    inside = padded(np.ones((1, 1, *inputs[0].shape[2:]), np.float32), padding, float(count))
    total, n = (sum(own for _, own in windows(x, kernel, stride)) for x in (padded(inputs[0], padding, 0), inside))
    return np.asarray(total / n, np.float32)


def _upsample(step: FloatStep, inputs: Sequence[Floats]) -> Floats:
    factor, x = step.settings["factor"], inputs[0]
    if step.settings["mode"] == "nearest":
        return moved(MoveStep(step.name, step.inputs, step.output, "upsample", step.settings), x, ())
    rows, columns = (_bilinear(n, factor) for n in x.shape[2:])
    return np.asarray(rows @ x @ columns.T, np.float32)


def _bilinear(n: int, factor: int) -> Floats:
    """Weights of linear interpolation along one side at half-pixel centres, shape ``(n * factor, n)``."""
    places = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0, n - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(n))), np.float32)


def _norm(step: FloatStep, inputs: Sequence[Floats]) -> Floats:
    factor, offset = (along(own, 0, inputs[0].ndim) for own in norm_factors(step))
    return np.asarray(inputs[0] * factor + offset, np.float32)


def _affine(step: FloatStep, inputs: Sequence[Floats]) -> Floats:
    x = inputs[0]
    own = {role: along(values, step.settings["axis"], x.ndim) for role, values in step.parameters.items()}
    return np.asarray(x * own.get("weight", np.float32(1)) + own.get("bias", np.float32(0)))


def _layer_norm(step: FloatStep, inputs: Sequence[Floats]) -> Floats:
    x, own = inputs[0], step.parameters
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(step.settings["eps"]))
    return np.asarray(scaled * own.get("weight", np.float32(1)) + own.get("bias", np.float32(0)))


def _opaque(step: FloatStep, inputs: Sequence[Floats]) -> Floats:
    """Output of an operation of ATen, which only torch knows; comparisons yield truth values."""
    tensors = {role: torch.from_numpy(np.array(values)) for role, values in step.parameters.items()}
    given = [torch.from_numpy(np.ascontiguousarray(x)) for x in inputs]
    return np.asarray(run_opaque(step.settings, given, tensors).numpy())


_RULES: Mapping[str, Callable[[FloatStep, Sequence[Floats]], Floats]] = {
    "add": _add,
    "multiply": _multiply,
    "concat": _concat,
    "pool": _mean,
    "avg_pool": _average,
    "upsample": _upsample,
    "norm": _norm,
    "affine": _affine,
    "layer_norm": _layer_norm,
    "opaque": _opaque,
}

_FUNCTIONS: Mapping[Function, Callable[[Floats, Settings], Any]] = {
    "relu": lambda x, _: np.maximum(x, 0),
    "relu6": lambda x, _: np.clip(x, 0, 6),
    "h_swish": lambda x, _: x * np.clip(x + 3, 0, 6) / np.float32(6),
    "h_sigmoid": lambda x, _: np.clip(x + 3, 0, 6) / np.float32(6),
    "silu": lambda x, _: x * expit(x),
    "sigmoid": lambda x, _: expit(x),
    "gelu": lambda x, _: x * (1 + erf(x * np.float32(0.5**0.5))) / 2,
    "tanh": lambda x, _: np.tanh(x),
    "leaky_relu": lambda x, settings: np.where(x < 0, x * np.float32(settings["slope"]), x),
    "elu": lambda x, _: np.where(x < 0, np.expm1(np.minimum(x, 0)), x),
    "scale": lambda x, settings: x * np.float32(settings["factor"]) + np.float32(settings["offset"]),
}
