"""Networks cut out of models of users: simulation, reference and onnxruntime compute one and the same."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from apq_tune import DeployError, FoundNetwork
from apq_tune.cost import cost_models
from apq_tune.deploy import reference
from apq_tune.deploy.c_file import c_bytes
from apq_tune.deploy.export import SUFFIX_OF, export
from apq_tune.deploy.exported import open_file
from apq_tune.deploy.formats import ExportFormat
from apq_tune.deploy.forms import forms_of_graph
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.network_models import network_model
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.onnx_session import FLOAT_KERNELS, INTEGER_KERNELS, kernels
from apq_tune.deploy.profile import ProfiledPrecision, table_rows
from apq_tune.deploy.profile_ops import network_ops
from apq_tune.deploy.profile_plan import all_ops
from apq_tune.deploy.program import IntegerTensor, MoveStep, WeightedStep
from apq_tune.errors import TableError
from apq_tune.network.graph import MOVING
from apq_tune.network.layer import IMAGE
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.space.model_space import ModelSpace
from apq_tune.supernet.batches import resized
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.found_network import CostValue, Preprocessing
from apq_tune.supernet.graph_subnet import GraphSubnet
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.quantize import ActivationQuantizer
from tests.deploy.random_programs import faults_of, in_onnxruntime, model_of
from tests.tracing.zoo import ZOO, example_of, network

BITS = tuple(range(2, 9))

PROFILED = ("resnet8", "plain_vgg", "mobilenet_v2", "grouped")
"""Models of the zoo all of whose operations ``profile`` measures."""


@functools.lru_cache
def subnets_of(name: str, n: int = 2) -> tuple[GraphSubnet, ...]:
    """Random networks of a model with random weights, calibrated on random images."""
    module = network(name)
    own = GraphSupernet(ModelSpace.from_module(module, example_of(name), step=1, least=0.3, w_bits=BITS, a_bits=BITS))
    own.load_model(module.state_dict())
    encoding, images = encoding_of(own.space), example_of(name, 16)
    candidates: list[Any] = encoding.decode(encoding.sample(n, np.random.default_rng(1)))
    calibrate_quantizers(own, [functools.partial(own.recalibrate, images, one) for one in candidates])
    return tuple(own.extract(one, own.recalibrate(images, one, quantize=True)).eval() for one in candidates)


def images_of(name: str) -> Tensor:
    return example_of(name, 8)


@torch.no_grad()
def simulated(subnet: GraphSubnet, images: Tensor) -> NDArray[np.float32]:
    return np.asarray(subnet(images).numpy())


@pytest.mark.parametrize("name", ZOO)
def test_onnxruntime_computes_every_step_as_the_reference_does(name: str) -> None:
    for subnet in subnets_of(name):
        program = program_of(subnet)
        assert list(faults_of(program, in_onnxruntime(program, images_of(name).numpy()))) == []


def stored_in_simulation(subnet: GraphSubnet, images: Tensor) -> dict[str, NDArray[np.float32]]:
    """Every stored tensor of the simulation by the name of its layer."""
    named = {quantizer: name for name, quantizer in subnet.stored_quantizers().items()}
    found: dict[str, NDArray[np.float32]] = {}

    def keep(quantizer: Any, _: Any, output: Tensor) -> None:
        if (name := named.get(quantizer)) is not None and name not in found:  # the first call is not a requantization
            found[name] = output.numpy()

    quantizers = [module for module in subnet.modules() if isinstance(module, ActivationQuantizer)]
    handles = [quantizer.register_forward_hook(keep) for quantizer in quantizers]
    with torch.no_grad():
        subnet(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ZOO)
def test_every_level_of_the_simulation_is_that_of_the_program(name: str) -> None:
    """But for values on the edge of a rounding step, whose sums in floating point fall to either side."""
    for subnet in subnets_of(name):
        images, program = images_of(name), program_of(subnet)
        levels = reference.run_all(program, images.numpy())
        stored = stored_in_simulation(subnet, images)
        moving = {layer.name for layer in subnet.layers if layer.kind in MOVING}
        names = {layer.name for layer in subnet.layers if isinstance(program.tensors.get(layer.name), IntegerTensor)}
        assert names - moving == set(stored)
        equal = total = 0
        for layer, values in stored.items():
            real = levels[layer] * program.integer(layer).scale
            total, equal = total + values.size, equal + int(np.isclose(real, values, atol=1e-6).sum())
        assert equal >= 0.99 * total
        given, expected = levels["logits"], simulated(subnet, images)
        assert given.shape == expected.shape
        assert (given.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.8


@pytest.mark.parametrize("name", ZOO)
def test_tensors_and_weights_have_the_bits_that_costs_count(name: str) -> None:
    for subnet in subnets_of(name):
        program = program_of(subnet)
        steps = {step.name: step for step in program.steps}
        for layer in subnet.layers:
            tensor = program.tensors.get(layer.name)
            if isinstance(tensor, IntegerTensor):
                assert tensor.bits == layer.output.bits
                assert np.prod(tensor.shape) == layer.output._replace(bits=1).n_bits
            if layer.op is not None:
                step = steps[layer.name]
                assert isinstance(step, WeightedStep)
                assert step.weights.bits == layer.op.w_bits
                assert program.integer(step.inputs[0]).bits == layer.op.a_bits
                assert step.weights.values.size == layer.op.n_weights


@pytest.mark.parametrize("name", ZOO)
def test_layers_with_weights_run_on_integer_kernels(name: str) -> None:
    for subnet in subnets_of(name):
        program = program_of(subnet)
        weighted = [step for step in program.steps if isinstance(step, WeightedStep)]
        real = [step for step in weighted[:-1] if not isinstance(program.tensors[step.output], IntegerTensor)]
        found = kernels(model_of(program, []))
        assert sum(found[kind] for kind in FLOAT_KERNELS) <= len(real) + (weighted[-1].weights.values.ndim > 2)
        assert sum(found[kind] for kind in INTEGER_KERNELS) >= len(weighted) - len(real) - 1


@pytest.mark.parametrize("name", ["shufflenet", "split", "unet", "densenet"])
def test_values_are_moved_as_integers(name: str) -> None:
    for subnet in subnets_of(name):
        program = program_of(subnet)
        moved = [step.output for step in program.steps if isinstance(step, MoveStep)]
        assert moved
        assert all(isinstance(program.tensors[output], IntegerTensor) for output in moved if output != "logits")


def found(name: str) -> FoundNetwork:
    """Network of a model as a run finds it, of all blocks, in all forms that files have."""
    subnet = subnets_of(name)[0]
    encoding = encoding_of(subnet.space)
    genome = encoding.encode([subnet.candidate])
    costs = {model.name: CostValue(float(model(genome)[0]), model.unit) for model in cost_models(encoding)}
    about = Preprocessing.of(subnet.space, tuple(str(i) for i in range(subnet.space.classes)))
    return FoundNetwork(subnet, name="best", costs=costs, scores={}, preprocessing=about)


FILES = [
    ("resnet8", "onnx"),
    ("senet", "torch"),
    *((name, "c") for name in ("ds_cnn", "split")),
]


@pytest.mark.parametrize(("name", "format"), FILES)
def test_found_networks_are_written_to_files_and_read_back(name: str, format: ExportFormat, tmp_path: Path) -> None:  # noqa: A002
    network = found(name)
    path = tmp_path / f"net{SUFFIX_OF[format]}"
    result = export(network, path, format)
    assert result.agreement.share >= 0.99
    opened = open_file(path)
    assert opened.about is not None
    assert opened.about.candidate == network.candidate
    assert opened.about.program == program_of(network).digest
    assert opened.about.space["digest"] == network.space.graph.digest
    assert "model" not in opened.about.space
    if format == "torch":
        assert b"tests" not in path.read_bytes()


@pytest.mark.parametrize(("name", "kind"), [("senet", "silu|sigmoid|h_swish|h_sigmoid"), ("densenet", "norm")])
def test_c_refuses_what_it_does_not_have_in_one_line(name: str, kind: str) -> None:
    reason = rf"^layer \S+: computes ({kind}) in floating point, which the C format does not have; export with"
    with pytest.raises(DeployError, match=reason) as error:
        c_bytes(program_of(subnets_of(name)[0]), {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("unet", "is a upsample"), ("ds_cnn_speech", "is a convolution with another padding"), ("densenet", "is a ")],
)
def test_profile_refuses_what_it_does_not_measure(name: str, reason: str) -> None:
    with pytest.raises(TableError, match=rf"^layer \S+: {reason}.*, which profile does not measure; measure a table"):
        all_ops(subnets_of(name)[0].space)


class TwoHeads(nn.Module):
    """A network whose logits are joined of two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x)).mean((2, 3))
        return torch.cat([self.one(x), self.two(x)], 1)


