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
