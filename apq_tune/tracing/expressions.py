"""What each node of a graph computes, as an expression of Python that needs torch only."""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from apq_tune.errors import ModelError
from apq_tune.network.graph import Node
from apq_tune.tracing.opaque import operation
from apq_tune.tracing.simplify import RESHAPE


class Expression(NamedTuple):
    """Source of an expression.

    Attributes:
        text: Source.
        is_atom: Whether it can be an operand without parentheses.
    """

    text: str
    is_atom: bool = True

    @property
    def operand(self) -> str:
        """Source as an operand."""
        return self.text if self.is_atom else f"({self.text})"


def expression(node: Node, inputs: Sequence[Expression], parameters: Mapping[str, str]) -> Expression:
    """Expression of a node that calls no module.

    Args:
        node: Node.
        inputs: Expressions of its inputs.
        parameters: Sources of its parameters and buffers by role.

    Raises:
        ModelError: If its operation is not one that graphs may have.
    """
    match node.kind:
        case "add":
            return Expression(f"{inputs[0].text} + {inputs[1].operand}", is_atom=False)
        case "multiply":
            return Expression(f"{inputs[0].operand} * {inputs[1].operand}", is_atom=False)
        case "affine":
            return _affine(node, inputs[0], parameters)
        case "concat":
            return Expression(f"torch.cat([{', '.join(own.text for own in inputs)}], 1)")
        case "flatten":
            return Expression(inputs[0].operand + ("[:, :, None, None]" if len(node.shape) == 3 else ".flatten(1)"))
        case "function":
            return _function(inputs[0], node.settings)
        case "opaque":
            return _opaque(node, inputs, parameters)
        case "conv" | "linear" | "norm" | "layer_norm":
            return Expression(_FUNCTIONAL[node.kind](node, inputs[0].text, _keywords(parameters)))
    return Expression(_METHODS[node.kind](inputs[0], node.settings))


def padding_before(node: Node) -> list[int] | None:
    """Padding of a convolution that is not the same on opposite sides, which no module has; ``None`` if it is."""
    top, left, bottom, right = padding = [int(size) for size in node.settings["padding"]]
    return padding if (top, left) != (bottom, right) else None


def pad(x: str, padding: Sequence[int], value: str = "", channels: Sequence[int] = ()) -> str:
    """Source of padding; ``value`` empty for zero."""
    top, left, bottom, right = padding
    sizes = ", ".join(str(int(size)) for size in (left, right, top, bottom, *channels))
    return f"functional.pad({x}, ({sizes}){f', value={value}' if value else ''})"


def short(sizes: Sequence[int]) -> str:
    """Source of a size for height and width."""
    height, width = (int(size) for size in sizes)
    return str(height) if height == width else f"({height}, {width})"


def number(value: float) -> str:
    """Source of a number."""
    value = float(value)
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def _keywords(parameters: Mapping[str, str]) -> str:
    return "".join(f", {role}={source}" for role, source in parameters.items() if role in ("weight", "bias"))


def _conv(node: Node, x: str, tensors: str) -> str:
    settings = node.settings
    around = padding_before(node)
    x = pad(x, around) if around else x
    inside = "" if around else f", padding={short(settings['padding'][:2])}"
    rest = f", stride={short(settings['stride'])}{inside}, dilation={short(settings['dilation'])}"
    return f"functional.conv2d({x}{tensors}{rest}, groups={int(settings['groups'])})"


def _linear(_: Node, x: str, tensors: str) -> str:
    return f"functional.linear({x}{tensors})"


def _layer_norm(node: Node, x: str, tensors: str) -> str:
    return f"functional.layer_norm({x}, ({int(node.shape[-1])},){tensors}, eps={number(node.settings['eps'])})"


_FUNCTIONAL: Mapping[str, Callable[[Node, str, str], str]] = {
    "conv": _conv,
    "linear": _linear,
    "layer_norm": _layer_norm,
}


def _affine(node: Node, x: Expression, parameters: Mapping[str, str]) -> Expression:
    after = len(node.shape) - 1 - int(node.settings["axis"])
    shape = "".join(f", {size}" for size in (-1, *[1] * after))[2:]
    own = {role: f"{source}.reshape({shape})" for role, source in parameters.items()}
    text = f"{x.operand} * {own['weight']}" if "weight" in own else x.operand
    return Expression(f"{text} + {own['bias']}" if "bias" in own else text, is_atom=False)


NAMES = {
    "relu": "functional.relu",
    "relu6": "functional.relu6",
    "h_swish": "functional.hardswish",
    "h_sigmoid": "functional.hardsigmoid",
    "silu": "functional.silu",
    "sigmoid": "torch.sigmoid",
    "gelu": "functional.gelu",
    "tanh": "torch.tanh",
    "elu": "functional.elu",
}
"""Functions of torch by the name of a ``Function`` without settings."""


