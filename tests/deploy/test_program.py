"""Simulation, integer reference and onnxruntime compute one and the same network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.cost import weight_bytes
from apq_tune.deploy import onnx_session, reference
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.onnx_session import FLOAT_KERNELS, INTEGER_KERNELS, kernels, logits, session
from apq_tune.deploy.onnx_writer import OPSETS, pack, unpack
from apq_tune.deploy.program import (
    AddStep,
    ConvStep,
    IntegerTensor,
    Program,
    RequantizeStep,
    WeightedStep,
)
from apq_tune.network.layer import IMAGE
from apq_tune.supernet import folded
from apq_tune.supernet.batches import resized
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.frozen import FrozenWeights
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.quantize import ActivationQuantizer, quantize_weight
from apq_tune.supernet.subnet import Subnet

BITS = {
    "mbconv": ("pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits"),
    "residual": ("conv1_w_bits", "conv1_a_bits", "conv2_w_bits", "conv2_a_bits"),
    "fused_mbconv": ("fused_w_bits", "fused_a_bits", "pw_w_bits", "pw_a_bits"),
}


def space_of(block: str = "mbconv", activation: str = "relu6", **changes: Any) -> SearchSpace:
    """A small space with every width from 2 to 8 bits."""
    content: dict[str, Any] = {
        "format": 1,
        "name": block,
        "block": block,
        "input": {"channels": 3, "size": 9},
        "classes": 5,
        "stem": {"channels": 8, "activation": activation},
        "stages": [
            {"channels": 8, "depth": [1, 2], "kernel_size": [3, 5], "activation": activation},
            {"channels": 12, "stride": 2, "depth": [2], "activation": activation},
        ],
        "head": {"channels": 16, "activation": activation},
        "choices": {"kernel_size": [3], "expand_ratio": [1, 2], **{key: list(range(2, 9)) for key in BITS[block]}},
    }
    return SearchSpace.from_dict({**content, **changes})


SPACES = {
    "mbconv": space_of(),
    "residual": space_of("residual", "relu"),
    "fused": space_of("fused_mbconv"),
    "first, with a shortcut": space_of(first={"channels": 8}),
    "first, without": space_of("fused_mbconv", first={"channels": 12}, stem={"channels": 8, "stride": 2}),
    "features": space_of(head={"channels": 16, "features": 8}),
    "stream of 5 bits": space_of("residual", fixed_bits=5),
    "stream of 2 bits": space_of(fixed_bits=2, first={"channels": 8}, head={"channels": 16, "features": 8}),
}


def images_of(space: SearchSpace, n: int = 48) -> Tensor:
    shape = n, space.input.channels, space.resolutions[-1], space.resolutions[-1]
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def subnets_of(space: SearchSpace, n: int = 2) -> list[Subnet]:
    """Random networks with random weights and calibrated clip values."""
    torch.manual_seed(0)
    net, encoding, images = Supernet(space), NetworkEncoding(space), images_of(space)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    candidates = encoding.decode(encoding.sample(n, np.random.default_rng(2)))
    calibrate_quantizers(net, [lambda c=c: net.recalibrate(images, c) for c in candidates])  # type: ignore[misc]
    return [net.extract(c, net.recalibrate(images, c, quantize=True)).eval() for c in candidates]


@torch.no_grad()
def simulated(subnet: Subnet, images: Tensor) -> NDArray[np.float32]:
    return np.asarray(subnet(images).numpy())


def model_of(program: Program, outputs: list[str] | None = None) -> onnx.ModelProto:
    graph, opset = graph_of(program)
    for name in outputs or []:
        shape = ["n", *program.tensors[name].shape]
        graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape))
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model


def integers_of(program: Program) -> list[IntegerTensor]:
    return [tensor for tensor in program.tensors.values() if isinstance(tensor, IntegerTensor)]


def run_in_onnxruntime(program: Program, images: Tensor) -> dict[str, NDArray[Any]]:
    """All integer tensors and the logits."""
    names = [tensor.name for tensor in integers_of(program)]
    values = session(model_of(program, names)).run([*names, "logits"], {"image": images.numpy()})
    zeros = [tensor.zero for tensor in integers_of(program)]
    levels = [value.astype(np.int32) - zero for value, zero in zip(values, zeros, strict=False)]
    return {**dict(zip(names, levels, strict=True)), "logits": values[-1]}


@pytest.fixture(scope="module", params=list(SPACES))
def subnets(request: pytest.FixtureRequest) -> list[Subnet]:
    return subnets_of(SPACES[request.param])


def test_reference_and_onnxruntime_agree_in_every_integer_of_every_tensor(subnets: list[Subnet]) -> None:
    for subnet in subnets:
        images, program = images_of(subnet.space), program_of(subnet)
        expected = run_in_onnxruntime(program, images)
        given = reference.run_all(program, images.numpy())
        assert {name for name in expected if not np.array_equal(given[name], expected[name])} == set()
        np.testing.assert_array_equal(given["logits"], logits(model_of(program), images.numpy()))
        assert len(expected) > len(subnet.layers)


def test_every_level_of_the_simulation_is_that_of_the_program(subnets: list[Subnet]) -> None:
    """But for values on the edge of a rounding step, whose sums in floating point fall to either side."""
    for subnet in subnets:
        images, program = images_of(subnet.space), program_of(subnet)
        levels = reference.run_all(program, images.numpy())
        named = {quantizer: name for name, quantizer in subnet.stored_quantizers().items()}
        readers = {quantizer: name for name, quantizer in subnet.input_quantizers().items()}
        steps = {step.name: step for step in program.steps}
        seen, total, equal = set(), 0, 0

        def compare(
            quantizer: Any, inputs: Any, output: Tensor, here: Any = (levels, named, readers, steps, seen)
        ) -> None:
            nonlocal total, equal
            levels, named, readers, steps, seen = here
            name = named.get(quantizer) or steps[readers[quantizer]].inputs[0]
            expected = torch.from_numpy(levels[name]) * quantizer.step(inputs[1])
            seen.add(name)
            total, equal = total + output.numel(), equal + int(torch.isclose(expected, output, atol=1e-6).sum())

        for module in subnet.modules():
            if isinstance(module, ActivationQuantizer):
                module.register_forward_hook(compare)
        given = simulated(subnet, images)
        assert seen == {tensor.name for tensor in integers_of(program)}
        assert equal >= 0.995 * total
        assert (given.argmax(axis=1) == levels["logits"].argmax(axis=1)).mean() >= 0.97


def test_the_reference_evaluator_of_onnx_reads_the_same_network(subnets: list[Subnet]) -> None:
    """It computes in floating point, so that single values may be rounded to either side."""
    for subnet in subnets:
        program, images = program_of(subnet), images_of(subnet.space)
        model = model_of(program)
        if model.opset_import[0].version < OPSETS["int4"]:  # it has no older DequantizeLinear
            continue
        (given,) = ReferenceEvaluator(model).run(None, {"image": images.numpy()})
        expected = reference.run(program, images.numpy())
        assert np.median(np.abs(given - expected)) < 1e-5
        assert (given.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.95


def test_tensors_and_weights_have_the_bits_that_costs_count(subnets: list[Subnet]) -> None:
    for subnet in subnets:
        program, encoding = program_of(subnet), NetworkEncoding(subnet.space)
        for layer in subnet.layers[:-1]:
            tensor = program.integer(layer.name)
            assert tensor.bits == layer.output.bits
            assert tensor.shape[0] == layer.output.channels
            assert tensor.shape[1:] in ((), (layer.output.size,) * 2)
        total = 0.0
        steps = {step.name: step for step in program.steps}
        for layer in subnet.layers:
            if layer.op is not None:
                step = steps[layer.name]
                assert isinstance(step, WeightedStep)
                assert program.integer(step.inputs[0]).bits == layer.op.a_bits
                assert np.abs(step.weights.values).max() < 2 ** (step.weights.bits - 1)
                total += step.weights.values.size * step.weights.bits / 8 + 8 * len(step.weights.bias)
        assert total == weight_bytes(encoding)(encoding.encode([subnet.candidate]))[0]


def test_every_layer_with_weights_runs_on_an_integer_kernel(subnets: list[Subnet]) -> None:
    for subnet in subnets:
        program = program_of(subnet)
        found = kernels(model_of(program))
        assert sum(found[name] for name in FLOAT_KERNELS) == 0
        assert sum(found[name] for name in INTEGER_KERNELS) == sum(layer.op is not None for layer in subnet.layers)
        assert found["QLinearAdd"] == sum(layer.kind == "add" for layer in subnet.layers)
        assert found["QLinearGlobalAveragePool"] == 1


def with_output(model: onnx.ModelProto, images: Tensor) -> NDArray[np.float32]:
    return np.asarray(session(model).run(["logits"], {"image": images.numpy()})[0])


def wrong_zero_point(model: onnx.ModelProto) -> None:
    constant = next(own for own in model.graph.initializer if own.name == "u128")
    constant.CopyFrom(numpy_helper.from_array(np.array(127, np.uint8), "u128"))
    for own in model.graph.initializer:  # the quantizer of the first tensor alone, else it would cancel
        if own.name == "u0":
            own.CopyFrom(numpy_helper.from_array(np.array(1, np.uint8), "u0"))


def wrong_weights(model: onnx.ModelProto) -> None:
    packed = next(
        own for own in model.graph.initializer if own.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.INT2)
    )
    packed.raw_data = packed.raw_data[::-1]


def no_clip(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Identity"
            del node.input[1:]


@pytest.mark.parametrize("fault", [wrong_zero_point, wrong_weights, no_clip])
def test_faults_of_a_file_are_seen(fault: Callable[[onnx.ModelProto], None]) -> None:
    subnet = subnets_of(SPACES["mbconv"], 1)[0]
    images, program = images_of(subnet.space), program_of(subnet)
    model = model_of(program)
    expected = reference.run(program, images.numpy())
    np.testing.assert_array_equal(with_output(model, images), expected)
    fault(model)
    assert not np.allclose(with_output(model, images), expected, atol=1e-3)


def half_up(x: Any, tensor: IntegerTensor) -> NDArray[np.int32]:
    return np.asarray(np.clip(np.floor(x + 0.5), tensor.low, tensor.high), np.int32)


def truncate(x: Any, tensor: IntegerTensor) -> NDArray[np.int32]:
    return np.asarray(np.clip(np.trunc(x), tensor.low, tensor.high), np.int32)


def clip_wider(x: Any, tensor: IntegerTensor) -> NDArray[np.int32]:
    return np.asarray(np.clip(np.rint(x), tensor.low - 1, tensor.high), np.int32)


@torch.no_grad()
def powers_of_two(subnet: Subnet) -> None:
    """Make all scales of activations powers of two, so that requantized values are often halfway between levels."""
    for own in subnet.modules():
        if isinstance(own, ActivationQuantizer):
            for place, bits in enumerate(own.bits):
                step = own.step(bits)
                own.clip[place] *= 2 ** step.log2().round() / step


@pytest.mark.parametrize("wrong", [half_up, truncate, clip_wider])
def test_another_rounding_or_range_is_seen(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    different = 0
    for subnet in subnets_of(SPACES["mbconv"], 4):
        powers_of_two(subnet)
        images, program = images_of(subnet.space), program_of(subnet)
        expected = run_in_onnxruntime(program, images)
        with monkeypatch.context() as patch:
            patch.setattr(reference, "clamp", wrong)
            given = reference.run_all(program, images.numpy())
        different += sum(not np.array_equal(given[name], expected[name]) for name in expected)
    assert different > 0


def test_without_rounded_biases_the_simulation_is_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    subnet = subnets_of(SPACES["mbconv"], 1)[0]
    images = images_of(subnet.space)
    expected = reference.run(program_of(subnet), images.numpy())
    assert np.median(np.abs(simulated(subnet, images) - expected)) < 1e-6
    monkeypatch.setattr(folded, "quantized", lambda w, b, bits, _: (quantize_weight(w, bits), b))
    assert np.median(np.abs(simulated(subnet, images) - expected)) > 1e-3


def tiny_program(step: Any, output: IntegerTensor) -> Program:
    image = IntegerTensor("x", (1, 2, 2), 8, True, np.float32(0.5))
    return Program((step,), {"x": image, "y": output})


def test_a_convolution_by_hand() -> None:
    """Accumulators 2 x + 1 times 1/4, ties to even."""
    weights = FrozenWeights(np.array([[[[2]]]], np.int8), np.ones(1, np.float32), np.array([1], np.int32), 8)
    step = ConvStep("y", ("x",), "y", weights, np.array([0.25], np.float32), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    program = tiny_program(step, IntegerTensor("y", (1, 2, 2), 4, True, np.float32(2)))
    x = np.array([[[[0, 1], [100, -100]]]], np.int32)
    given = reference._RUN[ConvStep](program, step, {"x": x})
    assert given.tolist() == [[[[0, 1], [7, -8]]]]
    half = dataclasses.replace(step, multipliers=np.array([0.5], np.float32))
    assert reference._RUN[ConvStep](program, half, {"x": x}).tolist() == [[[[0, 2], [7, -8]]]]  # 0.5 and 1.5


def test_a_requantization_and_a_sum_by_hand() -> None:
    narrow = IntegerTensor("y", (1, 2, 2), 2, True, np.float32(1))
    x = np.array([[[[1, 2], [3, -5]]]], np.int32)
    step = RequantizeStep("y", ("x",), "y")
    assert reference._RUN[RequantizeStep](tiny_program(step, narrow), step, {"x": x}).tolist() == [[[[0, 1], [1, -2]]]]
    wide = IntegerTensor("y", (1, 2, 2), 8, True, np.float32(1))
    add = AddStep("y", ("x", "x"), "y", (np.float32(0.5), np.float32(0.25)), np.float32(128 - 96))
    assert reference._RUN[AddStep](tiny_program(add, wide), add, {"x": x}).tolist() == [[[[1, 2], [2, -4]]]]


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_weights_are_read_back_by_us_and_by_onnx(bits: int) -> None:
    values = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, 5, 1, 1)).astype(np.int8)
    packed = pack(values, bits)
    assert len(packed) == -(-values.size * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, values.shape), values)
    kind = {2: onnx.TensorProto.INT2, 4: onnx.TensorProto.INT4}[bits]
    tensor = helper.make_tensor("w", kind, values.shape, packed, raw=True)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), values)


@pytest.mark.parametrize("bits", [5, 6])
def test_weights_of_five_and_six_bits_are_stored_in_two_parts(bits: int) -> None:
    every = list(range(2, 9))
    choices = {"kernel_size": [3], "expand_ratio": [8], **dict.fromkeys(BITS["fused_mbconv"], every)}
    subnet = subnets_of(space_of("fused_mbconv", choices=choices), 1)[0]
    subnet.candidate = subnet.candidate.with_bits(bits)
    program, images = program_of(subnet), images_of(subnet.space)
    model = model_of(program)
    np.testing.assert_array_equal(with_output(model, images), reference.run(program, images.numpy()))
    assert sum(kernels(model)[name] for name in INTEGER_KERNELS) == sum(layer.op is not None for layer in subnet.layers)
    kinds = [own.data_type for own in model.graph.initializer]
    assert kinds.count(onnx.TensorProto.UINT2) == kinds.count(onnx.TensorProto.INT4) >= 2
    sizes = [graph_of(program, pack_weights=packed)[0].ByteSize() for packed in (True, False)]
    saved = sum(step.weights.values.size for step in program.steps if isinstance(step, WeightedStep)) / 4
    assert sizes[1] - sizes[0] > 0.5 * saved


def test_where_products_saturate_sessions_are_told_to_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option takes other kernels on every x86 processor, whose results must be the same ones."""
    subnet = subnets_of(SPACES["mbconv"], 1)[0]
    program, images = program_of(subnet), images_of(subnet.space)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_session, "saturates", lambda: True)
        exact = with_output(model_of(program), images)
    np.testing.assert_array_equal(exact, reference.run(program, images.numpy()))
    cpu = Path("/proc/cpuinfo")
    if cpu.exists() and "_vnni" in cpu.read_text():
        assert not onnx_session.saturates()


