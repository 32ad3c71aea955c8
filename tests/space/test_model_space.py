"""Spaces of traced models: genes, candidates, plans, files, and what users fix, narrow or group."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from apq_tune import CandidateError, ModelCandidate, ModelSpace, RunError, SpaceError, load_data
from apq_tune.network.graph import Graph
from apq_tune.network.network import Network
from apq_tune.space.candidate import candidate_in, read_candidate
from apq_tune.space.encodings import encoding_of
from apq_tune.space.files import load_space
from apq_tune.space.model_plan import separable
from apq_tune.space.notation import candidate_from, read_candidates
from apq_tune.tracing.functions import run_graph
from apq_tune.tracing.trace import trace, weights_of
from tests.tracing.zoo import ZOO, conv_bn, example_of, network


@functools.cache
def graph_of(name: str) -> Graph:
    return trace(network(name), example_of(name))


def space_of(name: str, **options: Any) -> ModelSpace:
    return ModelSpace.of_graph(graph_of(name), name=name, **{"step": 4, **options})


SMALL = {"genes": {"*": {"bits": 8}, "layer[23].*": {"width": "full"}}, "least": 0.5}
"""ResNet-14 with four blocks and the widths of its first stage."""


def test_genes_are_named_as_the_modules_are() -> None:
    space = space_of("resnet14", sizes=(24, 32))
    named = {gene.name: gene for gene in space.genes}
    assert named["layer1.1 depth"].values == (0, 1)
    assert named["conv1 width"].values == (4, 8)
    assert named["layer2.0.conv1 width"].values == (4, 8, 12, 16)
    assert named["layer2.0.conv1 w_bits"].values == named["layer2.0.conv1 a_bits"].values == (2, 4, 8)
    assert named["resolution"].values == space.resolutions == (24, 32)
    assert not {"conv1 w_bits", "fc a_bits", "fc width", "layer2.0 depth"} & named.keys()
    kinds = [gene.kind for gene in space.genes]
    assert kinds == sorted(kinds, key=("depth", "resolution", "width", "w_bits", "a_bits").index)
    assert [block.name for block in space.blocks] == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    assert (space.classes, space.input.channels, space.data, space.fixed_bits) == (10, 3, None, 8)


@pytest.mark.parametrize("name", ZOO)
def test_the_network_of_genes_is_that_of_the_graph(name: str) -> None:
    """Layers as functions of genes have the numbers of the layers of each candidate's own graph."""
    space = space_of(name, ends=None)
    encoding = encoding_of(space)
    genomes = np.concatenate([encoding.sample(25, np.random.default_rng(0)), encoding.ends()])
    for candidate in encoding.decode(genomes):
        values = space.values_of(candidate)
        planned, formulas = space.plan(candidate).layers, Network.at(space.network, values)
        assert planned == space.network.at(values)
        moving = {"shuffle": "select"}
        for one, other in zip(planned, formulas, strict=True):
            same = (layer._replace(settings={}, kind=moving.get(layer.kind, layer.kind)) for layer in (one, other))
            assert next(same) == next(same)


@pytest.mark.parametrize("name", ["resnet14", "mobilenet_v2", "densenet", "shufflenet", "unet"])
def test_a_plan_takes_the_parameters_that_its_graph_has(name: str) -> None:
    space, module = space_of(name), network(name)
    encoding, rng = encoding_of(space), np.random.default_rng(3)
    ranks = {i: rng.permutation(group.n_units) for i, group in enumerate(space.coupling.groups)}
    tensors = weights_of(module, space.graph)
    for candidate in encoding.decode(encoding.sample(5, rng)):
        plan = space.plan(candidate, ranks)
        own = {}
        for key, axes in plan.takes.items():
            own[key] = tensors[key]
            for axis, indices in enumerate(axes):
                if indices is not None:
                    own[key] = own[key].index_select(axis, torch.from_numpy(indices))
            assert tuple(own[key].shape) == plan.graph.shapes[key]
        assert run_graph(plan.graph, own, example_of(name)).shape == (2, 10)
        widths = dict(candidate.widths)
        for index, choice in space.choices.widths.items():
            group = space.coupling.groups[index]
            if group.name in widths and choice.gene and group.makers[0] in plan.graph.by_name:
                key = plan.graph.by_name[group.makers[0]].parameters["weight"]
                kept = plan.takes[key][0]
                n_units = widths[group.name] // group.unit_channels
                if kept is not None and group.unit_channels == 1:
                    assert sorted(
                        space.coupling.outputs[group.makers[0]].unit[kept][
                            space.coupling.outputs[group.makers[0]].group[kept] == index
                        ]
                    ) == sorted(ranks[index][:n_units])


