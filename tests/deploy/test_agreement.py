"""Trained networks of the digits: on the whole test set their file classifies as their simulation does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apq_tune import FoundNetwork, NetworkEncoding, load_data
from apq_tune.deploy import reference
from apq_tune.deploy.load import open_networks
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_file import read_onnx, write_onnx
from apq_tune.deploy.onnx_session import FLOAT_KERNELS, INTEGER_KERNELS, kernels, logits
from apq_tune.pipeline.finished import load_supernets
from apq_tune.supernet.qat import QATTask, train_candidate
from apq_tune.supernet.train import Training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def networks(finished_run: Path) -> list[FoundNetwork]:
    """The trained networks of a run, and the first of them with mixed bits, trained for an epoch."""
    opened = open_networks(finished_run)
    found = [opened.load(name) for name in opened.kept]
    supernet, encoding = load_supernets(finished_run).quantized, NetworkEncoding(opened.space)
    for number, candidate in enumerate(encoding.decode(encoding.sample(3, np.random.default_rng(5)))):
        result = train_candidate(supernet, QATTask(candidate, Training(epochs=1), (number,)))
        own = FoundNetwork(
            result.subnet,
            name=f"mixed {number}",
            costs=found[0].costs,
            scores={},
            preprocessing=found[0].preprocessing,
        )
        found.append(own)
    return found


def test_simulation_reference_and_onnxruntime_agree_on_the_test_set(
    networks: list[FoundNetwork], tmp_path: Path
) -> None:
    assert len(networks) >= 5
    widths = set()
    for network in networks:
        split = load_data(network.space).test
        images = network.preprocessing(split.images)
        path = tmp_path / f"{network.name}.onnx"
        write_onnx(network, path)
        model, program = read_onnx(path).model, program_of(network)
        with torch.no_grad():
            simulated = network(images).numpy()
        given = logits(model, images.numpy())
        np.testing.assert_array_equal(reference.run(program, images.numpy()), given)
        assert (simulated.argmax(axis=1) == given.argmax(axis=1)).mean() >= 0.999
        accuracy = [(values.argmax(axis=1) == split.labels).mean() for values in (simulated, given)]
        assert abs(accuracy[0] - accuracy[1]) <= 0.001
        found = kernels(model)
        assert sum(found[name] for name in FLOAT_KERNELS) == 0
        assert sum(found[name] for name in INTEGER_KERNELS) == sum(layer.op is not None for layer in network.layers)
        bits = {step.weights.bits for step in program.steps if hasattr(step, "weights")}
        widths |= bits
        print(f"{network.name}: {network.candidate}: accuracy {accuracy[0]:.4f} and {accuracy[1]:.4f}")
        if network.scores:
            assert path.stat().st_size <= 1.15 * network.costs["weight_bytes"].value + 20_000
    assert {2, 4, 8} <= widths
