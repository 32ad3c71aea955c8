"""Random graphs of all kinds of nodes: sliced, resized and without blocks they equal the masked whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from apq_tune.network.coupling import couple
from apq_tune.network.graph import Graph
from apq_tune.network.layer import IMAGE
from apq_tune.network.removable import removable_blocks, without
from apq_tune.network.slicing import slice_graph
from apq_tune.tracing.masking import difference, random_kept

Rng = np.random.Generator
FUNCTIONS = ("relu", "relu6", "h_swish", "h_sigmoid", "silu", "sigmoid", "gelu", "tanh")


def conv(b: Any, rng: Rng, x: str, name: str) -> str:
    channels = b.shape(x)[0]
    groups = int(rng.choice([own for own in (1, 1, 1, 2, 3, channels) if channels % own == 0]))
    out = groups * int(rng.integers(1, 1 + math.ceil(8 / groups)))
    return str(b.conv(name, x, out, int(rng.choice([1, 3])), groups=groups))


def norm(b: Any, rng: Rng, x: str, name: str) -> str:
    return str(b.norm(name, x))


def function(b: Any, rng: Rng, x: str, name: str) -> str:
    return str(b.function(name, x, str(rng.choice(FUNCTIONS))))


def residual(b: Any, rng: Rng, x: str, name: str) -> str:
    inside = function(b, rng, conv(b, rng, x, f"{name}.one"), f"{name}.function")
    both = [x, b.conv(f"{name}.two", inside, b.shape(x)[0], 1)]
    return str(b.add(f"{name}.add", *rng.permutation(both).tolist()))


def excite(b: Any, rng: Rng, x: str, name: str) -> str:
    channels = b.shape(x)[0]
    y = b.conv(f"{name}.down", b.node(f"{name}.mean", "mean", x, (channels, 1, 1), keep=True), 4, 1)
    y = b.function(f"{name}.gate", b.conv(f"{name}.up", b.function(f"{name}.relu", y), channels, 1), "sigmoid")
    return str(b.node(f"{name}.multiply", "multiply", (x, y), b.shape(x)))


def concat(b: Any, rng: Rng, x: str, name: str) -> str:
    parts = [x, conv(b, rng, x, f"{name}.conv"), *([IMAGE] if rng.random() < 0.2 else [])]
    parts = rng.permutation(parts).tolist()
    return str(b.node(name, "concat", tuple(parts), (sum(b.shape(part)[0] for part in parts), *b.shape(x)[1:])))


def split(b: Any, rng: Rng, x: str, name: str) -> str:
    channels, *pixels = b.shape(x)
    if channels < 2:
        return x
    at = int(rng.integers(1, channels))
    one = b.node(f"{name}.one", "slice", x, (at, *pixels), start=0, stop=at)
    other = b.node(f"{name}.other", "slice", x, (channels - at, *pixels), start=at, stop=channels)
    other = conv(b, rng, other, f"{name}.conv")
    return str(b.node(f"{name}.cat", "concat", (other, one), (at + b.shape(other)[0], *pixels)))


def select(b: Any, rng: Rng, x: str, name: str) -> str:
    channels, *pixels = b.shape(x)
    indices = rng.integers(channels, size=int(rng.integers(1, channels + 1))).tolist()
    return str(b.node(name, "select", x, (len(indices), *pixels), indices=indices))


def shuffle(b: Any, rng: Rng, x: str, name: str) -> str:
    groups = int(rng.choice([own for own in (1, 2, 3, 4) if b.shape(x)[0] % own == 0]))
    return str(b.node(name, "shuffle", x, b.shape(x), groups=groups))


def pad(b: Any, rng: Rng, x: str, name: str) -> str:
    before, after = (int(own) for own in rng.integers(0, 3, 2))
    channels, *pixels = b.shape(x)
    zeros = {"channels": [before, after]} if before or after else {}
    more = b.node(name, "pad", x, (channels + before + after, *pixels), padding=[0] * 4, value=0.0, **zeros)
    return str(b.add(f"{name}.add", more, b.conv(f"{name}.conv", x, b.shape(more)[0]))) if rng.random() < 0.7 else more


def last(b: Any, rng: Rng, x: str, name: str) -> str:
    channels, height, width = b.shape(x)
    y = b.node(f"{name}.last", "permute", x, (height, width, channels), order=[1, 2, 0])
    if rng.random() < 0.3:
        y = b.node(f"{name}.norm", "layer_norm", y, b.shape(y), {"weight": (channels,)}, eps=1e-5)
    y = b.node(f"{name}.fc", "linear", y, (height, width, 6), {"weight": (6, channels), "bias": (6,)})
    y = b.node(f"{name}.gamma", "affine", y, b.shape(y), {"weight": (6,)}, axis=2)
    return str(b.node(f"{name}.first", "permute", y, (6, height, width), order=[2, 0, 1]))


def affine(b: Any, rng: Rng, x: str, name: str) -> str:
    channels, height, _ = b.shape(x)
    if rng.random() < 0.3:
        return str(b.node(name, "affine", x, b.shape(x), {"bias": (height, 1)}, axis=1))
    return str(b.node(name, "affine", x, b.shape(x), {"weight": (1, channels, 1, 1), "bias": (channels, 1, 1)}, axis=0))


def combined(b: Any, rng: Rng, x: str, name: str) -> str:
    both = (x, b.conv(f"{name}.conv", x, b.shape(x)[0]))
    settings = {"target": "aten.maximum.default", "arguments": [{"input": 0}, {"input": 1}], "pointwise": True}
    return str(b.node(name, "opaque", both, b.shape(x), **settings))


def group_norm(b: Any, rng: Rng, x: str, name: str) -> str:
    channels = b.shape(x)[0]
    groups = int(rng.choice([own for own in (1, 2, 3, channels) if channels % own == 0]))
    arguments = [{"input": 0}, groups, {"parameter": "0"}, {"parameter": "1"}, 1e-5, False]
    parameters = {"0": (channels,), "1": (channels,)}
    target = "aten.group_norm.default"
    return str(b.node(name, "opaque", x, b.shape(x), parameters, target=target, arguments=arguments))


ODD = (combined, group_norm)
OPERATIONS = (conv, conv, norm, function, residual, excite, concat, split, select, shuffle, pad, last, affine, *ODD)


def random_graph(b: Any, rng: Rng) -> Graph:
    """A few random operations after a convolution, then a classifier of pixels or of their means."""
    x = b.conv("stem", IMAGE, int(rng.integers(4, 13)))
    for number in range(int(rng.integers(3, 9))):
        operation = OPERATIONS[rng.integers(len(OPERATIONS))]
        x = operation(b, rng, x, f"{operation.__name__}{number}")
    if rng.random() < 0.5:
        return b.classifier(x)  # type: ignore[no-any-return]
    size = math.prod(b.shape(x))
    b.node("flat", "flatten", x, (size,))
    b.node("fc", "linear", "flat", (5,), {"weight": (5, size)})
    return b.graph()  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(80))
def test_sliced_random_graphs_equal_the_masked_whole(seed: int, made: Callable[..., Any]) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(made((3, 4, 4)), rng)
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) / 2 for name, shape in graph.shapes.items()}
    tensors |= {name: own.abs() + 0.1 for name, own in tensors.items() if name.endswith("variance")}
    coupling, x = couple(graph), torch.randn(2, *graph.image, generator=generator)
    blocks = removable_blocks(graph, coupling)
    for _ in range(3):
        less = without(graph, [block for block in blocks if rng.random() < 0.5])
        kept = random_kept(coupling, rng)
        assert difference(less, coupling, kept, tensors, x) < 1e-5
        couple(slice_graph(less, coupling, kept).graph)  # its own graph is one that can be sliced again


@pytest.mark.parametrize("seed", range(0, 80, 4))
def test_shapes_depend_on_the_number_of_kept_units_alone(seed: int, made: Callable[..., Any]) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(made((3, 4, 4)), rng)
    coupling = couple(graph)
    kept = random_kept(coupling, rng)
    sliced = slice_graph(graph, coupling, kept).graph
    other = slice_graph(graph, coupling, {index: rng.permutation(own) for index, own in kept.items()}).graph
    assert [node.shape for node in other.nodes] == [node.shape for node in sliced.nodes]
    assert other.shapes == sliced.shapes