def test_the_whole_candidate_is_the_model_itself() -> None:
    space, module = space_of("resnet14"), network("resnet14")
    (whole,) = encoding_of(space).decode(encoding_of(space).ends()[1:])
    plan = space.plan(whole)
    assert plan.graph.digest == space.graph.digest
    assert all(indices is None for axes in plan.takes.values() for indices in axes)
    images = example_of("resnet14")
    found = run_graph(plan.graph, weights_of(module, space.graph), images)
    torch.testing.assert_close(found, module(images), rtol=1e-6, atol=1e-6)


def test_plans_are_remembered_until_ranks_change() -> None:
    space = space_of("resnet8")
    (candidate,) = encoding_of(space).decode(encoding_of(space).ends()[:1])
    ranks = {i: np.arange(group.n_units)[::-1] for i, group in enumerate(space.coupling.groups)}
    assert space.plan(candidate, ranks) is space.plan(candidate, ranks)
    assert space.plan(candidate, ranks).takes["conv1.weight"][0].tolist() == [4, 5, 6, 7]
    assert space.plan(candidate).takes["conv1.weight"][0].tolist() == [0, 1, 2, 3]
    assert space.plan(candidate, {**ranks}) is not space.plan(candidate, ranks)


def test_candidates_survive_every_notation(tmp_path: Path) -> None:
    space = space_of("mobilenet_v2", sizes=[24, 32])
    encoding = encoding_of(space)
    candidates = encoding.decode(encoding.sample(20, np.random.default_rng(0)))
    for candidate in candidates:
        assert read_candidate(candidate.to_dict()) == candidate_in(candidate.to_json()) == candidate
        assert candidate_from(json.loads(candidate.to_json()), space) == candidate
        assert space.from_config(space.to_config(candidate)) == candidate
        assert hash(read_candidate(candidate.to_dict())) == hash(candidate)
        assert len(str(candidate)) < 200 and len(candidate.short) < 40
    (tmp_path / "c.jsonl").write_text("\n".join(c.to_json() for c in candidates))
    assert [candidate_from(entry, space) for entry in read_candidates(tmp_path / "c.jsonl", space)] == candidates
    shuffled = json.loads(candidates[0].to_json())
    shuffled["w_bits"] = dict(reversed(shuffled["w_bits"].items()))
    assert (encoding.encode([read_candidate(shuffled)]) == encoding.encode(candidates[:1])).all()


def test_texts_of_candidates_are_short_for_many_layers() -> None:
    bits = tuple((f"layer{i}", 4 if i < 60 else 8) for i in range(100))
    candidate = ModelCandidate(("a", "b"), (("conv", 48), ("other", 48)), bits, bits, 160)
    assert str(candidate) == "r160 | without a b | 48x2 | w4a4x60 w8a8x40"
    assert candidate.short == "2 skipped, w5.6 a5.6, at 160"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"skipped": "layer1.1"}, "skipped: 'layer1.1' is not a list of names"),
        ({"skipped": ["layer1.1", "layer1.1"]}, "names a block twice"),
        ({"skipped": ["layer9.1"]}, "'layer9.1' is no block that resnet14 can leave out"),
        ({"widths": {"conv1": 0}}, "widths: 'conv1': 0 is not a positive integer"),
        ({"widths": {"conv1": True}}, "widths: 'conv1': True is not a positive integer"),
        ({"widths": {"conv1": 5}}, r"conv1 width is 5; choose one of \[4, 8\]"),
        ({"widths": {}}, "widths: 'conv1' is missing"),
        ({"w_bits": {"fc": 4}}, "w_bits: 'fc' is nothing that resnet14 leaves open"),
        ({"w_bits": [2]}, "w_bits: .* is no mapping"),
        ({"resolution": [32]}, "resolution: resnet14 offers no choice of it"),
        ({"resolution": [32, 64]}, "is not one number"),
        ({"depths": [1]}, "a candidate of a model has the keys"),
        ({"skipped": ["layer1.1"]}, "'layer1.1.conv1' is in a block that is skipped"),
    ],
)
def test_faulty_candidates_are_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    space = space_of("resnet14")
    (whole,) = encoding_of(space).decode(encoding_of(space).ends()[1:])
    with pytest.raises(CandidateError, match=said) as caught:
        encoding_of(space).encode([read_candidate(whole.to_dict() | change)])
    assert "\n" not in str(caught.value)


