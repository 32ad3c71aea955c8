"""Differentiable search in supernets of both kinds: it goes on as if never stopped, and leaves weights alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from apq_tune import Constraint, ModelSpace, NetworkEncoding, SearchSpace, TrainedSupernet, Training
from apq_tune.cost import bit_ops
from apq_tune.data import Data, Split, load_data
from apq_tune.searchers.gates.costs import CostLoss
from apq_tune.searchers.gates.distribution import GeneDistribution
from apq_tune.searchers.gates.draws import Gates
from apq_tune.searchers.gates.training import GateTraining
from apq_tune.space.encodings import encoding_of
from apq_tune.space.narrowing import Narrowing
from apq_tune.studies.gated import gate_search_of
from apq_tune.supernet.differentiable import GatedSupernetLoss, differentiable_search
from apq_tune.supernet.kinds import supernet_of
from apq_tune.supernet.strategies import train_supernet
from apq_tune.supernet.train import optimizer_for
from apq_tune.tracing.trace import trace
from tests.conftest import TINY
from tests.tracing.zoo import example_of, network


def noise(channels: int, size: int) -> Data:
    """Images of four classes that mean nothing."""
    rng = np.random.default_rng(0)
    parts = [
        Split(rng.random((40, channels, size, size), np.float32), np.arange(40, dtype=np.int64) % 4) for _ in range(3)
    ]
    return Data(*parts)


def untrained(kind: str) -> TrainedSupernet:
    if kind == "blocks":
        space: Any = SearchSpace.from_dict(TINY)
    else:
        space = ModelSpace.of_graph(trace(network("resnet8"), example_of("resnet8")), step=8, least=0.5)
    torch.manual_seed(0)
    size = 8 if kind == "blocks" else example_of("resnet8").shape[-1]
    return TrainedSupernet(space, supernet_of(space).state_dict(), noise(3, size), n_calibration=16)


@pytest.mark.parametrize("kind", ["blocks", "model"])
@pytest.mark.parametrize("gate", ["binary", "gumbel"])
def test_a_huge_weight_on_the_cost_finds_the_cheapest_network(kind: str, gate: Any) -> None:
    supernet = untrained(kind)
    encoding = encoding_of(supernet.space)
    cost = bit_ops(encoding)
    settings, saved = GateTraining(gate, 16, 0.4, costs=CostLoss("linear", 1e6)), {}
    before = {name: value.clone() for name, value in supernet.network.state_dict().items()}

    def keep(n: int, state: Any) -> None:
        if n == 10:
            saved[n] = state()

    found = differentiable_search(supernet, [Constraint(cost, 1e5)], settings, batch_size=8, after_step=keep)
    assert float(cost(found.mode())[0]) == cost.reachable()[0]
    again = differentiable_search(supernet, [Constraint(cost, 1e5)], settings, batch_size=8, checkpoint=saved[10])
    assert torch.equal(found.logits, again.logits)
    for name, value in supernet.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad and parameter.grad is None for parameter in supernet.network.parameters())


def test_closed_genes_stay_and_batches_are_those_of_the_search_split() -> None:
    supernet = untrained("blocks")
    encoding = encoding_of(supernet.space)
    found = differentiable_search(
        supernet, training=GateTraining(steps=4, learning_rate=1.0), kinds=["depth", "kernel"], quantize=False
    )
    open_ = set(found.open_genes.tolist())
    assert open_ == set(encoding.places_of(["depth", "kernel"]).tolist()) & set(np.flatnonzero(encoding.n_choices > 1))
    rest = np.setdiff1d(np.arange(encoding.n_genes), sorted(open_))
    genomes = found.sample(20, np.random.default_rng(0))
    active = encoding.active_genes(genomes)[:, rest]
    assert (genomes[:, rest] == encoding.n_choices[rest] - 1)[active].all()
    loss = GatedSupernetLoss(supernet, batch_size=16, seed=3)
    seen = np.concatenate([loss._batch(step)[0].numpy() for step in range(2)])  # an epoch, less a last half batch
    assert len(np.unique(seen.reshape(32, -1), axis=0)) == 32


@pytest.mark.slow
def test_a_search_in_a_trained_supernet_finds_better_networks_than_chance() -> None:
    space = SearchSpace.load("digits")
    data = load_data(space)
    encoding = NetworkEncoding(space)
    torch.manual_seed(0)
    network_: nn.Module = supernet_of(space)
    training = Training(epochs=8, batch_size=64)
    for quantize in (False, True):
        optimizer = optimizer_for(network_, training)
        train_supernet(network_, encoding, optimizer, data.train, training, "single_path", (0,), quantize=quantize)
    supernet = TrainedSupernet(space, network_.state_dict(), data)
    found = differentiable_search(supernet, training=GateTraining(steps=100, learning_rate=0.3))

    def loss(genomes: np.ndarray) -> np.ndarray:
        return np.array([supernet.score(candidate, quantize=True).loss for candidate in encoding.decode(genomes)])

    random = loss(encoding.sample(20, np.random.default_rng(1)))
    assert loss(found.mode())[0] < np.quantile(random, 0.1)


def test_gates_of_a_part_run_the_same_networks_of_the_whole_space(tmp_path: Any, monkeypatch: Any) -> None:
    supernet = untrained("blocks")
    whole = supernet.space
    data = whole.model_dump(mode="json", exclude_none=True)
    data |= {"forbidden": [], "choices": data["choices"] | {"pw_w_bits": [8], "dw_a_bits": [8]}}
    part = Narrowing(whole, SearchSpace.from_dict(data))
    limit = Constraint(bit_ops(part.part), 1e5)
    settings = GateTraining(steps=12, learning_rate=0.5, costs=CostLoss("linear", 1e6))
    found = [GeneDistribution(part.part) for _ in range(2)]
    path = tmp_path / "000-memory-proxyless.npz"
    search = gate_search_of(supernet, supernet, 40, part, path)
    assert search.price == {"binary": 10 * 40 / (40 + 16), "gumbel": 17 * 40 / (40 + 16)}
    for distribution in found:  # the second one has nothing left to do
        search.train(distribution, [limit], settings, 0, True)
    assert torch.equal(found[0].logits, found[1].logits)
    assert [file.suffix for file in tmp_path.iterdir()] == [".gates"]
    cheapest = part.part.enumerate()
    assert limit.metric(found[0].mode())[0] == limit.metric(cheapest).min()
    seen: list[Gates] = []
    original = GatedSupernetLoss.__call__

    def noted(self: GatedSupernetLoss, gates: Gates, step: int) -> torch.Tensor:
        seen.append(gates)
        return original(self, gates, step)

    monkeypatch.setattr(GatedSupernetLoss, "__call__", noted)
    once = gate_search_of(supernet, supernet, 40, part)
    once.train(GeneDistribution(part.part), [], GateTraining("gumbel", 1), 0, True)
    values = seen[0].values.detach().numpy()
    np.testing.assert_allclose(values.sum(axis=1), 1)
    gene = part.whole.names.index("1.1 pw_w_bits")
    assert values[gene].tolist()[:2] == [0, 1]
    assert seen[0].used[gene].tolist()[:2] == [False, True]
