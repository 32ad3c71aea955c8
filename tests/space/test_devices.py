"""Devices: a space that was narrowed for a preset has what it runs and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import apq_tune
from apq_tune import (
    CandidateError,
    Constraint,
    DeviceError,
    DevicePreset,
    ModelSpace,
    Objective,
    Problem,
    ReachError,
    SearchSpace,
    SpaceError,
    check_network,
    cost_models,
    device_limits,
    known_presets,
    load_preset,
    search,
)
from apq_tune.network.layer import Layer
from apq_tune.problem.costs import Costs
from apq_tune.space.device import SEARCHED
from apq_tune.space.encodings import encoding_of
from apq_tune.space.narrowing import Narrowing, candidates_run

DENSE = {
    "format": 1,
    "name": "dense",
    "input": {"channels": 1, "size": 8},
    "classes": 4,
    "stem": {"channels": 8},
    "stages": [
        {"channels": 8, "depth": [1, 2], "kernel_size": [1, 3, 5]},
        {"channels": 16, "stride": 2, "depth": [1], "block": "fused_mbconv"},
    ],
    "head": {"channels": 16},
    "block": "residual",
    "choices": {
        "kernel_size": [3],
        "expand_ratio": [0.5, 1, 1.5],
        "divisor": 2,
        **{f"{layer}_{kind}_bits": [2, 3, 4, 8] for layer in ("conv1", "conv2", "fused", "pw") for kind in "wa"},
    },
}
"""A space without depthwise convolutions."""


class Plain(nn.Module):
    """Dense, depthwise and grouped convolutions, a residual block, and a linear layer."""

    def __init__(self, *, depthwise: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        groups = 8 if depthwise else 1
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8)
        )
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.deep(self.stem(x))
        return self.last((x + self.block(x)).mean((2, 3)))


def model_space(**options: Any) -> ModelSpace:
    module = Plain(depthwise=options.pop("depthwise", True))
    return ModelSpace.from_module(module, torch.zeros(1, 1, 8, 8), **{"step": 2, "w_bits": [2, 4, 8]} | options)


SPACES = {
    "digits": SearchSpace.load("digits"),
    "dense": SearchSpace.from_dict(DENSE),
    "model": model_space(a_bits=[4, 8]),
    "dense_model": model_space(a_bits=[8], depthwise=False),
}


def preset(**ops: Any) -> DevicePreset:
    return DevicePreset.from_dict({"format": 1, "name": "mine", "title": "My device", "ops": ops})


def plain(name: str) -> dict[str, Any]:
    """What the file of a preset says, read by another program."""
    return yaml.safe_load((Path(apq_tune.__file__).parent / "devices" / f"{name}.yaml").read_text("utf-8"))


def is_run(rules: dict[str, Any], layers: tuple[Layer, ...]) -> bool:
    """Whether a device runs all layers, by a plain loop; rules of first and last layers are not known here."""
    for place, layer in enumerate(layers):
        op = layer.op
        if op is None:
            continue
        kind = layer.kind
        if kind == "conv" and op.groups > 1:
            kind = "depthwise" if op.groups == op.in_channels else "grouped"
        rule = rules.get(kind, rules["conv"])
        if rule == "unsupported":
            return False
        listed = {key: [value] if isinstance(value, int) else value for key, value in rule.items()}
        pairs = listed.get("pairs") or [[w, a] for w in listed["w_bits"] for a in listed["a_bits"]]
        if [op.w_bits, op.a_bits] not in pairs:
            return False
        sides = {op.kernel_size, op.kernel_size if op.kernel_width is None else op.kernel_width}
        if kind != "linear" and "kernels" in rule and not sides <= set(listed["kernels"]):
            return False
        is_last = all(later.op is None for later in layers[place + 1 :])
        if "channels" in rule and not is_last and op.out_channels % rule["channels"]:
            return False
    return True


def layers_of(space: Any, candidate: Any) -> tuple[Layer, ...]:
    return tuple(space.network.at(space.values_of(candidate)))


@pytest.mark.parametrize("name", known_presets())
def test_presets_are_named_as_their_files_and_each_number_has_a_source(name: str) -> None:
    own, data = load_preset(name), plain(name)
    assert own.name == name
    assert DevicePreset.from_dict(own.to_dict()) == own
    sources = [data[key].get("source", data["source"]) for key in ("flash", "ram") if key in data]
    rules = [rule for rule in data["ops"].values() if isinstance(rule, dict)]
    sources += [rule.get("source", data["source"]) for rule in rules]
    assert sources
    assert all(re.search(r"https://|[A-Z][a-z]+ \d{4}", source) for source in sources)


@pytest.mark.parametrize("name", [name for name in known_presets() if load_preset(name).cost_model is not None])
def test_the_cost_model_of_a_device_knows_what_it_runs(name: str) -> None:
    own, kind = load_preset(name), "model" if name == "cortex_m_2mb" else "digits"
    assert own.cost_model is not None
    encoding = encoding_of(SPACES[kind].narrowed(own))
    metric = Costs.of(encoding, (), [own.cost_model.name]).metrics[own.cost_model.name]
    assert (metric(encoding.sample(5, np.random.default_rng(0))) > 0).all()


def test_presets_of_the_issue_say_what_it_says() -> None:
    wanted = "cortex_m_1mb cortex_m_2mb litert ethos_u stm32n6 ti_tinpu max78000 max78002 imx500 ne16 mpic bitfusion"
    assert {*wanted.split(), "onnxruntime_cpu"} <= set(known_presets())
    assert load_preset("cortex_m_1mb").limits == {"weight_bytes": 2**20, "peak_activation_bytes": 320 * 2**10}
    assert load_preset("cortex_m_2mb").limits == {"weight_bytes": 2**21, "peak_activation_bytes": 512 * 2**10}
    assert load_preset("max78000").limits["weight_bytes"] == 432 * 2**10
    assert load_preset("max78002").limits["weight_bytes"] == 2340 * 2**10
    assert load_preset("max78000").unsearched == ("weights of 1 bit",)
    assert load_preset("litert").unsearched == ("inputs of 16 bits",)
    litert = load_preset("litert").ops.depthwise
    assert not isinstance(litert, str)
    assert litert is not None
    assert litert.weights == (8,)


@pytest.mark.parametrize("name", known_presets())
@pytest.mark.parametrize("kind", SPACES)
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_narrowed_space_has_only_networks_that_the_device_runs(name: str, kind: str, seed: int) -> None:
    own, space, rules = load_preset(name), SPACES[kind], plain(name)["ops"]
    try:
        part = space.narrowed(own)
    except DeviceError as error:
        whole = encoding_of(space)
        drawn = whole.decode(whole.sample(20, np.random.default_rng(seed)))
        assert not any(is_run(rules, layers_of(space, candidate)) for candidate in drawn), error
        return
    encoding, rng = encoding_of(part), np.random.default_rng(seed)
    for genomes in (encoding.sample(5, rng), encoding.sample_policies(5, rng), encoding.ends()):
        for candidate in encoding.decode(genomes):
            assert is_run(rules, layers_of(part, candidate))
            check_network(own, layers_of(part, candidate))


@pytest.mark.parametrize(("name", "kind"), [("litert", "digits"), ("ti_tinpu", "model"), ("max78000", "dense")])
def test_a_search_yields_only_networks_that_the_device_runs(name: str, kind: str) -> None:
    part = SPACES[kind].narrowed(load_preset(name))
    metrics = {model.name: model for model in cost_models(encoding_of(part))}
    objectives = [Objective(metrics["bit_ops"]), Objective(metrics["weight_bytes"], "maximize")]
    limits = device_limits(part, metrics.values())
    found = search(Problem(part, objectives, limits), n_evaluations=300, seed=1)
    assert len(found.candidates) > 2
    for candidate in found.candidates:
        assert is_run(plain(name)["ops"], layers_of(part, candidate))


SMALL = {
    **DENSE,
    "stages": [{"channels": 8, "depth": [1, 2], "kernel_size": [1, 3]}],
    "block": "mbconv",
    "choices": {
        "kernel_size": [3],
        "expand_ratio": [0.5, 1],
        "divisor": 2,
        **{f"{layer}_{kind}_bits": [4, 8] for layer in ("pw", "dw") for kind in "wa"},
    },
    "forbidden": [{"kernel_size": 3, "dw_w_bits": 4}],
}
ODD = {
    "conv": {"pairs": [[8, 8], [4, 8], [4, 4]], "channels": 8},
    "depthwise": {"pairs": [[8, 4], [4, 8], [8, 8]], "kernels": [3, 5]},
    "linear": {"w_bits": 8, "a_bits": 8},
}
"""Pairs that are no product."""


def test_a_narrowed_space_has_all_networks_that_the_device_runs() -> None:
    space = SearchSpace.from_dict(SMALL)
    part, whole = space.narrowed(preset(**ODD)), encoding_of(space)
    run = {candidate for candidate in whole.decode(whole.enumerate()) if is_run(ODD, layers_of(space, candidate))}
    encoding = encoding_of(part)
    assert set(encoding.decode(encoding.enumerate())) == run
    assert part.size() == len(run) == 42
    assert encoding.forbids
    rng = np.random.default_rng(0)
    assert encoding.is_allowed(encoding.sample(200, rng)).all()
    assert set(encoding.decode(encoding.sample(5000, rng))) == run


def test_a_narrowed_space_of_a_model_has_all_networks_that_the_device_runs() -> None:
    space = model_space(w_bits=[4, 8], a_bits=[4, 8], step=4, genes={"stem.0": {"width": [4, 6, 8]}})
    rules = {
        "conv": {"w_bits": [4, 8], "a_bits": 8, "channels": 4},
        "depthwise": {"w_bits": 8, "a_bits": [4, 8]},
        "linear": {"w_bits": 8, "a_bits": 8},
    }
    part, whole = space.narrowed(preset(**rules)), encoding_of(space)
    run = {candidate for candidate in whole.decode(whole.enumerate()) if is_run(rules, layers_of(space, candidate))}
    narrowing, encoding = Narrowing(space, part), encoding_of(part)
    assert {narrowing.candidate(candidate) for candidate in encoding.decode(encoding.enumerate())} == run
    assert part.size() == len(run) == 52


def test_pairs_of_bits_of_a_model_that_are_no_product_are_forbidden() -> None:
    space = model_space(w_bits=[4, 8], a_bits=[4, 8], step=4, genes={"stem.0": {"width": [4, 6, 8]}})
    rules = {name: {key: value for key, value in rule.items() if key != "channels"} for name, rule in ODD.items()}
    part, whole = space.narrowed(preset(**rules)), encoding_of(space)
    run = {candidate for candidate in whole.decode(whole.enumerate()) if is_run(rules, layers_of(space, candidate))}
    narrowing, encoding = Narrowing(space, part), encoding_of(part)
    assert encoding.forbids
    assert len(run) == 3 * 3 * (1 + 3 * 9)
    assert {narrowing.candidate(candidate) for candidate in encoding.decode(encoding.enumerate())} == run
    rng = np.random.default_rng(0)
    for genomes in (encoding.sample(100, rng), encoding.sample_policies(100, rng)):
        assert encoding.is_allowed(genomes).all()
        assert all(is_run(rules, layers_of(part, candidate)) for candidate in encoding.decode(genomes))
    for genome in whole.enumerate():  # what a sampler of others proposes becomes the nearest network that is run
        values = {name: own[i] for name, own, i in zip(whole.names, whole.choices, genome, strict=True)}
        candidate = part.candidate_of({name: values[name] for name in encoding.names})
        assert is_run(rules, layers_of(part, candidate))
        assert (part.to_config(candidate) == values) == is_run(rules, layers_of(space, space.candidate_of(values)))
    with pytest.raises(CandidateError):
        encoding.encode([whole.decode(whole.at_bits(whole.ends()[1:], 4))[0]])


@pytest.mark.parametrize("kind", ["digits", "model"])
def test_the_file_of_a_narrowed_space_says_for_what_it_was_narrowed(kind: str) -> None:
    own, space = load_preset("litert"), SPACES[kind]
    part = space.narrowed(own)
    assert part.device == own
    assert part.whole == space
    again = type(space).from_dict(yaml.safe_load(part.to_yaml()))
    assert again == part
    assert again.parameters == part.parameters
    assert yaml.safe_load(part.to_yaml())["device"]["name"] == "litert"
    assert "device" not in space.to_record()
    assert part.narrowed(own) == part
    with pytest.raises(
        DeviceError, match="is narrowed for litert already; narrow the space that it was made of for mpic"
    ):
        part.narrowed(load_preset("mpic"))


def test_the_file_of_a_space_may_name_a_device() -> None:
    named = SearchSpace.from_dict(SPACES["digits"].to_dict() | {"device": "litert"})
    assert named == SPACES["digits"].narrowed(load_preset("litert"))
    with pytest.raises(DeviceError, match="unknown device preset 'nothing'; known: bitfusion, "):
        SearchSpace.from_dict(SPACES["digits"].to_dict() | {"device": "nothing"})


@pytest.mark.parametrize(
    ("kind", "ops", "said"),
    [
        (
            "digits",
            {"conv": {"w_bits": 8, "a_bits": 8}, "depthwise": "unsupported"},
            "1.1.depthwise: mine runs no depth",
        ),
        (
            "digits",
            {"conv": {"w_bits": 4, "a_bits": 8}},
            "stem: w_bits is 8, but mine runs convolutions with weights of 4 b",
        ),
        (
            "digits",
            {"conv": {"w_bits": 8, "a_bits": 8, "kernels": [3]}},
            r"1.1.expand: offers kernel_size \[1\], but mine",
        ),
        (
            "digits",
            {"conv": {"w_bits": 8, "a_bits": 8, "channels": 24}},
            r"1.1.project: offers channels \[16\], but mine",
        ),
        (
            "digits",
            {"conv": {"w_bits": 8, "a_bits": 8}, "depthwise": {"w_bits": 6, "a_bits": 8}},
            r"1.1.depthwise: offers w_bits \[2, 4, 8\], but mine runs depthwise convolutions with weights of 6 b",
        ),
        (
            "digits",
            {"conv": {"w_bits": 8, "a_bits": 8}, "last": {"w_bits": 2, "a_bits": 8}},
            "classifier: w_bits is 8, but mine runs last layers with weights of 2 bits",
        ),
        (
            "model",
            {"conv": {"w_bits": 8, "a_bits": 8}, "depthwise": "unsupported"},
            r"deep.0 \(.*:\d+\): mine runs no dep",
        ),
        (
            "model",
            {"conv": {"w_bits": 8, "a_bits": 8, "kernels": 3}},
            r"block.0 .*: its kernel is 1x1, but mine runs conv",
        ),
        (
            "model",
            {"conv": {"w_bits": 8, "a_bits": 8, "channels": 16}},
            r"stem.0 .*: offers widths \[2, 4, 6, 8\] of 'stem",
        ),
        (
            "model",
            {"conv": {"w_bits": [2, 4], "a_bits": 8}},
            r"stem.0 .*: offers w_bits \[8\], but mine runs convolutions",
        ),
    ],
)
def test_a_device_that_leaves_nothing_is_refused_with_the_layer_and_the_reason(kind: str, ops: Any, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        SPACES[kind].narrowed(preset(**ops))


def with_functions(*names: str) -> DevicePreset:
    return DevicePreset.from_dict(preset(conv={"w_bits": [2, 4, 8], "a_bits": [4, 8]}).to_dict() | {"functions": names})


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        (
            "stages",
            {"activation": "h_swish"},
            "1.1.conv1: its activation function is h_swish, but mine computes relu or ",
        ),
        (
            "stages",
            {"block": "mbconv", "squeeze_excite": True},
            "1.1.excite: its activation function is h_sigmoid, but ",
        ),
        (
            "stem",
            {"activation": "h_swish"},
            "stem: its activation function is h_swish, but mine computes relu or relu6",
        ),
        ("head", {"activation": "relu"}, ""),
    ],
)
def test_a_space_with_functions_that_the_device_does_not_compute_is_refused(
    place: str, change: dict[str, Any], said: str
) -> None:
    data = SearchSpace.from_dict(DENSE).to_dict()
    if "block" in change:
        data["choices"] = {key: value for key, value in data["choices"].items() if not key.startswith("conv")}
        data["choices"] |= {f"dw_{kind}_bits": [2, 8] for kind in "wa"}
    (data["stages"][0] if place == "stages" else data[place]).update(change)
    space = SearchSpace.from_dict(data)
    encoding = encoding_of(space)
    (candidate,) = encoding.decode(encoding.at_bits(encoding.ends()[1:], 8))
    every = with_functions("relu6", "h_swish", "relu", "h_sigmoid")
    assert space.narrowed(every).size() > 1
    check_network(every, layers_of(space, candidate))
    few = with_functions("relu", "relu6")
    if not said:
        assert space.narrowed(few).size() > 1
        check_network(few, layers_of(space, candidate))
        return
    with pytest.raises(DeviceError, match=said):
        space.narrowed(few)
    with pytest.raises(DeviceError, match=f"{said}.*; take a network that was searched for this device"):
        check_network(few, layers_of(space, candidate))


class Gelu(Plain):
    """Plain, with another activation function in its residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.block[2] = nn.GELU()


