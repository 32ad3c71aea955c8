"""Supernets with gates: with the gates of one network they are that network, and gradients are finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apq_tune import CalibratedModel, ModelSpace, NetworkEncoding, SearchSpace
from apq_tune.searchers.gates.draws import Gates, fixed_gates
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.gated_blocks import GatedBlocks
from apq_tune.supernet.gated_graph import GatedGraph
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.quantize import quantize_weight
from tests.supernet.test_blocks import space_of
from tests.tracing.zoo import example_of, network


def most(encoding: Any) -> int:
    return int(encoding.n_choices.max())


def supernet_and_images(space: SearchSpace, n: int = 6) -> tuple[Supernet, Tensor]:
    torch.manual_seed(0)
    supernet, images = Supernet(space), torch.rand(n, space.input.channels, 8, 8)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if "gamma" in name or "beta" in name or "transforms" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    largest = NetworkEncoding(space).extremes()[1]
    calibrate_quantizers(supernet, [lambda: supernet(images, largest)])
    return supernet.double(), images.double()


def with_(space: SearchSpace, **changes: Any) -> SearchSpace:
    return SearchSpace.from_dict(space.model_dump(mode="json", exclude_none=True) | changes)


SPACES = {
    "mbconv": space_of("mbconv"),
    "residual": space_of("residual"),
    "fused_mbconv": space_of("fused_mbconv"),
    "sizes": with_(space_of("mbconv"), input={"channels": 1, "size": [6, 8]}),
    "squeeze_excite": with_(
        space_of("mbconv"),
        stages=[
            {"channels": 8, "depth": [1, 2], "kernel_size": [3, 5], "squeeze_excite": True, "activation": "h_swish"},
            {"channels": 12, "stride": 2, "depth": [1, 2], "squeeze_excite": True},
        ],
    ),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("quantize", [True, False])
def test_gates_of_one_network_run_that_network(name: str, quantize: bool) -> None:
    space = SPACES[name]
    encoding = NetworkEncoding(space)
    supernet, images = supernet_and_images(space)
    gated = GatedBlocks(supernet)
    genomes = encoding.sample(4, np.random.default_rng(0))
    with torch.no_grad():
        for genome, candidate in zip(genomes, encoding.decode(genomes), strict=True):
            gates = fixed_gates(genome, most(encoding))
            found = gated(images, gates, quantize=quantize)
            torch.testing.assert_close(found, supernet(images, candidate, quantize=quantize), rtol=1e-6, atol=1e-8)
            every = Gates(gates.values, np.arange(most(encoding)) < encoding.n_choices[:, None])  # all run, one counts
            torch.testing.assert_close(gated(images, every, quantize=quantize), found, rtol=1e-5, atol=1e-7)


def test_gradients_of_gates_are_finite_differences() -> None:
    space = SPACES["squeeze_excite"]
    encoding = NetworkEncoding(space)
    supernet, images = supernet_and_images(space, 3)
    gated = GatedBlocks(supernet)
    used = np.arange(most(encoding)) < encoding.n_choices[:, None]
    rng = np.random.default_rng(2)
    values = torch.from_numpy(np.where(used, rng.dirichlet(np.ones(most(encoding)), encoding.n_genes), 0.0))

    def loss(values: Tensor) -> Tensor:
        return gated(images, Gates(values, used), quantize=False).square().mean()  # steps of quantizers have no slope

    values.requires_grad_()
    (own,) = torch.autograd.grad(loss(values), values)
    kinds = set()
    for gene in rng.permutation(encoding.n_genes)[:24]:
        if encoding.genes[gene].kind in ("w_bits", "a_bits"):
            assert not own[gene].any()  # full precision
            continue
        kinds.add(encoding.genes[gene].kind)
        for value in range(encoding.n_choices[gene]):
            shift = torch.zeros_like(values)
            shift[gene, value] = 1e-5
            with torch.no_grad():
                slope = float(loss(values + shift) - loss(values - shift)) / 2e-5
            assert float(own[gene, value]) == pytest.approx(slope, rel=1e-4, abs=1e-9)
    assert kinds == {"depth", "kernel", "width"}


def test_the_gradient_of_bits_is_that_of_the_weights_along_the_line_between_two_widths() -> None:
    space = SPACES["mbconv"]
    encoding = NetworkEncoding(space)
    supernet, images = supernet_and_images(space, 3)
    gated = GatedBlocks(supernet)
    gene = encoding.names.index("1.1 dw_w_bits")
    genome = encoding.ends()[1]
    start = fixed_gates(genome, most(encoding))
    used = start.used.copy()
    used[gene, 1] = True
    values = start.values.clone().requires_grad_()
    gated(images, Gates(values, used)).square().mean().backward()
    slope = float(values.grad[gene, 1] - values.grad[gene, 2])
    # The same derivative by hand: the gradient of the quantized weights, times the difference of the two.
    block: Any = supernet.blocks[0]
    weight = block.depthwise.weight
    for parameter in supernet.parameters():
        parameter.grad = None
    (candidate,) = encoding.decode(genome[None])
    supernet(images, candidate, quantize=True).square().mean().backward()
    with torch.no_grad():
        four, eight = (quantize_weight(weight, bits) for bits in (4, 8))
    assert slope == pytest.approx(float((weight.grad * (four - eight)).sum()), rel=1e-6)
    assert slope != 0


CONCATENATING = ("shufflenet", "unet", "split")
"""Their tensors are quantized before and behind concatenations, with gates behind them only."""

MODELS = ("resnet14", "mobilenet_v2", "densenet", "senet", "plain_vgg", "grouped", *CONCATENATING)


def graph_and_images(name: str, **options: Any) -> tuple[GraphSupernet, GeneEncoding, Tensor]:
    module, images = network(name), example_of(name, 4)
    space = ModelSpace.from_module(module, example_of(name), step=4, least=0.5, **options)
    model = CalibratedModel.of(space, module.state_dict(), images)
    return model.supernet.double(), encoding_of(space), images.double()


@pytest.mark.parametrize("name", MODELS)
def test_gates_of_one_network_of_a_model_run_that_network(name: str) -> None:
    supernet, encoding, images = graph_and_images(name)
    gated = GatedGraph(supernet)
    rng = np.random.default_rng(0)
    genomes = encoding.sample(2, rng)
    with torch.no_grad():
        for genome, candidate in zip(genomes, encoding.decode(genomes), strict=True):
            gates = fixed_gates(genome, most(encoding))
            every = Gates(gates.values, np.arange(most(encoding)) < encoding.n_choices[:, None])
            expected = supernet(images, candidate)
            torch.testing.assert_close(gated(images, gates, quantize=False), expected, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(gated(images, every, quantize=False), expected, rtol=1e-6, atol=1e-8)
            # Quantized, if readers of a tensor agree about its bits and no block is left out.
            bits = encoding.places_of(["a_bits"])
            genome[encoding.places_of(["depth"])] = 1
            genome[bits] = (
                encoding.n_choices[bits] - 1 if name in CONCATENATING else rng.integers(encoding.n_choices[bits[0]])
            )
            (candidate,) = encoding.decode(genome[None])
            gates = fixed_gates(genome, most(encoding))
            every = Gates(gates.values, np.arange(most(encoding)) < encoding.n_choices[:, None])
            expected, found = supernet(images, candidate, quantize=True), gated(images, gates)
            if name in CONCATENATING:
                assert float((found - expected).norm() / expected.norm()) < 0.1
            else:
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(gated(images, every), found, rtol=1e-6, atol=1e-8)


def test_gradients_of_gates_of_a_model_are_finite_differences() -> None:
    supernet, encoding, images = graph_and_images("resnet14")
    gated = GatedGraph(supernet)
    used = np.arange(most(encoding)) < encoding.n_choices[:, None]
    rng = np.random.default_rng(2)
    values = torch.from_numpy(np.where(used, rng.dirichlet(np.ones(most(encoding)), encoding.n_genes), 0.0))

    def loss(values: Tensor) -> Tensor:
        return gated(images, Gates(values, used), quantize=False).square().mean()

    values.requires_grad_()
    (own,) = torch.autograd.grad(loss(values), values)
    for gene in encoding.places_of(["depth", "width"])[::2]:
        for value in range(encoding.n_choices[gene]):
            shift = torch.zeros_like(values)
            shift[gene, value] = 1e-7
            with torch.no_grad():
                slope = float(loss(values + shift) - loss(values - shift)) / 2e-7
            assert float(own[gene, value]) == pytest.approx(slope, rel=1e-4, abs=1e-8)
            assert slope != 0
