"""Coupled channels of graphs written by hand: which units there are, which are locked, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from apq_tune import SpaceError
from apq_tune.network.coupling import couple
from apq_tune.network.layer import IMAGE


def residual(b: Any) -> Any:
    """A stem, and a residual block with a depthwise convolution."""
    x = b.function("relu", b.norm("bn", b.conv("stem", IMAGE, 16)))
    y = b.function("block.relu", b.conv("block.expand", x, 24))
    y = b.conv("block.project", b.conv("block.depthwise", y, 24, groups=24), 16)
    return b.classifier(b.add("block.add", x, y))


def test_a_residual_stream_ties_what_adds_to_it_and_a_depthwise_convolution_its_input(made: Callable[..., Any]) -> None:
    stream, inner = couple(residual(made())).groups
    assert stream == ("stem", 16, 1, ("stem", "block.project"), ("block.expand", "fc"), "")
    assert inner == ("block.expand", 24, 1, ("block.expand", "block.depthwise"), ("block.project",), "")


def test_image_and_logits_are_of_no_group(made: Callable[..., Any]) -> None:
    coupling = couple(residual(made()))
    assert coupling.inputs["stem"].group.tolist() == [-1] * 3
    assert coupling.outputs["fc"].group.tolist() == [-1] * 5
    assert coupling.outputs["block.add"].group.tolist() == [0] * 16
    assert coupling.outputs["block.add"].unit.tolist() == list(range(16))
    assert coupling.outputs["stem"].group.dtype == np.int32


def test_groups_of_a_grouped_convolution_are_units(made: Callable[..., Any]) -> None:
    b = made()
    graph = b.classifier(b.conv("grouped", b.conv("stem", IMAGE, 8), 16, groups=4))
    (group,) = couple(graph).groups
    assert (group.n_units, group.unit_channels, group.makers) == (4, 2, ("stem", "grouped"))


def test_what_is_added_to_the_image_is_locked_with_the_place(made: Callable[..., Any]) -> None:
    b = made()
    graph = b.classifier(b.conv("last", b.add("sum", IMAGE, b.conv("first", IMAGE, 3)), 8))
    first, last = couple(graph).groups
    assert first.locked == "'sum' (net.py:2) adds the image"
    assert last.locked == ""


def test_keep_locks_what_the_named_nodes_read_and_write(made: Callable[..., Any]) -> None:
    coupling = couple(residual(made()), keep=["block.depth*"])
    assert [group.locked for group in coupling.groups] == [
        "",
        "'block.depthwise' is kept as it is by keep=['block.depth*']",
    ]
    assert coupling.frozen == {"block.depthwise"}
    with pytest.raises(SpaceError, match=r"keep: 'blok\*' is the name of no layer; names are 'stem', 'block.expand'"):
        couple(residual(made()), keep=["blok*"])


def test_a_single_unit_cannot_shrink(made: Callable[..., Any]) -> None:
    b = made()
    x = b.conv("stem", IMAGE, 4)
    shuffled = b.node("shuffle", "shuffle", x, (4, 8, 8), groups=2)
    rotated = b.node("select", "select", shuffled, (4, 8, 8), indices=[1, 2, 3, 0])
    graph = b.classifier(b.add("sum", x, b.add("inner", shuffled, rotated)))
    (only,) = couple(graph).groups
    assert only.locked == "its 4 channels can only be kept or removed together"
    assert couple(graph).shrinkable == ()


def test_shared_parameters_tie_the_channels_of_their_nodes(made: Callable[..., Any]) -> None:
    b = made()
    one, other = b.norm("bn", b.conv("one", IMAGE, 6)), b.norm("again", b.conv("other", IMAGE, 6))
    b.nodes[-1] = b.nodes[-1]._replace(parameters=b.nodes[1].parameters)
    graph = b.classifier(b.node("cat", "concat", (one, other), (12, 8, 8)))
    assert [group[:4] for group in couple(graph).groups] == [("one", 6, 1, ("one", "other"))]


def test_operations_that_are_not_understood_lock_what_they_read(made: Callable[..., Any]) -> None:
    b = made()
    x = b.node("norm", "opaque", b.conv("stem", IMAGE, 8), (8, 8, 8), target="aten.softmax.int", arguments=[])
    x = b.conv("next", b.add("sum", x, b.conv("side", IMAGE, 8)), 6)
    stem, side, free = couple(b.classifier(x)).groups
    assert stem.locked == "'norm' (net.py:2) is the operation aten.softmax.int, whose channels are not understood"
    assert side.locked == "'sum' (net.py:4) adds the output of 'norm' (net.py:2), the operation aten.softmax.int"
    assert free.locked == ""


def test_models_with_attention_are_refused_unless_it_is_kept(made: Callable[..., Any]) -> None:
    b = made()
    q = b.conv("q", IMAGE, 8)
    target = "aten.scaled_dot_product_attention.default"
    x = b.node("block.attention", "opaque", (q, b.conv("k", IMAGE, 8)), (8, 8, 8), target=target, arguments=[])
    graph = b.classifier(b.conv("after", x, 6))
    with pytest.raises(
        SpaceError, match=r"^'block.attention' \(net.py:3\) multiplies activations by activations .*only"
    ):
        couple(graph)
    assert [bool(group.locked) for group in couple(graph, ["block.*"]).groups] == [True, True, False]