def test_functions_of_a_model_that_the_device_does_not_compute_are_refused_unless_they_are_left_out() -> None:
    image, relu = torch.zeros(1, 1, 8, 8), with_functions("relu")
    space = ModelSpace.from_module(Gelu(), image, step=2, w_bits=[8], a_bits=[8])
    reason = r"block.2 \(.*:\d+\): its activation function is gelu, but mine computes relu; leave its block out"
    with pytest.raises(DeviceError, match=reason):
        space.narrowed(relu)
    assert space.narrowed(with_functions("relu", "gelu")).size() == space.size()
    encoding = encoding_of(space)
    small, large = (layers_of(space, candidate) for candidate in encoding.decode(encoding.ends()))
    check_network(relu, small)  # without the block
    with pytest.raises(DeviceError, match=r"block\.0: its activation function is gelu, but mine computes relu; take"):
        check_network(relu, large)
    with pytest.raises(DeviceError, match=r"stem\.0: its activation function is relu, but mine computes no activation"):
        check_network(with_functions(), large)
    (block,) = space.choices.depths
    without = ModelSpace.from_module(Gelu(), image, step=2, w_bits=[8], a_bits=[8], genes={block: {"depth": [0]}})
    assert without.narrowed(relu).size() == without.size()


def test_rules_of_first_and_last_layers_replace_those_of_their_kind() -> None:
    own = preset(conv={"w_bits": 4, "a_bits": 8}, first={"w_bits": 8, "a_bits": 8}, last={"w_bits": 8, "a_bits": 8})
    part = model_space(a_bits=[8]).narrowed(own)
    candidate = part.candidate_of({gene.name: gene.values[-1] for gene in part.genes})
    bits = {layer.name: layer.op.w_bits for layer in layers_of(part, candidate) if layer.op is not None}
    assert bits == {"stem.0": 8, "deep.0": 4, "block.0": 4, "block.3": 4, "last": 8}


