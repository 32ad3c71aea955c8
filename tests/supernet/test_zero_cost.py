"""Zero-cost proxies against closed forms of a network of two layers, and laws of others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from apq_tune import LayerTable, ModelSpace, Objective, Problem, ProblemError, SearchSpace, search
from apq_tune.cost.parameters import parameters
from apq_tune.space.encodings import encoding_of
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.kinds import supernet_of
from apq_tune.supernet.zero_cost import PROXIES, ZeroCostProxy, jacobian_covariance, layer_statistics, synflow
from apq_tune.tracing.trace import trace

N = 5


@pytest.fixture(scope="module")
def two_layers():
    """Linear layer (a convolution over the whole image), ReLU6, linear layer; and a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.ReLU6(), nn.Flatten(), nn.Linear(3, 4, bias=False))
    space = ModelSpace.of_graph(trace(model.eval(), torch.zeros(1, 1, 2, 2)), step=3, ends=None, w_bits=[4, 8])
    supernet = supernet_of(space)
    images, labels = torch.randn(N, 1, 2, 2), torch.tensor([0, 1, 2, 3, 0])
    subnet = subnet_from(supernet, encoding_of(space).extremes()[1], images, quantize=False).eval()
    with torch.no_grad():
        for module in subnet.weighted().values():
            if module.bias is not None:
                module.bias.zero_()
    return subnet, images, labels


def test_statistics_of_two_layers_are_those_by_hand(two_layers) -> None:
    subnet, images, labels = two_layers
    one, two = (module.weight.detach().flatten(1).double().numpy() for module in subnet.weighted().values())
    x = images.flatten(1).double().numpy()
    h = np.clip(x @ one.T, 0, 6)
    z = h @ two.T
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    error = (p - np.eye(4)[labels]) / N
    d_two = error.T @ h
    back = (error @ two) * ((h > 0) & (h < 6))
    d_one = back.T @ x
    found = layer_statistics(subnet, images, labels)
    names = list(subnet.weighted())
    for name, w, dw in zip(names, (one, two), (d_one, d_two), strict=True):
        assert found["snip"][name] == pytest.approx(np.abs(w * dw).sum(), rel=1e-4)
        assert found["grad_norm"][name] == pytest.approx(np.sqrt((dw**2).sum()), rel=1e-4)
    of_units = N * h * (error @ two)
    assert found["fisher"][names[1]] == pytest.approx((of_units**2).sum() / (2 * N), rel=1e-4)
    of_image = N * (x * (back @ one)).sum(1)
    assert found["fisher"][names[0]] == pytest.approx((of_image**2).sum() / (2 * N), rel=1e-4)
    flow = (np.abs(two) @ np.abs(one)).sum()
    assert list(found["synflow"].values()) == pytest.approx([flow, flow])
    jacobian = np.stack([((two * ((row > 0) & (row < 6))) @ one).sum(0) for row in h])
    alive = (jacobian != 0).any(1)
    values = np.linalg.eigvalsh(np.corrcoef(jacobian[alive])) + 1e-5
    expected = -(np.log(values) + 1 / values).sum()
    assert alive.sum() >= 2 and jacobian_covariance(subnet, images[alive]) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ProblemError, match=r"of .* images change no output of a network"):
        jacobian_covariance(subnet, torch.zeros_like(images))


def test_synaptic_flow_is_the_same_in_all_layers_of_a_chain_and_changes_nothing() -> None:
    space = SearchSpace.load("digits")
    encoding, images = encoding_of(space), torch.rand(8, 1, 8, 8)
    torch.manual_seed(1)
    subnet = subnet_from(supernet_of(space), encoding.extremes()[0], images, quantize=False).eval()
    before = subnet(images, quantize=False).detach().clone()
    flow = synflow(subnet, images)
    assert torch.equal(subnet(images, quantize=False), before)
    assert flow["classifier"] == pytest.approx(flow["head"]) == pytest.approx(flow["stem"]) and flow["stem"] > 0


@pytest.mark.parametrize("proxy", PROXIES)
def test_proxies_are_metrics_that_do_not_read_bits(proxy: str) -> None:
    space = SearchSpace.load("digits")
    encoding, images, labels = encoding_of(space), torch.rand(6, 1, 8, 8), torch.arange(6)
    metric = ZeroCostProxy.untrained(space, proxy, images, labels, seed=3)
    genomes = encoding.sample(2, np.random.default_rng(0))
    values = metric(encoding.at_bits(genomes, 8))
    np.testing.assert_allclose(metric(encoding.at_bits(genomes, 2)), values)
    np.testing.assert_allclose(ZeroCostProxy.untrained(space, proxy, images, labels, seed=3)(genomes), values)
    assert np.isfinite(values).all() and values[0] != values[1]
    front = search(Problem(space, [Objective(metric, "maximize")]), n_evaluations=3)
    assert front.metrics[proxy].notna().all()
    with pytest.raises(ProblemError, match="proxy is 'snap'; give one of snip, "):
        ZeroCostProxy.untrained(space, "snap", images, labels)


def test_a_statistic_times_bits_is_an_additive_metric(two_layers) -> None:
    subnet, images, labels = two_layers
    snip = layer_statistics(subnet, images, labels)["snip"]
    encoding = encoding_of(subnet.space)
    metric = LayerTable.times_bits("snip_bits", snip, ("w_bits",)).metric(encoding)
    genomes = encoding.sample(10, np.random.default_rng(0))
    expected = [
        sum(snip[x.name] * x.op.w_bits for x in subnet.space.network.at(subnet.space.values_of(c)) if x.op)
        for c in encoding.decode(genomes)
    ]
    np.testing.assert_allclose(metric(genomes), expected)


def test_parameters_are_those_that_torch_counts(two_layers) -> None:
    subnet, *_ = two_layers
    encoding = encoding_of(subnet.space)
    largest = encoding.ends()[1:]
    assert parameters(encoding)(largest)[0] == sum(m.weight.numel() for m in subnet.weighted().values())
