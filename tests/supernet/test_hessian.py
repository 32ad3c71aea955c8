"""Hutchinson's traces against exact ones, and sensitivities against the rise of the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from apq_tune import ModelSpace, NetworkEncoding, SearchSpace
from apq_tune.methods.bit_program import open_bits
from apq_tune.space.encodings import encoding_of
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.hessian import forward_passes, hessian_table, layer_omegas, traces
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.kinds import supernet_of
from apq_tune.supernet.quantize import quantize_weight
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import ResNet

N, PROBES = 6, 250


@pytest.fixture(scope="module", params=["blocks", "graph"])
def subnet(request: pytest.FixtureRequest) -> AnySubnet:
    torch.manual_seed(0)
    if request.param == "graph":
        space = ModelSpace.of_graph(trace(ResNet(1, widths=(4, 4, 8)), torch.zeros(1, 3, 6, 6)))
    else:
        data = SearchSpace.load("digits").to_dict()
        data |= {"stem": {"channels": 4}, "head": {"channels": 8}, "input": {"channels": 3, "size": 6}}
        data["stages"] = [{"channels": 8, "stride": 2, "depth": [2]}]
        space = SearchSpace.from_dict(data)
    supernet, images = supernet_of(space), torch.rand(64, 3, 6, 6)
    with torch.no_grad():
        for parameter in supernet.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.rand_like(parameter))
    return subnet_from(supernet, encoding_of(space).extremes()[1], images, quantize=False).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(N, 3, 6, 6), torch.randint(0, 10, (N,))


def test_traces_of_the_classifier_are_those_of_the_closed_form(subnet: AnySubnet, batch) -> None:
    images, labels = batch
    name, module = list(subnet.weighted().items())[-1]
    quantizer, seen = subnet.input_quantizers()[name], []
    hook = quantizer.register_forward_hook(lambda _, __, output: seen.append(output.detach().flatten(1)))
    p = subnet(images, quantize=False).softmax(1).detach()
    hook.remove()
    x, w = seen[-1].double(), module.weight.detach().flatten(1).double()
    p = p.double()
    of_weights = ((p * (1 - p)).sum(1) * (x**2).sum(1)).mean() / w.numel()
    second = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    of_inputs = torch.einsum("kj,nkl,lj->n", w, second, w).mean() / w.shape[1]
    found = traces(subnet, images, labels, ("w_bits", "a_bits"), probes=PROBES)
    assert set(found.weights) == set(found.inputs) == set(subnet.weighted())
    for samples, exact in ((found.weights[name], of_weights), (found.inputs[name], of_inputs)):
        error = samples.std(ddof=1) / np.sqrt(PROBES)
        assert samples.mean() == pytest.approx(float(exact), abs=4 * error)
        assert error < 0.25 * float(exact)


def test_traces_of_all_layers_are_those_of_the_whole_hessian(subnet: AnySubnet, batch) -> None:
    images, labels = batch
    found = traces(subnet, images, labels, ("w_bits",), probes=PROBES, seed=3)
    layers = list(subnet.weighted().items())[1:4]
    for name, module in layers:
        loss = functional.cross_entropy(subnet(images, quantize=False), labels)
        (gradient,) = torch.autograd.grad(loss, [module.weight], create_graph=True)
        exact = 0.0
        for place, value in enumerate(gradient.flatten()):
            (row,) = torch.autograd.grad(value, [module.weight], retain_graph=True)
            exact += float(row.flatten()[place])
        samples = found.weights[name]
        error = samples.std(ddof=1) / np.sqrt(PROBES)
        assert samples.mean() == pytest.approx(exact / module.weight.numel(), abs=4 * error + 1e-12)


def test_images_in_parts_are_all_images(subnet: AnySubnet, batch, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = traces(subnet, *batch, ("a_bits",), probes=PROBES)
    monkeypatch.setattr("apq_tune.supernet.hessian.AT_ONCE", 4)  # parts of 4 and 2
    parts = traces(subnet, *batch, ("a_bits",), probes=PROBES)
    for name, samples in whole.inputs.items():
        error = np.hypot(samples.std(ddof=1), parts.inputs[name].std(ddof=1)) / np.sqrt(PROBES)
        assert parts.inputs[name].mean() == pytest.approx(samples.mean(), abs=4 * error + 1e-12)


def test_sensitivities_are_traces_times_squared_errors_of_the_layers_of_a_gene(subnet: AnySubnet, batch) -> None:
    encoding = encoding_of(subnet.space)
    genome = encoding.encode([subnet.candidate], check=False)[0]
    table = hessian_table(subnet, *batch, probes=8, seed=5)
    assert set(table) == set(open_bits(encoding, genome).tolist())
    for gene, row in table.items():
        assert row[-1] == 0
        assert (np.diff(row) < 0).all(), encoding.genes[gene].name
    if isinstance(encoding, NetworkEncoding):
        found = traces(subnet, *batch, ("w_bits", "a_bits"), probes=8, seed=5)
        (gene,) = (g for g in table if encoding.genes[g].name == "1.1 dw_w_bits")
        name = next(name for name in found.weights if "1.1" in name and "depthwise" in name)
        weight = subnet.weighted()[name].weight.detach()
        errors = [float((quantize_weight(weight, bits) - weight).square().sum()) for bits in encoding.choices[gene]]
        means = [samples.mean() for samples in found.weights.values()]
        mean = max(found.weights[name].mean(), min(mean for mean in means if mean > 0))  # an estimate may be negative
        expected = mean * (np.array(errors) - errors[-1])
        np.testing.assert_allclose(table[gene], expected, rtol=1e-5)


def test_the_network_is_left_as_it_was(subnet: AnySubnet, batch) -> None:
    before = subnet(batch[0]).detach()
    hessian_table(subnet, *batch, probes=2)
    assert torch.equal(subnet(batch[0]), before)
    assert all(parameter.grad is None for parameter in subnet.parameters())
    assert not any(module._forward_hooks for module in subnet.modules())


def test_the_price_grows_with_images_probes_and_kinds() -> None:
    assert forward_passes(10, ("w_bits",), probes=2) == 10 * (3 + 2 * 4)
    assert forward_passes(10, ("w_bits", "a_bits"), probes=2) == 2 * forward_passes(10, ("w_bits",), probes=2)
    assert forward_passes(10, ()) == 0


def test_omegas_of_layers_add_up_to_those_of_the_genes_that_they_share(subnet: AnySubnet, batch) -> None:
    images, labels = batch
    encoding = encoding_of(subnet.space)
    by_gene = hessian_table(subnet, images, labels, probes=2)
    metric = layer_omegas(subnet, images, labels, probes=2).metric(encoding)
    top = encoding.at_largest(encoding.encode([subnet.candidate], check=False), ("w_bits", "a_bits"))
    genomes = np.repeat(top, 5, axis=0)
    rng = np.random.default_rng(0)
    for gene in by_gene:
        genomes[:, gene] = rng.integers(encoding.n_choices[gene], size=5)
    expected = sum(values[genomes[:, gene]] for gene, values in by_gene.items())
    np.testing.assert_allclose(metric(genomes) - metric(top), expected, rtol=1e-9, atol=1e-12)
