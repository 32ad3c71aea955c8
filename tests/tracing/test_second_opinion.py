"""Coupled channels against those that torch-pruning finds (DepGraph, Fang 2023)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from apq_tune.network.coupling import Coupling, couple
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import example_of, network

Slot = tuple[str, int, int]
"""Name of a weight, its axis, and a channel along it."""


def of_unit(coupling: Coupling, group: int, unit: int) -> set[Slot]:
    """Where the channels of a unit are in the weights of convolutions, linear layers and batch norms."""
    found = set()
    for name, axes in coupling.parameters.items():
        for axis, own in enumerate(axes):
            if own is not None and name.endswith("weight"):
                found |= {(name, axis, int(i)) for i in np.flatnonzero((own.group == group) & (own.unit == unit))}
    return found


def of_other(pruning: Any, graph: Any, module: nn.Module, slot: Slot) -> set[Slot]:
    """What torch-pruning removes with an output channel."""
    names = {own: name for name, own in module.named_modules()}
    name, _, channel = slot
    layer = module.get_submodule(name.removesuffix(".weight"))
    prune = pruning.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else pruning.prune_linear_out_channels
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        prune = pruning.prune_depthwise_conv_out_channels
    found = set()
    for dependency, channels in graph.get_pruning_group(layer, prune, idxs=[channel]):
        own = names.get(dependency.target.module)
        axis = 1 if dependency.handler.__name__ == "prune_in_channels" else 0
        depthwise = axis == 1 and getattr(dependency.target.module, "groups", 1) > 1
        if own is not None and not depthwise and hasattr(dependency.target.module, "weight"):
            found |= {(f"{own}.weight", axis, int(i)) for i in channels}
    return found


@pytest.mark.parametrize("name", ["ds_cnn", "resnet14", "plain_vgg", "unet", "mobilenet_v2", "senet", "densenet"])
def test_units_are_those_of_torch_pruning(name: str) -> None:
    pruning = pytest.importorskip("torch_pruning")
    module = network(name)
    coupling = couple(trace(module, example_of(name)))
    graph = pruning.DependencyGraph().build_dependency(module, example_of(name))
    for index, group in enumerate(coupling.groups):
        for unit in {0, group.n_units // 2, group.n_units - 1}:
            own = of_unit(coupling, index, unit)
            slot = min(slot for slot in own if slot[1] == 0 and slot[0] == f"{group.makers[0]}.weight")
            assert own == of_other(pruning, graph, module, slot), (group.name, unit)
