"""Rows of a cost table that a part of a network needs: one per convolution, or one for a whole block.

A table of convolutions may also price the layers without weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import TableError
from apq_tune.network.layer import Layer, Op
from apq_tune.network.network import Network

FIXED, CONV, BLOCK = "fixed", "conv", "block"
PLAIN = ("add", "multiply", "pool", "max_pool", "concat")
"""Layers without weights, whose rows hold for any bits."""

FREE = ("flatten",)
"""Layers that move no value in memory, take no time and have no rows."""

KINDS = (FIXED, CONV, BLOCK, *PLAIN)

CONV_KEY = ("in_channels", "out_channels", "in_size", "kernel_size", "stride", "groups", "w_bits", "a_bits")
BLOCK_KEY = (
    "in_channels",
    "middle_channels",
    "out_channels",
    "in_size",
    "kernel_size",
    "stride",
    "shortcut",
    "squeeze_excite",
    "h_swish",
    "resolution",
)
FIXED_KEY = ("resolution",)
PLAIN_KEY = ("in_channels", "in_size")
MAX_POOL_KEY = (*PLAIN_KEY, "kernel_size", "stride")
KEYS = {
    **{CONV: CONV_KEY, BLOCK: BLOCK_KEY, FIXED: FIXED_KEY},
    **dict.fromkeys(PLAIN, PLAIN_KEY),
    "max_pool": MAX_POOL_KEY,
}
SHAPE_COLUMNS = tuple(dict.fromkeys((*CONV_KEY, *BLOCK_KEY)))

Key = tuple[int, ...]


class Wanted(NamedTuple):
    """Rows of a table that a part needs, at all of its choices at once.

    Attributes:
        role: Role of the layer in its part; ``"blocks"`` for a whole part.
        op: Kind of row.
        key: Values of the key columns of such rows, as broadcasting arrays.
    """

    role: str
    op: str
    key: list[NDArray[np.int64]]


def wanted_rows(
    layers: tuple[Layer, ...],
    size: int,
    *,
    blocks: bool,
    plain: bool = False,
    outside: Mapping[str, int] = MappingProxyType({}),
) -> list[Wanted] | None:
    """Rows of a table that a part needs.

    Args:
        layers: Layers of a searched part of a network, whose numbers may be arrays.
        size: Side length of the image, or 0 if rows are valid for any.
        blocks: Whether the table has rows of whole blocks.
        plain: Whether the table has rows of layers without weights.
        outside: Side lengths of the outputs of layers of other parts, by name.

    Returns:
        Rows to be summed; ``None`` if the table is of inverted bottlenecks and the part is not one.

    Raises:
        TableError: If a convolution is of a form that rows of tables do not tell from others.
    """
    if blocks:
        key = _inverted_bottleneck(layers, size)
        return None if key is None else [Wanted("blocks", BLOCK, key)]
    sizes = {layer.name: layer.output.size for layer in layers}
    wanted = []
    for layer in layers:
        if layer.op is not None:
            check_plain(layer)
            wanted.append(Wanted(layer.role, CONV, _conv(layer.op)))
        elif has_row(layer, plain=plain):
            read = sizes.get(layer.inputs[0], outside.get(layer.inputs[0], layer.output.size))
            window = [layer.settings[name][0] for name in ("kernel", "stride")] if layer.kind == "max_pool" else []
            read = layer.output.size if layer.kind == "concat" else read
            wanted.append(Wanted(layer.role, layer.kind, _arrays(layer.output.channels, read, *window)))
    return wanted


def has_row(layer: Layer, *, plain: bool) -> bool:
    """Whether a layer has a row of its own in a table of convolutions.

    Args:
        layer: Layer.
        plain: Whether the table has rows of layers without weights.
    """
    return layer.op is not None or (plain and layer.kind not in FREE)


def check_plain(layer: Layer) -> None:
    """Refuse convolutions that the columns of a table do not describe.

    Raises:
        TableError: If the layer is one; the message names it and what is special about it.
    """
    op = layer.op
    if op is None:
        return
    said = ""
    if any(width is not None for width in (op.kernel_width, op.in_width, op.out_width)):
        said = "is not square"
    elif op.dilation != 1:
        said = f"has dilation {op.dilation}"
    elif op.out_size != -(-op.in_size // op.stride):
        said = f"makes {op.out_size} of {op.in_size} pixels at stride {op.stride}"
    if said:
        raise TableError(f"layer {layer.name!r} {said}, which tables of convolutions do not know; leave the table out")


def output_sizes(network: Network, size: int) -> dict[str, int]:
    """Side lengths of the outputs of all layers of a traced model by name; empty for other networks.

    Args:
        network: Network of a search space.
        size: Side length of the image.
    """
    if not network.direct:  # a part of blocks has all that its layers without weights read
        return {}
    return {layer.name: layer.output.size for part in network.parts for layer in network.layers(part, size)}


def fixed_shapes(network: Network, size: int) -> dict[Key, str]:
    """Names of the layers with weights that are not searched, by shape and bits.

    Args:
        network: Network of a search space.
        size: Side length of the image.
    """
    fixed = [layer for layer in network.fixed_layers(size) if layer.op is not None]
    return {tuple(int(getattr(layer.op, column)) for column in CONV_KEY): layer.name for layer in fixed}


def _conv(op: Op) -> list[NDArray[np.int64]]:
    return _arrays(*(getattr(op, column) for column in CONV_KEY))


def _inverted_bottleneck(layers: tuple[Layer, ...], size: int) -> list[NDArray[np.int64]] | None:
    named = {layer.role: layer for layer in layers}
    ops = [named[role].op for role in ("expand", "depthwise", "project") if role in named]
    if len(ops) != 3 or None in ops:
        return None
    expand, depthwise, project = ops
    assert expand is not None and depthwise is not None and project is not None
    flags = "add" in named, "gate" in named, named["expand"].activation == "h_swish"
    shape = expand.in_channels, expand.out_channels, project.out_channels, expand.in_size
    return _arrays(*shape, depthwise.kernel_size, depthwise.stride, *flags, size)


def _arrays(*fields: Any) -> list[NDArray[np.int64]]:
    return [np.asarray(field, np.int64) for field in fields]


def in_words(op: str, key: Any) -> str:
    """Key of a row as text for messages."""
    return " ".join(f"{name}={value}" for name, value in zip(KEYS[op], key, strict=True))
