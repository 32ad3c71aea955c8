"""Genomes of traced models: inert genes, equal networks, sizes, policies, and parts of the space."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from torch import nn

from apq_tune import CandidateError, ModelSpace, SpaceError
from apq_tune.hosts.narrowed import NarrowedEncoding
from apq_tune.methods.projections import uniform_bits, uniform_wa_bits
from apq_tune.network.graph import Graph
from apq_tune.network.network import Network
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.measured import measured_values, within
from apq_tune.space.model_encoding import ModelEncoding
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import ZOO, conv_bn, example_of, network


@functools.cache
def graph_of(name: str) -> Graph:
    return trace(network(name), example_of(name))


def encoding_for(name: str, **options: Any) -> ModelEncoding:
    return encoding_of(ModelSpace.of_graph(graph_of(name), name=name, **{"step": 4, **options}))


@pytest.fixture(scope="module")
def small() -> ModelEncoding:
    """Four blocks, three widths, four layers with bits."""
    genes = {"*": {"bits": 8}, "layer1.*": {"w_bits": [4, 8]}, "layer[23].*": {"width": "full"}}
    return encoding_for("resnet14", genes=genes, sizes=[16, 32])


def identity(encoding: ModelEncoding, genome: np.ndarray) -> tuple[Any, ...]:
    """What makes a network: its graph and the bits of its layers."""
    plan = encoding.space.plan(encoding.decode(genome[None])[0])
    return plan.graph.digest, tuple((layer.op.w_bits, layer.op.a_bits) for layer in plan.layers if layer.op)


def test_equal_networks_have_equal_genomes_and_no_others(small: ModelEncoding) -> None:
    everything = small.enumerate()
    assert len(everything) == small.size() == len(np.unique(everything, axis=0))
    assert (small.canonicalise(everything) == everything).all()
    sample = everything[:: max(1, len(everything) // 400)]
    assert len({identity(small, genome) for genome in sample}) == len(sample)
    rng = np.random.default_rng(0)
    for genome in sample[::20]:  # inert genes change nothing
        other = small.fill_inert(genome[None], rng)
        assert identity(small, other[0]) == identity(small, genome)
        assert (small.canonicalise(other)[0] == genome).all()


def test_every_active_gene_matters() -> None:
    encoding = encoding_for("resnet14", sizes=[24, 32])
    for genome in encoding.sample(6, np.random.default_rng(1)):
        own = identity(encoding, genome)
        for gene in np.flatnonzero(encoding.active_genes(genome[None])[0]):
            changed = genome.copy()
            changed[gene] = (changed[gene] + 1) % encoding.n_choices[gene]
            assert identity(encoding, changed) != own, encoding.names[gene]


def test_the_number_of_networks_is_that_of_the_enumeration_without_bits() -> None:
    encoding = encoding_for("mobilenet_v2", step=8)
    flat = encoding_for("mobilenet_v2", step=8, genes={"*": {"bits": 8}})
    assert encoding.space.size(bits=False) == flat.size() == len(flat.enumerate())
    assert encoding.space.log10_size() == pytest.approx(np.log10(float(encoding.size())))
    with pytest.raises(SpaceError, match="candidates are too many to enumerate"):
        encoding.enumerate()


@pytest.mark.parametrize("genes", [{"*": {"depth": "together"}}, {"layer[12].*": {"depth": "together"}}])
def test_blocks_that_share_a_gene_of_depth_are_there_or_not_together(genes: dict[str, Any]) -> None:
    few: dict[str, Any] = {"*": {"bits": 8}, "layer1.*": {"w_bits": [4, 8]}, "layer[23].*": {"width": "full"}}
    encoding = encoding_for("resnet14", genes=few | genes | {"*": {**few["*"], **genes.get("*", {})}})
    everything = encoding.enumerate()
    assert len(everything) == encoding.size() == len({identity(encoding, genome) for genome in everything})
    depths = [gene.name for gene in encoding.genes if gene.kind == "depth"]
    assert depths == [f"{glob} depth" for glob in genes] + (["layer3.1 depth"] if "*" not in genes else [])
    for genome in everything[:: len(everything) // 20]:
        candidate = encoding.decode(genome[None])[0]
        assert len(candidate.skipped) in ((0, 4) if "*" in genes else (0, 1, 3, 4))
        values = encoding.space.values_of(candidate)
        formulas = Network.at(encoding.space.network, values)
        for one, other in zip(encoding.space.plan(candidate).layers, formulas, strict=True):
            assert (one.op, one.output, one.inputs) == (other.op, other.output, other.inputs), one.name


class _Blocks(nn.Module):
    """Two removable blocks, each with one convolution of its own width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = conv_bn(3, 8), nn.ReLU()
        self.one, self.two = (nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)) for _ in range(2))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = self.relu(x + self.one(x))
        x = self.relu(x + self.two(x))
        return self.fc(x.mean((2, 3)))


