"""Integer programs: what a found network computes on a device, as steps on integer tensors.

A program is a list of steps in the order of execution. Each step reads tensors by name and writes one. Tensors hold
integers that stand for ``integer * scale``, zero point 0: unsigned ones levels 0 to ``2^bits - 1``, signed ones levels
``-2^(bits - 1)`` to ``2^(bits - 1) - 1``. Images, logits and the values around steps in floating point are float
tensors. All scales are float32 constants of the program; whoever runs, writes or compiles it uses them as they are,
and rounds as ``apq_tune.deploy.reference`` does.
``apq_tune.deploy.lowering`` makes them of networks.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import DeployError
from apq_tune.network.layer import Function, LayerKind
from apq_tune.supernet.frozen import FrozenWeights

ZERO = 128
"""Zero point of signed tensors in uint8."""

LOGITS = "logits"
"""Name of the output tensor of a program."""


class FloatTensor(NamedTuple):
    """Tensor of float32 numbers, or of truth values.

    Attributes:
        name: Unique name in the program.
        shape: Shape without the batch, such as ``(channels, height, width)`` or ``(channels,)``.
    """

    name: str
    shape: tuple[int, ...]


class IntegerTensor(NamedTuple):
    """Tensor of integers that stand for ``integer * scale``.

    Attributes:
        name: Unique name in the program.
        shape: Shape without the batch, such as ``(channels, height, width)`` or ``(channels,)``.
        bits: Bit-width, 2 to 8.
        signed: Whether levels can be negative.
        scale: Real value of one level.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    signed: bool
    scale: np.float32

    @property
    def zero(self) -> int:
        """Zero point of the tensor where a kernel holds it as uint8, 128 if it is signed."""
        return ZERO if self.signed else 0

    @property
    def low(self) -> int:
        """Smallest level."""
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest level."""
        return (1 << self.bits - int(self.signed)) - 1


ProgramTensor = FloatTensor | IntegerTensor


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        name: Unique name; of operations that belong to a layer of the network, the layer's.
        inputs: Names of the tensors that it reads.
        output: Name of the tensor that it writes.
    """

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class QuantizeStep(Step):
    """Quantization of a float tensor: ``clamp(round(x / scale))``."""


@dataclass(frozen=True)
class RequantizeStep(Step):
    """Integer tensor at another scale or bit-width: ``clamp(round((q * input_scale) / output_scale))``."""


@dataclass(frozen=True)
class WeightedStep(Step):
    """Operation with weights, whose int32 accumulators are rescaled channel by channel.

    ``clamp(round(accumulator * multipliers[channel]))``; to a float output ``accumulator * multipliers[channel]``.

    Attributes:
        weights: Integer weights, their scales, and the bias, which is the initial value of the accumulators.
        multipliers: Input scale times scale of the weights, over the output scale unless the output is float, each
            operation rounded to float32; shape ``(out,)``.
    """

    weights: FrozenWeights
    multipliers: NDArray[np.float32]


@dataclass(frozen=True)
class ConvStep(WeightedStep):
    """Convolution.

    Attributes:
        stride: Stride, vertical and horizontal.
        padding: Rows and columns of zeros above, left, below and right.
        dilation: Distance of the taps of the kernel, vertical and horizontal.
        groups: Number of groups.
    """

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class LinearStep(WeightedStep):
    """Linear layer on the last axis of a tensor, such as ``(channels,)`` or ``(height, width, channels)``."""


@dataclass(frozen=True)
class AddStep(Step):
    """Sum of two tensors: ``clamp(round(fma(a + za, ratios[0], fma(b + zb, ratios[1], offset))) - zc)``.

    ``za``, ``zb`` and ``zc`` are the ``zero`` of both inputs and of the output, ``fma`` the product and sum with a
    single rounding to float32. The offsets cancel, but for the last bit of the sum.

    Attributes:
        ratios: Scale of each input over the scale of the output.
        offset: ``zc - (ratios[0] * za + ratios[1] * zb)``, each operation rounded to float32.
    """

    ratios: tuple[np.float32, np.float32]
    offset: np.float32


