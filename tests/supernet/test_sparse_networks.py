"""Networks with a sparsity gene: zeros of extracted, trained and exported weights, and costs against counts of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune import ModelSpace, SearchSpace
from apq_tune.cost import cost_models
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.program import WeightedStep
from apq_tune.network.layer import Op
from apq_tune.space.encodings import encoding_of
from apq_tune.sparsity.footprint import footprint
from apq_tune.supernet import folded, graph_subnet
from apq_tune.supernet.evaluate import calibrate_quantizers, subnet_from
from apq_tune.supernet.interfaces import AnySubnet, AnySupernet
from apq_tune.supernet.kinds import supernet_of
from apq_tune.supernet.masks import largest_weights, pruned
from apq_tune.supernet.quantize import quantize_weight, weight_step
from tests.conftest import TINY
from tests.deploy.random_programs import faults_of, in_onnxruntime
from tests.space.test_block_types import MIXED
from tests.tracing.zoo import example_of, network

IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def with_choices(space: dict[str, Any], **choices: Any) -> SearchSpace:
    return SearchSpace.from_dict(space | {"choices": space["choices"] | choices})


SHARES = {"pw_sparsity": [0, 0.3, 0.9], "dw_sparsity": [0, 0.5]}
OF_MODELS: dict[str, dict[str, Any]] = {
    "resnet8": {"sparsity": [0, 0.5, 0.75], "genes": {"fc": {"sparsity": [0.6]}}},
    "mobilenet_v2": {"sparsity": [0, "1:4", "2:4"]},
}
SPACES = ("tiny", "pattern", "mixed", *OF_MODELS)


@functools.lru_cache
def supernet(name: str) -> tuple[AnySupernet, Tensor]:
    """Supernet with calibrated quantizers, and images."""
    torch.manual_seed(0)
    images = IMAGES
    if name in OF_MODELS:
        module, images = network(name), example_of(name, 16)
        space = ModelSpace.from_module(module, example_of(name), step=1, least=0.3, **OF_MODELS[name])
        own: Any = supernet_of(space)
        own.load_model(module.state_dict())
    else:
        mixed = {"conv1_sparsity": [0, 0.4], "conv2_sparsity": ["2:3"], "fused_sparsity": [0, "2:4", "3:4"]}
        spaces = {
            "tiny": with_choices(TINY, **SHARES),
            "pattern": with_choices(TINY, pw_sparsity=[0, "2:4"]),
            "mixed": with_choices(MIXED | {"input": {"channels": 3, "size": 8}}, **mixed),
        }
        own = supernet_of(spaces[name])
    candidates = encoding_of(own.space).decode(encoding_of(own.space).sample(3, np.random.default_rng(0)))
    calibrate_quantizers(own, [functools.partial(own.recalibrate, images, one) for one in candidates])
    return own, images


def subnets(name: str, n: int = 4) -> Iterator[tuple[np.ndarray[Any, Any], AnySubnet]]:
    """Random genomes and their stand-alone networks, the smallest one first."""
    own, images = supernet(name)
    encoding = encoding_of(own.space)
    genomes = np.concatenate([encoding.ends()[:1], encoding.sample(n, np.random.default_rng(1))])
    for genome in genomes[encoding.is_allowed(genomes)]:
        yield genome, subnet_from(own, encoding.decode(genome[None])[0], images, quantize=True)


def ops_of(subnet: AnySubnet) -> dict[str, Op]:
    return {layer.name: layer.op for layer in subnet.layers if layer.op is not None}


def bits_counted(weight: Tensor, op: Op) -> int:
    """Bits of a layer's weights, counted one by one: a bitmap, or values with places, or dense if that is less."""
    kept, bits = weight != 0, int(op.w_bits)
    if op.sparse_group == 1:
        sparse = kept.numel() + bits * int(kept.sum())
    else:
        group, sparse = op.sparse_group, 0
        n_values = round((1 - op.sparsity) * group)
        for filter_ in kept:
            for tap in filter_.flatten(1).T if filter_.ndim > 1 else [filter_]:
                parts = [tap[i : i + group] for i in range(0, len(tap), group)]
                assert all(int(part.sum()) == min(n_values, len(part)) for part in parts)
                sparse += len(parts) * n_values * (bits + int(np.ceil(np.log2(group))))
    return min(sparse, bits * kept.numel()) if op.sparsity else bits * kept.numel()