def test_a_file_gives_the_same_space(tmp_path: Path) -> None:
    genes = {"layer1.*": {"w_bits": [8]}, "layer2.*": {"bits": "together", "depth": 1}}
    space = space_of("resnet14", sizes=[24, 32], genes=genes, ends=None, data="digits")
    for suffix, text in (("yaml", space.to_yaml()), ("json", json.dumps(space.to_dict()))):
        (tmp_path / f"own.{suffix}").write_text(text)
        again = load_space(tmp_path / f"own.{suffix}")
        assert again == space and again.genes == space.genes and again.to_yaml() == space.to_yaml()
    assert again.options.ends is None
    assert json.loads(json.dumps(space.to_record())) == space.to_record() == again.to_record()
    copied = pickle.loads(pickle.dumps(space))
    assert copied == space and hash(copied) == hash(space) and copied.genes == space.genes
    assert len(pickle.dumps(space)) < 60_000
    assert space != space_of("resnet14")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["model"]["nodes"][0].update(kind="add"), "is damaged or was changed by hand"),
        (lambda d: d["model"]["nodes"][0].update(kind="wave"), "of the unknown kind 'wave'"),
        (lambda d: d["model"].pop("shapes"), "is not a graph of a model"),
        (lambda d: d.update(digest="0" * 64), "is damaged or was changed by hand"),
        (lambda d: d.pop("digest"), "is no space of a model"),
        (lambda d: d.update(step=0), "step: .* got 0"),
        (lambda d: d.update(colour="red"), "colour: unknown key"),
        (lambda d: d.update(format=2), "format is 2, this version reads 1"),
        (lambda d: d.update(name="a b"), "name: 'a b' is no name"),
        (lambda d: d.update(genes={"nowhere*": {"w_bits": 8}}), "'nowhere.*names no convolution or linear layer"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, change: Any, said: str) -> None:
    data = json.loads(json.dumps(space_of("resnet8").to_dict()))
    change(data)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(SpaceError, match=said) as caught:
        load_space(tmp_path / "own.yaml")
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_another_model_is_refused_with_the_first_difference() -> None:
    space = space_of("resnet8")
    space.check_model(graph_of("resnet8"))
    with pytest.raises(SpaceError, match=r"is the space of another model: name of 'layer2\.0\.conv1' is"):
        space.check_model(graph_of("resnet14"))
    wider = network("resnet8")
    wider.fc = nn.Linear(32, 7)
    with pytest.raises(SpaceError, match=r"shape of 'fc' is \(10,\) there, \(7,\) here"):
        space.check_model(trace(wider, example_of("resnet8")))


