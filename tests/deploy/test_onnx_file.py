"""ONNX files: what they say of their network, how large they are, and which files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from apq_tune import DeployError, FoundNetwork, NetworkEncoding, SearchSpace
from apq_tune.cost import cost_models
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_file import DIGEST, read_onnx, write_onnx
from apq_tune.deploy.onnx_session import logits
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.found_network import CostValue, Preprocessing
from apq_tune.supernet.network import Supernet

SCORES = {"search": {"loss": 0.25, "accuracy": 0.9}, "test": {"loss": 0.5, "accuracy": 0.875}}


@pytest.fixture(scope="module")
def networks(space: SearchSpace) -> list[FoundNetwork]:
    """Networks of the digits with random weights, from 2 to 8 bits."""
    torch.manual_seed(0)
    net, encoding = Supernet(space), NetworkEncoding(space)
    images = torch.rand(32, 1, 8, 8)
    genomes = encoding.sample(5, np.random.default_rng(1))
    candidates = encoding.decode(genomes)
    calibrate_quantizers(net, [lambda c=c: net.recalibrate(images, c) for c in candidates])  # type: ignore[misc]
    found = []
    for row, candidate in enumerate(candidates):
        costs = {model.name: CostValue(float(model(genomes)[row]), model.unit) for model in cost_models(encoding)}
        about = Preprocessing.of(space, tuple("0123456789"))
        subnet = net.extract(candidate, net.recalibrate(images, candidate, quantize=True))
        own = FoundNetwork(subnet, name=f"1-{row}", costs=costs, scores=SCORES, preprocessing=about)
        found.append(own)
    return found


@pytest.fixture
def written(networks: list[FoundNetwork], tmp_path: Path) -> Path:
    write_onnx(networks[0], tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_file_says_of_what_it_is(networks: list[FoundNetwork], written: Path) -> None:
    network, about = networks[0], read_onnx(written).metadata
    assert about.space == network.space.to_dict()
    assert about.candidate == network.candidate
    assert (about.name, about.scores, about.costs) == (network.name, SCORES, network.costs)
    assert about.preprocessing == network.preprocessing
    assert about.program == program_of(network).digest
    assert set(about.versions) == {"apq-tune", "torch", "numpy", "onnx"}
    texts = {prop.key: prop.value for prop in onnx.load(written).metadata_props}
    assert texts["apq_tune.notation"] == str(network.candidate)
    assert json.loads(texts["apq_tune.candidate"]) == network.candidate.to_dict()
    onnx.checker.check_model(str(written), full_check=True)


def test_any_batch_size_gives_the_logits_of_the_network(networks: list[FoundNetwork], written: Path) -> None:
    images = torch.rand(7, 1, 8, 8)
    with torch.no_grad():
        expected = networks[0](images).numpy()
    for batch in (1, 3, 7):
        assert np.median(np.abs(logits(read_onnx(written).model, images.numpy(), batch) - expected)) < 1e-5


def test_files_are_as_small_as_promised(networks: list[FoundNetwork], tmp_path: Path) -> None:
    for network in networks:
        write_onnx(network, tmp_path / "net.onnx")
        assert (tmp_path / "net.onnx").stat().st_size <= 1.15 * network.costs["weight_bytes"].value + 20_000


def test_equal_networks_are_equal_files(networks: list[FoundNetwork], tmp_path: Path) -> None:
    for name in "ab":
        write_onnx(networks[1], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def refused(path: Path, match: str) -> None:
    with pytest.raises(DeployError, match=match) as raised:
        read_onnx(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_truncated_files_are_refused(written: Path) -> None:
    content = written.read_bytes()
    for share in np.linspace(0, 1, 40, endpoint=False):
        written.write_bytes(content[: int(share * len(content))])
        refused(written, "truncated|was not written by apq-tune|is damaged")


def test_a_changed_byte_anywhere_is_seen(written: Path) -> None:
    content = written.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(np.arange(40, len(content)), 60, replace=False):  # the first bytes name the producer
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        written.write_bytes(bytes(changed))
        refused(written, "truncated|was not written by apq-tune|is damaged|is of format|other files")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    refused(path, "cannot be read")
    refused(tmp_path, "cannot be read")
    for content in (b"", b"an essay on networks", bytes(1000), b"PK\x03\x04"):
        path.write_bytes(content)
        refused(path, "is truncated or no ONNX file")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph), path)
    refused(path, "was not written by apq-tune; give a file of: apq-tune export")


def test_metadata_from_elsewhere_are_refused(written: Path) -> None:
    model = onnx.load(written)
    texts = {prop.key: prop.value for prop in model.metadata_props}
    model.graph.name = "another"
    onnx.save(model, written)
    refused(written, "is damaged, or was changed after its export")
    del texts[DIGEST]
    helper.set_model_props(model, texts)
    onnx.save(model, written)
    refused(written, "was not written by apq-tune")