@pytest.mark.parametrize("name", SPACES)
def test_costs_are_those_of_the_extracted_weights_counted_one_by_one(name: str) -> None:
    encoding = encoding_of(supernet(name)[0].space)
    costs = cost_models(encoding)
    assert [cost.name for cost in costs][-1] == "sparse_macs"
    for genome, subnet in subnets(name):
        ops = ops_of(subnet)
        n_bytes = work = dense = 0.0
        for layer, module in subnet.weighted().items():
            op, kept = ops[layer], int((module.weight != 0).sum())
            pixels = op.out_size * (op.out_size if op.out_width is None else op.out_width)
            n_bytes += bits_counted(module.weight, op) / 8 + 8 * op.out_channels
            work += kept * pixels
            dense += module.weight.numel() * pixels
            if op.sparsity and op.sparse_group == 1:
                assert module.weight.numel() - kept == round(op.sparsity * module.weight.numel())
        found = {cost.name: float(cost(genome[None])[0]) for cost in costs}
        assert (found["sparse_macs"], found["macs"]) == (work, dense)
        if name not in OF_MODELS:  # these have batch norm that cannot be folded
            assert found["weight_bytes"] == n_bytes
        for cost in costs:
            assert cost.reach.low <= found[cost.name] <= cost.reach.high
        own = footprint(subnet, storage="bitmap")
        if "pattern" not in name and name not in ("mixed", "mobilenet_v2"):
            smaller = sum(min(row.stored_bits, row.bits * row.weights) for row in own.layers) / 8 + own.other_bytes
            assert smaller <= found["weight_bytes"]  # values that are rounded to zero are zeros, too