def test_a_width_is_inert_only_if_all_its_makers_are_left_out() -> None:
    """The first convolutions of both blocks have the same weights, so that their channels are tied."""
    traced = trace(_Blocks().eval(), example_of("resnet8"))
    shared = dict(traced.by_name["one.0"].parameters)
    nodes = tuple(node._replace(parameters=shared) if node.name == "two.0" else node for node in traced.nodes)
    shapes = {name: shape for name, shape in traced.shapes.items() if not name.startswith("two.0")}
    graph = Graph(traced.image, nodes, shapes)
    space = ModelSpace.of_graph(graph, step=4, genes={"*": {"bits": 8}, "stem*": {"width": "full"}})
    encoding = encoding_of(space)
    names = [gene.name for gene in space.genes]
    widths = [i for i, gene in enumerate(space.genes) if gene.kind == "width"]
    depths = [i for i, gene in enumerate(space.genes) if gene.kind == "depth"]
    assert len(widths) == 1 and len(depths) == 2, names
    everything = encoding.enumerate()
    active = encoding.active_genes(everything)[:, widths[0]]
    assert (active == (everything[:, depths] > 0).any(axis=1)).all()
    assert len(everything) == encoding.size() == 1 + 3 * encoding.n_choices[widths[0]]
    assert len({identity(encoding, genome) for genome in everything}) == len(everything)


@pytest.mark.parametrize("name", ZOO)
def test_random_genomes_are_canonical_and_come_back(name: str) -> None:
    encoding, rng = encoding_for(name), np.random.default_rng(0)
    genomes = np.concatenate([encoding.sample(40, rng), encoding.sample_policies(40, rng), encoding.uniform_policies()])
    assert (encoding.canonicalise(genomes) == genomes).all() and encoding.is_allowed(genomes).all()
    candidates = encoding.decode(genomes)
    assert (encoding.encode(candidates) == genomes).all()
    assert len(set(candidates)) == len(np.unique(genomes, axis=0))
    assert len(np.unique(encoding.features(genomes), axis=0)) <= len(set(candidates))


def test_uniform_policies_have_one_width_in_every_open_layer() -> None:
    encoding = encoding_for("resnet14")
    for candidate, bits in zip(encoding.decode(encoding.uniform_policies()), [2, 4, 8] * 2, strict=True):
        assert {own for _, own in (*candidate.w_bits, *candidate.a_bits)} == {bits}
    smallest, largest = encoding.extremes()
    assert smallest.skipped == ("layer1.0", "layer1.1", "layer2.1", "layer3.1") and not largest.skipped
    assert {own for _, own in smallest.w_bits} == {8}


def test_projections_follow_a_layer_that_every_network_has() -> None:
    encoding = encoding_for("resnet14")
    genomes = encoding.sample(50, np.random.default_rng(0))
    always = encoding.names.index("layer2.0.conv1 w_bits")
    uniform = encoding.canonicalise(uniform_bits(encoding)(genomes))
    widths = [{own for _, own in (*c.w_bits, *c.a_bits)} for c in encoding.decode(uniform)]
    assert all(len(own) == 1 for own in widths)
    assert [own.pop() for own in widths] == [encoding.choices[always][i] for i in genomes[:, always]]
    apart = encoding.decode(encoding.canonicalise(uniform_wa_bits(encoding)(genomes)))
    assert all(len({own for _, own in c.w_bits}) == len({own for _, own in c.a_bits}) == 1 for c in apart)


def test_what_is_measured_bounds_the_space(small: ModelEncoding) -> None:
    rng = np.random.default_rng(0)
    pairs = small.sample(40, rng)
    pairs = pairs[pairs[:, small.names.index("layer1.1 depth")] == 1]
    mask = measured_values(small, pairs)
    inside = within(small, mask)
    everything = inside.enumerate()
    assert len(everything) == inside.size() < small.size()
    drawn = np.concatenate([inside.sample(100, rng), inside.repair(small.sample(100, rng), rng)])
    known = {genome.tobytes() for genome in everything}
    assert all(genome.tobytes() in known for genome in inside.canonicalise(drawn))
    outside = small.encode([small.extremes()[0]])
    with pytest.raises(CandidateError, match="outside of what the predictor's pairs measured"):
        inside.encode(small.decode(outside))


def test_a_narrowed_space_has_only_the_allowed_values() -> None:
    encoding = encoding_for("resnet14")
    chosen = {"layer1.1 depth": [1], "conv1 width": [8], "layer1.1.conv1 w_bits": [2, 8]}
    narrowed, rng = NarrowedEncoding(encoding, chosen), np.random.default_rng(0)
    for candidate in encoding.decode(narrowed.widen(narrowed.sample(50, rng))):
        assert "layer1.1" not in candidate.skipped and dict(candidate.widths)["conv1"] == 8
        assert dict(candidate.w_bits)["layer1.1.conv1"] in (2, 8)


def test_kinds_of_genes_are_known_to_whoever_asks_for_them() -> None:
    encoding = encoding_for("resnet14")
    assert encoding.n_bit_features == 3 * len(encoding.places_of(BIT_KINDS))
    largest = encoding.at_largest(encoding.sample(5, np.random.default_rng(0)), ("depth",))
    assert not any(candidate.skipped for candidate in encoding.decode(largest))
