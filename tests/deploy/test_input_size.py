"""Networks that read smaller images than the space has: photos of other sizes, exported files, and what is said."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from apq_tune import NetworkEncoding, SearchSpace, cost_models, evaluate, export, load_data
from apq_tune.data import space_for
from apq_tune.deploy.exported import open_file
from apq_tune.deploy.onnx_file import parse_onnx, texts_of
from apq_tune.report.deployed import print_evaluation, print_exported
from apq_tune.report.screen import Screen
from apq_tune.supernet.batches import images_of, resized
from apq_tune.supernet.evaluate import calibrate_quantizers, subnet_from
from apq_tune.supernet.found_network import CostValue, FoundNetwork, Preprocessing
from apq_tune.supernet.kinds import supernet_of

KINDS = {"onnx": ".onnx", "torch": ".pt2", "c": ".c"} | (
    {"tflite": ".tflite"} if importlib.util.find_spec("ai_edge_litert") else {}
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of several sizes, none of which is one of the space."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number, shape in enumerate([(25, 33), (40, 31), (19, 19), (64, 48)] * 3):
            pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=[8, 16])
def network(request: pytest.FixtureRequest, photos: Path) -> FoundNetwork:
    data = SearchSpace.load("digits").to_dict()
    data["input"] = {"channels": 3, "size": [8, 12, 16]}
    space = space_for(str(photos), SearchSpace.from_dict(data))
    encoding, images = NetworkEncoding(space), torch.from_numpy(images_of(load_data(space).train, 50))
    assert images.shape[1:] == (3, 16, 16)  # read once, at the largest size
    torch.manual_seed(0)
    supernet = supernet_of(space)
    genome = encoding.sample(1, np.random.default_rng(2))
    genome[:, encoding.names.index("resolution")] = [8, 12, 16].index(request.param)
    (candidate,) = encoding.decode(genome)
    calibrate_quantizers(supernet, [lambda: supernet.recalibrate(images, candidate)])
    costs = {model.name: CostValue(float(model(genome)[0]), model.unit) for model in cost_models(encoding)}
    subnet = subnet_from(supernet, candidate, images, quantize=True)
    about = Preprocessing.of(space, ("cat", "dog"))
    return FoundNetwork(subnet, name="best", costs=costs, scores={}, preprocessing=about)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_takes_the_size_of_the_candidate_and_is_the_network(
    network: FoundNetwork, photos: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "c" and shutil.which("gcc") is None:
        pytest.skip("there is no gcc here to compile C with")
    size = network.candidate.resolution
    written = export(network, tmp_path / f"net{KINDS[kind]}", kind)
    file = open_file(written.path)
    assert (written.reads, file.reads, file.size) == ((3, size, size), size, 16)
    assert (written.agreement.share, written.agreement.images) == (1.0, "search images")
    test = load_data(network.space).test
    images = images_of(test, len(test.labels))
    nearest = 1e-5 if kind != "tflite" else 5e-3  # logits are int8
    assert np.median(np.abs(file.run(images) - network.logits(images))) < nearest
    own = resized(torch.from_numpy(images), size, size).numpy()
    np.testing.assert_array_equal(file.run(own), file.run(images))
    found = evaluate(written.path, data=str(photos))  # reads photos as a run does, then resizes
    assert found.accuracy == np.mean(network.logits(images).argmax(axis=1) == test.labels)
    print_exported(network, written, Screen())
    print_evaluation(found, Screen())
    said = capsys.readouterr().out
    line = f"reads images of 3 x {size} x {size}"
    line += "" if size == 16 else ", of preprocessed ones of 16 x 16 by antialiased bilinear interpolation"
    assert said.count(f"  {line}\n") == 2


def test_an_onnx_file_has_no_resize_and_says_what_it_reads(network: FoundNetwork, tmp_path: Path) -> None:
    model = parse_onnx(export(network, tmp_path / "net.onnx").path)
    size = network.candidate.resolution
    (image,) = model.graph.input
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim][1:] == [3, size, size]
    assert "Resize" not in {node.op_type for node in model.graph.node}
    assert '"size": 16, ' in (text := texts_of(model)["apq_tune.preprocessing"])
    assert f'"resolution": {size}' in text


def test_memory_and_latency_follow_the_size(network: FoundNetwork) -> None:
    encoding = NetworkEncoding(network.space)
    genomes = np.repeat(encoding.encode([network.candidate]), 3, axis=0)
    genomes[:, encoding.names.index("resolution")] = [0, 1, 2]
    of = {model.name: model(genomes) for model in cost_models(encoding)}
    for name in ("macs", "bit_ops", "peak_activation_bytes"):
        assert (np.diff(of[name]) > 0).all()
    assert len(set(of["weight_bytes"])) == 1


def test_the_command_says_it_too(network: FoundNetwork, photos: Path, tmp_path: Path) -> None:
    from apq_tune.cli import cli

    file = export(network, tmp_path / "net.onnx").path
    result = CliRunner().invoke(cli, ["evaluate", str(file), "--data", str(photos)])
    assert result.exit_code == 0, result.output
    size = network.candidate.resolution
    assert f"reads images of 3 x {size} x {size}" in result.output