@dataclass(frozen=True)
class MeanStep(Step):
    """Mean of each channel over all pixels: ``clamp(round(sum * multiplier))``.

    Attributes:
        multiplier: Input scale over (output scale times number of pixels), each operation rounded to float32.
    """

    multiplier: np.float32


@dataclass(frozen=True)
class AveragePoolStep(Step):
    """Mean over windows: ``clamp(round(((sum of q * input_scale) / count) / output_scale + zero) - zero)`` in float32.

    The values of a window are added row by row. ``zero`` is that of the output.

    Attributes:
        kernel: Height and width of a window.
        stride: Stride, vertical and horizontal.
        padding: Rows and columns of zeros above, left, below and right.
        count_padding: Whether the count of a window includes its padding.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    count_padding: bool


@dataclass(frozen=True)
class MultiplyStep(Step):
    """Product of two tensors: ``clamp(round((a * b) * ratio + zero) - zero)`` in float32, ``zero`` that of the output.

    The second tensor has the shape of the first one, or one value for each channel; squeeze-excite.

    Attributes:
        ratio: Product of the scales of the inputs over the scale of the output, each operation rounded to float32.
    """

    ratio: np.float32


@dataclass(frozen=True)
class ConcatStep(Step):
    """Tensors one behind the other along the first axis, each requantized as by ``RequantizeStep`` if need be."""


@dataclass(frozen=True)
class MoveStep(Step):
    """Values that are moved or selected without arithmetic: the output has scale, bits and sign of the input.

    Attributes:
        kind: ``"slice"``, ``"select"``, ``"shuffle"``, ``"max_pool"``, ``"flatten"``, ``"pad"``, ``"permute"``, or
            ``"upsample"`` of mode ``"nearest"``.
        settings: As in ``apq_tune.network.graph``.
    """

    kind: LayerKind
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class FunctionStep(Step):
    """Activation function in floating point.

    Attributes:
        function: Function.
        settings: ``slope`` of ``leaky_relu``; ``factor`` and ``offset`` of ``scale``.
    """

    function: Function
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class FloatStep(Step):
    """Operation in floating point on the real values of its inputs, which may be integer tensors.

    Attributes:
        kind: Operation.
        settings: As in ``apq_tune.network.graph``.
        parameters: Parameters by role, as in ``apq_tune.network.graph``.
    """

    kind: LayerKind
    settings: Mapping[str, Any]
    parameters: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Program:
    """Integer program of one network.

    Attributes:
        steps: Steps in the order of execution.
        tensors: All tensors by name; the input is ``IMAGE``, the output ``LOGITS``, both float.
    """

    steps: tuple[Step, ...]
    tensors: Mapping[str, ProgramTensor]

    @property
    def float_steps(self) -> tuple[str, ...]:
        """Names of the steps that compute in floating point, such as hard swish or layer norm."""
        return tuple(step.name for step in self.steps if isinstance(step, FunctionStep | FloatStep))

    def integer(self, name: str) -> IntegerTensor:
        """Integer tensor by name.

        Raises:
            DeployError: If the tensor is float.
        """
        tensor = self.tensors[name]
        if not isinstance(tensor, IntegerTensor):
            raise DeployError(f"{name}: is a float tensor; only images, logits and what floating-point steps make are")
        return tensor

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all steps, weights and scales, in hexadecimal; equal programs have equal digests."""
        total = hashlib.sha256()
        for tensor in self.tensors.values():
            total.update(repr(_plain(tensor)).encode())
        for step in self.steps:
            total.update(type(step).__name__.encode())
            total.update(repr([_plain(value) for value in vars(step).values()]).encode())
        return total.hexdigest()


def _plain(value: Any) -> Any:
    """Value whose ``repr`` has every bit of it, or a digest of all bits of an array."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, np.generic):
        return value.tobytes()
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return [(key, _plain(part)) for key, part in sorted(value.items())]
    return value
