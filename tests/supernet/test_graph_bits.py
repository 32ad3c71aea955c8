"""Networks of traced models at many policies: nothing is computed twice, and tables and steps are the model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apq_tune import CalibratedModel, Constraint, ModelEncoding, ModelError, ModelSpace, measure_sensitivity
from apq_tune.methods.bit_program import one_gene_lower, open_bits
from apq_tune.problem.costs import Costs
from apq_tune.supernet import graph_forward
from apq_tune.supernet.graph_subnet import GraphSubnet
from apq_tune.supernet.sensitivity import encoded, tensor_errors
from tests.tracing.zoo import example_of, network


def quantized(name: str) -> tuple[GraphSubnet, Tensor]:
    """Network of the zoo with trained weights that have long tails, calibrated, and images."""
    module, images = network(name), example_of(name, 6)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 4:
                parameter.mul_(1 + parameter.abs() / parameter.std())
    space = ModelSpace.from_module(module, example_of(name), step=1, least=0.5)
    model = CalibratedModel.of(space, module.state_dict(), images)
    return model.subnet(ModelEncoding(space).extremes()[1]), images


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "shufflenet", "densenet", "senet"])
def test_layers_that_are_not_computed_again_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subnet, images = quantized(name)
    encoding, genome = encoded(subnet)
    genomes, _ = one_gene_lower(encoding, genome)
    rng = np.random.default_rng(0)
    candidates = encoding.decode(genomes[[0, *rng.permutation(len(genomes))[:8]]])
    candidates.append(encoding.decode(encoding.at_bits(genome[None], 4))[0])
    candidates.append(candidates[0])
    computed: list[str] = []
    real = graph_forward._LayerRun.output

    def output(self: Any, layer: Any, inputs: Any) -> Tensor:
        computed.append(layer.name)
        return real(self, layer, inputs)

    monkeypatch.setattr(graph_forward._LayerRun, "output", output)
    run = subnet.on(images)
    with torch.no_grad():
        for number, candidate in enumerate(candidates):
            computed.clear()
            found = run(candidate)
            n = len(computed)
            assert torch.equal(found, subnet(images, bits=candidate)), candidate
            assert n == (len(subnet.network.fused) if number == 0 else n)
            assert number in (0, len(candidates) - 2) or n < len(subnet.network.fused)
        assert n == 0  # the first one again


def test_a_table_of_a_model_leads_to_bits_within_the_limits_that_lose_less_than_uniform_ones() -> None:
    subnet, images = quantized("mobilenet_v2")
    encoding, genome = encoded(subnet)
    table = measure_sensitivity(subnet, images)
    assert sorted(table.losses) == open_bits(encoding, genome).tolist()
    costs = Costs.of(encoding).metrics
    uniform = encoding.at_bits(genome[None], 4)
    limits = [Constraint(costs[name], float(costs[name](uniform)[0])) for name in ("weight_bytes", "bit_ops")]
    chosen = encoding.encode(table.best(limits))
    assert all(limit.metric(chosen)[0] <= limit.bound for limit in limits)

    def added(one: np.ndarray) -> float:
        return float(sum(row[one[0, gene]] for gene, row in table.losses.items()))

    assert added(chosen) < added(uniform)


def test_errors_of_tensors_are_those_of_the_fitted_steps_and_of_the_stored_inputs() -> None:
    subnet, images = quantized("resnet8")
    encoding, _ = encoded(subnet)
    errors = tensor_errors(subnet, images)
    for gene, row in errors.items():
        assert (np.diff(row) < 0).all() and row[-1] == 0, encoding.names[gene]
    name = next(name for name in subnet.weighted() if f"{name} w_bits" in encoding.names)
    weights, bits = subnet.weighted()[name], encoding.choices[encoding.names.index(f"{name} w_bits")][0]
    weight, qmax = weights.weight.detach().flatten(1), 2 ** (bits - 1) - 1
    shares = torch.linspace(0.05, 1, 400)[:, None, None]  # a finer grid than the one that fits the steps
    steps = weight.abs().amax(1, keepdim=True) * shares / qmax
    squares = ((weight / steps).round().clamp(-qmax, qmax) * steps - weight).square().sum(2).amin(0).sum()
    expected = float(squares / weight.square().sum())
    assert expected <= errors[encoding.names.index(f"{name} w_bits")][0] <= 1.1 * expected


def test_a_calibrated_model_is_the_users_in_full_precision_and_close_to_it_at_8_bits() -> None:
    module, images = network("mobilenet_v2"), example_of("mobilenet_v2", 8)
    space = ModelSpace.from_module(module, images[:1], w_bits=(4, 8), a_bits=(4, 8))
    model = CalibratedModel.of(space, module.state_dict(), images)
    encoding = ModelEncoding(space)
    largest = encoding.encode([encoding.extremes()[1]])
    with torch.no_grad():
        full = module(images)
        assert torch.allclose(model.logits(images), full, atol=1e-4)
        errors = []
        for bits in (8, 4):
            (candidate,) = encoding.decode(encoding.at_bits(largest, bits))
            errors.append(float((model.subnet(candidate)(images) - full).norm() / full.norm()))
    assert errors[0] < min(0.01, errors[1])
    with pytest.raises(ModelError, match=r"images: have the shape \(1, 3, 32, 32\); give two or more of \(3, 32, 32\)"):
        CalibratedModel.of(space, module.state_dict(), images[:1])


def test_a_table_as_a_data_frame_has_a_row_for_each_bit_width_of_each_gene() -> None:
    subnet, images = quantized("resnet8")
    table = measure_sensitivity(subnet, images)
    frame = table.to_dataframe()
    assert len(frame) == sum(len(row) for row in table.losses.values())
    assert (frame.groupby("gene")["bits"].max() == 8).all()
    assert (frame.loc[frame["bits"] == 8, "divergence"] == 0).all()