def test_a_gene_of_several_layers_has_what_all_of_them_run() -> None:
    space = model_space(a_bits=[8], genes={"*": {"w_bits": ["together", 2, 4, 8]}}, ends=None)
    part = space.narrowed(preset(conv={"w_bits": [2, 4], "a_bits": 8}, depthwise={"w_bits": [4, 8], "a_bits": 8}))
    assert {choice.values for choice in part.choices.w_bits.values()} == {(4,)}
    with pytest.raises(DeviceError, match=r"genes: '\*': w_bits: .* are what mine runs, so no gene can be of both"):
        space.narrowed(preset(conv={"w_bits": [2, 4], "a_bits": 8}, depthwise={"w_bits": 8, "a_bits": 8}))


@pytest.mark.parametrize("kind", ["digits", "model"])
def test_genomes_of_the_part_and_of_the_whole_are_of_the_same_networks(kind: str) -> None:
    space = SPACES[kind]
    narrowing = Narrowing(space, space.narrowed(load_preset("litert")))
    genomes = narrowing.part.sample(50, np.random.default_rng(0))
    wide = narrowing.widen(genomes)
    for mine, theirs in zip(narrowing.part.decode(genomes), narrowing.whole.decode(wide), strict=True):
        assert layers_of(narrowing.part.space, mine) == layers_of(space, theirs)
        assert narrowing.candidate(mine) == theirs
    back, inside = narrowing.narrow(wide)
    assert inside.all()
    assert (back == genomes).all()
    every = narrowing.whole.sample(100, np.random.default_rng(1))
    _, inside = narrowing.narrow(every)
    for candidate, own in zip(narrowing.whole.decode(every), inside, strict=True):
        assert own == is_run(plain("litert")["ops"], layers_of(space, candidate))


