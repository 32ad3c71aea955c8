"""Sliced networks, written by hand, against the whole ones with the removed channels set to zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from apq_tune.errors import CandidateError
from apq_tune.network import ties
from apq_tune.network.coupling import couple
from apq_tune.network.graph import Graph
from apq_tune.network.layer import IMAGE
from apq_tune.network.removable import removable_blocks, without
from apq_tune.network.shapes import resized
from apq_tune.network.slicing import slice_graph
from apq_tune.tracing.masking import difference, random_kept


def tensors_for(graph: Graph, seed: int = 0) -> Mapping[str, torch.Tensor]:
    """Parameters of a graph; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) / 2 for name, shape in graph.shapes.items()}
    return {name: own.abs() + 0.1 if name.endswith("variance") else own for name, own in tensors.items()}


def residual(b: Any) -> Graph:
    """Two residual blocks after a max pool, one with a depthwise convolution, the other with a factor per channel."""
    x = b.function("relu", b.norm("bn", b.conv("stem", IMAGE, 16)))
    x = b.node("pool", "max_pool", x, (16, 4, 4), kernel=[2, 2], stride=[2, 2], padding=[0] * 4, dilation=[1, 1])
    y = b.function("one.swish", b.norm("one.bn", b.conv("one.expand", x, 24, 1)), "h_swish")
    y = b.conv("one.project", b.conv("one.depthwise", y, 24, groups=24), 16, 1)
    x = b.function("one.relu", b.add("one.add", x, y))
    y = b.function("two.sigmoid", b.conv("two.conv", x, 12), "sigmoid")
    squeezed = b.node("two.mean", "mean", y, (12, 1, 1), keep=True)
    gate = b.function("two.gate", b.conv("two.up", b.conv("two.down", squeezed, 4, 1), 12, 1), "h_sigmoid")
    y = b.node("two.multiply", "multiply", (y, gate), (12, 4, 4))
    return b.classifier(b.add("two.add", b.conv("two.out", y, 16), x))


def grouped(b: Any) -> Graph:
    """Grouped convolutions, of two channels in and three out, and of three in and one out."""
    x = b.conv("wide", b.conv("stem", IMAGE, 8), 12, groups=4)
    return b.classifier(b.conv("narrow", x, 4, groups=4))


