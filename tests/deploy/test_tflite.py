"""Programs as TensorFlow Lite: every operation that LiteRT computes beside the integer program, and what files hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from apq_tune import DeployError, SearchSpace
from apq_tune.deploy import export as export_module
from apq_tune.deploy import reference
from apq_tune.deploy.export import export
from apq_tune.deploy.exported import open_file
from apq_tune.deploy.file_memory import memory_of_file
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_file import FileMetadata
from apq_tune.deploy.program import ConvStep, IntegerTensor, LinearStep, Program, RequantizeStep, WeightedStep
from apq_tune.deploy.tflite_builder import logits_scaling, pads_as_same
from apq_tune.deploy.tflite_check import StepDifference, check_steps, differences
from apq_tune.deploy.tflite_file import has_int4, read_tflite, runner_of_tflite, tflite_bytes
from apq_tune.deploy.tflite_graph import TFLiteGraph, tflite_graph
from apq_tune.network.layer import IMAGE
from tests.deploy.random_programs import GraphMaker, net_of, random_graph
from tests.deploy.test_file_memory import SPACES, drawn
from tests.deploy.test_formats import FLOATING, space_of
from tests.deploy.test_own_models import images_of, subnets_of

schema: Any = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="the extra [tflite] is not installed")

HERE = Path("net.tflite")
RUN = ("plain_vgg", "mobilenet_v2", "shufflenet", "grouped", "split")
"""Models of the zoo all of whose operations have an integer form in the format."""


def written(program: Program, images: np.ndarray, **options: bool) -> tuple[TFLiteGraph, bytes]:
    graph = tflite_graph(program, logits_scaling(reference.run(program, images)), **options)
    return graph, tflite_bytes(graph, {})


def compared(program: Program, images: np.ndarray, **options: bool) -> list[StepDifference]:
    graph, content = written(program, images, **options)
    return list(differences(program, graph, content, images, HERE))


def found(seed: int, channels: int = 3, size: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((6, channels, size, size)).astype(np.float32)


def tensors_of(content: bytes) -> dict[str, Any]:
    """All tensors of a file by name."""
    graph = schema.ModelT.InitFromPackedBuf(content).subgraphs[0]
    return {own.name.decode(): own for own in graph.tensors}


@pytest.mark.parametrize("seed", range(16))
def test_every_operation_is_within_one_level_of_the_program_given_the_same_input(seed: int) -> None:
    """On programs many of whose sums are halfway between levels, at all bits from 2 to 8."""
    net = net_of(random_graph(seed, integer=True), 4)
    try:
        steps = compared(net.program, net.images)
    except DeployError as error:
        assert "average pool that pads and does not count its padding" in str(error)
        return
    assert len(steps) == len(net.program.steps)
    assert max(step.largest for step in steps) <= 1
    equal = [step.share for step in steps if step.name.startswith(("slice", "select", "shuffle", "max_pool", "pad"))]
    assert not any(equal)  # nothing is computed there


@pytest.mark.parametrize(("kind", "packed"), [("mbconv", True), ("residual", False)])
def test_candidates_of_spaces_of_blocks(kind: str, packed: bool) -> None:
    for network in drawn(SPACES[kind], 2):
        steps = compared(program_of(network), found(1), pack_weights=packed)
        assert max(step.largest for step in steps) <= 1


@pytest.mark.parametrize("name", RUN)
def test_networks_of_users_models(name: str) -> None:
    for subnet in subnets_of(name):
        program, images = program_of(subnet), images_of(name).numpy()[:2]
        assert max(step.largest for step in compared(program, images)) <= 1


@pytest.mark.parametrize("kind", ["mbconv", "residual"])
def test_weights_in_bytes_give_the_rounded_logits_of_the_program_nearly_always(kind: str) -> None:
    """As applications run it, with XNNPACK; every activation has 2 to 8 bits, and every weight."""
    right = []
    for network in drawn(SPACES[kind], 4):
        program, images = program_of(network), found(2)
        graph, content = written(program, images, pack_weights=False)
        expected, scaling = reference.run(program, images), graph.values["logits"].scaling
        assert scaling is not None
        given = runner_of_tflite(HERE, content)(images)
        assert given.shape == expected.shape
        right.append(np.abs(given - expected) <= 0.51 * scaling.scale)
    assert np.mean(right) >= 0.95


def test_a_wrong_operation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (network,) = drawn(SPACES["residual"], 1)
    program, images = program_of(network), found(3)
    graph, content = written(program, images)
    check_steps(program, graph, content, images, HERE)
    step = next(own for own in program.steps if isinstance(own, ConvStep) and own.name != "stem")
    run = reference.run_step
    monkeypatch.setattr(reference, "run_step", lambda p, own, v: run(p, own, v) + (2 if own.name == step.name else 0))
    with pytest.raises(DeployError, match=f"LiteRT computes {step.name} by up to . levels differently"):
        check_steps(program, graph, content, images, HERE)


def test_a_file_says_what_its_integers_mean() -> None:
    (network,) = drawn(space_of(), 1)
    program, images = program_of(network), found(4)
    graph, content = written(program, images)
    by_name = tensors_of(content)
    first = program.integer(next(step.output for step in program.steps if IMAGE in step.inputs))
    image = by_name[IMAGE]
    assert (image.type, list(image.shape)) == (schema.TensorType.INT8, [1, 9, 9, 3])
    assert image.quantization.scale == [first.scale]
    for name, tensor in program.tensors.items():
        if isinstance(tensor, IntegerTensor) and name in by_name:
            own = by_name[name].quantization
            zero = 127 - tensor.high
            assert (np.float32(own.scale[0]), own.zeroPoint[0]) == (tensor.scale, zero)
            assert -128 <= tensor.low + zero <= tensor.high + zero == 127
    for step in program.steps:
        if isinstance(step, WeightedStep):
            weights, bias = by_name[f"{step.name}/weights"], by_name[f"{step.name}/bias"]
            real = step.weights.scales * np.abs(step.weights.values).reshape(len(step.weights.scales), -1).max(axis=1)
            if weights.type == schema.TensorType.INT8:
                values = np.asarray(schema.ModelT.InitFromPackedBuf(content).buffers[weights.buffer].data).view(np.int8)
                values = np.moveaxis(values.reshape(weights.shape), weights.quantization.quantizedDimension, 0)
                largest = np.abs(values.astype(int)).reshape(len(real), -1).max(axis=1)
                given = largest.astype(np.float32) * np.float32(weights.quantization.scale)
                np.testing.assert_array_equal(given, real)
            unit = program.integer(step.inputs[0]).scale
            np.testing.assert_array_equal(bias.quantization.scale, unit * np.float32(weights.quantization.scale))
    scaling = graph.values["logits"].scaling
    assert scaling is not None
    assert list(by_name["logits"].quantization.scale) == [scaling.scale]


def test_constants_are_aligned_as_the_schema_demands() -> None:
    (network,) = drawn(space_of(), 1)
    _, content = written(program_of(network), found(5))
    model = schema.Model.GetRootAs(content, 0)
    places = []
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if not buffer.DataIsNone():
            places.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert len(places) > 10
    assert not any(place % 16 for place in places)


def test_weights_of_4_bits_are_int4_where_devices_have_kernels() -> None:
    choices = {"kernel_size": [3], "expand_ratio": [2], "pw_w_bits": [4], "pw_a_bits": [8], "dw_w_bits": [4, 8]}
    network = drawn(space_of(choices=choices | {"dw_a_bits": [8]}), 1)[0]
    program, images = program_of(network), found(6)
    (graph, content), (_, bytes_only) = written(program, images), written(program, images, pack_weights=False)
    kinds = {name: own.type for name, own in tensors_of(content).items() if name.endswith("/weights")}
    for step in program.steps:
        if isinstance(step, ConvStep | LinearStep):
            dense = isinstance(step, LinearStep) or step.groups == 1
            wanted = schema.TensorType.INT4 if dense and step.weights.bits <= 4 else schema.TensorType.INT8
            assert kinds[f"{step.name}/weights"] == wanted
    n_int4 = sum(kind == schema.TensorType.INT4 for kind in kinds.values())
    assert graph.narrow[0] == n_int4 > 0
    assert has_int4(content) and not has_int4(bytes_only)
    own = [step.weights for step in program.steps if isinstance(step, WeightedStep)]
    whole = sum(weights.values.size + 8 * len(weights.bias) for weights in own)
    assert memory_of_file(bytes_only, "tflite").flash == whole
    saved = sum(
        step.weights.values.size // 2
        for step in program.steps
        if isinstance(step, WeightedStep) and kinds[f"{step.name}/weights"] == schema.TensorType.INT4
    )
    assert memory_of_file(content, "tflite").flash == whole - saved


@pytest.mark.parametrize("seed", range(40))
def test_same_pads_like_tensorflow(seed: int) -> None:
    """TensorFlow's rule by its documentation, and torch's output at these sizes."""
    rng = np.random.default_rng(seed)
    n, kernel, stride, dilation = (int(rng.integers(*ends)) for ends in ((3, 9), (1, 4), (1, 3), (1, 3)))
    before, after = (int(own) for own in rng.integers(0, 3, 2))
    reach = (kernel - 1) * dilation + 1
    if n + before + after < reach:
        return
    out = -(-n // stride)
    total = max((out - 1) * stride + reach - n, 0)
    x, weight = torch.rand(1, 1, n, n), torch.rand(1, 1, kernel, kernel)
    own = functional.conv2d(functional.pad(x, (before, after, before, after)), weight, stride=stride, dilation=dilation)
    theirs = functional.conv2d(
        functional.pad(x, (total // 2, total - total // 2) * 2), weight, stride=stride, dilation=dilation
    )
    same = own.shape == theirs.shape and torch.equal(own, theirs)
    said = pads_as_same((n, n), (kernel,) * 2, (stride,) * 2, (dilation,) * 2, (before, before, after, after))
    assert said == same


@pytest.mark.parametrize("kind", FLOATING)
def test_steps_in_floating_point_are_refused_by_name(kind: str) -> None:
    (network,) = drawn(space_of(stages=FLOATING[kind]), 1)
    name = {"squeeze-excite": "h_sigmoid", "hard swish": "h_swish"}[kind]
    with pytest.raises(DeployError, match=rf"^layer \S+{name}: computes {name} in floating point, which the tflite fo"):
        written(program_of(network), found(7))


def test_other_operations_without_a_form_are_refused_by_name() -> None:
    make = GraphMaker(0, (3, 9, 9), saturating=True)
    x = make.function(make.conv(IMAGE, 4), "relu")
    x = make.node("avg_pool", [x], kernel=[3, 3], stride=[2, 2], padding=[1] * 4, count_padding=False)
    make.linear(make.node("flatten", [make.node("mean", [make.conv(x, 4)], keep=True)]), 5)
    net = net_of(make, 4, bits=8)
    with pytest.raises(DeployError, match=r"^layer avg_pool2: is an average pool .*count_include_pad=False\), which"):
        written(net.program, net.images)


def test_images_that_are_read_twice_stay_in_floating_point() -> None:
    make = GraphMaker(1, (3, 8, 8), saturating=True)
    two = [make.function(make.conv(IMAGE, 4), "relu"), make.function(make.conv(IMAGE, 4, (1, 1)), "relu")]
    make.linear(make.node("flatten", [make.node("mean", [make.node("concat", two)], keep=True)]), 5)
    net = net_of(make, 4)
    graph, _ = written(net.program, net.images)
    assert max(step.largest for step in compared(net.program, net.images)) <= 1
    alike = len({tuple(net.program.integer(own.output)[2:]) for own in net.program.steps if IMAGE in own.inputs}) == 1
    assert (graph.values[IMAGE].scaling is not None) == alike


def test_axes_are_permuted_as_in_the_program() -> None:
    make = GraphMaker(2, (3, 5, 7), saturating=True)
    x = make.node("permute", [make.function(make.conv(IMAGE, 4), "relu")], order=[1, 2, 0])
    x = make.node("flatten", [make.node("permute", [x], order=[1, 0, 2])])
    make.linear(x, 5)
    net = net_of(make, 4, bits=8)
    steps = {step.name: step for step in compared(net.program, net.images)}
    assert [steps[name].largest for name in ("permute2", "permute3", "flatten4")] == [0, 0, 0]
    assert max(step.largest for step in steps.values()) <= 1


def test_requantization_is_exact_but_for_ties() -> None:
    """It is a product with a constant, whose sums are large enough for kernels that round twice."""
    seen = 0
    for network in drawn(space_of(), 4):
        program = program_of(network)
        names = {step.name for step in program.steps if isinstance(step, RequantizeStep)}
        shares = [step.share for step in compared(program, found(8)) if step.name in names]
        seen += len(shares)
        assert max(shares, default=0) < 0.02
    assert seen


def test_metadata_come_back_and_changes_are_noticed(tmp_path: Path) -> None:
    (network,) = drawn(space_of(), 1)
    program, images = program_of(network), found(9)
    about = FileMetadata.of(network, program)
    graph, _ = written(program, images)
    content = tflite_bytes(graph, about.texts())
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    file = open_file(path)
    assert file.about is not None
    assert (file.about.candidate, file.about.program) == (network.candidate, program.digest)
    assert file.about.preprocessing == network.preprocessing
    assert (file.channels, file.reads, file.classes, file.kernels) == (3, 9, 5, None)
    again = written(program, images)[0]
    assert tflite_bytes(again, about.texts()) == content
    place = content.index(b"apq_tune.candidate")
    path.write_bytes(content[:place] + b"B" + content[place + 1 :])
    with pytest.raises(DeployError, match="is damaged, or was changed after its export"):
        read_tflite(path)


def test_files_of_other_programs_are_run(tmp_path: Path) -> None:
    (network,) = drawn(space_of(), 1)
    program, images = program_of(network), found(10)
    graph, ours = written(program, images)
    path = tmp_path / "net.tflite"
    path.write_bytes(graph.writer.content(graph.values[IMAGE], graph.logits, {}))
    file = open_file(path)
    assert file.about is None
    np.testing.assert_array_equal(file.run(images), runner_of_tflite(HERE, ours)(images))


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (network,) = drawn(space_of(), 1)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(DeployError, match=r"^TensorFlow Lite files need the extra \[tflite\]: pip install 'apq-tune\["):
        export(network, tmp_path / "net.tflite", "tflite")
    assert list(tmp_path.iterdir()) == []


def test_without_search_images_the_range_of_logits_is_unknown(tmp_path: Path) -> None:
    (network,) = drawn(space_of(), 1)
    with pytest.raises(DeployError, match="their range is measured on search images, which are not here; put them"):
        export(network, tmp_path / "net.tflite", "tflite")
    assert list(tmp_path.iterdir()) == []


def test_an_export_runs_each_operation_before_the_file_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (network,) = drawn(SearchSpace.load("digits"), 1)
    written_file = export(network, tmp_path / "net.tflite", "tflite")
    assert written_file.agreement.images == "search images"
    assert written_file.memory.ram is None
    checked = []
    monkeypatch.setattr(export_module, "check_steps", lambda *given: checked.append(given[3].shape))
    export(network, tmp_path / "own.tflite", "tflite")
    assert checked == [(4, 1, 8, 8)]
    assert (tmp_path / "own.tflite").read_bytes() == written_file.path.read_bytes()
