"""Traced graphs against the modules that they come from."""

from __future__ import annotations

import pytest
import torch

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