@pytest.mark.parametrize("name", SPACES)
def test_stand_alone_networks_are_those_of_the_supernet(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, images = supernet(name)

    def without_biases(weight: Tensor, bias: Tensor, bits: int, _: Any, factor: Tensor | None = None) -> Any:
        return quantize_weight(weight, bits, factor), bias  # which the supernet does not round

    for module in (folded, graph_subnet):
        monkeypatch.setattr(module, "quantized", without_biases)
    for _, subnet in subnets(name, 3):
        candidate = subnet.candidate
        for quantize in (False, True):
            statistics = own.recalibrate(images, candidate, quantize=quantize)
            expected = own(images, candidate, quantize=quantize, statistics=statistics)
            got = own.extract(candidate, statistics)(images, quantize=quantize)
            error = ((got - expected).std() / expected.std()).item()
            assert error < (0.1 if quantize else 1e-4)  # a few values between two levels are rounded otherwise


@pytest.mark.parametrize("name", ["tiny", "pattern", "resnet8"])
def test_zeros_stay_exact_zeros_in_training_and_in_integers(name: str) -> None:
    images = supernet(name)[1]
    labels = torch.arange(16) % 4
    _, subnet = next(iter(subnets(name)))
    zeros = {layer: module.weight == 0 for layer, module in subnet.weighted().items()}
    before = {layer: module.weight.detach().clone() for layer, module in subnet.weighted().items()}
    assert any(own.any() for own in zeros.values())
    for optimizer in (
        torch.optim.SGD(subnet.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-2),
        torch.optim.AdamW(subnet.parameters(), 1e-3),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            functional.cross_entropy(subnet(images), labels).backward()
            optimizer.step()
    for layer, module in subnet.weighted().items():
        assert torch.equal(module.weight == 0, zeros[layer])
        assert not torch.equal(module.weight, before[layer])
    program = program_of(subnet.eval())
    steps = {step.name: step for step in program.steps if isinstance(step, WeightedStep)}
    for layer, own in zeros.items():
        values = steps[layer].weights.values
        assert not values[own.reshape(values.shape).numpy()].any()
    assert list(faults_of(program, in_onnxruntime(program, images.numpy()))) == []


def test_without_zeros_everything_is_as_in_a_space_without_the_gene() -> None:
    dense, sparse = SearchSpace.from_dict(TINY), with_choices(TINY, **SHARES)
    own, other = encoding_of(dense), encoding_of(sparse)
    genomes = own.sample(20, np.random.default_rng(0))
    rows = [dense.values_of(candidate) for candidate in own.decode(genomes)]
    candidates = [
        sparse.candidate_of(row | {gene.name: 0 for gene in sparse.genes if gene.kind == "sparsity"}) for row in rows
    ]
    same = other.encode(candidates)
    expected = {cost.name: cost(genomes).tolist() for cost in cost_models(own)}
    costs = {cost.name: cost(same).tolist() for cost in cost_models(other)}
    assert costs == expected | {"sparse_macs": expected["macs"]}
    torch.manual_seed(0)
    one = supernet_of(dense)
    torch.manual_seed(0)
    two = supernet_of(sparse)
    two.load_state_dict(one.state_dict())  # same parameters and quantizers
    for mine, yours in zip(own.decode(genomes[:3]), candidates, strict=False):
        assert torch.equal(one(IMAGES, mine, quantize=True), two(IMAGES, yours, quantize=True))
        a, b = (subnet_from(net, which, IMAGES, quantize=True) for net, which in ((one, mine), (two, yours)))
        assert torch.equal(a(IMAGES), b(IMAGES))


def test_steps_that_fit_a_users_weights_are_those_of_what_is_left_of_them() -> None:
    own, images = supernet("resnet8")
    encoding = encoding_of(own.space)
    genomes = encoding.ends()[:1]
    sparse, dense = encoding.decode(np.concatenate([genomes, encoding.at_largest(genomes, ["sparsity"])]))
    statistics = own.recalibrate(images, sparse)
    one, two = (own.extract(candidate, statistics).weighted() for candidate in (sparse, dense))
    pruned_layers = [name for name in one if (one[name].weight == 0).sum() > (two[name].weight == 0).sum()]
    assert len(pruned_layers) > 3
    for name in pruned_layers:
        left = (one[name].weight != 0).flatten(1).any(dim=1)  # channels that are pruned whole need no step
        steps = [weight_step(own[name].weight, 8, own[name].factor(8))[left] for own in (one, two)]
        torch.testing.assert_close(*steps)


def test_pruned_weights_have_gradients_in_the_supernet_so_that_they_come_back() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, -1.0, 0.5, 2.0]]))
    pruned(weight, 0.5).square().sum().backward()
    assert pruned(weight, 0.5).tolist() == [[3.0, 0.0, 0.0, 2.0]]
    assert weight.grad is not None and weight.grad.tolist() == [[6.0, 0.0, 0.0, 4.0]]  # of the network as it is
    pruned(weight, 0.5).sum().backward()
    assert weight.grad.tolist() == [[7.0, 1.0, 1.0, 5.0]]
    with torch.no_grad():
        weight[0, 1] = -9.0
    assert pruned(weight, 0.5).tolist() == [[3.0, -9.0, 0.0, 0.0]]
    assert pruned(weight, 0) is weight


@pytest.mark.parametrize(("group", "kept"), [(4, 2), (4, 1), (3, 2), (5, 4)])
def test_patterns_keep_the_largest_of_each_group_the_last_one_included(group: int, kept: int) -> None:
    weight = torch.randn(3, 7, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = largest_weights(weight, round(1 - kept / group, 4), group)
    for out in range(3):
        for y in range(2):
            for x in range(2):
                for start in range(0, 7, group):
                    own = weight[out, start : start + group, y, x].abs()
                    best = set(own.argsort(descending=True)[:kept].tolist())
                    assert set(mask[out, start : start + group, y, x].nonzero().flatten().tolist()) == best
