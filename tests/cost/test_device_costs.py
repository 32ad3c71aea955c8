"""Cost models of devices: against what the published programs compute, sums over layers, and what they refuse."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from apq_tune import ModelSpace, NetworkEncoding, ProblemError, SearchSpace, TableError
from apq_tune.cli import cli
from apq_tune.cost import NAMED, named_cost
from apq_tune.cost.named_costs import OP_MODELS, named_in
from apq_tune.cost.op_model import check_covered
from apq_tune.cost.shares import layer_costs
from apq_tune.network import described
from apq_tune.network.described import choices_of
from apq_tune.network.layer import IMAGE, Layer, Op, Tensor
from apq_tune.network.network import Part
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import example_of, network

PUBLISHED = [
    ("mpic_cycles", (134, 134, 1, 134, 33, 33, 4, 8), 32, 61523.47826086957),
    ("mpic_cycles", (65, 546, 1, 1, 1, 1, 8, 4), None, 16900.0),
    ("mpic_cycles", (246, 246, 5, 246, 29, 29, 4, 2), 34, 1515975.0),
    ("ne16_cycles", (127, 342, 1, 1, 1, 1, 8, 8), None, 6224.0),
    ("diana_cycles", (127, 342, 1, 1, 1, 1, 8, 8), None, 2852.625),
    ("mpic_cycles", (78, 565, 3, 1, 8, 8, 4, 8), 36, 49664972.0),
    ("mpic_cycles", (155, 561, 5, 1, 19, 19, 2, 8), 29, 479122080.0),
    ("mpic_cycles", (84, 119, 3, 1, 38, 38, 2, 4), 22, 19284592.0),
    ("diana_cycles", (188, 278, 1, 1, 15, 15, 2, 8), 24, 14608.0),
    ("gap8_cycles", (114, 114, 1, 114, 3, 3, 8, 8), 37, 12876.0),
    ("ne16_cycles", (16, 24, 1, 1, 1, 1, 4, 8), None, 103.0),
    ("diana_cycles", (16, 516, 3, 1, 3, 3, 2, 8), 39, 5410.80029296875),
    ("mpic_cycles", (62, 229, 5, 1, 29, 29, 8, 8), 25, 122542264.0),
    ("diana_cycles", (62, 229, 5, 1, 29, 29, 8, 8), 25, 1188871.875),
    ("ne16_cycles", (67, 162, 3, 1, 34, 34, 8, 8), 32, 1072368.0),
    ("diana_cycles", (67, 162, 3, 1, 34, 34, 8, 8), 32, 667912.0),
    ("mpic_cycles", (21, 21, 3, 21, 20, 20, 8, 4), 22, 39600.0),
    ("mpic_cycles", (136, 136, 3, 136, 20, 20, 4, 8), 27, 287373.9130434783),
    ("ne16_cycles", (64, 64, 3, 64, 34, 34, 2, 8), 13, 31440.0),
    ("gap8_cycles", (56, 56, 3, 56, 36, 36, 8, 8), 19, 344736.0),
    ("gap8_cycles", (145, 145, 5, 145, 17, 17, 8, 8), 35, 2201500.0),
]
"""Cycles that ``plinio.cost`` (commit 3d6b5e0) computes for an operation; of 7,721 random ones all were equal."""


def narrowed(kernels: tuple[int, ...], w_bits: tuple[int, ...], a_bits: tuple[int, ...] = (8,)) -> NetworkEncoding:
    """The search space of the digits with other kernels and bits."""
    plain = SearchSpace.load("digits").model_dump(mode="json", exclude_none=True)
    for stage in plain["stages"]:
        stage.pop("kernel_size", None)
    plain["input"]["size"] = 16
    plain["choices"] |= {"kernel_size": list(kernels)}
    plain["choices"] |= {
        f"{kind}_{of}_bits": list(bits) for kind in ("pw", "dw") for of, bits in (("w", w_bits), ("a", a_bits))
    }
    return NetworkEncoding(SearchSpace.from_dict(plain))


def traced(name: str, **options: Any) -> Any:
    return encoding_of(ModelSpace.of_graph(trace(network(name), example_of(name)), name=name, step=4, **options))


COVERED = {
    "mpic_cycles": narrowed((3, 5), (2, 4, 8), (2, 4, 8)),
    "ne16_cycles": narrowed((3,), (2, 3, 6, 8)),
    "gap8_cycles": narrowed((3, 5), (8,)),
    "stm32h7_ms": narrowed((3, 5), (2, 4, 8)),
    "diana_cycles": narrowed((3, 5), (8,)),
}
"""Spaces that each cost model covers."""


@pytest.mark.parametrize(("name", "op", "width", "cycles"), PUBLISHED)
def test_operations_cost_what_the_published_program_computes(
    name: str, op: tuple[int, ...], width: int | None, cycles: float
) -> None:
    assert float(OP_MODELS[name].cost(Op(*op, out_width=width))) == pytest.approx(cycles, rel=1e-6)


@functools.cache
def benchmark() -> ModuleType:
    """The benchmark with the published measurements."""
    path = Path(__file__).parents[2] / "benchmarks/device_costs.py"
    spec = importlib.util.spec_from_file_location("device_costs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # named tuples look their module up
    spec.loader.exec_module(module)
    return module


def test_rates_of_the_stm32h7_are_those_of_the_fit_and_their_errors_those_that_are_stated() -> None:
    script = benchmark()
    np.testing.assert_allclose(script.fitted(script.ZOO), script.MODULE, rtol=0.005)
    for own in script.ZOO:
        ms = sum(float(OP_MODELS["stm32h7_ms"].cost(op)) for op in own.ops)
        assert ms == pytest.approx(float(script.macs_of(own) @ script.MODULE), rel=1e-9)
    errors = np.abs(script.errors(script.ZOO, script.MODULE))
    assert errors.mean() < 0.04 and errors.max() < 0.115
    assert max(np.abs(own).max() for own in script.held_out().values()) < 0.195
    n_parameters = {own.family: sum(op.n_weights + op.out_channels for op in own.ops) for own in script.ZOO}
    assert n_parameters["FD-MobileNet"] == 125_477 and n_parameters["SqueezeNet 1.1"] == 725_061  # as published


def test_ne16_and_gap8_are_below_what_whole_networks_were_measured_at() -> None:
    script = benchmark()
    for ops, per_second in zip(script.MLPERF.values(), script.GAP9, strict=True):
        share = script.cycles(ops, OP_MODELS["ne16_cycles"].cost) / (370e6 / per_second)
        assert 0.55 < share < 0.75  # the rest are transfers, and layers that run on the cores
    op, published = script.PULP_NN
    assert op.macs / float(OP_MODELS["gap8_cycles"].cost(op)) == pytest.approx(published, rel=0.13)


@pytest.mark.parametrize("name", OP_MODELS)
def test_costs_of_networks_are_sums_over_their_layers(name: str) -> None:
    encoding = COVERED[name]
    network_, model = encoding.space.network, named_cost(name, encoding)
    genomes = encoding.sample(40, np.random.default_rng(0))
    expected = []
    for candidate in encoding.decode(genomes):
        layers = network_.at(encoding.space.values_of(candidate))
        expected.append(sum(float(OP_MODELS[name].cost(layer.op)) for layer in layers if layer.op is not None))
    np.testing.assert_allclose(model(genomes), expected, rtol=1e-12)
    low, high = model.reachable()
    assert low <= min(expected) < max(expected) <= high
    assert model.unit == ("ms" if name.endswith("_ms") else "cycles")


@pytest.mark.parametrize("name", ["mpic_cycles", "ne16_cycles", "diana_cycles", "stm32h7_ms"])
def test_costs_of_traced_models_are_sums_over_their_layers(name: str) -> None:
    w_bits = {"mpic_cycles": [2, 4, 8], "ne16_cycles": [2, 4, 8], "diana_cycles": [8], "stm32h7_ms": [4, 8]}[name]
    encoding = traced("resnet8", w_bits=w_bits, a_bits=[8])
    genomes = np.concatenate([encoding.sample(20, np.random.default_rng(0)), encoding.ends()])
    model, space = named_cost(name, encoding), encoding.space
    expected = [
        sum((layer_costs(name, space.network, space.values_of(candidate)) or {}).values())
        for candidate in encoding.decode(genomes)
    ]
    np.testing.assert_allclose(model(genomes), expected, rtol=1e-12)
    low, high = model.reachable()
    assert low <= min(expected) < max(expected) <= high


@pytest.mark.parametrize(
    ("name", "encoding", "said"),
    [
        ("mpic_cycles", narrowed((3,), (3, 8)), "layer '1.1.expand' (1x1 convolution, 3-bit weights, 8-bit inputs)"),
        ("ne16_cycles", narrowed((3, 5), (8,)), "layer '1.1.depthwise' (5x5 depthwise convolution, 8-bit weights"),
        ("ne16_cycles", narrowed((3,), (8,), (4, 8)), "8-bit weights, 4-bit inputs), its source has"),
        ("gap8_cycles", narrowed((3,), (4, 8)), "4-bit weights"),
        ("diana_cycles", narrowed((3,), (2, 8)), "3x3 depthwise convolution, 2-bit weights"),
    ],
)
def test_spaces_with_an_operation_that_the_source_does_not_cover_are_refused(
    name: str, encoding: NetworkEncoding, said: str
) -> None:
    with pytest.raises(TableError) as refused:
        named_cost(name, encoding)
    message = str(refused.value)
    assert said in message and message.startswith(f"{name}: does not know layer ") and "\n" not in message


def test_forbidden_combinations_need_not_be_covered() -> None:
    plain = narrowed((3, 5), (2, 8), (8,)).space.model_dump(mode="json", exclude_none=True)
    plain["forbidden"] = [{"kernel_size": 5}, {"dw_w_bits": 2}]
    encoding = NetworkEncoding(SearchSpace.from_dict(plain))
    for name in ("ne16_cycles", "diana_cycles"):
        model, genomes = named_cost(name, encoding), encoding.sample(50, np.random.default_rng(1))
        assert np.isfinite(model(genomes)).all() and np.isfinite(model.reachable()).all()


def test_nothing_is_computed_or_listed_that_nobody_asks_for() -> None:
    encoding = COVERED["ne16_cycles"]
    assert not set(Costs.of(encoding).metrics) & set(NAMED)
    costs = Costs.of(encoding, asked=["ne16_cycles <= 50k", "bit_ops<=25%"])
    assert list(costs.metrics)[-1] == "ne16_cycles" and len(set(costs.metrics) & set(NAMED)) == 1
    (limit,) = costs.limits(["ne16_cycles <= 50k"])
    assert limit.bound == 50_000 and limit.metric.unit == "cycles"
    assert costs.limits(["ne16_cycles<=50%"])[0].bound == costs.at_largest()["ne16_cycles"] / 2


def test_names_are_read_from_limits_and_names() -> None:
    assert named_in(["mpic_cycles<=2M", " ne16_cycles", "mpic_cycles>=1", "bit_ops<=25%", "<=3"]) == (
        "mpic_cycles",
        "ne16_cycles",
    )
    with pytest.raises(ProblemError, match="unknown cost model 'gap9'; known: mpic_cycles"):
        named_cost("gap9", COVERED["mpic_cycles"])


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
def test_latency_of_the_stm32h7_never_falls_as_channels_grow(inputs: int, outputs: int, kernel: int) -> None:
    cost = OP_MODELS["stm32h7_ms"].cost
    before = float(cost(Op(inputs, outputs, kernel, 1, 8, 8, 8, 8)))
    assert before <= float(cost(Op(inputs + 1, outputs, kernel, 1, 8, 8, 8, 8))) * (1 + 1e-12)
    assert before < float(cost(Op(inputs, outputs + 1, kernel, 1, 8, 8, 8, 8)))


def test_limits_on_times_that_bits_do_not_change_say_so() -> None:
    assert "save bytes, not time" in named_cost("stm32h7_ms", COVERED["stm32h7_ms"]).note
    assert not named_cost("stm32h7_ms", COVERED["gap8_cycles"]).note


def test_bits_of_layers_with_many_channel_genes_are_checked_one_by_one() -> None:
    """Layers behind concatenations depend on dozens of genes, of which only ends are gone through, but all bits."""
    encoding = traced("densenet", w_bits=[2, 3, 8], a_bits=[8])
    network_ = encoding.space.network
    part = max(network_.parts, key=lambda own: len(own.genes))
    layers, _ = choices_of(network_, part, network_.sizes[-1])
    assert {int(bits) for layer in layers if layer.op is not None for bits in np.ravel(layer.op.w_bits)} <= {2, 3, 8}
    with pytest.raises(TableError, match=r"mpic_cycles: does not know layer .*3-bit weights"):
        named_cost("mpic_cycles", encoding)


def test_choices_of_a_part_keep_all_bits_where_channels_have_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    network_ = COVERED["ne16_cycles"].space.network
    part = next(part for part in network_.parts if part.genes)
    monkeypatch.setattr(described, "MOST_CHOICES", 200)
    layers, allowed = choices_of(network_, part, network_.sizes[-1])
    expand = layers[0].op
    assert expand is not None and allowed.size <= 200
    assert {int(bits) for bits in np.ravel(expand.w_bits)} == {2, 3, 6, 8}


def test_layers_without_a_cost_are_refused_and_named() -> None:
    encoding = traced("resnet8", w_bits=[8], a_bits=[8])
    network_ = encoding.space.network
    softmax = Layer("attention", "opaque", (IMAGE,), Tensor(3, 32, 8), settings={"target": "aten.softmax.int"})
    refused = dataclasses.replace(network_, parts=(*network_.parts, Part("attention", (), lambda _: (softmax,))))
    with pytest.raises(TableError, match=r"gap8_cycles: does not know layer 'attention' \(aten\.softmax\.int\)"):
        check_covered(OP_MODELS["gap8_cycles"], refused)
    pointwise = softmax._replace(settings={"target": "aten.erf.default", "pointwise": True})
    fine = dataclasses.replace(network_, parts=(*network_.parts, Part("attention", (), lambda _: (pointwise,))))
    check_covered(OP_MODELS["gap8_cycles"], fine)


def test_commands_know_the_costs_of_devices_by_name(tmp_path: Path) -> None:
    space = tmp_path / "narrow.yaml"
    space.write_text(yaml.safe_dump(COVERED["ne16_cycles"].space.model_dump(mode="json", exclude_none=True)))

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], env={"COLUMNS": "200"})

    found = call(
        "search", space, "--front", "macs,ne16_cycles", "--constraint", "ne16_cycles<=60%", "--evaluations", 300
    )
    assert found.exit_code == 0 and "ne16_cycles" in found.output, found.output
    shown = call("space", space, "--cost", "cmsis_nn_ram_bytes")
    assert shown.exit_code == 0 and "cmsis_nn_ram_bytes" in shown.output and "ne16_cycles" not in shown.output
    refused = call("space", space, "--cost", "ram")
    assert refused.exit_code == 2 and "known: mpic_cycles" in refused.output
    unknown = call("search", space, "--objective", "ne16", "--evaluations", 300)
    assert unknown.exit_code != 0 and "of devices: mpic_cycles" in str(unknown.exception)


@pytest.mark.parametrize("encoding", [narrowed((3, 5), (4, 8)), "resnet8"])
def test_of_a_space_of_which_a_part_is_searched_networks_outside_the_source_cost_infinitely_much(encoding: Any) -> None:
    if encoding == "resnet8":
        encoding = traced("resnet8", w_bits=[8], a_bits=[4, 8])
    space, genomes = encoding.space, encoding.sample(200, np.random.default_rng(3))
    found = Costs.of(encoding, asked=["ne16_cycles"], strict=False).metrics["ne16_cycles"](genomes)
    cost = OP_MODELS["ne16_cycles"].cost
    layers = [space.network.at(space.values_of(candidate)) for candidate in encoding.decode(genomes)]
    expected = [sum(float(cost(layer.op)) for layer in own if layer.op is not None) for own in layers]
    np.testing.assert_allclose(found, np.where(np.isnan(expected), np.inf, expected), rtol=1e-12)
    assert np.isinf(found).any()
