"""Programs of random graphs of all kinds of layers: reference, onnxruntime and torch compute one and the same."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apq_tune import DeployError
from apq_tune.deploy import reference
from apq_tune.deploy.c_file import c_bytes, load_c
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.onnx_session import FLOAT_KERNELS, INTEGER_KERNELS, kernels
from apq_tune.deploy.program import (
    AveragePoolStep,
    ConcatStep,
    ConvStep,
    IntegerTensor,
    MoveStep,
    MultiplyStep,
    Program,
    RequantizeStep,
    Step,
    WeightedStep,
)
from apq_tune.deploy.torch_file import ProgramModule
from apq_tune.network.layer import IMAGE
from tests.deploy.random_programs import (
    GraphMaker,
    any_concat,
    any_excite,
    any_shuffle,
    faults_of,
    in_onnxruntime,
    model_of,
    net_of,
    random_graph,
)


@pytest.mark.parametrize("seed", range(40))
def test_onnxruntime_computes_every_step_as_the_reference_does(seed: int) -> None:
    net = net_of(random_graph(seed))
    program = net.program
    assert list(faults_of(program, in_onnxruntime(program, net.images))) == []


@torch.no_grad()
@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_torch_computes_every_step_as_the_reference_does(seed: int) -> None:
    net = net_of(random_graph(seed))
    program = net.program
    tensors = ProgramModule(program).eval().tensors(torch.from_numpy(net.images))
    values = {}
    for name, own in tensors.items():
        integer = isinstance(program.tensors[name], IntegerTensor)
        values[name] = own.numpy().astype(np.int32 if integer else np.float32)
    assert list(faults_of(program, values)) == []


@pytest.mark.parametrize("seed", range(8))
def test_layers_with_weights_run_on_integer_kernels_but_before_a_function_in_floating_point(seed: int) -> None:
    net = net_of(random_graph(seed))
    program = net.program
    weighted = [step for step in program.steps if isinstance(step, WeightedStep)]
    real = sum(not isinstance(program.tensors[step.output], IntegerTensor) for step in weighted)
    found = kernels(model_of(program, []))
    assert sum(found[name] for name in FLOAT_KERNELS) <= real
    assert sum(found[name] for name in INTEGER_KERNELS) >= len(weighted) - real


def test_only_moves_lie_between_integer_layers_where_all_have_an_integer_form() -> None:
    """As in ResNet, ShuffleNet, GoogLeNet and SqueezeNet."""
    make = GraphMaker(3, (3, 12, 12))
    x = make.function(make.norm(make.conv(IMAGE, 8, stride=[2, 2])), "relu")
    x = make.node("max_pool", [x], kernel=[3, 3], stride=[2, 2], padding=[1] * 4, dilation=[1, 1])
    x = make.function(make.node("add", [make.conv(x, 8), x]), "relu")
    left, right = (make.node("slice", [x], start=at, stop=at + 4) for at in (0, 4))
    right = make.function(make.conv(make.conv(right, 4, groups=4), 4, (1, 1)), "relu")
    x = make.node("shuffle", [make.node("concat", [left, right])], groups=2)
    pooled = make.node("avg_pool", [x], kernel=[3, 3], stride=[1, 1], padding=[1] * 4, count_padding=True)
    x = make.node("concat", [make.function(make.conv(pooled, 4), "relu6"), make.conv(x, 3), x])
    make.linear(make.node("mean", [x], keep=False), 5)
    net = net_of(make)
    program = net.program
    assert program.float_steps == ()
    found = kernels(model_of(program, []))
    assert sum(found[name] for name in INTEGER_KERNELS) == len(net.graph.weighted)
    assert found["QuantizeLinear"] == 1 + sum(isinstance(step, RequantizeStep) for step in program.steps)
    assert (found["QLinearAdd"], found["QLinearConcat"], found["QLinearAveragePool"]) == (1, 2, 1)


def wrong_pad(step: Step) -> Step:
    assert isinstance(step, MoveStep)
    return dataclasses.replace(step, settings={**step.settings, "value": 1})


def other_order(step: Step) -> Step:
    assert isinstance(step, MoveStep)
    return dataclasses.replace(step, settings={**step.settings, "groups": 5 - step.settings["groups"]})


def other_place(step: Step) -> Step:
    assert isinstance(step, MoveStep)
    start, stop = (step.settings[key] for key in ("start", "stop"))
    return dataclasses.replace(step, settings={"start": start + 1, "stop": stop + 1})


def other_ratio(step: Step) -> Step:
    assert isinstance(step, MultiplyStep)
    return dataclasses.replace(step, ratio=step.ratio * np.float32(1.02))


def with_padding(step: Step) -> Step:
    assert isinstance(step, AveragePoolStep)
    return dataclasses.replace(step, count_padding=not step.count_padding)


def shifted(step: Step) -> Step:
    assert isinstance(step, ConvStep)
    top, left, bottom, right = step.padding
    return dataclasses.replace(step, padding=(bottom, right, top, left))


FAULTS: dict[str, tuple[Callable[[GraphMaker, str], str], str, Callable[[Step], Step]]] = {
    "pad value": (lambda make, x: make.node("pad", [x], padding=[1, 0, 2, 1], value=0.0), "pad", wrong_pad),
    "shuffle": (any_shuffle, "shuffle", other_order),
    "slice": (lambda make, x: make.node("slice", [x], start=2, stop=6), "slice", other_place),
    "product": (any_excite, "multiply", other_ratio),
    "padded mean": (
        lambda make, x: make.node("avg_pool", [x], kernel=[3, 3], stride=[1, 1], padding=[1] * 4, count_padding=False),
        "avg_pool",
        with_padding,
    ),
    "padding": (lambda make, x: make.conv(x, 4, stride=[2, 1], padding=[0, 1, 2, 0]), "conv", shifted),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_does_something_else_is_seen(fault: str) -> None:
    kind, name, change = FAULTS[fault]
    make = GraphMaker(1, (3, 9, 8))
    x = kind(make, make.function(make.conv(IMAGE, 8), "relu"))
    make.linear(make.node("mean", [make.conv(x, 4)], keep=False), 5)
    net = net_of(make)
    program, values = net.program, in_onnxruntime(net.program, net.images)
    assert list(faults_of(program, values)) == []
    at = max(i for i, step in enumerate(program.steps[:-3]) if step.name.startswith(name))
    steps = list(program.steps)
    steps[at] = change(steps[at])
    assert len(list(faults_of(Program(tuple(steps), program.tensors), values))) == 1


def test_another_scale_of_a_concatenation_is_seen() -> None:
    make = GraphMaker(1, (3, 9, 8))
    x = any_concat(make, make.function(make.conv(IMAGE, 8), "relu"))
    make.linear(make.node("mean", [make.conv(x, 4)], keep=False), 5)
    net = net_of(make)
    program, values = net.program, in_onnxruntime(net.program, net.images)
    name = next(step.output for step in program.steps if isinstance(step, ConcatStep))
    tensor = program.integer(name)
    other = tensor._replace(scale=tensor.scale * np.float32(1.1))
    assert list(faults_of(Program(program.steps, {**program.tensors, name: other}), values)) != []


@pytest.mark.parametrize("seed", range(6))
def test_at_8_bits_programs_compute_what_the_model_computes(seed: int) -> None:
    net = net_of(random_graph(seed), bits=8)
    program, real = net.program, net.values[net.graph.nodes[-1].name]
    given = reference.run(program, net.images)
    assert given.shape == real.shape
    assert np.abs(given - real).mean() < 0.1 * np.abs(real - real.mean(axis=0)).mean() + 0.1 * real.std()


def test_layers_may_have_any_names() -> None:
    """Those of tensors of the program and of the file, too."""
    make = GraphMaker(0, (3, 8, 8))
    x = make.function(make.conv(IMAGE, 4), "silu")
    x = make.conv(x, 4)
    x = make.conv(make.conv(x, 4), 4)
    make.linear(make.node("mean", [x], keep=False), 5)
    names = dict(
        zip([node.name for node in make.nodes], ["a", "a.silu", "logits", "a.float", "_1", "u128", "b"], strict=True)
    )
    make.nodes = [
        node._replace(name=names[node.name], inputs=tuple(names.get(name, name) for name in node.inputs))
        for node in make.nodes
    ]
    net = net_of(make)
    program = net.program
    assert list(faults_of(program, in_onnxruntime(program, net.images))) == []


def test_padding_with_anything_but_zero_is_refused() -> None:
    make = GraphMaker(0, (3, 8, 8))
    x = make.node("pad", [make.conv(IMAGE, 4)], padding=[1] * 4, value=0.5)
    make.linear(make.node("mean", [x], keep=False), 5)
    net = net_of(make)
    with pytest.raises(DeployError, match=r"^layer pad1: pads with 0\.5, and only zero"):
        assert net.program


X, W = {"input": 0}, {"parameter": "0"}

OPAQUE: dict[str, tuple[str, list[Any], tuple[int, ...] | None]] = {
    "softmax": ("softmax.int", [X, 1], None),
    "softmax of the last axis": ("softmax.int", [X, -1], None),
    "logarithm of softmax": ("log_softmax.int", [X, 1], None),
    "product with a number": ("mul.Scalar", [X, 0.7], None),
    "product with a constant": ("mul.Tensor", [X, {"constant": [[[2.0]], [[-1.0]]] * 4, "dtype": "float32"}], None),
    "sum with a parameter": ("add.Tensor", [X, W], (8, 6, 1)),
    "difference": ("sub.Tensor", [W, X], (8, 6, 1)),
    "quotient": ("div.Tensor", [X, 3.0], None),
    "maximum": ("maximum.default", [X, W], (8, 1, 7)),
    "truth": ("gt.Scalar", [X, 0.2], None),
    "power": ("pow.Tensor_Scalar", [X, 2], None),
    "magnitude": ("abs.default", [X], None),
    "exponential": ("exp.default", [X], None),
    "softplus": ("softplus.default", [X], None),
    "mish": ("mish.default", [X], None),
    "tanh form of gelu": ("gelu.default", [X], None),
    "prelu": ("prelu.default", [X, W], (8,)),
    "clamp": ("clamp.default", [X, -0.5, 0.75], None),
    "clamp from below": ("clamp.default", [X, -0.5], None),
    "mean of rows": ("mean.dim", [X, [2], True], None),
    "largest of channels": ("amax.default", [X, [1], True], None),
    "reshape": ("reshape.default", [X, [{"size": [0, 1]}, 4, 12, 7]], None),
    "transpose": ("transpose.int", [X, 1, 3], None),
    "permute": ("permute.default", [X, [0, 2, -1, 1]], None),
    "select": ("select.int", [X, 1, 3], None),
    "slice": ("slice.Tensor", [X, 3, 1, 9223372036854775807, 2], None),
    "adaptive mean": ("adaptive_avg_pool2d.default", [X, [4, 9]], None),
    "group norm": ("group_norm.default", [X, 2, W, None, 1e-5], (8,)),
    "layer norm of images": ("layer_norm.default", [X, [8, 6, 7], None, None, 1e-5], None),
    "bilinear to a size": ("upsample_bilinear2d.vec", [X, [9, 5], False, None], None),
    "bilinear with corners": ("upsample_bilinear2d.vec", [X, [11, 14], True, None], None),
    "nearest to a size": ("upsample_nearest2d.vec", [X, [12, 21], None], None),
    "reflection": ("reflection_pad2d.default", [X, [1, 2, 0, 1]], None),
    "replication": ("replication_pad2d.default", [X, [1, 2, 0, 1]], None),
    "padding around": ("pad.default", [X, [1, 2, 0, 1], "circular", None], None),
    "padding with a value": ("pad.default", [X, [1, 2], "constant", 0.5], None),
    "instance norm": ("instance_norm.default", [X, W, None, None, None, True, 0.1, 1e-5, True], (8,)),
    "transposed convolution": ("conv_transpose2d.input", [X, W, None, [2, 2], [1, 0], [1, 1], 2], (8, 3, 3, 2)),
    "sign": ("sign.default", [X], None),
    "pixel shuffle": ("pixel_shuffle.default", [X, 2], None),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_operations_without_a_kind_of_their_own_are_written_to_onnx(name: str) -> None:
    target, arguments, shape = OPAQUE[name]
    make = GraphMaker(2, (3, 6, 7))
    x = make.function(make.conv(IMAGE, 8), "relu")
    given = {} if shape is None else {"0": make.normal(*shape)}
    keywords = {"approximate": "tanh"} if name.startswith("tanh") else {}
    x = make.node("opaque", [x], given, target=f"aten.{target}", arguments=arguments, keywords=keywords)
    if name == "truth":
        branches = [x, make.conv(make.nodes[1].name, 8), make.nodes[1].name]
        x = make.node("opaque", branches, target="aten.where.self", arguments=[{"input": i} for i in range(3)])
    make.linear(make.node("flatten", [x]), 5)
    net = net_of(make)
    program = net.program
    assert list(faults_of(program, in_onnxruntime(program, net.images))) == []
    values = ProgramModule(program).eval()(torch.from_numpy(net.images)).detach().numpy()
    np.testing.assert_allclose(values, reference.run(program, net.images), atol=0.05 * values.std())


def test_resizing_between_convolutions_is_run_by_onnxruntime() -> None:
    """onnxruntime moves the transpositions of its convolutions through the resizing."""
    make = GraphMaker(2, (3, 8, 8))
    x = make.function(make.conv(IMAGE, 8), "relu")
    x = make.node("opaque", [x], target="aten.upsample_bilinear2d.vec", arguments=[X, [4, 4], False, None])
    x = make.function(make.conv(x, 8), "relu")
    make.linear(make.node("flatten", [make.node("mean", [x], keep=False)]), 5)
    net = net_of(make)
    assert list(faults_of(net.program, in_onnxruntime(net.program, net.images))) == []


def test_an_operation_without_an_onnx_form_is_refused() -> None:
    make = GraphMaker(2, (3, 6, 7))
    x = make.node("opaque", [make.conv(IMAGE, 8)], target="aten.cumsum.default", arguments=[X, 1])
    make.linear(make.node("flatten", [x]), 5)
    with pytest.raises(
        DeployError, match=r"^layer opaque1: the operation aten\.cumsum\.default has no ONNX form here; "
    ):
        graph_of(net_of(make).program)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")
@pytest.mark.parametrize("seed", range(12))
def test_c_computes_the_logits_of_the_reference(seed: int, tmp_path: Path) -> None:
    net = net_of(random_graph(seed, integer=True))
    program = net.program
    file = tmp_path / "net.c"
    file.write_bytes(c_bytes(program, {}))
    run, _ = load_c(file)
    np.testing.assert_array_equal(run(net.images), reference.run(program, net.images))
