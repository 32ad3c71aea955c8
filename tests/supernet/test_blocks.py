"""Blocks of every type in torch: the folded network is the elastic one, and costs are those of the modules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.cli import cli
from apq_tune.cost import bit_ops, macs
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.quantize import ActivationQuantizer, quantize_weight

STAGES = [
    {"channels": 8, "depth": [1, 2], "kernel_size": [3, 5]},
    {"channels": 12, "stride": 2, "depth": [1, 2]},
]
BITS = {
    "mbconv": ("pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits"),
    "residual": ("conv1_w_bits", "conv1_a_bits", "conv2_w_bits", "conv2_a_bits"),
    "fused_mbconv": ("fused_w_bits", "fused_a_bits", "pw_w_bits", "pw_a_bits"),
}


def space_of(block: str) -> SearchSpace:
    return SearchSpace.from_dict(
        {
            "format": 1,
            "name": block,
            "data": "digits",
            "block": block,
            "input": {"channels": 1, "size": 8},
            "classes": 10,
            "stem": {"channels": 8},
            "stages": copy.deepcopy(STAGES),
            "head": {"channels": 16},
            "choices": {"kernel_size": [3], "expand_ratio": [1, 2], **{key: [2, 4, 8] for key in BITS[block]}},
        }
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=list(BITS))
def supernet(request: pytest.FixtureRequest, images: Tensor) -> Supernet:
    space = space_of(request.param)
    torch.manual_seed(0)
    net = Supernet(space)
    with torch.no_grad():
        for name, parameter in net.named_parameters():  # batch norm and kernel matrices that do something
            if name.endswith(("gamma", "beta")) or "transforms" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    largest = NetworkEncoding(space).extremes()[1]
    calibrate_quantizers(net, [lambda: net(images, largest)])
    return net


def test_the_folded_network_gives_the_output_of_the_elastic_one(
    supernet: Supernet, images: Tensor, exact_biases: None
) -> None:
    encoding = NetworkEncoding(supernet.space)
    for candidate in (*encoding.decode(encoding.sample(5, np.random.default_rng(0))), *encoding.extremes()):
        statistics = supernet.recalibrate(images, candidate)
        with torch.no_grad():
            expected = supernet(images, candidate, statistics=statistics)
            given = supernet.extract(candidate, statistics)(images, quantize=False)
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
        statistics = supernet.recalibrate(images, candidate, quantize=True)
        with torch.no_grad():
            expected = supernet(images, candidate, quantize=True, statistics=statistics)
            given = supernet.extract(candidate, statistics)(images)
        assert (given - expected).abs().median() < 1e-5  # a value on the edge of a rounding step may fall either way
        assert expected.std() > 0.01


def test_macs_and_bit_ops_of_the_modules_are_those_of_the_cost_models(supernet: Supernet, images: Tensor) -> None:
    """Counted from tensors that flow through modules, whose bits are counted from their values."""
    encoding = NetworkEncoding(supernet.space)
    genomes = encoding.sample(4, np.random.default_rng(3))
    expected = np.stack([macs(encoding)(genomes), bit_ops(encoding)(genomes)], axis=1).tolist()
    for candidate, own in zip(encoding.decode(genomes), expected, strict=True):
        subnet = supernet.extract(candidate, supernet.recalibrate(images, candidate, quantize=True))
        bits_of: dict[int, tuple[int, Tensor]] = {}
        counted = [0, 0]

        def note(_: nn.Module, inputs: Any, output: Tensor, bits_of: Any = bits_of) -> None:
            assert len(output.unique()) <= 2 ** inputs[1]
            bits_of[id(output)] = inputs[1], output

        def count(module: Any, inputs: Any, output: Tensor, bits_of: Any = bits_of, counted: Any = counted) -> None:
            x, w_bits = inputs
            assert all(len(row.unique()) < 2**w_bits for row in quantize_weight(module.weight, w_bits))
            n = module.weight[0].numel() * output[0].numel()
            counted[0] += n
            counted[1] += n * w_bits * bits_of[id(x)][0]

        for module in subnet.modules():
            if isinstance(module, ActivationQuantizer):
                module.register_forward_hook(note)
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        subnet(images)
        assert counted == own


def test_sorting_channels_does_not_change_the_largest_network(supernet: Supernet, images: Tensor) -> None:
    net = copy.deepcopy(supernet)
    largest = NetworkEncoding(net.space).extremes()[1]
    before = [parameter.clone() for parameter in net.parameters()]
    with torch.no_grad():
        expected = net(images, largest)
        net.sort_channels()
        torch.testing.assert_close(net(images, largest), expected, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def by_hand(block: str, own: Any, x: Tensor, *, gated: bool) -> Tensor:
    """One block in full precision, as its paper has it."""
    if block == "residual":
        return own.conv2(functional.relu(own.conv1(x)))
    if block == "fused_mbconv":
        return own.project(functional.relu(own.fused(x)))
    y = functional.relu(own.depthwise(functional.relu(own.expand(x))))
    if gated:
        hidden = functional.relu(own.squeeze(y.mean(dim=(2, 3))))
        y = y * functional.hardsigmoid(own.excite(hidden))[:, :, None, None]
    return own.project(y)


@pytest.mark.parametrize(
    ("block", "gated"), [("mbconv", False), ("mbconv", True), ("residual", False), ("fused_mbconv", False)]
)
def test_a_network_computes_what_its_blocks_are_by_their_papers(block: str, gated: bool, images: Tensor) -> None:
    data = space_of(block).model_dump(mode="json", exclude_none=True)
    for part in (data["stem"], *data["stages"], data["head"]):
        part["activation"] = "relu"
    for stage in data["stages"]:
        stage["squeeze_excite"] = gated
    space = SearchSpace.from_dict(data)
    torch.manual_seed(1)
    net = Supernet(space)
    encoding = NetworkEncoding(space)
    for candidate in encoding.decode(encoding.sample(3, np.random.default_rng(4))):
        subnet: Any = net.extract(candidate, net.recalibrate(images, candidate))
        with torch.no_grad():
            x = functional.relu(subnet.stem(images))
            for own in subnet.blocks:
                y = by_hand(block, own, x, gated=gated)
                x = x + y if x.shape == y.shape else y
            expected = subnet.classifier(functional.relu(subnet.head(x)).mean(dim=(2, 3)))
            torch.testing.assert_close(subnet(images, quantize=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("block", ["residual", "fused_mbconv"])
def test_a_run_on_digits_works_from_end_to_end(block: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(space_of(block).to_yaml())
    quick = {
        "supernet.epochs": 1,
        "quantized.epochs": 1,
        "supernet.images": 256,
        "quantized.images": 256,
        "n_fp32": 10,
        "n_proxy": 10,
        "n_pairs": 10,
        "folds": 2,
        "pair.epochs": 1,
        "pair.images": 128,
        "final.epochs": 1,
        "final.images": 256,
        "n_evaluations": 100,
        "n_front": 2,
    }
    settings = [f"--set={name}={value}" for name, value in quick.items()]
    out = tmp_path / "run"
    result = CliRunner().invoke(cli, ["run", str(tmp_path / "own.yaml"), "--seed=3", f"--out={out}", *settings])
    assert result.exit_code == 0, result.output
    assert "k3c" in result.output
    assert yaml.safe_load((tmp_path / "own.yaml").read_text())["block"] == block