def _function(x: Expression, settings: Mapping[str, Any]) -> Expression:
    if settings["name"] == "leaky_relu":
        return Expression(f"functional.leaky_relu({x.text}, {number(settings['slope'])})")
    if settings["name"] != "scale":
        return Expression(f"{NAMES[settings['name']]}({x.text})")
    factor, offset = float(settings["factor"]), float(settings["offset"])
    text = x.operand if factor == 1 else f"{x.operand} * {number(factor)}"
    return Expression(f"{text} + {number(offset)}" if offset else text, is_atom=False)


def _slice(x: Expression, settings: Mapping[str, Any]) -> str:
    return f"{x.operand}[:, {int(settings['start'])}:{int(settings['stop'])}]"


def _select(x: Expression, settings: Mapping[str, Any]) -> str:
    return f"{x.operand}[:, {[int(index) for index in settings['indices']]}]"


def _shuffle(x: Expression, settings: Mapping[str, Any]) -> str:
    return f"functional.channel_shuffle({x.text}, {int(settings['groups'])})"


def _mean(x: Expression, settings: Mapping[str, Any]) -> str:
    return f"{x.operand}.mean((2, 3){', keepdim=True' if settings['keep'] else ''})"


def _window(settings: Mapping[str, Any]) -> str:
    """Kernel and stride of a pool."""
    stride = "" if list(settings["stride"]) == list(settings["kernel"]) else f", {short(settings['stride'])}"
    return short(settings["kernel"]) + stride


def _max_pool(x: Expression, settings: Mapping[str, Any]) -> str:
    top, left, bottom, right = settings["padding"]
    kernel, source, rest = settings["kernel"], x.text, ""
    if (top, left) != (bottom, right) or top > kernel[0] // 2 or left > kernel[1] // 2:
        source = pad(source, settings["padding"], number(-math.inf))
    elif top or left:
        rest = f", padding={short([top, left])}"
    if list(settings["dilation"]) != [1, 1]:
        rest += f", dilation={short(settings['dilation'])}"
    return f"functional.max_pool2d({source}, {_window(settings)}{rest})"


def _avg_pool(x: Expression, settings: Mapping[str, Any]) -> str:
    top, left, bottom, right = settings["padding"]
    rest = f", padding={short([top, left])}" if top or left else ""
    if (top, left) != (bottom, right):  # what rounding up adds; it never counts
        rest += ", ceil_mode=True"
    if not settings["count_padding"]:
        rest += ", count_include_pad=False"
    return f"functional.avg_pool2d({x.text}, {_window(settings)}{rest})"


def _pad(x: Expression, settings: Mapping[str, Any]) -> str:
    value = number(settings["value"]) if settings["value"] else ""
    return pad(x.text, settings["padding"], value, settings.get("channels", ()))


def _upsample(x: Expression, settings: Mapping[str, Any]) -> str:
    mode = "nearest" if settings["mode"] == "nearest" else "bilinear"
    return f'functional.interpolate({x.text}, scale_factor={int(settings["factor"])}, mode="{mode}")'


def _permute(x: Expression, settings: Mapping[str, Any]) -> str:
    return f"{x.operand}.permute(0, {', '.join(str(int(axis) + 1) for axis in settings['order'])})"


_METHODS: Mapping[str, Callable[[Expression, Mapping[str, Any]], str]] = {
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


def _opaque(node: Node, inputs: Sequence[Expression], parameters: Mapping[str, str]) -> Expression:
    settings = node.settings
    operation(settings["target"])  # refuses what may do more than compute
    if settings["target"] == RESHAPE:
        match settings["arguments"]:
            case [{"input": 0}, [{"size": _}, *sizes]] if all(type(size) is int and size >= 0 for size in sizes):
                return Expression(f"{inputs[0].operand}.reshape({', '.join(map(str, [-1, *sizes]))})")

    def source(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(source(item) for item in value)}]"
        if not isinstance(value, Mapping):
            return repr(value)
        match value:
            case {"input": index}:
                return inputs[index].text
            case {"parameter": role}:
                return parameters[role]
            case {"size": [index, factor]}:
                return f"{inputs[index].operand}.shape[0]{f' * {int(factor)}' if factor != 1 else ''}"
            case {"float": text}:
                return number(float(text))
            case {"constant": items, "dtype": dtype}:
                return f"torch.tensor({items!r}, dtype={_dtype(dtype)}{device})"
            case {"dtype": name} | {"torch": name}:
                return _dtype(name)
            case {"device": _}:
                return device.removeprefix(", device=") or 'torch.device("cpu")'
        raise ModelError(f"{node.name}: has an argument of an unknown form; trace the model again")

    device = f", device={inputs[0].operand}.device" if inputs else ""
    arguments = [source(value) for value in settings["arguments"]]
    arguments += [f"{identifier(name)}={source(value)}" for name, value in settings.get("keywords", {}).items()]
    index = f"[{int(settings['output'])}]" if "output" in settings else ""
    return Expression(f"torch.ops.{settings['target']}({', '.join(arguments)}){index}")


def _dtype(name: str) -> str:
    return f"torch.{identifier(name)}"


def identifier(name: str) -> str:
    """A name that may stand in source.

    Raises:
        ModelError: If it may not.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ModelError(f"{name!r}: is no name of Python; trace the model again")
    return name
