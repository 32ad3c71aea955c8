"""Sparsity as a gene of both kinds of spaces: how it is written, what is refused, and what other spaces see of it."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from apq_tune import Constraint, DeviceError, ModelSpace, Objective, Problem, SearchSpace, SpaceError
from apq_tune.cost import cost_models
from apq_tune.errors import CandidateError
from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.searchers.exactly import solve_exactly
from apq_tune.space.candidate import candidate_in, read_candidate
from apq_tune.space.device import DevicePreset
from apq_tune.space.device_rules import check_network
from apq_tune.space.encodings import encoding_of
from apq_tune.space.files import space_from
from apq_tune.space.narrowing import Narrowing
from apq_tune.space.notation import candidate_from, read_candidates
from apq_tune.tracing.trace import trace
from tests.conftest import TINY

CONV = {"w_bits": [2, 4, 8], "a_bits": [2, 8]}
DEVICE = DevicePreset.from_dict(
    {"format": 1, "name": "mine", "title": "My device", "ops": {"conv": CONV, "depthwise": CONV, "linear": CONV}}
)
PATTERNS = {"sparsity": [0, "2:4", "1:4"], "genes": {"1": {"sparsity": [0, 0.5, 0.9]}, "6": {"sparsity": 0.25}}}


def tiny(**choices: Any) -> SearchSpace:
    return SearchSpace.from_dict(TINY | {"choices": TINY["choices"] | choices})


GRAPH = trace(
    nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 64, 4),
    ),
    torch.zeros(1, 3, 8, 8),
)


def model(**options: Any) -> ModelSpace:
    return ModelSpace.of_graph(GRAPH, name="model", **{"step": 4, "w_bits": [2, 8], "a_bits": [8], **options})


SPACES = {
    "shares": tiny(pw_sparsity=[0, 0.5, 0.9], dw_sparsity=[0, 0.25]),
    "pattern": tiny(pw_sparsity=["2:4"]),
    "model": model(**PATTERNS),
    "together": model(sparsity=[0, 0.5], genes={"*": {"sparsity": ["together", 0, 0.75]}}),
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([0, 1.0], "1.0 is no sparsity; give shares of zeros from 0 to below 1"),
        ([-0.1], "-0.1 is no sparsity; give"),
        (["3:2"], "'3:2' is no sparsity; give"),
        (["5:4"], "'5:4' is no sparsity; give"),
        ([0, "half"], "'half' is no sparsity; give"),
        ([True], "True is no sparsity; give"),
        ([124], "124 is no sparsity; give .* N:M patterns in quotes"),  # what YAML makes of 2:4
        (["2:64"], "'2:64' has groups of more than 16 inputs; give smaller ones"),
        ([0.5, "2:4"], r"\[0.5, '2:4'\] mixes shares and patterns, or several M; give"),
        (["2:4", "2:8"], "mixes shares and patterns, or several M; give"),
        ([0, 0.5, 0.5], "has a sparsity twice; keep one"),
        ([], "has no values; give at least one"),
    ],
)
def test_impossible_sparsities_are_refused_with_the_gene_the_value_and_the_remedy(given: list[Any], said: str) -> None:
    for place, make in (
        ("choices.pw_sparsity", lambda: tiny(pw_sparsity=given)),
        ("sparsity", lambda: model(sparsity=given)),
        ("genes: '3': sparsity", lambda: model(genes={"3": {"sparsity": given}})),
    ):
        with pytest.raises(SpaceError, match=f"{place}: .*{said}") as error:
            make()
        assert "\n" not in str(error.value)


def test_sparsities_of_layers_that_cannot_have_them_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"choices.dw_sparsity: .'2:4'. has patterns .* depthwise convolutions"):
        tiny(dw_sparsity=["2:4"])
    with pytest.raises(SpaceError, match=r"choices.conv1_sparsity: no block of mbconv has it; remove it"):
        tiny(conv1_sparsity=[0, 0.5])
    with pytest.raises(SpaceError, match="pw_sparsity: give a list, got '2:4'"):
        tiny(pw_sparsity="2:4")
    with pytest.raises(SpaceError, match="genes: '1': sparsity: '1' is a depthwise convolution with one input"):
        model(genes={"1": {"sparsity": [0, "2:4"]}})
    with pytest.raises(SpaceError, match=r"'\*': sparsity: .* have different values"):
        model(sparsity=[0, 0.5], genes={"*": {"sparsity": "together"}})
    with pytest.raises(CandidateError, match=r"pw_sparsity: .* is not a list of shares of zeros from 0 to below 1"):
        data = next(iter(drawn("shares"))).to_dict()
        read_candidate(data | {"pw_sparsity": [1.0] * len(data["pw_sparsity"])})
    with pytest.raises(CandidateError, match="sparsity: '1': 1 is no share of zeros"):
        read_candidate(next(iter(drawn("model"))).to_dict() | {"sparsity": {"1": 1}})
    with pytest.raises(CandidateError, match=r"1 sparsity is 0.4; choose one of"):
        candidate = next(iter(drawn("model")))
        SPACES["model"].values_of(read_candidate(candidate.to_dict() | {"sparsity": {"1": 0.4, "3": 0}}))


def drawn(name: str, n: int = 20) -> list[Any]:
    encoding = encoding_of(SPACES[name])
    return list(encoding.decode(encoding.sample(n, np.random.default_rng(0))))


@pytest.mark.parametrize("name", SPACES)
def test_candidates_and_spaces_are_what_they_were_after_a_file(name: str, tmp_path: Path) -> None:
    space, encoding = SPACES[name], encoding_of(SPACES[name])
    genomes = encoding.sample(20, np.random.default_rng(0))
    candidates = encoding.decode(genomes)
    assert encoding.encode(candidates).tolist() == genomes.tolist()
    for candidate in candidates:
        assert candidate_in(candidate.to_json()) == pickle.loads(pickle.dumps(candidate)) == candidate
        assert str(candidate_in(candidate.to_json())) == str(candidate)
        assert space.from_config(space.to_config(candidate)) == candidate
    again = space_from(yaml.safe_load(space.to_yaml()))
    assert again.genes == space.genes
    assert again.to_record() == space.to_record()
    with (tmp_path / "candidates.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["candidate"])
        writer.writerows([[candidate.to_json()] for candidate in candidates])
    read = [candidate_from(entry, space) for entry in read_candidates(tmp_path / "candidates.csv", space)]
    assert read == candidates
    assert encoding_of(again).encode(read).tolist() == genomes.tolist()


def test_networks_grow_with_the_gene_and_patterns_stand_for_their_shares() -> None:
    genes = {gene.name: gene.values for gene in SPACES["model"].genes if gene.kind == "sparsity"}
    assert genes == {"1 sparsity": (0.9, 0.5, 0), "3 sparsity": (0.75, 0.5, 0)}  # the ends are dense or have one value
    smallest = {name: values[0] for name, values in SPACES["model"].parameters.items()}
    ops = {layer.name: layer.op for layer in SPACES["model"].network.at(smallest) if layer.op is not None}
    found = {name: (op.sparsity, op.sparse_group) for name, op in ops.items()}
    assert found == {"0": (0, 1), "1": (0.9, 1), "3": (0.75, 4), "6": (0.25, 1)}
    genes = {gene.name: gene.values for gene in SPACES["together"].genes if gene.kind == "sparsity"}
    assert genes == {"* sparsity": (0.75, 0)}
    fields = {gene.name: gene.values for gene in SPACES["pattern"].genes if gene.kind == "sparsity"}
    assert fields["1.1 pw_sparsity"] == (0.5,)
    assert fields["1.1 dw_sparsity"] == (0,)
    text = str(encoding_of(SPACES["shares"]).extremes()[0])
    assert text.split()[0].endswith("s0.9-0.25")


@pytest.mark.parametrize("name", SPACES)
def test_costs_and_features_know_the_gene(name: str) -> None:
    encoding = encoding_of(SPACES[name])
    genomes = encoding.enumerate() if encoding.size() < 3000 else encoding.sample(500, np.random.default_rng(0))
    assert encoding.is_allowed(genomes).all()
    places = encoding.places_of(["sparsity"])
    costs = {cost.name: cost for cost in cost_models(encoding)}
    denser = encoding.at_largest(genomes, ["sparsity"])
    for cost in ("macs", "bit_ops", "peak_activation_bytes"):
        assert (costs[cost](genomes) == costs[cost](denser)).all()
    for cost in ("weight_bytes", "sparse_macs"):
        assert (costs[cost](genomes) <= costs[cost](denser)).all()
        assert name == "pattern" or (costs[cost](genomes) < costs[cost](denser)).any()
        if len(genomes) == encoding.size():
            reach = costs[cost].reach
            assert (reach.low, reach.high) == (costs[cost](genomes).min(), costs[cost](genomes).max())
    assert ("dense kernels" in costs["macs"].note) and "in theory" in costs["sparse_macs"].note
    features = OrdinalFeatures.of(encoding, np.random.default_rng(0))(genomes)
    assert np.isfinite(features).all()
    for place in places[encoding.n_choices[places] > 1]:
        other = genomes.copy()
        other[:, place] = 0
        changed = (encoding.canonicalise(other) != genomes).any(axis=1)
        assert (OrdinalFeatures.of(encoding, np.random.default_rng(0))(other[changed]) != features[changed]).any()


def test_exact_answers_use_it() -> None:
    encoding = encoding_of(SPACES["model"])
    costs = {cost.name: cost for cost in cost_models(encoding)}
    genomes = encoding.sample(2000, np.random.default_rng(0))
    limit = float(np.quantile(costs["weight_bytes"](genomes), 0.3))
    problem = Problem(
        SPACES["model"], [Objective(costs["macs"], "maximize")], [Constraint(costs["weight_bytes"], limit)]
    )
    front = solve_exactly(problem)
    best = encoding.encode(front.candidates[:1])
    inside = genomes[costs["weight_bytes"](genomes) <= limit]
    assert costs["weight_bytes"](best)[0] <= limit
    assert costs["macs"](best)[0] >= costs["macs"](inside).max()


@pytest.mark.parametrize("name", ["shares", "model"])
def test_devices_run_dense_weights_only(name: str) -> None:
    space = SPACES[name] if name == "shares" else model(**PATTERNS | {"genes": {}})
    part = space.narrowed(DEVICE)
    assert all(gene.values == (0,) for gene in part.genes if gene.kind == "sparsity")
    encoding = encoding_of(part)
    genomes = encoding.sample(5, np.random.default_rng(0))
    whole = Narrowing(space, part).widen(genomes)
    for mine, theirs in zip(cost_models(encoding), cost_models(encoding_of(space)), strict=False):
        assert mine(genomes).tolist() == theirs(whole).tolist()
    sparse = next(one for one in drawn(name) if "0.5" in str(one))
    with pytest.raises(DeviceError, match=r"sparsity is 0.*, but mine runs .* with dense weights"):
        check_network(DEVICE, SPACES[name].network.at(SPACES[name].values_of(sparse)))
    never = SPACES["pattern"] if name == "shares" else SPACES["model"]
    with pytest.raises(DeviceError, match=r"offers sparsity \[0.*\], but mine runs .* with dense weights .* offer"):
        never.narrowed(DEVICE)


def test_spaces_without_the_gene_know_nothing_of_it() -> None:
    for space in (SearchSpace.from_dict(TINY), model()):
        encoding = encoding_of(space)
        candidate = encoding.decode(encoding.sample(1, np.random.default_rng(0)))[0]
        for data in (space.to_dict(), space.to_record(), candidate.to_dict(), space.genes):
            assert "spars" not in json.dumps(data)
        assert [cost.name for cost in cost_models(encoding)] == [
            "macs",
            "bit_ops",
            "weight_bytes",
            "peak_activation_bytes",
        ]
        assert not any(cost.note for cost in cost_models(encoding))