def networks_of(module: nn.Module, images: Tensor, **options: Any) -> list[GraphSubnet]:
    """Random networks of a model, calibrated on images."""
    own = GraphSupernet(ModelSpace.from_module(module, images[:2], w_bits=BITS, a_bits=BITS, **options))
    own.load_model(module.state_dict())
    encoding = encoding_of(own.space)
    candidates: list[Any] = encoding.decode(encoding.sample(4, np.random.default_rng(0)))
    calibrate_quantizers(own, [functools.partial(own.recalibrate, images, one) for one in candidates])
    return [own.extract(one, own.recalibrate(images, one, quantize=True)).eval() for one in candidates]


def test_logits_may_be_joined_of_parts() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 10, 10)
    for subnet in networks_of(TwoHeads().eval(), images):
        program = program_of(subnet)
        assert list(faults_of(program, in_onnxruntime(program, images.numpy()))) == []
        np.testing.assert_allclose(reference.run(program, images.numpy()), simulated(subnet, images), atol=1e-5)


def test_images_are_resized_to_what_a_candidate_reads() -> None:
    images = example_of("resnet8", 8)
    subnets = networks_of(network("resnet8"), images, sizes=[16, 24, 32])
    assert len({subnet.candidate.resolution for subnet in subnets}) > 1
    for subnet in subnets:
        program = program_of(subnet)
        size = subnet.candidate.resolution
        assert program.tensors[IMAGE].shape == (3, size, size)
        read = resized(images, size, size)
        given, expected = in_onnxruntime(program, read.numpy())["logits"], simulated(subnet, images)
        assert np.median(np.abs(given - expected)) < 0.02 * expected.std()


