"""Plain modules of graphs: their code and their state dict need torch only."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apq_tune.errors import ModelError
from apq_tune.network.coupling import couple
from apq_tune.network.graph import Graph, Node
from apq_tune.network.removable import removable_blocks, without
from apq_tune.network.slicing import slice_graph
from apq_tune.tracing.functions import run_graph
from apq_tune.tracing.masking import random_kept
from apq_tune.tracing.plain_module import fold_norms, plain_module, source, wrapped
from apq_tune.tracing.trace import trace, weights_of
from tests.tracing.zoo import ZOO, example_of, network

RUNNING = """
import sys
sys.modules["apq_tune"] = None  # importing it fails
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("net", sys.argv[1] + "/net.py")
net = module_from_spec(spec)
spec.loader.exec_module(net)
import torch
network = net.Network()
network.load_state_dict(torch.load(sys.argv[1] + "/net.pt", weights_only=True))
found = network.eval()(torch.load(sys.argv[1] + "/images.pt", weights_only=True))
torch.save(found.detach(), sys.argv[1] + "/outputs.pt")
"""


@functools.cache
def traced(name: str) -> tuple[nn.Module, Graph]:
    """A network and its graph."""
    module = network(name)
    return module, trace(module, example_of(name))


def sliced(name: str) -> tuple[Graph, dict[str, Tensor]]:
    """A network of the zoo with random widths and without its first removable block."""
    module, graph = traced(name)
    coupling, tensors = couple(graph), weights_of(module, graph)
    blocks = removable_blocks(graph, coupling)[:1]
    found, takes = slice_graph(without(graph, blocks), coupling, random_kept(coupling, np.random.default_rng(1)))
    for own, indices in takes.items():
        for axis, kept in enumerate(indices):
            if kept is not None:
                tensors[own] = tensors[own].index_select(axis, torch.from_numpy(kept))
    return found, {own: tensors[own] for own in found.shapes}


@pytest.mark.parametrize("name", [*ZOO, "vit"])
def test_plain_modules_compute_the_graph(name):
    (module, graph), x = traced(name), example_of(name, 3)
    plain = plain_module(graph, weights_of(module, graph))
    assert set(plain.state_dict()) == set(module.state_dict())
    assert sum(value.numel() for value in plain.parameters()) == sum(value.numel() for value in module.parameters())
    with torch.no_grad():
        torch.testing.assert_close(plain(x), module(x), rtol=1e-5, atol=1e-6)
        plain.load_state_dict(network(name, seed=1).state_dict())
        torch.testing.assert_close(plain(x), network(name, seed=1)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ZOO)
def test_sliced_and_folded_networks(name):
    graph, tensors = sliced(name)
    x = example_of(name, 3)
    expected = run_graph(graph, tensors, x)
    folded, fewer = fold_norms(graph, tensors)
    kept = [node.name for node in graph.nodes if node.kind == "norm"] if name == "densenet" else []
    assert [node.name for node in folded.nodes if node.kind == "norm"] == kept
    with torch.no_grad():
        for own in (plain_module(graph, tensors)(x), run_graph(folded, fewer, x), plain_module(folded, fewer)(x)):
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_files_need_nothing_of_this_package(tmp_path: Path):
    graph, tensors = sliced("resnet14")
    x = example_of("resnet14")
    (tmp_path / "net.py").write_text(source(graph, tensors, title="ResNet"))
    torch.save(tensors, tmp_path / "net.pt")
    torch.save(x, tmp_path / "images.pt")
    subprocess.run([sys.executable, "-c", RUNNING, str(tmp_path)], check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "outputs.pt", weights_only=True)
    torch.testing.assert_close(found, run_graph(graph, tensors, x), rtol=1e-5, atol=1e-6)


def test_source_reads_as_one_writes_it():
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )
    lines = source(trace(module, torch.zeros(1, 1, 8, 8))).splitlines()
    start = lines.index("class Network(nn.ModuleDict):")
    assert lines[start:] == [
        "class Network(nn.ModuleDict):",
        '    """Network of 1 convolution and 1 linear layer."""',
        "",
        "    def __init__(self) -> None:",
        "        super().__init__({",
        '            "0": nn.Conv2d(1, 4, 3, bias=False),',
        '            "1": nn.BatchNorm2d(4),',
        '            "4": nn.Linear(144, 10),',
        "        })",
        "",
        "    def forward(self, x: Tensor) -> Tensor:",
        '        """Compute the outputs of images, without softmax."""',
        '        return self["4"](functional.relu(self["1"](self["0"](x))).flatten(1))',
    ]


def test_names_cannot_be_code(tmp_path: Path):
    trap = tmp_path / "trap"
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    names = [code, f"a\n        {code}\n#", f'"]; {code}; x["', "class", "a b", "import.1", "", "a..b"]
    for name, own in itertools.product(names, ["b", "x=1;y", code.replace(".", ","), "class"]):
        weight = f"{name}.weight"
        shapes = {weight: (8, 3, 1, 1), f"{name}.{own}": (8,), "fc.weight": (10, 8)}
        settings = {"stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1}
        nodes = (
            Node(f"{name} 1", "conv", ("image",), (8, 4, 4), settings, {"weight": weight}),
            Node(f"{name}\n2", "affine", (f"{name} 1",), (8, 4, 4), {"axis": 0}, {"bias": f"{name}.{own}"}),
            Node(f"{name}3", "multiply", (f"{name} 1", f"{name}\n2"), (8, 4, 4)),
            Node(f"{name}4", "mean", (f"{name}3",), (8,), {"keep": False}),
            Node("fc", "linear", (f"{name}4",), (10,), {}, {"weight": "fc.weight"}),
        )
        graph = Graph((3, 4, 4), nodes, shapes)
        tensors = {key: torch.rand(shape) for key, shape in shapes.items()}
        x = torch.rand(2, 3, 4, 4)
        try:
            found = plain_module(graph, tensors)(x)
        except ModelError:
            assert own != "b" or "" in name.split(".") or name == code or "(" in name
        else:
            torch.testing.assert_close(found, run_graph(graph, tensors, x))
        assert not trap.exists()


def test_wrapped_lines_are_the_same_source():
    line = f"x = torch.cat([{', '.join(f'self.layer_{index}(x)' for index in range(30))}], 1)"
    lines = wrapped(line)
    assert max(map(len, lines)) <= 114
    assert " ".join(own.strip() for own in lines) == line
