"""Integer programs as programs of ``torch.export``, which run without this package.

Integers are computed as floating-point numbers that hold them exactly: in float32 where no accumulator can exceed
2^24, else in float64. So the program gives the logits of the integer reference. Weights are stored as int8.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

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
from apq_tune.network.graph import Node
from apq_tune.network.layer import IMAGE
from apq_tune.tracing.functions import activate, compute

METADATA = "apq_tune.json"
"""Name of the extra file with the metadata."""

SOURCES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")
"""Notes of the exporter on where an operation is from: paths of this machine, and most of the file."""

EXACT = 2**24
"""Integers up to this magnitude are exact in float32."""

DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, LookupError),
    *(struct.error, RecursionError),
)
"""Exceptions that reading a damaged archive raises."""

PART = 50
"""Images that a program runs on at a time."""

EXAMPLES = 2
"""Images that the program is traced with; a batch of one would be taken for a constant."""


def torch_bytes(program: Program, metadata: Mapping[str, Any]) -> bytes:
    """Serialized ``torch.export`` program from images to logits, for any batch size.

    Args:
        program: Integer program.
        metadata: Plain data that are kept in the file as JSON.
    """
    module = ProgramModule(program).eval()
    example = torch.zeros(EXAMPLES, *program.tensors[IMAGE].shape)
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad():
        exported = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        for node in exported.graph.nodes:
            for key in SOURCES:
                node.meta.pop(key, None)
        torch.export.save(exported, buffer, extra_files={METADATA: json.dumps(dict(metadata))})
    return buffer.getvalue()


def read_torch(path: Path) -> dict[str, Any]:
    """Metadata of a file of ``torch_bytes``.

    Loading such a file may run code in it, so only those that say that they were written here are loaded.

    Raises:
        DeployError: If it is another file, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise DeployError(f"{path}: is damaged ({bad} is not as it was saved); export it again")
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == METADATA]
            metadata = json.loads(archive.read(names[0])) if names else None
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror or error}); export it again") from None
    except DAMAGED:
        raise DeployError(f"{path}: is not a torch.export program, or is damaged; export it again") from None
    if not isinstance(metadata, dict):
        raise DeployError(f"{path}: was not written by apq-tune export --format torch; only those files are run")
    return metadata


def load_torch(path: Path) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], dict[str, Any]]:
    """Function that runs a file of ``torch_bytes``, and its metadata.

    Raises:
        DeployError: If it is another file, or is damaged.
    """
    metadata = read_torch(path)
    try:
        with _quiet():
            module = torch.export.load(path).module()
    except Exception as error:  # what damaged content may raise is open
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        raise DeployError(f"{path}: is not a torch.export program, or is damaged ({reason}); export it again") from None

    @torch.no_grad()
    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], module(torch.tensor(images)).numpy())

    return run, metadata


