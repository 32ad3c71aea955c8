"""Residual blocks that can be left out of graphs written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from apq_tune.network.coupling import couple
from apq_tune.network.graph import Graph
from apq_tune.network.layer import IMAGE
from apq_tune.network.removable import Removable, removable_blocks, without


def block(b: Any, path: str, source: str) -> str:
    """Residual block of two convolutions with a ReLU after the sum; the sum's output."""
    y = b.conv(f"{path}.conv2", b.function(f"{path}.relu", b.conv(f"{path}.conv1", source, 8)), 8)
    return b.function(f"{path}.relu_2", b.add(f"{path}.add", y, source))


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def test_a_block_after_a_max_pool_goes_with_its_relu(made: Callable[..., Any]) -> None:
    b = made()
    x = b.function("relu", b.conv("stem", IMAGE, 8))
    x = b.node("pool", "max_pool", x, (8, 4, 4), kernel=[2, 2], stride=[2, 2], padding=[0] * 4, dilation=[1, 1])
    graph = b.classifier(block(b, "layer1.1", block(b, "layer1.0", x)))
    first, second = removable_blocks(graph)
    inside = ("conv1", "relu", "conv2", "add", "relu_2")
    assert first == Removable("layer1.0", "pool", "layer1.0.relu_2", tuple(f"layer1.0.{name}" for name in inside))
    assert (second.name, second.source, second.output) == ("layer1.1", "layer1.0.relu_2", "layer1.1.relu_2")
    both = without(graph, (first, second))
    assert names(both) == ["stem", "relu", "pool", "mean", "fc"]
    assert both.by_name["mean"].inputs == ("pool",)
    assert set(both.shapes) == {"stem.weight", "stem.bias", "fc.weight", "fc.bias"}
    assert without(graph, (second,)).by_name["mean"].inputs == ("layer1.0.relu_2",)
    assert without(graph, ()) is graph


def test_a_relu_that_changes_the_source_stays(made: Callable[..., Any]) -> None:
    b = made()
    graph = b.classifier(block(b, "layer", b.conv("stem", IMAGE, 8)))
    (only,) = removable_blocks(graph)
    assert only.output == "layer.add"
    assert names(without(graph, [only])) == ["stem", "layer.relu_2", "mean", "fc"]


def test_branches_that_read_or_are_read_outside_are_none(made: Callable[..., Any]) -> None:
    b = made()
    x, other = b.conv("stem", IMAGE, 8), b.conv("other", IMAGE, 8)
    inner = b.conv("used.conv1", x, 8)
    x = b.add("used.add", x, b.conv("used.conv2", inner, 8))
    x = b.add("later.add", x, inner)  # reads the inside of the block before it
    x = b.add("reading.add", x, b.add("reading.inner", b.conv("reading.conv", x, 8), other))
    projected = b.conv("projected.shortcut", x, 8)
    assert removable_blocks(b.classifier(b.add("projected.add", projected, b.conv("projected.conv", x, 8)))) == ()


def test_of_nested_blocks_the_inner_ones_are_removable(made: Callable[..., Any]) -> None:
    b = made()
    x = b.conv("stem", IMAGE, 8)
    y = b.conv("outer.conv", block(b, "outer.inner", b.conv("outer.first", x, 8)), 8)
    graph = b.classifier(b.add("outer.add", x, y))
    assert [own.name for own in removable_blocks(graph)] == ["outer.inner"]


def test_blocks_without_a_path_of_their_own_have_the_name_of_the_sum(made: Callable[..., Any]) -> None:
    b = made()
    x = b.add("add", IMAGE, b.conv("conv1", IMAGE, 3))
    x = b.add("stage.add", x, b.conv("stage.one", x, 3))
    x = b.add("stage.add_2", x, b.conv("stage.two", x, 3))
    assert [own.name for own in removable_blocks(b.classifier(x))] == ["add", "stage.add", "stage.add_2"]


def test_blocks_that_are_kept_stay(made: Callable[..., Any]) -> None:
    b = made()
    graph = b.classifier(block(b, "layer.1", block(b, "layer.0", b.conv("stem", IMAGE, 8))))
    coupling = couple(graph, keep=["layer.0.conv1"])
    assert [own.name for own in removable_blocks(graph, coupling)] == ["layer.1"]


@pytest.mark.parametrize("last", ["add", "function"])
def test_a_block_at_the_end_leaves_its_source_as_the_output(last: str, made: Callable[..., Any]) -> None:
    b = made((3, 1, 1))
    x = b.function("relu", b.node("fc", "linear", b.node("flat", "flatten", IMAGE, (3,)), (3,), {"weight": (3, 3)}))
    x = b.add("end.add", x, b.node("end.fc", "linear", x, (3,), {"weight": (3, 3)}))
    if last == "function":
        b.function("end.relu", x)
    (only,) = removable_blocks(b.graph())
    assert names(without(b.graph(), [only])) == ["flat", "fc", "relu"]
