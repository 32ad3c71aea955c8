"""Calls of the kernels of the C format, one or more for each step of a program, and steps that it does not have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from apq_tune.deploy.moves import moved
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

SELECTING = ("select", "shuffle")
"""Moves that take channels in another order."""

_ONE = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}


def check_steps(program: Program) -> None:
    """Refuse programs with a step that the C format does not have.

    Raises:
        DeployError: If there is one; the message names it.
    """
    for step in program.steps:
        if reason := _refusal(program, step):
            raise DeployError(
                f"layer {step.name}: {reason}, which the C format does not have; export with --format onnx or torch"
            )


def _refusal(program: Program, step: Step) -> str:
    """What the C format does not have of a step; empty if it has all."""
    if isinstance(step, FunctionStep | FloatStep):
        return f"computes {step.function if isinstance(step, FunctionStep) else step.kind} in floating point"
    if isinstance(step, MoveStep) and step.kind == "permute":
        return "permutes the axes of a tensor"
    if isinstance(step, MoveStep) and isinstance(program.tensors[step.output], FloatTensor):
        return "moves values in floating point"
    if isinstance(step, LinearStep) and len(program.tensors[step.output].shape) > 1:
        return "is a linear layer at every pixel"
    if not isinstance(step, WeightedStep) and step.output == LOGITS:
        return "makes the logits without weights"
    return ""


def channels_of(program: Program, step: Step) -> list[int]:
    """Channels of the input that a step takes in another order; empty for other steps."""
    if not isinstance(step, MoveStep) or step.kind not in SELECTING:
        return []
    channels = np.arange(program.tensors[step.inputs[0]].shape[0]).reshape(1, -1)
    return [int(channel) for channel in moved(step, channels, program.tensors[step.output].shape)[0]]


def literal(value: np.floating[Any]) -> str:
    """Exact C99 literal of a float32 number."""
    return f"{float(value).hex()}f"


def call(program: Program, offsets: Mapping[str, int], step: Step, number: int) -> str:
    """Statements of a step.

    Args:
        program: Program.
        offsets: Offset of each integer tensor in the arena.
        step: Step of it.
        number: Its number, by which its tables are named.
    """

    def at(name: str) -> str:
        return f"apq_arena + {offsets[name]}"

    output = program.tensors[step.output]
    to = f"{at(step.output)}, {output.low}, {output.high}" if isinstance(output, IntegerTensor) else ""
    n = math.prod(output.shape)
    if isinstance(step, QuantizeStep):
        return f"apq_quantize(image, {n}, {literal(program.integer(step.output).scale)}, {to});"
    signed = [int(program.integer(name).signed) for name in step.inputs]
    source = f"{at(step.inputs[0])}, {signed[0]}"
    shape = program.tensors[step.inputs[0]].shape
    if isinstance(step, RequantizeStep):
        return _requantize(program, step.inputs[0], step.output, source, to)
    if isinstance(step, MoveStep):
        return _move(program, step, at(step.inputs[0]), at(step.output), number)
    if isinstance(step, ConcatStep):
        return _concat(program, step, at)
    if isinstance(step, MeanStep):
        return f"apq_mean({source}, {n}, {shape[1] * shape[2]}, {literal(step.multiplier)}, {to});"
    if isinstance(step, WeightedStep):
        tables = f"w{number}, {step.weights.bits}, b{number}, m{number}"
        ends = f"{to}, NULL" if to else "NULL, 0, 0, logits"
        return _within(_shape_of(program, step), f"apq_conv({source}, &s, {tables}, {ends});")
    zero = program.integer(step.output).zero
    if isinstance(step, AddStep):
        ratios = [literal(ratio) for ratio in step.ratios]
        parts = ", ".join(f"{at(name)}, {s}, {r}" for name, s, r in zip(step.inputs, signed, ratios, strict=True))
        return f"apq_add({parts}, {literal(step.offset)}, {n}, {zero}, {to});"
    if isinstance(step, MultiplyStep):
        run = n // math.prod(program.tensors[step.inputs[1]].shape)
        parts = f"{source}, {at(step.inputs[1])}, {signed[1]}"
        return f"apq_multiply({parts}, {literal(step.ratio)}, {run}, {n}, {zero}, {to});"
    assert isinstance(step, AveragePoolStep)
    scales = ", ".join(literal(program.integer(name).scale) for name in (step.inputs[0], step.output))
    how = f"{int(step.count_padding)}, {scales}, {zero}"
    return _within(_shape_of(program, step), f"apq_average_pool({source}, &s, {how}, {to});")


def _requantize(program: Program, source: str, output: str, given: str, to: str) -> str:
    scales = ", ".join(literal(program.integer(name).scale) for name in (source, output))
    n = math.prod(program.tensors[source].shape)
    return f"apq_requantize({given}, {n}, {scales}, {to});"


def _concat(program: Program, step: ConcatStep, at: Any) -> str:
    output, first, parts = program.integer(step.output), 0, []
    for name in step.inputs:
        source = program.integer(name)
        to = f"{at(step.output)} + {first}"
        size = math.prod(source.shape)
        if (source.scale, source.bits, source.signed) == (output.scale, output.bits, output.signed):
            parts.append(f"memcpy({to}, {at(name)}, {size});")
        else:
            ends = f"{to}, {output.low}, {output.high}"
            parts.append(_requantize(program, name, step.output, f"{at(name)}, {int(source.signed)}", ends))
        first += size
    return " ".join(parts)


def _move(program: Program, step: MoveStep, source: str, output: str, number: int) -> str:
    shape, given = program.tensors[step.inputs[0]].shape, step.settings
    n = math.prod(program.tensors[step.output].shape)
    pixels = math.prod(shape[1:])
    if step.kind == "flatten":
        return "" if source == output else f"memcpy({output}, {source}, {n});"
    if step.kind == "slice":
        return f"memcpy({output}, {source} + {given['start'] * pixels}, {n});"
    if step.kind in SELECTING:
        return f"apq_select({source}, i{number}, {n // pixels}, {pixels}, {output});"
    whole = _shape_of(program, step)
    if step.kind == "max_pool":
        signed = int(program.integer(step.output).signed)
        return _within(whole, f"apq_max_pool({source}, {signed}, &s, {output});")
    if step.kind == "pad":
        return _within(whole, f"apq_pad({source}, &s, {given.get('channels', (0, 0))[0]}, {output});")
    assert step.kind == "upsample"
    return _within(whole, f"apq_enlarge({source}, &s, {given['factor']}, {output});")


def _shape_of(program: Program, step: Step) -> str:
    """Initializer of ``apq_shape``."""
    ends = [(*program.tensors[name].shape, 1, 1)[:3] for name in (step.inputs[0], step.output)]
    own: Mapping[str, Any] = step.settings if isinstance(step, MoveStep) else vars(step)
    given = {**_ONE, **{key: own[key] for key in _ONE if key in own}}
    kernel = own.get("kernel", (1, 1))
    if isinstance(step, ConvStep):
        kernel = step.weights.values.shape[2:]
    numbers = [*ends[0], *ends[1], *kernel, *given["stride"], *given["padding"][:2], *given["dilation"]]
    return ", ".join(map(str, [*numbers, own.get("groups", 1)]))


def _within(shape: str, statement: str) -> str:
    return f"{{ static const apq_shape s = {{{shape}}}; {statement} }}"