def test_a_candidate_that_the_device_does_not_run_is_named_with_its_layer_and_the_rule() -> None:
    space, own = SPACES["digits"], load_preset("litert")
    encoding, part = encoding_of(space), space.narrowed(own)
    at_2, at_8 = (encoding.decode(encoding.at_bits(encoding.ends()[:1], bits))[0] for bits in (2, 8))
    assert candidates_run(own, part, [at_8]) == [at_8]
    with pytest.raises(
        DeviceError, match=r"candidate 1: 1.1.expand: w_bits is 2, but litert runs convolutions with weig"
    ):
        candidates_run(own, part, [at_8, at_2])


def test_limits_of_a_device_are_constraints_and_out_of_reach_if_nothing_fits() -> None:
    part = SPACES["digits"].narrowed(load_preset("cortex_m_1mb"))
    limits = {limit.metric.name: limit.bound for limit in device_limits(part)}
    assert limits == {"weight_bytes": 2**20, "peak_activation_bytes": 320 * 2**10}
    assert device_limits(SPACES["digits"]) == ()
    tiny = load_preset("cortex_m_1mb").to_dict() | {"flash": {"bytes": "1kB"}}
    with pytest.raises(ReachError, match="cortex_m_1mb: no candidate reaches weight_bytes <= 1000: "):
        device_limits(SPACES["digits"].narrowed(DevicePreset.from_dict(tiny)))
    assert all(isinstance(limit, Constraint) for limit in device_limits(part))


def test_bits_that_no_space_offers_are_told_apart() -> None:
    assert set(SEARCHED) == set(range(2, 9))
    for bits in (1, 9):  # what the two kinds of spaces refuse
        with pytest.raises(SpaceError):
            model_space(w_bits=[bits])
