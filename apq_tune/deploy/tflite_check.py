"""Operations of a TensorFlow Lite file, one by one, beside those of the integer program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy import reference
from apq_tune.deploy.program import IntegerTensor, Program
from apq_tune.deploy.tflite_builder import BOTTOM, TOP
from apq_tune.deploy.tflite_file import interpreter, quantized
from apq_tune.deploy.tflite_graph import TFLiteGraph
from apq_tune.deploy.tflite_writer import Value
from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE

FARTHEST = 1
"""Levels by which an operation of a file may differ from the program's, given the same input."""


class StepDifference(NamedTuple):
    """Comparison of an operation.

    Attributes:
        name: Name of the step.
        largest: Largest difference of its output in levels.
        share: Share of the output that differs.
    """

    name: str
    largest: float
    share: float


def differences(
    program: Program, graph: TFLiteGraph, content: bytes, images: NDArray[np.float32], path: Path
) -> Iterator[StepDifference]:
    """Comparison of each operation of a file with the program's, which is given what the file computed before.

    Logits are compared in units of their scale; where they are outside the range of int8, those at its ends are equal.

    Args:
        program: Program.
        graph: Its graph.
        content: Content of the file.
        images: Images, channels first, of the size that the program reads.
        path: Path of the file, for messages.
    """
    own = interpreter(path, content, inspected=True)
    (image,) = own.get_input_details()
    given = quantized(images.transpose(0, 2, 3, 1), image)
    own.resize_tensor_input(image["index"], given.shape)
    own.allocate_tensors()
    own.set_tensor(image["index"], given)
    own.invoke()
    values = {
        name: _levels(program, name, own.get_tensor(value.number), value)
        for name, value in graph.values.items()
        if name != IMAGE
    }
    values[IMAGE] = images
    for step in program.steps:
        expected, found = reference.run_step(program, step, values), values[step.output]
        scaling, tensor = graph.values[step.output].scaling, program.tensors[step.output]
        if not isinstance(tensor, IntegerTensor) and scaling is not None:
            low, high = (np.float32(end - scaling.zero) * scaling.scale for end in (BOTTOM, TOP))
            expected, found = np.clip(expected, low, high) / scaling.scale, found / scaling.scale
        gap = np.abs(np.asarray(expected, np.float64) - found)
        yield StepDifference(step.name, float(gap.max(initial=0)), float((gap > 0.5 + 1e-3).mean()))


def check_steps(program: Program, graph: TFLiteGraph, content: bytes, images: NDArray[np.float32], path: Path) -> None:
    """Refuse a file of which an operation differs by more than one level; see ``differences``.

    Raises:
        DeployError: If there is one; the message names it.
    """
    for own in differences(program, graph, content, images, path):
        if own.largest > FARTHEST:
            raise DeployError(
                f"{path}: LiteRT computes {own.name} by up to {own.largest:.0f} levels differently ({own.share:.1%} of "
                "its output); nothing was written: try another --format"
            )


def _levels(program: Program, name: str, found: NDArray[Any], value: Value) -> NDArray[Any]:
    """Tensor of a file as the program has it: levels, or real values of float tensors."""
    tensor = program.tensors[name]
    if value.scaling is not None:
        found = found.astype(np.int32) - value.scaling.zero
        if not isinstance(tensor, IntegerTensor):
            found = found.astype(np.float32) * value.scaling.scale
    if value.order is not None:
        found = found[..., np.argsort(value.order)]
    return found.transpose(0, 3, 1, 2).reshape(len(found), *tensor.shape)