def runner_of(program: Program) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Function from images of shape ``(n, channels, h, w)`` to the logits of a program, computed in parts."""
    module = ProgramModule(program).eval()

    @torch.no_grad()
    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [module(part) for part in torch.split(torch.tensor(images), PART)]
        return np.asarray(torch.cat(parts).numpy(), np.float32)

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch's exporter, which concern its own code."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class ProgramModule(nn.Module):
    """Integer program as a module of plain torch operations."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program
        self._exact: dict[str, torch.dtype] = {}
        for number, step in enumerate(program.steps):
            if isinstance(step, WeightedStep):
                self.register_buffer(f"weights_{number}", torch.from_numpy(step.weights.values))
                self.register_buffer(f"bias_{number}", torch.from_numpy(step.weights.bias))
                self.register_buffer(f"multipliers_{number}", torch.from_numpy(np.array(step.multipliers)))
                self._exact[step.name] = _dtype(step, program.integer(step.inputs[0]))
            elif isinstance(step, FloatStep):
                for role, values in step.parameters.items():
                    self.register_buffer(f"{role}_{number}", torch.from_numpy(np.array(values)))

    def forward(self, image: Tensor) -> Tensor:
        """Logits, shape ``(n, classes)``, of images of shape ``(n, channels, height, width)``."""
        return self.tensors(image)[LOGITS]

    def tensors(self, image: Tensor) -> dict[str, Tensor]:
        """All tensors of the program by name, integers as floating-point numbers."""
        tensors = {IMAGE: image}
        for number, step in enumerate(self._program.steps):
            inputs = [tensors[name] for name in step.inputs]
            if isinstance(step, WeightedStep):
                y = self._weighted(step, number, inputs[0])
            elif isinstance(step, MoveStep | FunctionStep | FloatStep):
                y = self._node(step, number, inputs)
            else:
                y = self._plain(step, inputs)
            output = self._program.tensors[step.output]
            if isinstance(output, IntegerTensor):
                y = y.round().clamp(output.low, output.high)
            tensors[step.output] = y
        return tensors

    def _weighted(self, step: WeightedStep, number: int, x: Tensor) -> Tensor:
        dtype = self._exact[step.name]
        weights, bias = (getattr(self, f"{name}_{number}").to(dtype) for name in ("weights", "bias"))
        multipliers: Tensor = getattr(self, f"multipliers_{number}")
        if isinstance(step, ConvStep):
            (top, left, bottom, right), inside = step.padding, (0, 0)
            if (top, left) == (bottom, right):
                inside = top, left
            else:
                x = functional.pad(x, (left, right, top, bottom))
            y: Tensor = functional.conv2d(x.to(dtype), weights, bias, step.stride, inside, step.dilation, step.groups)
            return y.float() * multipliers[:, None, None]
        assert isinstance(step, LinearStep)
        y = functional.linear(x.to(dtype), weights, bias)
        return y.float() * multipliers

    def _node(self, step: MoveStep | FunctionStep | FloatStep, number: int, inputs: list[Tensor]) -> Tensor:
        """Output of a step that is a node of a graph, before rounding; integers are moved as they are."""
        output = self._program.tensors[step.output]
        if not isinstance(step, MoveStep) or isinstance(output, FloatTensor):
            inputs = [self._real(name, x) for name, x in zip(step.inputs, inputs, strict=True)]
        if isinstance(step, FunctionStep):
            return activate(inputs[0], {"name": step.function, **step.settings})
        parameters = {}
        if isinstance(step, FloatStep):
            parameters = {role: getattr(self, f"{role}_{number}") for role in step.parameters}
            if step.kind == "multiply" and inputs[1].ndim < inputs[0].ndim:  # one factor for each channel
                inputs[1] = inputs[1][:, :, None, None]
        settings = {**step.settings, "keep": len(output.shape) > 1} if step.kind == "pool" else step.settings
        kind = "mean" if step.kind == "pool" else step.kind
        return compute(Node(step.name, kind, step.inputs, output.shape, settings), inputs, parameters)

    def _real(self, name: str, x: Tensor) -> Tensor:
        """Real values of a tensor."""
        return x * self._scale(name) if isinstance(self._program.tensors[name], IntegerTensor) else x

    def _plain(self, step: Step, inputs: list[Tensor]) -> Tensor:
        """Output of a step without weights, before rounding."""
        x = inputs[0]
        if isinstance(step, QuantizeStep):
            return self._real(step.inputs[0], x) / self._scale(step.output)
        if isinstance(step, RequantizeStep):
            return (x * self._scale(step.inputs[0])) / self._scale(step.output)
        if isinstance(step, AddStep):
            return self._sum(step, inputs)
        if isinstance(step, MeanStep):
            keep = len(self._program.tensors[step.output].shape) > 1
            return x.sum(dim=(2, 3), keepdim=keep) * float(step.multiplier)
        if isinstance(step, ConcatStep):
            real = [self._real(name, one) for name, one in zip(step.inputs, inputs, strict=True)]
            return torch.cat(real, 1) / self._scale(step.output)
        zero = self._program.integer(step.output).zero
        if isinstance(step, MultiplyStep):
            return (x * inputs[1] * float(step.ratio) + zero).round() - zero
        assert isinstance(step, AveragePoolStep)
        return (self._means(step, self._real(step.inputs[0], x)) / self._scale(step.output) + zero).round() - zero

    def _means(self, step: AveragePoolStep, x: Tensor) -> Tensor:
        """Means over windows, summed row by row as the integer reference does."""
        top, left, bottom, right = step.padding
        inside = functional.pad(
            torch.ones(1, 1, *x.shape[2:]), (left, right, top, bottom), value=float(step.count_padding)
        )
        x = functional.pad(x, (left, right, top, bottom))
        total, count = (functional.avg_pool2d(own, step.kernel, step.stride, divisor_override=1) for own in (x, inside))
        return total / count

    def _sum(self, step: AddStep, inputs: list[Tensor]) -> Tensor:
        """Sum of two tensors by two multiply-adds, each of which is rounded once; see the integer reference."""
        one, two = (
            (x + self._program.integer(name).zero).double() for name, x in zip(step.inputs, inputs, strict=True)
        )
        inner = (two * float(step.ratios[1]) + float(step.offset)).float()
        total = (one * float(step.ratios[0]) + inner.double()).float()
        return total.round() - self._program.integer(step.output).zero

    def _scale(self, name: str) -> float:
        return float(self._program.integer(name).scale)


def _dtype(step: WeightedStep, source: IntegerTensor) -> torch.dtype:
    """Floating-point type that holds every accumulator of a step exactly."""
    values = np.abs(step.weights.values.astype(np.int64)).reshape(len(step.weights.values), -1).sum(axis=1)
    largest = values * max(source.high, -source.low) + np.abs(step.weights.bias.astype(np.int64))
    return torch.float32 if int(largest.max()) < EXACT else torch.float64