def test_weights_may_stay_unpacked_for_old_runtimes() -> None:
    subnet = subnets_of(SPACES["mbconv"], 1)[0]
    program, images = program_of(subnet), images_of(subnet.space)
    graph, opset = graph_of(program, pack_weights=False)
    assert opset == 14
    assert {own.data_type for own in graph.initializer} & {onnx.TensorProto.INT4, onnx.TensorProto.INT2} == set()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    np.testing.assert_array_equal(with_output(model, images), reference.run(program, images.numpy()))


def test_a_channel_without_weights_keeps_its_bias() -> None:
    """Its scale would be so small that the bias overflows 32 bits."""
    subnet = subnets_of(SPACES["fused"], 1)[0]
    images = images_of(subnet.space)
    with torch.no_grad():
        subnet.head.weight[0] = 0
        subnet.head.bias[0] = 3.1  # type: ignore[index]
    program = program_of(subnet)
    given = reference.run_all(program, images.numpy())
    tensor = program.integer("head")
    assert np.unique(given["head"][:, 0]).tolist() == [min(round(3.1 / float(tensor.scale)), tensor.high)]
    np.testing.assert_array_equal(given["head"], run_in_onnxruntime(program, images)["head"])
    np.testing.assert_allclose(simulated(subnet, images), given["logits"], atol=1e-4)