def shuffled(b: Any) -> Graph:
    """Two units with a channel shuffle, of which half of the channels pass; one reads a select."""
    x = b.conv("stem", IMAGE, 16)
    for name in ("one", "two"):
        shape = b.shape(x)
        half = (shape[0] // 2, *shape[1:])
        stays = b.node(f"{name}.stays", "slice", x, half, start=0, stop=half[0])
        goes = b.node(f"{name}.goes", "slice", x, half, start=half[0], stop=shape[0])
        goes = b.conv(f"{name}.conv", b.conv(f"{name}.depthwise", goes, half[0], groups=half[0]), half[0], 1)
        x = b.node(f"{name}.cat", "concat", (stays, goes), shape)
        x = b.node(f"{name}.shuffle", "shuffle", x, shape, groups=2)
    return b.classifier(b.node("select", "select", x, (5, *b.shape(x)[1:]), indices=[7, 3, 15, 4, 0]))


def dense(b: Any) -> Graph:
    """Concatenations that are normalised before convolutions, unequal parts, and a part of the image."""
    x = b.conv("stem", IMAGE, 8)
    y = b.conv("one", b.function("one.relu", b.norm("one.bn", x)), 6)
    x = b.node("cat", "concat", (x, y, IMAGE), (17, 8, 8))
    first = b.node("first", "slice", x, (5, 8, 8), start=0, stop=5)
    second = b.node("second", "slice", x, (12, 8, 8), start=5, stop=17)
    parts = (b.conv("three", first, 5, 3, groups=5), b.conv("five", second, 12, 5, groups=12))
    return b.classifier(b.conv("mixed", b.norm("bn", b.node("again", "concat", parts, (17, 8, 8))), 6))


def flattened(b: Any) -> Graph:
    """A classifier on all pixels, with batch norm of the pixels and a hidden layer."""
    x = b.node("pool", "avg_pool", b.conv("stem", IMAGE, 6), (6, 4, 4), **POOL)
    x = b.norm("norm", b.node("flatten", "flatten", x, (96,)))
    b.node("hidden", "linear", x, (10,), {"weight": (10, 96), "bias": (10,)})
    b.node("fc", "linear", b.function("relu", "hidden"), (5,), {"weight": (5, 10), "bias": (5,)})
    return b.graph()


def channels_last(b: Any) -> Graph:
    """A block as in ConvNeXt: linear layers on the last axis, a factor per channel, layer norm of the stream."""
    x = b.conv("stem", IMAGE, 8)
    y = b.node("block.last", "permute", b.conv("block.depthwise", x, 8, groups=8), (8, 8, 8), order=[1, 2, 0])
    y = b.node("block.fc1", "linear", y, (8, 8, 20), {"weight": (20, 8), "bias": (20,)})
    y = b.node("block.fc2", "linear", b.function("block.gelu", y, "gelu"), (8, 8, 8), {"weight": (8, 20)})
    y = b.node("block.gamma", "affine", y, (8, 8, 8), {"weight": (8,)}, axis=2)
    y = b.node("block.first", "permute", y, (8, 8, 8), order=[2, 0, 1])
    y = b.node("block.scale", "affine", y, (8, 8, 8), {"weight": (8, 1, 1), "bias": (1, 8, 1, 1)}, axis=0)
    x = b.conv("after", b.add("block.add", x, y), 12)
    x = b.node("up", "upsample", x, (12, 16, 16), factor=2, mode="bilinear")
    return b.classifier(b.node("pad", "pad", x, (12, 18, 17), padding=[1, 0, 1, 1], value=0.5))


def zero_padded(b: Any) -> Graph:
    """A residual block whose shortcut gets more channels by zeros."""
    x = b.function("relu", b.conv("stem", IMAGE, 6))
    less = b.node("less", "max_pool", x, (6, 4, 4), kernel=[1, 1], stride=[2, 2], padding=[0] * 4, dilation=[1, 1])
    more = b.node("more", "pad", less, (12, 4, 4), padding=[0] * 4, value=0.0, channels=[2, 4])
    return b.classifier(b.conv("after", b.add("add", more, b.conv("conv", x, 12, stride=2)), 8))


POOL: dict[str, Any] = {"kernel": [3, 3], "stride": [2, 2], "padding": [1] * 4, "count_padding": False}
NETS = [residual, grouped, shuffled, dense, flattened, channels_last, zero_padded]


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_a_sliced_network_equals_the_whole_one_with_zeros(net: Callable[..., Graph], made: Callable[..., Any]) -> None:
    graph = net(made())
    coupling, rng = couple(graph), np.random.default_rng(0)
    tensors, x = tensors_for(graph), torch.randn(2, *graph.image)
    assert coupling.shrinkable
    for _ in range(10):
        assert difference(graph, coupling, random_kept(coupling, rng), tensors, x) < 1e-5


def test_so_do_networks_without_blocks_and_of_other_sizes(made: Callable[..., Any]) -> None:
    graph = residual(made())
    coupling, rng, tensors = couple(graph), np.random.default_rng(0), tensors_for(graph)
    blocks = removable_blocks(graph, coupling)
    assert [block.name for block in blocks] == ["one", "two"]
    for skipped in ((), blocks[:1], blocks[1:], blocks):
        for size in (8, 12, (6, 10)):
            own = resized(without(graph, skipped), size)
            x = torch.randn(2, *own.image)
            assert difference(own, coupling, random_kept(coupling, rng), tensors, x) < 1e-5


def test_a_whole_network_is_the_same_graph(made: Callable[..., Any]) -> None:
    for net in NETS:
        graph = net(made())
        coupling = couple(graph)
        whole = {index: np.ones(group.n_units, bool) for index, group in enumerate(coupling.groups)}
        sliced = slice_graph(graph, coupling, whole)
        assert sliced.graph.digest == graph.digest
        assert {own for takes in sliced.takes.values() for own in takes} == {None}


def test_a_shuffle_stays_one_where_all_groups_keep_the_same(made: Callable[..., Any]) -> None:
    b = made()
    x = b.conv("stem", IMAGE, 8)
    graph = b.classifier(b.node("shuffle", "shuffle", x, (8, 8, 8), groups=2))
    coupling = couple(graph)
    same, other = (np.array(mask, bool) for mask in ([1, 0, 1, 1] * 2, [1, 0, 1, 1, 1, 1, 1, 0]))
    assert slice_graph(graph, coupling, {0: same}).graph.by_name["shuffle"].settings == {"groups": 2}
    select = slice_graph(graph, coupling, {0: other}).graph.by_name["shuffle"]
    assert (select.kind, select.settings) == ("select", {"indices": [0, 3, 4, 1, 5, 2]})


def test_masks_that_cannot_be_are_refused(made: Callable[..., Any]) -> None:
    graph = residual(made())
    coupling = couple(graph, keep=["two.conv"])
    index = next(index for index, group in enumerate(coupling.groups) if group.name == "one.expand")
    with pytest.raises(CandidateError, match=r"'one.expand': no channel is kept; keep at least one of its 24 units"):
        slice_graph(graph, coupling, {index: np.zeros(24, bool)})
    with pytest.raises(CandidateError, match=r"'one.expand': needs a mask of 24 units, got int64 of shape \(3,\)"):
        slice_graph(graph, coupling, {index: np.ones(3, np.int64)})
    locked = next(index for index, group in enumerate(coupling.groups) if group.name == "two.conv")
    with pytest.raises(CandidateError, match=r"'two.conv': 1 of 12 units are kept, but 'two.conv' is kept as it is by"):
        slice_graph(graph, coupling, {locked: np.arange(12) == 3})


FAULTS: list[tuple[Callable[..., Graph], str, str, Any]] = [
    (dense, "_concat", "concat", lambda own: own._replace(elements=np.roll(own.elements, 1))),
    (flattened, "_flatten", "flatten", lambda own: own._replace(elements=own.elements.reshape(6, -1).T.ravel())),
    (shuffled, "_moves", "shuffle", lambda own: own._replace(elements=np.sort(own.elements))),
    (dense, "_moves", "slice", lambda own: own._replace(elements=own.elements[::-1])),
    (zero_padded, "_pad", "pad", lambda own: own._replace(elements=np.roll(own.elements, 2))),
]


@pytest.mark.parametrize(("net", "rule", "kind", "fault"), FAULTS, ids=[own[2] for own in FAULTS])
def test_channels_in_a_wrong_order_are_seen(
    net: Any, rule: str, kind: Any, fault: Any, made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(ties, rule)
    rules = {**ties.RULES, kind: lambda *arguments: fault(right(*arguments))}
    monkeypatch.setattr(ties, "RULES", rules)
    graph = net(made())
    coupling, rng = couple(graph), np.random.default_rng(0)
    tensors, x = tensors_for(graph), torch.randn(2, *graph.image)
    with pytest.raises((AssertionError, RuntimeError)):
        for _ in range(5):
            assert difference(graph, coupling, random_kept(coupling, rng), tensors, x) < 1e-5


@pytest.mark.parametrize("net", [residual, grouped, zero_padded], ids=lambda net: net.__name__)
def test_ties_that_are_missed_are_seen(net: Any, made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    graph = net(made())
    monkeypatch.setattr(ties.Ties, "tie", lambda self, *_: self.pairs.append(np.empty((2, 0), np.int64)))
    coupling, rng = couple(graph), np.random.default_rng(0)
    tensors, x = tensors_for(graph), torch.randn(2, *graph.image)
    with pytest.raises((AssertionError, RuntimeError)):
        for _ in range(5):
            assert difference(graph, coupling, random_kept(coupling, rng), tensors, x) < 1e-5