class Fire(nn.Module):
    """A fire module between maxima of windows (Iandola 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.one, self.three, self.last = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 3, padding=1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, 1)))
        x = torch.cat([functional.relu(self.one(x)), functional.relu(self.three(x))], 1)
        return self.last(functional.max_pool2d(x, 2).mean((2, 3)))


@pytest.mark.parametrize("name", [*PROFILED, "fire"])
def test_profiled_networks_of_a_users_model_are_those_that_are_exported(name: str) -> None:
    """The runtime executes the same operators."""
    subnets = networks_of(Fire().eval(), torch.rand(8, 3, 16, 16)) if name == "fire" else subnets_of(name)
    for subnet in subnets:
        space = subnet.space
        graph, opset = graph_of(program_of(subnet), pack_weights=False)
        exported = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
        candidate = subnet.candidate
        layers, forms = space.network.at(space.values_of(candidate)), forms_of_graph(space.plan(candidate).graph)
        image = space.network.image(space.resolutions[-1])
        profiled = onnx.load_from_string(network_model(layers, image, "int8", forms))
        onnx.checker.check_model(profiled, full_check=True)
        assert kernels(profiled) == kernels(exported)
        floating = onnx.load_from_string(network_model(layers, image, "fp32", forms))
        convolutions = sum(n for kernel, n in kernels(floating).items() if "Conv" in kernel)  # some with what follows
        assert convolutions == sum(layer.kind == "conv" for layer in layers)


TABLES = {
    "one size": (network("resnet8"), {}),
    "three sizes": (network("resnet8"), {"sizes": [16, 24, 32]}),
    "fire": (Fire().eval(), {}),
}


@pytest.mark.parametrize(("model", "options"), TABLES.values(), ids=TABLES)
def test_the_sum_of_a_table_of_a_users_model_is_that_of_its_ops(
    model: nn.Module, options: dict[str, Any], tmp_path: Path
) -> None:
    space = ModelSpace.from_module(model, torch.rand(2, 3, 32, 32), step=4, least=0.5, **options)
    latency = {op: 1e-6 * (1 + number + 1000 * (op.kind == "requantize")) for number, op in enumerate(all_ops(space))}
    own = ProfiledPrecision(latency, frozenset(latency), None, None)
    path = tmp_path / "t.csv"
    pd.DataFrame(table_rows(space, {"int8": own, "fp32": own})).to_csv(path, index=False)
    encoding = encoding_of(space)
    metric = Costs.of(encoding, [path]).metrics["latency_ms"]
    genomes = encoding.sample(30, np.random.default_rng(1))
    for candidate, cost in zip(encoding.decode(genomes), metric(genomes), strict=True):
        values = space.values_of(candidate)
        image = space.network.image(values.get("resolution", space.resolutions[-1]))
        ops = network_ops(space.network.at(values), image)
        # a row does not tell whether a layer's input is stored at more bits than it needs: the slower case counts
        slowest = [op._replace(kind="requantize") if op.kind == "clip" else op for op in ops]
        assert cost == pytest.approx(1e3 * sum(latency[op] for op in slowest), rel=1e-4)
        assert cost >= 1e3 * sum(latency[op] for op in ops) * (1 - 1e-4)
