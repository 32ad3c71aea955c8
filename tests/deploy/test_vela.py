"""Estimates of Arm's Vela of exported files, beside our cost models."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from apq_tune import DeployError, SearchSpace
from apq_tune.cli import cli
from apq_tune.cost import named_cost
from apq_tune.deploy import vela as vela_module
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_file import FileMetadata
from apq_tune.deploy.tflite_builder import logits_scaling
from apq_tune.deploy.tflite_file import tflite_bytes
from apq_tune.deploy.tflite_graph import tflite_graph
from apq_tune.deploy.vela import vela_estimate
from apq_tune.space.encodings import encoding_of
from apq_tune.supernet.found_network import FoundNetwork
from tests.deploy.test_file_memory import SPACES, found

for package in ("ethosu", "ai_edge_litert"):
    if importlib.util.find_spec(package) is None:
        pytest.skip("the extra [vela] is not installed", allow_module_level=True)

SPACE = {"digits": SearchSpace.load("digits"), **SPACES}

LEAST, MOST, FIXED = 0.9, 1.25, 2500
"""Vela's flash is at least this share of ``weight_bytes``, and at most that and some bytes for its commands, which grow
with the number of operators. Random weights do not compress; it packs a scale and a bias in 10 bytes, not 8, and fills
up channels."""

FILLED = 16
"""Vela fills up channels to a multiple of this, and adds into new tensors; its SRAM lies between our RAM and that."""


def eight(name: str, n: int = 1) -> list[tuple[FoundNetwork, Any]]:
    """The largest network and random ones at 8 bits, with their genomes."""
    encoding = encoding_of(SPACE[name])
    genomes = np.concatenate([encoding.ends()[1:], encoding.sample(n, np.random.default_rng(0))])
    genomes = encoding.at_bits(genomes, 8)
    return list(zip(found(SPACE[name], genomes), genomes[:, None], strict=True))


def file_of(network: FoundNetwork, path: Path) -> Path:
    program = program_of(network)
    channels, size = network.preprocessing.channels, network.preprocessing.size
    images = np.random.default_rng(0).random((8, channels, size, size), np.float32)
    graph = tflite_graph(program, logits_scaling(network.logits(images)))
    path.write_bytes(tflite_bytes(graph, FileMetadata.of(network, program).texts()))
    return path


def filled(network: FoundNetwork) -> int:
    """Most bytes of tensors alive at once, channels filled up and nothing in place."""
    layers, last = network.layers, {}
    for number, layer in enumerate(layers):
        last |= dict.fromkeys(layer.inputs, number)
    alive, most = {"image": -(-network.preprocessing.channels // FILLED) * FILLED * network.preprocessing.size**2}, 0
    for number, layer in enumerate(layers):
        own = layer.output
        pixels = int(own.size) * int(own.size if own.width is None else own.width)
        alive[layer.name] = -(-int(own.channels) // FILLED) * FILLED * pixels
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > number}
    return most


@pytest.mark.parametrize("name", ["digits", "mbconv", "model"])
def test_flash_and_sram_are_as_the_search_counts_them(name: str, tmp_path: Path) -> None:
    for network, genome in eight(name):
        own = vela_estimate(file_of(network, tmp_path / "n.tflite"), "ethos-u55-128", memory_mode="Sram_Only")
        weights = network.costs["weight_bytes"].value
        ram = float(named_cost("device_ram_bytes", encoding_of(SPACE[name]))(genome)[0])
        assert LEAST * weights <= own.flash <= MOST * weights + FIXED
        assert ram <= own.sram <= filled(network)
        assert own.on_cpu == 0 or name == "model"  # channels in another order
        assert own.cycles * 128 >= network.costs["macs"].value
        assert own.milliseconds == pytest.approx(own.cycles / 500e6 * 1e3)  # the clock of this configuration


def test_the_command_prints_and_keeps_the_estimate(tmp_path: Path) -> None:
    (network, _), *_ = eight("mbconv", 0)
    path, kept = file_of(network, tmp_path / "it's, a net.tflite"), tmp_path / "e.json"
    result = CliRunner().invoke(
        cli, ["estimate", str(path), "--accelerator", "ethos-u85-256", "--json", str(kept)], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    scores = json.loads(kept.read_text())
    own = vela_estimate(path, "ethos-u85-256")
    assert scores == json.loads(json.dumps(own.to_dict()))
    assert f"{own.cycles:,} cycles" in result.output
    assert "the search promised weight_bytes of" in result.output
    assert "0 B" not in result.output
    assert scores["costs"]["macs"]["value"] == network.costs["macs"].value


def test_what_vela_does_not_compile_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (network, _), *_ = eight("mbconv", 0)
    path = file_of(network, tmp_path / "n.tflite")
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (path, {"accelerator": "ethos-u55"}, "unknown accelerator 'ethos-u55'; known: ethos-u55-32, "),
        (path, {"accelerator": "ethos-u55-128", "system": "Nope"}, "--system-config=Nope: Section System_Config.Nope"),
        (tmp_path / "n.onnx", {"accelerator": "ethos-u55-128"}, "Vela reads .tflite files; write one with"),
        (tmp_path / "no.tflite", {"accelerator": "ethos-u55-128"}, "cannot be read (No such file or directory)"),
    ]
    for given, options, said in cases:
        with pytest.raises(DeployError) as error:
            vela_estimate(given, **options)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(vela_module, "has_int4", lambda _: True)
    with pytest.raises(DeployError, match=r"has int4 weights, which Vela .* does not read; export it with --unpacked"):
        vela_estimate(path, "ethos-u55-128")
    monkeypatch.setitem(sys.modules, "ethosu", None)
    with pytest.raises(DeployError, match=r"the estimate needs Vela, in the extra \[vela\]: pip install 'apq-tune\[v"):
        vela_estimate(path, "ethos-u55-128")