def test_globs_fix_narrow_and_group() -> None:
    genes = {
        "layer1.*": {"w_bits": [8], "width": "full"},
        "layer2.*": {"depth": [1], "a_bits": [4, 8]},
        "layer3.*": {"bits": "together", "depth": 0},
        "layer2.0.conv1": {"width": [8, 12]},
        "conv1": {"w_bits": [4, 8]},
    }
    space = space_of("resnet14", genes=genes)
    named = {gene.name: gene.values for gene in space.genes}
    assert not [name for name in named if name.startswith("layer1") and "w_bits" in name]
    assert "conv1 width" not in named  # layer1 makes channels of it
    assert "layer2.1 depth" not in named and "layer3.1 depth" not in named
    assert named["layer2.0.conv1 width"] == (8, 12)
    assert named["layer2.1.conv1 a_bits"] == (4, 8)
    assert named["layer3.* w_bits"] == named["layer3.* a_bits"] == (2, 4, 8)
    assert [name for name in named if name.startswith("layer3") and "bits" in name] == [
        "layer3.* w_bits",
        "layer3.* a_bits",
    ]
    assert named["conv1 w_bits"] == (4, 8) and "conv1 a_bits" not in named
    assert not [name for name in named if name.startswith("layer3.1")]
    encoding = encoding_of(space)
    (candidate,) = encoding.decode(encoding.sample(1, np.random.default_rng(0)))
    layers = {layer.name: layer for layer in space.plan(candidate).layers}
    assert "layer3.1.conv1" not in layers and "layer2.1.conv1" in layers
    assert len({layer.op.w_bits for name, layer in layers.items() if name.startswith("layer3") and layer.op}) == 1
    assert layers["layer1.1.conv2"].op.w_bits == 8 if "layer1.1.conv2" in layers else True
    broken = candidate.to_dict()
    broken["w_bits"]["layer3.0.conv2"] = 8 if broken["w_bits"]["layer3.0.conv1"] != 8 else 4
    with pytest.raises(CandidateError, match=r"'layer3\.\* w_bits' is one choice for several layers"):
        space.values_of(read_candidate(broken))


@pytest.mark.parametrize(
    ("genes", "said"),
    [
        ({"layer9.*": {"w_bits": 8}}, "names no convolution or linear layer; there are: 'conv1'"),
        ({"layer2.0": {"depth": 1}}, r"names no removable block; there are: 'layer1\.0'"),
        ({"fc": {"width": "full"}}, "cannot be removed, such as the last one"),
        ({"conv1": {"width": [5, 64]}}, r"'conv1' cannot have 64 channels; its widths are 1 to 8"),
        ({"conv1": {"w_bits": [9]}}, "9 bits are not possible; give 2 to 8"),
        ({"layer1.1": {"depth": 2}}, "2 is no depth of a block"),
        ({"conv1": {"w_bits": "full"}}, "is neither a whole number, a list, nor 'together'"),
        ({"conv1": {"colour": 3}}, "there is no 'colour'; give width, depth, w_bits, a_bits, bits"),
        ({"conv1": 8}, "8 is no entry; give a mapping"),
        ({"*": {"w_bits": "together"}}, r"'conv1' \[8\] and .* have different values.*; give the values as well"),
        ({"conv1": {"w_bits": []}}, "w_bits: has no values; give at least one"),
        ({0: {"w_bits": 8}}, r"genes\[0\]: give text, in YAML with quotes if it is a number"),
        ({"conv1": {"w_bits": True}}, "is neither a whole number"),
    ],
)
def test_faulty_globs_are_refused_in_one_line(genes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpaceError, match=said) as caught:
        space_of("resnet14", genes=genes)
    assert "genes" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet14", {"sizes": [32, 24]}, "sizes: .* is not strictly ascending"),
        ("plain_vgg", {"sizes": [24, 32]}, "the model cannot have images of 24x24 pixels"),
        ("ds_cnn_speech", {"sizes": [24, 32]}, "images of 49x10 pixels are not square"),
        ("resnet14", {"keep": "layer9.*"}, r"keep: 'layer9\.\*' is the name of no layer"),
        (
            "resnet14",
            {"keep": "layer1.0"},
            r"keep: 'layer1\.0' is the name of no layer, but of a module; write .*\.\*'",
        ),
        ("resnet14", {"keep": [0]}, r"keep\[0\]: give text, in YAML with quotes if it is a number \('0'\), got 0"),
        ("resnet14", {"w_bits": "4"}, "w_bits: give a list, got '4'"),
        ("resnet14", {"w_bits": [0]}, "w_bits"),
        ("resnet14", {"least": 0}, "least"),
        ("resnet14", {"colour": 1}, "colour: unknown key"),
        ("resnet14", {"normalisation": {"mean": [0.5], "std": [0.5]}}, "has 1 values; give one for each of 3 channels"),
    ],
)
def test_faulty_options_are_refused_in_one_line(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpaceError, match=said) as caught:
        space_of(name, **options)
    assert "\n" not in str(caught.value)


