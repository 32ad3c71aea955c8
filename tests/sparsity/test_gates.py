"""Hard concrete gates in closed form against samples, learned widths against the networks they choose, and noise."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

from apq_tune import ApqError, ModelSpace, SearchSpace
from apq_tune.cost import cost_models
from apq_tune.space.encodings import encoding_of
from apq_tune.sparsity.channel_gates import ChannelGates
from apq_tune.sparsity.hard_concrete import HardConcrete
from apq_tune.sparsity.variational import VariationalDropout, divergence_of
from apq_tune.sparsity.weight_gates import WeightGates
from apq_tune.supernet.interfaces import AnySupernet
from apq_tune.supernet.kinds import supernet_of
from apq_tune.tracing.trace import trace
from tests.conftest import TINY
from tests.tracing.zoo import network

N = 200_000


@pytest.mark.parametrize("log_alpha", [-3.0, -0.5, 0.0, 1.0, 4.0])
def test_probabilities_in_closed_form_are_those_of_samples(log_alpha: float) -> None:
    gates = HardConcrete((1,))
    with torch.no_grad():
        gates.log_alpha.fill_(log_alpha)
    uniform = (torch.arange(N, dtype=torch.float64) + 0.5) / N  # stratified: errors below 1/N
    with torch.no_grad():
        z = gates.double().at(uniform)
    assert float((z > 0).double().mean()) == pytest.approx(gates.probability_open().item(), abs=2 / N)
    assert float((z == 1).double().mean()) == pytest.approx(gates.probability_one().item(), abs=2 / N)

    def gate(u: float) -> float:  # by the paper's equations, once more
        s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + log_alpha) * 1.5))
        return float(np.clip(s * 1.2 - 0.1, 0, 1))

    mean, _ = integrate.quad(gate, 0, 1, limit=200)
    assert float(z.mean()) == pytest.approx(mean, abs=1e-4)
    expected = np.clip(1.2 / (1 + np.exp(-log_alpha)) - 0.1, 0, 1)
    assert gates.eval()().item() == pytest.approx(expected, abs=1e-6)


def test_gates_begin_open_draw_anew_for_each_pass_and_learn_to_close() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 1, bias=False))
    gates = WeightGates(model)
    assert gates.expected_open().item() == pytest.approx(0.9, abs=1e-6)
    x = torch.randn(64, 20)
    y = x[:, :5].sum(1, keepdim=True) * 2
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean() + 2 * gates.expected_open()
        loss.backward()
        optimizer.step()
    before = model.eval()(x)
    gates.finish()
    assert torch.equal(before, model(x))
    kept = (model[0].weight != 0)[0]
    assert kept[:5].all()
    assert kept[5:].sum() <= 2
    assert list(model.state_dict()) == ["0.weight"]


def test_weights_are_pruned_to_an_exact_share() -> None:
    for method in (WeightGates, VariationalDropout):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 5))
        method(model).finish(0.7)
        zeros = sum(int((model[place].weight == 0).sum()) for place in (0, 2))
        assert zeros == round(0.7 * (4 * 27 + 180))


@functools.cache
def traced() -> tuple[ModelSpace, dict[str, torch.Tensor]]:
    model = network("mobilenet_v2")
    return ModelSpace.of_graph(trace(model, torch.zeros(1, 3, 16, 16)), step=1), model.state_dict()


@pytest.fixture(params=["blocks", "graph"])
def supernet(request: pytest.FixtureRequest) -> AnySupernet:
    torch.manual_seed(0)
    if request.param == "graph":
        space, state = traced()
        supernet = supernet_of(space)
        supernet.load_model(state)
    else:
        supernet = supernet_of(SearchSpace.from_dict(TINY))
    with torch.no_grad():
        for parameter in supernet.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.rand_like(parameter))
    return supernet


def test_a_closed_gate_is_a_channel_less(supernet: AnySupernet) -> None:
    encoding = encoding_of(supernet.space)
    largest, cost = encoding.extremes()[1], next(m for m in cost_models(encoding) if m.name == "macs")
    gates = ChannelGates(supernet, cost)
    draws = torch.Generator().manual_seed(1)
    genome = encoding.encode([largest])[0]
    names = [gene.name for gene in encoding.genes]
    assert {width.gene for width in gates.widths} == {gene.name for gene in encoding.genes if gene.kind == "width"}
    for width, own in zip(gates.widths, gates.gates, strict=True):
        choice = encoding.genes[names.index(width.gene)].values
        n = round(width.n_units * choice[0] / choice[-1])
        with torch.no_grad():
            own.log_alpha.fill_(9.0)
            own.log_alpha[torch.randperm(width.n_units, generator=draws)[n:]] = -9.0
        genome[names.index(width.gene)] = 0
    size = supernet.space.resolutions[-1]
    x = torch.rand(16, 3, size, size, generator=draws)
    supernet.eval()
    statistics = supernet.recalibrate(x, largest)
    before = supernet(x, largest, statistics=statistics)
    chosen = gates.finish()
    assert encoding.encode([chosen])[0].tolist() == encoding.canonicalise(genome[None])[0].tolist()
    assert all("parametrizations" not in name for name, _ in supernet.named_parameters())
    after = supernet(x, chosen, statistics=supernet.recalibrate(x, chosen))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_expected_cost_of_gates_is_the_cost_of_open_channels(supernet: AnySupernet) -> None:
    encoding = encoding_of(supernet.space)
    whole = encoding.encode([encoding.extremes()[1]])
    macs = next(m for m in cost_models(encoding) if m.name == "macs")
    gates = ChannelGates(supernet, macs)
    with torch.no_grad():
        for own in gates.gates:
            own.log_alpha.fill_(30.0)
        high = float(gates.expected_cost())
        gates.gates[0].log_alpha[1:].fill_(-30.0)  # one channel is left
        low = float(gates.expected_cost())
    gene = [gene.name for gene in encoding.genes].index(gates.widths[0].gene)
    values = encoding.genes[gene].values
    smaller = whole.copy()
    smaller[0, gene] = 0
    if encoding.space.network.direct is None:  # there costs are exactly linear in one width
        rate = (macs(whole)[0] - macs(smaller)[0]) / (values[-1] - values[0])
        assert high - low == pytest.approx(rate * (values[-1] - 1) / macs(whole)[0], rel=1e-5)
    supernet.train()
    size = supernet.space.resolutions[-1]
    supernet(torch.rand(4, 3, size, size), encoding.extremes()[1]).square().mean().backward()
    assert all(own.log_alpha.grad is not None for own in gates.gates)


def test_a_space_without_widths_is_refused() -> None:
    space = SearchSpace.from_dict(TINY | {"choices": TINY["choices"] | {"expand_ratio": [3]}})
    with pytest.raises(ApqError, match="tiny: has no width to choose"):
        ChannelGates(supernet_of(space), cost_models(encoding_of(space))[0])


def test_the_divergence_is_that_of_the_integral_up_to_a_constant() -> None:
    """-KL = .5 log(alpha) - E[log|1 + sqrt(alpha) e|] + C for a Gaussian e (Molchanov 2017, equation 10)."""

    def exact(log_alpha: float) -> float:
        root = np.exp(log_alpha / 2)
        density = lambda e: np.exp(-e * e / 2) / np.sqrt(2 * np.pi) * np.log(abs(1 + root * e))  # noqa: E731
        ends = [-12, max(-12, -1 / root), 12]  # the logarithm is infinite at -1 / root
        mean = sum(integrate.quad(density, low, high, limit=200)[0] for low, high in itertools.pairwise(ends))
        return float(mean - 0.5 * log_alpha)

    places = [-4.0, -1.0, 0.0, 1.0, 3.0, 5.0]
    found = divergence_of(torch.tensor(places, dtype=torch.float64)).numpy()
    expected = np.array([exact(place) for place in places])
    np.testing.assert_allclose(found - found[-1], expected - expected[-1], atol=0.02)


def test_noise_has_the_variance_of_the_weights_and_is_absent_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 1, 3, bias=False)
    model = nn.Sequential(layer)
    x = torch.rand(1, 2, 3, 3)
    exact = model(x).item()
    VariationalDropout(model)
    with torch.no_grad():
        layer.log_variance.copy_(2 * torch.rand(1, 2, 3, 3) - 3)
    variance = (layer.log_variance.exp() * x.square()).sum().item()
    assert model.eval()(x).item() == exact
    model.train()
    drawn = model(x.expand(20_000, -1, -1, -1)).flatten()
    assert drawn.mean().item() == pytest.approx(exact, abs=4 * (variance / 20_000) ** 0.5)
    assert drawn.var().item() == pytest.approx(variance, rel=0.05)
    with pytest.raises(ApqError, match="0: is a ConvTranspose2d"):
        VariationalDropout(nn.Sequential(nn.ConvTranspose2d(2, 2, 2)))
