"""Traced graphs against the modules that they come from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from apq_tune.tracing.functions import run_graph
from apq_tune.tracing.trace import trace, weights_of
from tests.tracing.zoo import ZOO, example_of, network


@pytest.mark.parametrize("name", ZOO)
def test_graph_has_the_outputs_of_the_module_at_every_batch(name):
    module = network(name)
    graph = trace(module, example_of(name))
    tensors = weights_of(module, graph)
    for batch in (1, 2, 5):
        x = example_of(name, batch)
        with torch.no_grad():
            expected, found = module(x), run_graph(graph, tensors, x)
        assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
    assert not [node for node in graph.nodes if node.kind == "opaque"]


class Deep(nn.Sequential):
    """Layers that enlarge every rounding, with swish written out."""

    def __init__(self) -> None:
        super().__init__(*[nn.Conv2d(8 if index else 3, 8, 1) for index in range(40)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
            x = (x - x.mean((2, 3), keepdim=True)) * 6
            x = x * torch.sigmoid(x)
        return x.mean((2, 3))


def test_roundings_of_deep_models_are_no_difference():
    torch.manual_seed(0)
    module, x = Deep().eval(), torch.randn(2, 3, 8, 8)
    graph = trace(module, x)
    assert sum(node.kind == "function" and node.settings["name"] == "silu" for node in graph.nodes) == 40
    with torch.no_grad():
        expected, found = module(x), run_graph(graph, weights_of(module, graph), x)
    difference = float((found - expected).abs().max() / expected.abs().max())
    assert 1e-6 < difference < 1e-3
