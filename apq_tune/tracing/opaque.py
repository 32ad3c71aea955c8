"""Operations of no kind that is known: recorded as calls of ATen, and run again as they were.

Graphs come from files, too, so that only operations are run that compute tensors from tensors and have no effects.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from apq_tune.errors import ModelError

ITEMS = 1 << 16
"""Largest number of values of a constant tensor in a graph."""


FACTORIES = ("arange", "eye", "full", "ones", "zeros")
"""Operations that read no tensor."""


class NotPlainError(Exception):
    """An argument that cannot be written into a graph."""


@functools.cache
def operation(target: str) -> torch._ops.OpOverload:
    """Operation of ATen by its name.

    Args:
        target: Name such as ``"aten.softmax.int"``.

    Raises:
        ModelError: If there is no such operation, or it may do anything else than compute tensors from tensors.
    """
    namespace, _, name = target.partition(".")
    base, _, overload = name.partition(".")
    found = None
    if namespace == "aten" and base.isidentifier() and overload.isidentifier():
        found = getattr(getattr(torch.ops.aten, base, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload) or not is_pure(found):
        raise ModelError(f"operation {target!r} is not one of ATen that only computes tensors; trace the model again")
    return found


def is_pure(operator: torch._ops.OpOverload) -> bool:
    """Whether an operation computes tensors from tensors, or makes them from numbers, and has no effects."""
    schema = operator._schema
    reads = any("Tensor" in str(argument.type) for argument in schema.arguments)
    makes = schema.name.removeprefix("aten::") in FACTORIES
    returns = [str(value.type) for value in schema.returns]
    return (
        operator.namespace == "aten"
        and not schema.is_mutable
        and (reads or makes)
        and bool(returns)
        and all(kind in ("Tensor", "List[Tensor]") for kind in returns)
    )


def plain(value: Any) -> Any:
    """Argument of a call as plain data.

    Args:
        value: Number, text, list of values, ``None``, or an object of torch.

    Raises:
        NotPlainError: If the value has no plain form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else {"float": str(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, (torch.layout, torch.memory_format)):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": "image"}
    if isinstance(value, Tensor) and value.numel() <= ITEMS and not value.is_complex():
        return {"constant": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Tensor):
        raise NotPlainError(f"a constant of {value.numel():,} values of {str(value.dtype).removeprefix('torch.')}")
    raise NotPlainError(f"an argument of type {type(value).__name__}")


def run_opaque(settings: Mapping[str, Any], inputs: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
    """Output of an opaque node.

    Args:
        settings: Settings of the node.
        inputs: Its inputs.
        parameters: Its parameters by role.
    """
    device = next((tensor.device for tensor in (*inputs, *parameters.values())), None)

    def value_of(argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return [value_of(item) for item in argument]
        if not isinstance(argument, Mapping):
            return argument
        if "input" in argument:
            return inputs[argument["input"]]
        if "parameter" in argument:
            return parameters[argument["parameter"]]
        if "size" in argument:
            index, factor = argument["size"]
            return inputs[index].shape[0] * factor
        if "float" in argument:
            return float(argument["float"])
        if "constant" in argument:
            dtype = getattr(torch, argument["dtype"])
            return torch.tensor(argument["constant"], dtype=dtype, device=device)
        if "device" in argument:
            return device or torch.device("cpu")
        return getattr(torch, argument["torch"] if "torch" in argument else argument["dtype"])

    keywords = {name: value_of(value) for name, value in settings.get("keywords", {}).items()}
    output = operation(settings["target"])(*value_of(settings["arguments"]), **keywords)
    if "output" in settings:
        output = output[settings["output"]]
    assert isinstance(output, Tensor)
    return output