def test_what_is_kept_has_no_genes_of_channels() -> None:
    space = space_of("resnet14", keep=["layer2.*"])
    assert not [gene for gene in space.genes if gene.name.startswith("layer2") and gene.kind in ("width", "depth")]
    with pytest.raises(SpaceError, match=r"all channels of 'layer2.*' are kept: .*keep="):
        space_of("resnet14", keep=["layer2.*"], genes={"layer2.1.conv1": {"width": [8]}})


def test_from_module_leaves_the_model_as_it_is() -> None:
    module = network("resnet8").train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    space = ModelSpace.from_module(module, torch.zeros(1, 3, 32, 32), step=4)
    assert module.training and space.name == "resnet"
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert space.graph.digest == graph_of("resnet8").digest


class _Linear(nn.Module):
    """Residual blocks without activation function behind the sum: ``relu`` comes later, or batch norm."""

    def __init__(self, after: nn.Module) -> None:
        super().__init__()
        self.stem, self.after = nn.Conv2d(3, 8, 3, 2, 1), after
        self.block = nn.Sequential(conv_bn(8, 8), nn.Conv2d(8, 8, 3, 1, 1))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.fc(self.after(x + self.block(x)).mean((2, 3)))


@pytest.mark.parametrize("after", [nn.ReLU(), nn.BatchNorm2d(8)])
def test_blocks_whose_removal_changes_other_layers_stay(after: nn.Module) -> None:
    """Without the block the convolution before it would be computed with what comes after: other tensors are stored."""
    graph = trace(_Linear(after).eval(), torch.zeros(1, 3, 16, 16))
    space = ModelSpace.of_graph(graph)
    assert not space.blocks and not [gene for gene in space.genes if gene.kind == "depth"]
    whole = {gene.name: gene.values[-1] for gene in space.genes}
    assert Network.at(space.network, whole) == space.network.at(whole)
    assert ModelSpace.of_graph(trace(_Linear(nn.Conv2d(8, 8, 1)).eval(), torch.zeros(1, 3, 16, 16))).blocks
    assert separable(graph, ()) == ()


def test_data_is_not_read_for_oblong_images() -> None:
    with pytest.raises(RunError, match="its images have 49x10 pixels, data sets are read as squares"):
        load_data(space_of("ds_cnn_speech", data="digits"))


def test_data_must_have_the_channels_and_classes_of_the_model() -> None:
    space = space_of("resnet8")
    assert space.fitted("digits", 3, 10).data == "digits"
    with pytest.raises(SpaceError, match="the model has 10 classes, photos has 7"):
        space.fitted("photos", 3, 7)
    with pytest.raises(SpaceError, match="the model has 3 channels, photos has 1"):
        space.fitted("photos", 1, 10)


class _Weighted(nn.Module):
    """Classifier that computes something of its weights when it runs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.fc = conv_bn(3, 8), nn.Linear(8, 10)
        self.conv: nn.Module = nn.Conv2d(8, 8, 3, padding=1)
        if kind == "weight norm":
            self.conv = nn.utils.parametrizations.weight_norm(self.conv)
        elif kind == "transposed":
            self.conv = nn.ConvTranspose2d(8, 8, 2, 2)
        self.cosine = kind == "cosine"

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x)).mean((2, 3))
        return functional.linear(x, functional.normalize(self.fc.weight)) if self.cosine else self.fc(x)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "weight norm",
            r"^'conv.* computes a tensor from parameters alone \(aten\._weight_norm.*remove_parametrizations",
        ),
        ("cosine", r"\(test_model_space\.py:\d+\) computes a tensor from parameters alone"),
        (
            "transposed",
            r"^'conv' .* is the operation aten\.conv_transpose2d, whose weights can neither be quantized nor coun",
        ),
    ],
)
def test_weights_that_no_cost_counts_are_refused(kind: str, said: str) -> None:
    with pytest.raises(SpaceError, match=said) as caught:
        ModelSpace.from_module(_Weighted(kind), torch.randn(1, 3, 8, 8))
    assert "\n" not in str(caught.value)
    module = _Weighted(kind)
    if kind == "weight norm":  # the remedy
        nn.utils.parametrize.remove_parametrizations(module.conv, "weight")
        assert len(ModelSpace.from_module(module, torch.randn(1, 3, 8, 8)).graph.weighted) == 3
