"""Costs of traced models, computed candidate by candidate, against sums over their layers and torch's own counter."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from apq_tune import Constraint, ModelSpace, Objective, Problem, SpaceError, TableError, search
from apq_tune.cost import bit_ops, load_cost_table, macs, peak_activation_bytes, weight_bytes
from apq_tune.cost.bitfusion import bitfusion_energy_mj, bitfusion_latency_ms
from apq_tune.cost.rows import CONV_KEY
from apq_tune.cost.shares import layer_costs
from apq_tune.cost.sums import sum_over_ops
from apq_tune.network.graph import MOVING, Graph
from apq_tune.network.liveness import live_bits
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.model_encoding import ModelEncoding
from apq_tune.tracing.functions import run_graph
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import ZOO, conv_bn, example_of, network

MAKE = (macs, bit_ops, weight_bytes, peak_activation_bytes, bitfusion_latency_ms, bitfusion_energy_mj)


@functools.cache
def graph_of(name: str) -> Graph:
    return trace(network(name), example_of(name))


def encoding_for(name: str, **options: Any) -> ModelEncoding:
    return encoding_of(ModelSpace.of_graph(graph_of(name), name=name, **{"step": 4, **options}))


def some(encoding: ModelEncoding, n: int = 30) -> np.ndarray:
    return np.concatenate([encoding.sample(n, np.random.default_rng(0)), encoding.ends()])


@pytest.mark.parametrize("name", ZOO)
def test_costs_are_sums_over_the_layers_of_each_candidate(name: str) -> None:
    sizes = None if name in ("ds_cnn_speech", "plain_vgg") else [24, 32]
    encoding = encoding_for(name, sizes=sizes, ends=None)
    genomes, space = some(encoding, 6), encoding.space
    candidates = encoding.decode(genomes)
    for make in MAKE:
        model, together = make(encoding), max if make is peak_activation_bytes else sum
        expected = [
            together(layer_costs(model.name, space.network, space.values_of(candidate)).values())
            for candidate in candidates
        ]
        np.testing.assert_allclose(model(genomes), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["densenet", "resnet14", "unet"])
def test_flash_counts_batch_norm_that_cannot_be_folded(name: str) -> None:
    """Against a count over the nodes of each candidate: packed weights, two constants a channel, and two floats."""
    encoding = encoding_for(name, ends=None)
    genomes = some(encoding, 4)
    for candidate, found in zip(encoding.decode(genomes), weight_bytes(encoding)(genomes), strict=True):
        plan, total = encoding.space.plan(candidate), 0.0
        bits = {layer.name: layer.op.w_bits for layer in plan.layers if layer.op is not None}
        for node in plan.graph.nodes:
            if node.name in bits:
                total += np.prod(plan.graph.shapes[node.parameters["weight"]]) * bits[node.name] / 8 + 8 * node.shape[0]
            alone = node.inputs[0] not in bits or len(plan.graph.readers[node.inputs[0]]) > 1
            if node.kind == "norm" and alone:
                total += 2 * 4 * node.shape[0]
        assert found == total
    assert (name == "densenet") == any(layer.float_parameters for layer in plan.layers)


def test_stored_bits_are_the_most_that_a_reader_needs() -> None:
    """By a plain search through the graph of each candidate, from each tensor to those who read its values."""
    for name in ("unet", "shufflenet", "resnet14", "split"):
        encoding = encoding_for(name, ends=None)
        for candidate in encoding.decode(some(encoding, 10)):
            plan = encoding.space.plan(candidate)
            layers = {layer.name: layer for layer in plan.layers}

            def needed(tensor: str, layers: Any = layers) -> int:
                found = []
                for layer in layers.values():
                    if tensor in layer.inputs:
                        passes = layer.kind in ("concat", "slice", "select", "shuffle", "max_pool", "flatten", "pad")
                        found.append(layer.op.a_bits if layer.op else needed(layer.name) if passes else 8)
                return max(found, default=8)

            for layer in plan.layers:
                moved = layer
                while moved.kind in MOVING and moved.inputs[0] in layers:  # what is moved keeps its bits
                    moved = layers[moved.inputs[0]]
                assert layer.output.bits == needed(moved.name), (name, layer.name)


@pytest.mark.parametrize("name", ZOO)
def test_macs_are_half_of_what_torch_counts(name: str) -> None:
    encoding = encoding_for(name)
    genomes = some(encoding, 4)
    for candidate, count in zip(encoding.decode(genomes), macs(encoding)(genomes), strict=True):
        plan = encoding.space.plan(candidate)
        tensors = {key: torch.ones(shape) for key, shape in plan.graph.shapes.items()}
        with FlopCounterMode(display=False) as counter:
            run_graph(plan.graph, tensors, torch.zeros(1, *plan.graph.image))
        assert counter.get_total_flops() == 2 * count


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2"])
def test_the_smallest_and_the_largest_network_are_the_ends_of_each_range(name: str, make: Any) -> None:
    genes = {"*": {"bits": [2, 8]}, "*[!1]": {"bits": 4}}
    encoding = encoding_for(name, genes=genes, step=8, sizes=[16, 32])
    model = make(encoding)
    genomes = encoding.enumerate(10_000_000) if encoding.size() < 20_000 else some(encoding, 3000)
    low, high = model.reachable()
    values = model(genomes)
    assert low <= values.min() and values.max() <= high
    assert model.reach.exact
    ends = np.concatenate([np.zeros((1, encoding.n_genes), np.int16), encoding.ends()])
    assert {low, high} <= set(model(ends).tolist()) | set(model(encoding.at_largest(ends, ["resolution"])).tolist())


class _Skip(nn.Module):
    """A tensor that a block adds to is read by another layer, which can need more bits than what comes after."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.block, self.last = conv_bn(3, 8), nn.Conv2d(8, 8, 1), conv_bn(8, 8), conv_bn(8, 32)
        self.relu, self.fc = nn.ReLU(), nn.Linear(40, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        side = self.side(x)
        x = self.last(self.relu(x + self.block(x)))
        return self.fc(torch.cat([x.mean((2, 3)), side.mean((2, 3))], 1))


@pytest.mark.parametrize(("bits", "exact"), [((2,), False), ((8,), True), ((4,), False)])
def test_the_range_of_memory_is_a_bound_where_a_block_shares_its_input(bits: tuple[int, ...], exact: bool) -> None:
    """Without the block the tensor is stored at the 8 bits of its other reader, and is read by the last convolution."""
    graph = trace(_Skip().eval(), torch.zeros(1, 3, 16, 16))
    genes = {"*": {"bits": 8}, "block.0": {"bits": [2, 8]}, "last.0": {"a_bits": list(bits)}}
    encoding = encoding_of(ModelSpace.of_graph(graph, step=4, genes=genes))
    model, everything = peak_activation_bytes(encoding), encoding.enumerate()
    values = model(everything)
    low, high = model.reachable()
    assert low <= values.min() <= values.max() <= high
    assert model.reach.exact is exact
    assert encoding.genes[0].kind == "depth"
    if not exact:  # the largest network is not the one that needs most
        assert values[everything[:, 0] == 0].max() > values[everything[:, 0] == 1].max()


def test_a_cost_that_need_not_be_monotone_has_a_bound() -> None:
    encoding = encoding_for("resnet8")
    model = sum_over_ops("odd", "", encoding, lambda op: (op.out_channels % 8) * 3.0 + 100.0 / op.w_bits)
    values = model(encoding.sample(500, np.random.default_rng(0)))
    low, high = model.reachable()
    assert not model.reach.exact and 0 < low <= values.min() <= values.max() <= high < np.inf


@pytest.mark.parametrize("make", MAKE)
def test_sums_over_open_genes_are_the_cost(make: Any) -> None:
    encoding = encoding_for("unet", ends=None)
    model, rng = make(encoding), np.random.default_rng(1)
    for genome in encoding.sample(4, rng):
        active = encoding.active_genes(genome[None])[0]
        open_ = [int(place) for place in encoding.places_of(BIT_KINDS) if active[place]]
        sums = model.sums(genome, open_)
        other = genome.copy()
        other[open_] = (rng.random(len(open_)) * encoding.n_choices[open_]).astype(np.int16)
        for one in (genome, other):
            values = [
                constant + sum(float(term.values[tuple(one[list(term.genes)])]) for term in terms)
                for constant, terms in sums
            ]
            assert max(values) == pytest.approx(float(model(one[None])[0]), rel=1e-12)


def test_many_candidates_are_priced_in_batches_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from apq_tune.cost import direct

    encoding = encoding_for("resnet14", sizes=[24, 32])
    genomes = encoding.sample(12, np.random.default_rng(0))
    for make in MAKE:
        model = make(encoding)
        alone = np.concatenate([model(genome[None]) for genome in genomes])
        monkeypatch.setattr(direct, "BATCH", 5)
        np.testing.assert_array_equal(model(genomes), alone)
        monkeypatch.undo()
        np.testing.assert_array_equal(model(genomes), alone)
        assert model(genomes[:0]).shape == (0,)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(genomes), alone)


