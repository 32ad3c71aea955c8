"""Traced networks: sliced, without blocks and at other sizes, against their modules and the masked whole."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from apq_tune import SpaceError
from apq_tune.network.coupling import couple
from apq_tune.network.graph import Graph
from apq_tune.network.removable import removable_blocks, without
from apq_tune.network.shapes import resized
from apq_tune.tracing.functions import run_graph
from apq_tune.tracing.masking import difference, random_kept
from apq_tune.tracing.trace import trace, weights_of
from tests.tracing.zoo import ZOO, example_of, network

GROUPS = {
    "ds_cnn": 3,
    "ds_cnn_speech": 3,
    "resnet8": 6,
    "resnet14": 9,
    "plain_vgg": 4,
    "unet": 5,
    "mobilenet_v2": 9,
    "shufflenet": 9,
    "senet": 4,
    "densenet": 5,
    "grouped": 2,
    "split": 3,
}
BLOCKS = {
    "resnet8": ["layer1.0"],
    "resnet14": ["layer1.0", "layer1.1", "layer2.1", "layer3.1"],
    "mobilenet_v2": ["features.1", "features.3", "features.5", "features.6"],
    "senet": ["add_2"],
    "grouped": ["add"],
}


@functools.cache
def traced(name: str) -> tuple[nn.Module, Graph]:
    """A network and its graph."""
    module = network(name)
    return module, trace(module, example_of(name))


@pytest.mark.parametrize("name", ZOO)
def test_sliced_networks_equal_the_masked_whole(name: str) -> None:
    module, graph = traced(name)
    coupling, tensors, rng = couple(graph), weights_of(module, graph), np.random.default_rng(0)
    assert len(coupling.groups) == GROUPS[name]
    assert not any(group.locked for group in coupling.groups)
    blocks = removable_blocks(graph, coupling)
    assert [block.name for block in blocks] == BLOCKS.get(name, [])
    skipped = [(), *([block] for block in blocks), blocks]
    for own in skipped:
        less = without(graph, own)
        for _ in range(3):
            assert difference(less, coupling, random_kept(coupling, rng), tensors, example_of(name)) < 1e-5


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet14", (24, 64)),
        ("mobilenet_v2", (33, (40, 16))),
        ("unet", (24, (40, 16))),
        ("densenet", ((40, 16), 33)),
        ("ds_cnn_speech", (20, (31, 12))),
    ],
)
def test_resized_networks_are_those_of_the_module(name: str, sizes: tuple[int | tuple[int, int], ...]) -> None:
    module, graph = traced(name)
    coupling, tensors, rng = couple(graph), weights_of(module, graph), np.random.default_rng(0)
    assert (first := resized(graph, sizes[0])).digest == trace(module, torch.zeros(1, *first.image)).digest
    for size in sizes:
        own = resized(graph, size)
        x = torch.randn(2, *own.image)
        with torch.no_grad():
            torch.testing.assert_close(run_graph(own, tensors, x), module(x), rtol=1e-5, atol=1e-6)
        assert difference(own, coupling, random_kept(coupling, rng), tensors, x) < 1e-5


def test_a_network_that_flattens_pixels_has_one_size_only() -> None:
    _, graph = traced("plain_vgg")
    with pytest.raises(
        SpaceError, match=r"'10': the model cannot have images of 64x64 pixels, as the linear layer has"
    ):
        resized(graph, 64)


def test_a_skipped_block_is_a_module_that_returns_its_input() -> None:
    module, graph = traced("resnet14")
    tensors, x = weights_of(module, graph), example_of("resnet14")
    for block in removable_blocks(graph):
        less, own = without(graph, [block]), network("resnet14")
        own.set_submodule(block.name, nn.Identity())
        with torch.no_grad():
            torch.testing.assert_close(run_graph(less, tensors, x), own(x), rtol=1e-5, atol=1e-6)


class PaddedShortcut(nn.Module):
    """Residual block whose shortcut takes every second pixel and pads channels with zeros (He 2016, option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)
        return self.fc((self.conv(x) + shortcut).relu().mean((2, 3)))


def test_channels_of_zeros_go_with_those_that_they_are_added_to() -> None:
    module = PaddedShortcut().eval()
    graph = trace(module, torch.zeros(1, 3, 32, 32))
    coupling, rng = couple(graph), np.random.default_rng(0)
    assert [group[:4] for group in coupling.groups] == [
        ("stem", 8, 1, ("stem", "conv")),
        ("conv", 8, 1, ("conv",)),
    ]
    x = torch.randn(2, 3, 32, 32)
    for _ in range(5):
        assert difference(graph, coupling, random_kept(coupling, rng), weights_of(module, graph), x) < 1e-5


class OddFunctions(nn.Module):
    """Functions and combinations of no kind of their own."""

    def __init__(self, mixes: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(inner, 8, 3, padding=1) for inner in (3, 8, 8))
        self.mixed, self.fc, self.mixes = nn.Conv2d(8, 6, 1), nn.Linear(6, 10), mixes
        self.each, self.all = nn.PReLU(8), nn.PReLU()
        nn.init.uniform_(self.each.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.mish(self.one(x))
        x = torch.maximum(self.two(x), x) - nn.functional.softplus(self.three(x)).clamp(0.1, 2)
        x = self.all(torch.where(x > 0.2, x.abs().sqrt(), -self.each(x)))
        return self.fc(self.mixed(nn.functional.normalize(x) if self.mixes else x).mean((2, 3)))


def test_pointwise_operations_of_no_kind_tie_what_they_combine() -> None:
    module = OddFunctions().eval()
    graph = trace(module, torch.zeros(1, 3, 8, 8))
    assert {node.kind for node in graph.nodes} >= {"opaque"}
    coupling, tensors, rng = couple(graph), weights_of(module, graph), np.random.default_rng(0)
    assert [group[:4] for group in coupling.groups] == [
        ("one", 8, 1, ("one", "two", "three")),
        ("mixed", 6, 1, ("mixed",)),
    ]
    own, x = resized(graph, (6, 9)), torch.randn(2, 3, 6, 9)
    torch.testing.assert_close(run_graph(own, tensors, x), module(x).detach())
    for _ in range(5):
        assert difference(own, coupling, random_kept(coupling, rng), tensors, x) < 1e-5


def test_operations_that_mix_channels_lock_them() -> None:
    stream, last = couple(trace(OddFunctions(mixes=True).eval(), torch.zeros(1, 3, 8, 8))).groups
    assert "test_sliced.py" in stream.locked
    assert stream.locked.endswith("whose channels are not understood")
    assert not last.locked


def test_groups_of_a_group_norm_stay_or_go_whole() -> None:
    parts = [
        nn.Conv2d(3, 12, 3),
        nn.GroupNorm(4, 12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3),
        nn.InstanceNorm2d(8, affine=True),
    ]
    torch.manual_seed(0)
    module = nn.Sequential(*parts, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()
    for own in (module[1], module[4]):
        nn.init.normal_(own.weight)
        nn.init.normal_(own.bias)
    graph = resized(trace(module, torch.zeros(1, 3, 12, 12)), 15)
    coupling, rng, x = couple(graph), np.random.default_rng(0), torch.randn(2, 3, 15, 15)
    assert [group[:4] for group in coupling.groups] == [("0", 4, 3, ("0",)), ("3", 8, 1, ("3",))]
    for _ in range(5):
        assert difference(graph, coupling, random_kept(coupling, rng), weights_of(module, graph), x) < 1e-5
