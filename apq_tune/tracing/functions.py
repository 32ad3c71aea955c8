"""What each kind of node of a graph computes, in torch, on batches; batch norm with its stored statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from apq_tune.network.graph import Graph, Node
from apq_tune.network.layer import IMAGE
from apq_tune.tracing.opaque import run_opaque

Settings = Mapping[str, Any]


def run_graph(graph: Graph, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Output of a graph.

    Args:
        graph: Graph.
        tensors: Parameters and buffers by name in the user's state dict.
        x: Images, shape ``(n, channels, h, w)``.

    Returns:
        Output of the last node, shape ``(n, *shape)``.
    """
    last_reader = {name: node.name for node in graph.nodes for name in node.inputs}
    outputs = {IMAGE: x}
    for node in graph.nodes:
        parameters = {role: tensors[name] for role, name in node.parameters.items()}
        outputs[node.name] = compute(node, [outputs[name] for name in node.inputs], parameters)
        for name in set(node.inputs):
            if last_reader[name] == node.name:
                del outputs[name]
    return outputs[graph.nodes[-1].name]


def compute(node: Node, inputs: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
    """Output of a node.

    Args:
        node: Node of a graph.
        inputs: Outputs of the nodes that it reads, each of shape ``(n, *shape)``.
        parameters: Its parameters and buffers by role.

    Returns:
        Its output, shape ``(n, *node.shape)``; it may share memory with an input.
    """
    if (function := WITH_PARAMETERS.get(node.kind)) is not None:
        return function(inputs[0], node.settings, parameters)
    if (reshape := WITH_SETTINGS.get(node.kind)) is not None:
        return reshape(inputs[0], node.settings)
    match node.kind:
        case "add":
            return inputs[0] + inputs[1]
        case "multiply":
            return inputs[0] * inputs[1]
        case "concat":
            return torch.cat(tuple(inputs), 1)
        case "flatten":
            return inputs[0].reshape(-1, *node.shape)
    assert node.kind == "opaque"
    return run_opaque(node.settings, inputs, parameters)


def activate(x: Tensor, settings: Settings) -> Tensor:
    """Output of an activation function.

    Args:
        x: Input.
        settings: Settings of a ``function`` node.
    """
    match settings["name"]:
        case "leaky_relu":
            return functional.leaky_relu(x, settings["slope"])
        case "scale":
            y: Tensor = x * settings["factor"] + settings["offset"]
            return y
        case name:
            return ACTIVATIONS[name](x)


def padded(x: Tensor, padding: Sequence[int], value: float = 0.0) -> Tensor:
    """Images with rows and columns of a value around them.

    Args:
        x: Images, shape ``(n, channels, h, w)``.
        padding: Rows and columns above, left, below and right.
        value: Value of the new pixels.
    """
    top, left, bottom, right = padding
    return functional.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def _conv(x: Tensor, settings: Settings, parameters: Mapping[str, Tensor]) -> Tensor:
    top, left, bottom, right = settings["padding"]
    inside = (top, left)
    if (top, left) != (bottom, right):
        x, inside = padded(x, settings["padding"]), (0, 0)
    return functional.conv2d(
        x,
        parameters["weight"],
        parameters.get("bias"),
        tuple(settings["stride"]),
        inside,
        tuple(settings["dilation"]),
        settings["groups"],
    )


def _linear(x: Tensor, _: Settings, parameters: Mapping[str, Tensor]) -> Tensor:
    return functional.linear(x, parameters["weight"], parameters.get("bias"))


def _norm(x: Tensor, settings: Settings, parameters: Mapping[str, Tensor]) -> Tensor:
    mean, variance = parameters["mean"], parameters["variance"]
    return functional.batch_norm(
        x, mean, variance, parameters.get("weight"), parameters.get("bias"), eps=settings["eps"]
    )


def _affine(x: Tensor, settings: Settings, parameters: Mapping[str, Tensor]) -> Tensor:
    shape = [-1 if axis == settings["axis"] else 1 for axis in range(x.ndim - 1)]
    if "weight" in parameters:
        x = x * parameters["weight"].reshape(shape)
    if "bias" in parameters:
        x = x + parameters["bias"].reshape(shape)
    return x


def _layer_norm(x: Tensor, settings: Settings, parameters: Mapping[str, Tensor]) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], parameters.get("weight"), parameters.get("bias"), settings["eps"])


def _slice(x: Tensor, settings: Settings) -> Tensor:
    return x[:, settings["start"] : settings["stop"]]


def _select(x: Tensor, settings: Settings) -> Tensor:
    return x.index_select(1, torch.tensor(settings["indices"], dtype=torch.long, device=x.device))


def _shuffle(x: Tensor, settings: Settings) -> Tensor:
    n, channels, *pixels = x.shape
    groups = settings["groups"]
    return x.reshape(n, groups, channels // groups, *pixels).transpose(1, 2).reshape(x.shape)


def _mean(x: Tensor, settings: Settings) -> Tensor:
    return x.mean((2, 3), keepdim=settings["keep"])


def _max_pool(x: Tensor, settings: Settings) -> Tensor:
    kernel, stride, dilation = (tuple(settings[key]) for key in ("kernel", "stride", "dilation"))
    top, left, bottom, right = settings["padding"]
    inside = (top, left)
    if (top, left) != (bottom, right) or top > kernel[0] // 2 or left > kernel[1] // 2:
        x, inside = padded(x, settings["padding"], -torch.inf), (0, 0)
    return functional.max_pool2d(x, kernel, stride, inside, dilation)


def _avg_pool(x: Tensor, settings: Settings) -> Tensor:
    kernel, stride = tuple(settings["kernel"]), tuple(settings["stride"])
    top, left, bottom, right = settings["padding"]
    counted = settings["count_padding"]
    if (top, left) == (bottom, right) and top <= kernel[0] // 2 and left <= kernel[1] // 2:
        return functional.avg_pool2d(x, kernel, stride, (top, left), count_include_pad=counted)
    mean = functional.avg_pool2d(padded(x, settings["padding"]), kernel, stride)
    if counted:
        return mean
    inside = padded(x.new_ones(1, 1, *x.shape[2:]), settings["padding"])
    return mean / functional.avg_pool2d(inside, kernel, stride)


def _pad(x: Tensor, settings: Settings) -> Tensor:
    value, channels = settings["value"], settings.get("channels", (0, 0))
    x = padded(x, settings["padding"], value)
    return functional.pad(x, (0, 0, 0, 0, *channels), value=value) if any(channels) else x


def _upsample(x: Tensor, settings: Settings) -> Tensor:
    return functional.interpolate(x, scale_factor=float(settings["factor"]), mode=settings["mode"])


def _permute(x: Tensor, settings: Settings) -> Tensor:
    return x.permute(0, *(axis + 1 for axis in settings["order"]))


WITH_PARAMETERS: Mapping[str, Callable[[Tensor, Settings, Mapping[str, Tensor]], Tensor]] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "affine": _affine,
    "layer_norm": _layer_norm,
}
"""Functions of an input, settings and parameters, by the kind of node."""

WITH_SETTINGS: Mapping[str, Callable[[Tensor, Settings], Tensor]] = {
    "function": activate,
    "slice": _slice,
    "select": _select,
    "shuffle": _shuffle,
    "mean": _mean,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "pad": _pad,
    "upsample": _upsample,
    "permute": _permute,
}
"""Functions of an input and settings, by the kind of node."""

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "h_swish": functional.hardswish,
    "h_sigmoid": functional.hardsigmoid,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "elu": functional.elu,
}
"""Each ``Function`` of ``apq_tune.network.layer`` that has no settings."""