def test_peak_memory_of_an_oblong_image_counts_its_width() -> None:
    encoding = encoding_for("ds_cnn_speech")
    (largest,) = encoding.decode(encoding.ends()[1:])
    network_ = encoding.space.network
    assert network_.image(49).n_bits == 49 * 10 * 8
    bits = live_bits(encoding.space.plan(largest).layers, network_.image(49))
    assert bits["conv"] == 8 * (49 * 10 + 16 * 25 * 5)


def table_of(encoding: ModelEncoding, path: Path) -> Path:
    """A table of every convolution of a space, with costs that look random."""
    network_, rows = encoding.space.network, []
    for part in network_.searched:
        for layer in network_.layers(part, network_.sizes[-1]):
            if layer.op is not None:
                keys = np.broadcast_arrays(*(np.asarray(getattr(layer.op, column)) for column in CONV_KEY))
                rows += [tuple(int(array.flat[i]) for array in keys) for i in range(keys[0].size)]
    frame = pd.DataFrame(sorted(set(rows)), columns=list(CONV_KEY))
    frame.insert(0, "op", "conv")
    frame["latency_ms"] = [1 + hash(row) % 997 / 100 for row in sorted(set(rows))]
    fixed = {"op": "fixed", "latency_ms": 0.5}
    pd.concat([frame, pd.DataFrame([fixed])]).to_csv(path, index=False)
    return path