def test_the_resolution_of_a_candidate_is_part_of_its_program() -> None:
    space = space_of(input={"channels": 3, "size": [12, 16, 24]})
    for subnet in subnets_of(space, 4):
        program, images = program_of(subnet), images_of(space, 12)
        size = subnet.candidate.resolution
        assert program.tensors[IMAGE].shape == (3, size, size)
        read = resized(images, size, size)
        expected, given = run_in_onnxruntime(program, read), reference.run_all(program, read.numpy())
        for name in ("stem.input", "logits"):
            np.testing.assert_array_equal(given[name], expected[name])
        np.testing.assert_allclose(simulated(subnet, images), given["logits"], atol=1e-4)
    assert any(subnet.candidate.resolution != 24 for subnet in subnets_of(space, 4))


@pytest.mark.parametrize(("before", "after"), [(24, 12), (17, 12), (12, 17), (9, 9)])
def test_images_are_resized_by_a_triangle_filter_as_wide_as_a_new_pixel(before: int, after: int) -> None:
    images = torch.rand(2, 1, before, before, generator=torch.Generator().manual_seed(0))
    ratio = before / after
    distance = np.abs(np.arange(before) + 0.5 - ((np.arange(after) + 0.5) * ratio)[:, None]) / max(ratio, 1.0)
    weights = np.maximum(0, 1 - distance)
    matrix = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(resized(images, after, after), matrix @ images.numpy() @ matrix.T, atol=1e-5)


