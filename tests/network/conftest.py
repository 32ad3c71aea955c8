"""Graphs written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from apq_tune.network.graph import Graph, Node, NodeKind
from apq_tune.network.layer import IMAGE


class HandMade:
    """Builder of graphs: each method adds a node and returns its name."""

    def __init__(self, image: tuple[int, int, int] = (3, 8, 8)) -> None:
        self.image = image
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def node(
        self,
        name: str,
        kind: NodeKind,
        inputs: str | tuple[str, ...],
        shape: tuple[int, ...],
        parameters: dict[str, tuple[int, ...]] | None = None,
        /,
        **settings: Any,
    ) -> str:
        """Add a node with parameters of these shapes."""
        inputs = (inputs,) if isinstance(inputs, str) else inputs
        roles = {role: f"{name}.{role}" for role in parameters or {}}
        self.shapes |= {roles[role]: own for role, own in (parameters or {}).items()}
        self.nodes.append(Node(name, kind, inputs, shape, settings, roles, f"net.py:{len(self.nodes) + 1}"))
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the output of a node."""
        return self.image if name == IMAGE else next(node.shape for node in self.nodes if node.name == name)

    def conv(self, name: str, source: str, channels: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> str:
        """Add a convolution with a bias that keeps the size, but for its stride."""
        entering, height, width = self.shape(source)
        pad, shape = kernel // 2, (channels, -(-height // stride), -(-width // stride))
        weights = {"weight": (channels, entering // groups, kernel, kernel), "bias": (channels,)}
        settings: dict[str, Any] = {"stride": [stride] * 2, "padding": [pad] * 4, "dilation": [1, 1], "groups": groups}
        return self.node(name, "conv", source, shape, weights, **settings)

    def norm(self, name: str, source: str) -> str:
        """Add a batch norm."""
        shape = self.shape(source)
        parameters = dict.fromkeys(("mean", "variance", "weight", "bias"), shape[:1])
        return self.node(name, "norm", source, shape, parameters, eps=1e-5)

    def function(self, name: str, source: str, function: str = "relu") -> str:
        """Add an activation function."""
        return self.node(name, "function", source, self.shape(source), name=function)

    def add(self, name: str, *sources: str) -> str:
        """Add a sum of two tensors."""
        return self.node(name, "add", sources, self.shape(sources[0]))

    def classifier(self, source: str, classes: int = 5) -> Graph:
        """End with the mean over all pixels and a linear layer."""
        channels = self.shape(source)[0]
        self.node("mean", "mean", source, (channels,), keep=False)
        self.node("fc", "linear", "mean", (classes,), {"weight": (classes, channels), "bias": (classes,)})
        return self.graph()

    def graph(self) -> Graph:
        """What was built."""
        return Graph(self.image, tuple(self.nodes), dict(self.shapes))


@pytest.fixture
def made() -> Callable[..., HandMade]:
    """Maker of builders."""
    return HandMade