def test_a_table_of_convolutions_prices_candidates(tmp_path: Path) -> None:
    encoding = encoding_for("resnet8", step=8, genes={"*": {"bits": [4, 8]}})
    table = load_cost_table(table_of(encoding, tmp_path / "t.csv"))
    (model,) = table.models(encoding)
    genomes = some(encoding)
    fixed = {layer.name for layer in encoding.space.network.fixed_layers(32)}
    expected = []
    for candidate in encoding.decode(genomes):
        total = 0.5
        for layer in encoding.space.plan(candidate).layers:
            if layer.op is not None and layer.name not in fixed:
                total += table.convs[tuple(int(getattr(layer.op, column)) for column in CONV_KEY)][0]
        expected.append(total)
    np.testing.assert_allclose(model(genomes), expected, rtol=1e-12)
    low, high = model.reachable()
    assert low <= min(expected) and max(expected) <= high < np.inf
    assert {model.name} < Costs.of(encoding, [tmp_path / "t.csv"]).metrics.keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [("ds_cnn_speech", "layer 'conv' is not square"), ("plain_vgg", "fixed resolution=0|ops of .* are missing")],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(
        "op,in_channels,out_channels,in_size,kernel_size,stride,groups,w_bits,a_bits,latency_ms\n"
        "conv,3,8,32,3,1,1,8,8,1\nfixed,,,,,,,,,1\n"
    )
    with pytest.raises(TableError, match=said):
        load_cost_table(tmp_path / "t.csv").models(encoding_for(name))


def test_parts_with_too_many_choices_are_not_gone_through() -> None:
    parts = [conv_bn(3, 64), *(conv_bn(64 * (i + 1), 64) for i in range(5))]

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.fc = nn.ModuleList(parts), nn.Linear(64 * 6, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = [self.parts[0](x)]
            for part in self.parts[1:]:
                kept.append(part(torch.cat(kept, 1)))
            return self.fc(torch.cat(kept, 1).mean((2, 3)))

    encoding = encoding_of(ModelSpace.of_graph(trace(Dense().eval(), torch.zeros(1, 3, 8, 8)), step=1))
    network_ = encoding.space.network
    with pytest.raises(SpaceError, match=r"combinations of choices, too many to go through; give it fewer"):
        network_.layers(network_.by_name["parts.5.0"], 8)
    assert macs(encoding)(encoding.sample(10, np.random.default_rng(0))).shape == (10,)


def test_a_search_keeps_its_limits() -> None:
    encoding = encoding_for("mobilenet_v2")
    size, memory = weight_bytes(encoding), peak_activation_bytes(encoding)
    limits = [Constraint(memory, 0.6 * memory.reachable()[1])]
    problem = Problem(encoding, [Objective(size, "maximize")], limits)
    front = search(problem, n_evaluations=600, seed=0)
    genome = encoding.encode(front.candidates[:1])
    assert memory(genome)[0] <= limits[0].bound
    drawn = encoding.sample(600, np.random.default_rng(0))
    assert size(genome)[0] >= size(drawn[memory(drawn) <= limits[0].bound]).max()