def test_hard_swish_and_squeeze_excite_are_exported_in_floating_point() -> None:
    space = space_of(activation="h_swish")
    data = space.model_dump(mode="json", exclude_none=True)
    for stage in data["stages"]:
        stage["squeeze_excite"] = True
    gated = copy.deepcopy(data)
    for part in (gated["stem"], *gated["stages"], gated["head"]):
        part["activation"] = "relu6"
    for content, step in ((data, "stem.h_swish"), (gated, "1.1.excite.h_sigmoid")):
        own = SearchSpace.from_dict(content)
        for subnet in subnets_of(own):
            program, images = program_of(subnet), images_of(own)
            given, expected = with_output(model_of(program), images), simulated(subnet, images)
            assert np.median(np.abs(given - expected)) < 1e-5
            assert program.float_steps[0] == step
            assert np.median(np.abs(reference.run(program, images.numpy()) - expected)) < 1e-5


def test_equal_programs_have_equal_digests_and_others_do_not() -> None:
    one, other = subnets_of(SPACES["fused"])
    assert program_of(one).digest == program_of(copy.deepcopy(one)).digest
    assert program_of(one).digest != program_of(other).digest
    with torch.no_grad():
        one.head.bias[0] += 1.0  # type: ignore[index]
    assert program_of(one).digest != program_of(subnets_of(SPACES["fused"])[0]).digest
