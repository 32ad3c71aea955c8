"""A network whose layers share widths and whose parts are switched, against a candidate-by-candidate count."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from apq_tune import SearchSpace, SpaceError, cost_models
from apq_tune.cost import reach as reach_module
from apq_tune.cost.model import CostModel
from apq_tune.network import liveness
from apq_tune.network.layer import IMAGE, Layer, Op, Tensor, add, conv, linear
from apq_tune.network.network import Network, Part, Switch

GENES = {"on": (0, 1), "stream": (4, 8, 12), "inner": (8, 16), "bits": (2, 4, 8), "size": (6, 8)}


def stem(size: int, stream: int) -> tuple[Layer, ...]:
    return (conv("stem", IMAGE, Op(3, stream, 3, 1, size, size, 8, 8), 8),)


def branch(size: int, stream: int, inner: int, bits: int) -> tuple[Layer, ...]:
    """A removable residual branch: three layers whose outer widths are tied to the stem's."""
    one = conv("branch.one", "stem", Op(stream, inner, 1, 1, size, size, bits, 8), bits)
    two = conv("branch.two", "branch.one", Op(inner, stream, 3, 1, size, size, bits, bits), 8)
    return one, two, add("branch.add", "branch.two", "stem", two.output)


def join(size: int, stream: int) -> tuple[Layer, ...]:
    """The stem's output and what came of it, side by side, as in a U-Net: a tensor waits across a part."""
    return (Layer("join", "concat", ("branch", "stem"), Tensor(stream * 2, size, 8)),)


def classify(_size: int, stream: int) -> tuple[Layer, ...]:
    pool = Layer("out.pool", "pool", ("join",), Tensor(stream * 2, 1, 8), in_place=True)
    return pool, linear("out.classifier", "out.pool", Op(stream * 2, 5, 1, 1, 1, 1, 8, 8), 8)


NETWORK = Network(
    genes=GENES,
    sizes=(6, 8),
    size_gene="size",
    channels=3,
    bits=8,
    parts=(
        Part("stem", ("stream",), stem),
        Part("branch", ("stream", "inner", "bits"), branch, Switch("on", 1), passes="stem"),
        Part("join", ("stream",), join),
        Part("out", ("stream",), classify),
    ),
)
ENCODING = SimpleNamespace(name="tied", space=SimpleNamespace(name="tied", network=NETWORK))
EVERY = np.array(list(itertools.product(*(range(len(values)) for values in GENES.values()))), np.int16)


def values_of(genome: np.ndarray) -> dict[str, int]:
    return {name: values[i] for (name, values), i in zip(GENES.items(), genome, strict=True)}


def memory(layers: tuple[Layer, ...], size: int) -> float:
    """Bytes, by running through the layers with a list of the tensors that are there."""
    there = {IMAGE: 3 * size**2 * 8}
    most = 0
    for number, layer in enumerate(layers):
        later = {name for other in layers[number + 1 :] for name in other.inputs}
        n_bits = int(layer.output.channels) * layer.output.size**2 * int(layer.output.bits)
        in_place = layer.in_place and layer.inputs[0] not in later
        most = max(most, sum(there.values()) + (0 if in_place else n_bits))
        there = {name: bits for name, bits in (there | {layer.name: n_bits}).items() if name in later}
    return most / 8


def models() -> dict[str, CostModel]:
    return {model.name: model for model in cost_models(ENCODING)}


def test_costs_of_tied_widths_equal_a_count_of_every_candidate() -> None:
    found = {name: model(EVERY) for name, model in models().items()}
    for place, genome in enumerate(EVERY):
        values = values_of(genome)
        layers = NETWORK.at(values)
        ops = [layer.op for layer in layers if layer.op is not None]
        assert found["macs"][place] == sum(op.macs for op in ops)
        assert found["bit_ops"][place] == sum(op.macs * op.w_bits * op.a_bits for op in ops)
        assert found["peak_activation_bytes"][place] == memory(layers, values["size"])


def test_ranges_are_exact_where_many_terms_share_a_gene() -> None:
    for model in models().values():
        costs = model(EVERY)
        assert model.reachable() == (costs.min(), costs.max())
        assert model.reach.exact


def test_ranges_are_proven_bounds_where_too_many_genes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach_module, "MAX_CHOICES", 1)
    for model in models().values():
        low, high = model.reachable()
        costs = model(EVERY)
        assert low <= costs.min() <= costs.max() <= high
        assert not model.reach.exact


def test_memory_is_an_upper_bound_where_too_many_genes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = models()["peak_activation_bytes"](EVERY)
    monkeypatch.setattr(liveness, "MAX_CHOICES", 1)
    bound = models()["peak_activation_bytes"]
    assert (bound(EVERY) >= exact).all()


def test_a_part_that_is_off_hands_on_what_it_passes() -> None:
    values = dict.fromkeys(GENES, 8) | {"stream": 4, "on": 0}
    layers = {layer.name: layer for layer in NETWORK.at(values)}
    assert list(layers) == ["stem", "join", "out.pool", "out.classifier"]
    assert layers["join"].inputs == ("stem", "stem")
    on = {layer.name: layer for layer in NETWORK.at(values | {"on": 1})}
    assert on["join"].inputs == ("branch.add", "stem")
    assert on["out.pool"].inputs == ("join",)


@pytest.mark.parametrize("name", ["digits", "ofa_mobilenetv3_w10"])
def test_edges_of_a_shipped_space_lead_from_the_image_to_the_classifier(name: str) -> None:
    space = SearchSpace.load(name)
    network = space.network
    values = {gene: choices[0] for gene, choices in network.genes.items()}
    layers = network.at(values)
    known = {IMAGE: (space.input.channels, network.sizes[0])}
    for layer in layers:
        assert all(source in known for source in layer.inputs)
        if layer.op is not None and layer.op.groups == 1:
            assert (layer.op.in_channels, layer.op.in_size) == known[layer.inputs[0]]
        if layer.kind == "add":
            assert known[layer.inputs[0]] == known[layer.inputs[1]]
        known[layer.name] = (layer.output.channels, layer.output.size)
    read = {source for layer in layers for source in layer.inputs}
    assert set(known) - read == {"classifier"}
    assert math.prod(known["classifier"]) == space.classes


def test_a_space_without_networks_has_no_costs() -> None:
    choices = SearchSpace.from_choices({"rate": [1, 2]})
    with pytest.raises(SpaceError, match="has no network whose costs could be counted"):
        cost_models(SimpleNamespace(name="mine", space=choices))
