"""Graphs at another image size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from apq_tune import SpaceError
from apq_tune.network.layer import IMAGE
from apq_tune.network.shapes import resized


def test_windows_are_those_of_torch(made: Callable[..., Any]) -> None:
    torch = pytest.importorskip("torch")
    settings = {"stride": [2, 3], "padding": [1, 2, 3, 0], "dilation": [2, 1], "groups": 1}
    for size in ((9, 9), (16, 11), (8, 30)):
        b = made()
        b.node("conv", "conv", IMAGE, (4, 4, 2), {"weight": (4, 3, 3, 5)}, **settings)
        graph = resized(b.classifier("conv"), size)
        padded = torch.nn.functional.pad(torch.zeros(1, 3, *size), (2, 0, 1, 3))
        out = torch.nn.functional.conv2d(padded, torch.zeros(4, 3, 3, 5), stride=(2, 3), dilation=(2, 1))
        assert graph.by_name["conv"].shape == tuple(out.shape[1:])
        assert graph.image == (3, *size)


def test_adaptive_pools_keep_their_outputs(made: Callable[..., Any]) -> None:
    b = made()
    settings = {"stride": [4, 8], "padding": [0] * 4, "dilation": [1, 1], "adaptive": True}
    b.node("pool", "max_pool", IMAGE, (3, 2, 1), kernel=[4, 8], **settings)
    pool = resized(b.classifier("pool"), (20, 5)).by_name["pool"]
    assert pool.shape == (3, 2, 1)
    assert pool.settings["kernel"] == pool.settings["stride"] == [10, 5]
    with pytest.raises(SpaceError, match=r"'pool' .*as \(7, 7\) pixels are no multiple of the pool's \(2, 1\)"):
        resized(b.graph(), 7)


def test_pools_that_round_up_do_so_at_every_size(made: Callable[..., Any]) -> None:
    torch = pytest.importorskip("torch")
    for kernel, stride, pad in ((3, 2, 0), (3, 2, 1), (2, 3, 1), (5, 3, 2), (2, 2, 1)):
        settings = {"kernel": [kernel] * 2, "stride": [stride] * 2, "dilation": [1, 1], "ceil": True}
        b = made((3, 40, 40))
        b.node("pool", "max_pool", IMAGE, (3, 1, 1), padding=[pad] * 4, **settings)
        graph = b.classifier("pool")
        for size in range(5, 20):
            pool = resized(graph, (size, size + 1)).by_name["pool"]
            out = torch.nn.functional.max_pool2d(torch.zeros(1, 3, size, size + 1), kernel, stride, pad, ceil_mode=True)
            assert pool.shape == tuple(out.shape[1:]), (kernel, stride, pad, size)


def test_the_same_size_is_the_same_graph(made: Callable[..., Any]) -> None:
    b = made()
    graph = b.classifier(b.conv("stem", IMAGE, 4, stride=2))
    assert resized(graph, 8) is graph
    assert resized(resized(graph, 17), 8).digest == graph.digest


def linear_on_pixels(b: Any) -> Any:
    b.node("flat", "flatten", IMAGE, (192,))
    return b.node("fc", "linear", "flat", (5,), {"weight": (5, 192)})


def logits_of_pixels(b: Any) -> Any:
    return b.node("flat", "flatten", IMAGE, (192,))


def sum_of_sizes(b: Any) -> Any:
    small = b.conv("small", IMAGE, 3, stride=2)
    b.add("sum", IMAGE, b.node("up", "upsample", small, (3, 8, 8), factor=2, mode="nearest"))
    return b.classifier("sum")


def too_small(b: Any) -> Any:
    b.node("conv", "conv", IMAGE, (4, 2, 2), {"weight": (4, 3, 7, 7)}, stride=[1, 1], padding=[0] * 4, dilation=[1, 1])
    return b.classifier("conv")


def opaque(b: Any) -> Any:
    b.node("view", "opaque", IMAGE, (6, 4, 8), target="aten.reshape.default", arguments=[])
    return b.classifier("view")


def position(b: Any) -> Any:
    return b.classifier(b.node("rows", "affine", IMAGE, (3, 8, 8), {"bias": (8, 1)}, axis=1))


REFUSED = [
    (
        linear_on_pixels,
        "'fc' (net.py:2): the model cannot have images of 5x5 pixels, as the linear layer has 192 inputs",
    ),
    (
        logits_of_pixels,
        "'flat' (net.py:1): the model cannot have images of 5x5 pixels, as the model would have 75 outputs",
    ),
    (sum_of_sizes, "'sum' (net.py:3): the model cannot have images of 5x5 pixels, as its inputs would have the shapes"),
    (too_small, "'conv' (net.py:1): the model cannot have images of 5x5 pixels, as no pixel is left"),
    (
        opaque,
        "'view' (net.py:1): the model cannot have images of 5x5 pixels, as the operation aten.reshape.default was",
    ),
    (
        position,
        "'rows' (net.py:1): the model cannot have images of 5x5 pixels, as its parameters are for 8 values, not 5",
    ),
]


@pytest.mark.parametrize(("net", "message"), REFUSED, ids=[own[0].__name__ for own in REFUSED])
def test_sizes_that_a_model_cannot_have_are_refused(net: Any, message: str, made: Callable[..., Any]) -> None:
    b = made()
    net(b)
    with pytest.raises(SpaceError) as error:
        resized(b.graph(), 5)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
