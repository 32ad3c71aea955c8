"""Random graphs of all kinds of nodes, their random parameters, and the programs that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper

from apq_tune.deploy import reference
from apq_tune.deploy.forms import forms_of_graph
from apq_tune.deploy.lowering import build
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.onnx_session import session
from apq_tune.deploy.program import (
    FloatStep,
    FunctionStep,
    IntegerTensor,
    Program,
    QuantizeStep,
    WeightedStep,
)
from apq_tune.network.fused import FusedLayer, fused
from apq_tune.network.graph import MOVING, WEIGHTED, Graph, Node
from apq_tune.network.layer import IMAGE, Layer, Op, Tensor
from apq_tune.supernet.frozen import FrozenQuantizer, FrozenWeights
from apq_tune.tracing.functions import compute

SATURATING = ("relu", "relu6")


class GraphMaker:
    """Random graph so far, and random tensors for its parameters.

    Attributes:
        saturating: Whether it may have functions that quantization does alone, and no others.
    """

    def __init__(self, seed: int, image: tuple[int, int, int], *, saturating: bool = False) -> None:
        self.saturating = saturating
        self.rng = np.random.default_rng(seed)
        self.image, self.nodes = image, list[Node]()
        self.tensors: dict[str, NDArray[np.float32]] = {}

    def node(
        self, kind: Any, inputs: list[str], parameters: Mapping[str, Any] | None = None, /, **settings: Any
    ) -> str:
        """Append a node, whose shape torch says.

        Returns:
            Its name.
        """
        name, names = f"{kind}{len(self.nodes)}", {}
        for role, values in (parameters or {}).items():
            names[role] = f"{name}.{role}"
            self.tensors[names[role]] = np.asarray(values, np.float32)
        given = {role: torch.from_numpy(self.tensors[own]) for role, own in names.items()}
        shape: tuple[int, ...] = (math.prod(self.shape(inputs[0])),) if kind == "flatten" else ()
        node = Node(name, kind, tuple(inputs), shape, settings, names)
        zeros = [torch.zeros(2, *self.shape(own)) for own in inputs]
        if settings.get("target") == "aten.where.self":
            zeros[0] = zeros[0].bool()
        if not shape:
            node = node._replace(shape=tuple(compute(node, zeros, given).shape[1:]))
        self.nodes.append(node)
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.image if name == IMAGE else next(node.shape for node in self.nodes if node.name == name)

    def normal(self, *shape: int) -> NDArray[np.float32]:
        return self.rng.standard_normal(shape).astype(np.float32)

    def conv(self, x: str, out: int, kernel: tuple[int, int] = (3, 3), **settings: Any) -> str:
        c, groups = self.shape(x)[0], settings.get("groups", 1)
        weight = self.normal(out, c // groups, *kernel) / math.sqrt(c // groups * math.prod(kernel))
        given = {"stride": [1, 1], "padding": [k // 2 for k in kernel] * 2, "dilation": [1, 1], "groups": 1}
        parameters = {"weight": weight} | ({"bias": self.normal(out)} if self.rng.random() < 0.6 else {})
        return self.node("conv", [x], parameters, **given | settings)

    def norm(self, x: str) -> str:
        c = self.shape(x)[0]
        values = {"mean": self.normal(c) / 4, "variance": self.rng.uniform(0.5, 2, c), "bias": self.normal(c) / 4}
        return self.node("norm", [x], values | {"weight": self.normal(c)}, eps=1e-5)

    def linear(self, x: str, out: int) -> str:
        c = self.shape(x)[-1]
        return self.node("linear", [x], {"weight": self.normal(out, c) / math.sqrt(c), "bias": self.normal(out)})

    def function(self, x: str, name: str) -> str:
        settings = {"leaky_relu": {"slope": 0.1}, "scale": {"factor": -1.3, "offset": 0.2}}.get(name, {})
        return self.node("function", [x], name=name, **settings)

    def graph(self) -> Graph:
        return Graph(self.image, tuple(self.nodes), {name: own.shape for name, own in self.tensors.items()})


FUNCTIONS = ("relu", "relu6", "h_swish", "h_sigmoid", "silu", "sigmoid", "gelu", "tanh", "leaky_relu", "elu", "scale")


def any_function(make: GraphMaker, x: str) -> str:
    return make.function(x, str(make.rng.choice(SATURATING if make.saturating else ("relu", "relu6", *FUNCTIONS))))


def any_gate(make: GraphMaker, x: str) -> str:
    return make.function(x, "relu6" if make.saturating else str(make.rng.choice(["sigmoid", "h_sigmoid"])))


def any_conv(make: GraphMaker, x: str) -> str:
    rng, (c, height, width) = make.rng, make.shape(x)
    kernel = tuple(int(rng.integers(1, 1 + min(3, n))) for n in (height, width))
    dilation = [int(rng.integers(1, 3)) if (k - 1) * 2 < n else 1 for k, n in zip(kernel, (height, width), strict=True)]
    groups = int(rng.choice([g for g in (1, 1, 2, 4, c) if c % g == 0]))
    out = groups * int(rng.integers(1, 1 + max(1, 8 // groups)))
    stride, padding = [int(n) for n in rng.integers(1, 3, 2)], [int(n) for n in rng.integers(0, 3, 4)]
    x = make.conv(x, out, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if rng.random() < 0.4:
        x = make.norm(x)
    return any_function(make, x) if rng.random() < 0.6 else x


def any_add(make: GraphMaker, x: str) -> str:
    other = make.conv(x, make.shape(x)[0])
    both = [x, other] if make.rng.random() < 0.5 else [other, x]
    y = make.node("add", both)
    return any_function(make, y) if make.rng.random() < 0.5 else y


def any_excite(make: GraphMaker, x: str) -> str:
    c = make.shape(x)[0]
    y = make.function(make.conv(make.node("mean", [x], keep=True), 4, (1, 1)), "relu")
    y = any_gate(make, make.conv(y, c, (1, 1)))
    y = make.node("multiply", [x, y])
    return make.function(y, "relu") if make.rng.random() < 0.2 else y


def any_multiply(make: GraphMaker, x: str) -> str:
    return make.node("multiply", [x, any_gate(make, make.conv(x, make.shape(x)[0]))])


def any_concat(make: GraphMaker, x: str) -> str:
    rng = make.rng
    parts = [x, make.function(make.conv(x, 3), "relu")] + ([make.conv(x, 2, (1, 1))] if rng.random() < 0.5 else [])
    y = make.node("concat", [parts[i] for i in rng.permutation(len(parts))])
    if rng.random() < 0.5 and not make.saturating:
        y = make.norm(y)
    return make.function(y, "relu") if rng.random() < 0.7 else y


def any_split(make: GraphMaker, x: str) -> str:
    c = make.shape(x)[0]
    if c < 2:
        return x
    at = int(make.rng.integers(1, c))
    left, right = make.node("slice", [x], start=0, stop=at), make.node("slice", [x], start=at, stop=c)
    return make.node("concat", [left, make.conv(right, int(make.rng.integers(1, 5)))])


def any_select(make: GraphMaker, x: str) -> str:
    return make.node("select", [x], indices=[int(i) for i in make.rng.integers(0, make.shape(x)[0], 6)])


def any_shuffle(make: GraphMaker, x: str) -> str:
    return make.node("shuffle", [make.conv(x, 6, (1, 1))], groups=int(make.rng.choice([2, 3])))


def any_pool(make: GraphMaker, x: str) -> str:
    rng, (_, *size) = make.rng, make.shape(x)
    kernel = [int(rng.integers(1, 1 + min(3, n))) for n in size]
    padding = [int(rng.integers(0, 1 + k // 2)) for k in (*kernel, *kernel)]
    settings = {"kernel": kernel, "stride": [int(n) for n in rng.integers(1, 3, 2)], "padding": padding}
    if rng.random() < 0.5:
        return make.node("max_pool", [x], **settings, dilation=[1, 1])
    y = make.node("avg_pool", [x], **settings, count_padding=bool(rng.random() < 0.5))
    return any_function(make, y) if rng.random() < 0.2 else y


def any_pad(make: GraphMaker, x: str) -> str:
    channels = {"channels": [int(n) for n in make.rng.integers(0, 3, 2)]} if make.rng.random() < 0.3 else {}
    return make.node("pad", [x], padding=[int(n) for n in make.rng.integers(0, 3, 4)], value=0.0, **channels)


def any_upsample(make: GraphMaker, x: str) -> str:
    mode = "nearest" if make.saturating else str(make.rng.choice(["nearest", "bilinear"]))
    y = make.node("upsample", [x], factor=2, mode=mode)
    return any_function(make, y) if make.rng.random() < 0.3 else y


def any_affine(make: GraphMaker, x: str) -> str:
    c = make.shape(x)[0]
    roles = [{"weight"}, {"bias"}, {"weight", "bias"}][int(make.rng.integers(3))]
    return make.node("affine", [x], {role: make.normal(c) for role in sorted(roles)}, axis=0)


def any_last_axis(make: GraphMaker, x: str) -> str:
    """As in ConvNeXt."""
    c = make.shape(x)[0]
    y = make.node("permute", [x], order=[1, 2, 0])
    if make.rng.random() < 0.7:
        y = make.node("layer_norm", [y], {"weight": make.normal(c), "bias": make.normal(c)}, eps=1e-6)
    y = make.linear(y, 6)
    y = make.function(y, str(make.rng.choice(["gelu", "relu"]))) if make.rng.random() < 0.8 else y
    return make.node("permute", [make.linear(y, c)], order=[2, 0, 1])


def any_alone(make: GraphMaker, x: str) -> str:
    """Batch norm or a function that two layers read through."""
    y = make.norm(x) if make.rng.random() < 0.5 else any_function(make, make.node("select", [x], indices=[0, 0]))
    return make.node("concat", [y, make.conv(y, 2)])


STEPS: tuple[Callable[[GraphMaker, str], str], ...] = (
    any_conv,
    any_add,
    any_excite,
    any_multiply,
    any_concat,
    any_split,
    any_select,
    any_shuffle,
    any_pool,
    any_pad,
    any_upsample,
    any_affine,
    any_last_axis,
    any_alone,
)


def any_end(make: GraphMaker, x: str) -> None:
    """Logits of all forms that classifiers end with."""
    rng = make.rng
    form = int(rng.integers(6))
    if form == 0:
        make.linear(make.node("mean", [x], keep=False), 5)
    elif form == 1:  # SqueezeNet
        y = make.function(make.conv(x, 5, (1, 1)), "relu")
        make.node("flatten", [make.node("mean", [y], keep=True)])
    elif form == 2:
        y = make.node("flatten", [make.node("mean", [x], keep=True)])
        make.function(make.linear(y, 5), str(rng.choice(FUNCTIONS)))
    elif form == 3:
        y = make.node("mean", [x], keep=False)
        make.node("concat", [make.linear(y, 2), make.linear(y, 3)])
    elif form == 4:
        y = make.node("mean", [make.conv(x, 4)], keep=False)
        make.node("add", [y, make.linear(y, 4)])
    else:
        y = make.node(
            "flatten", [make.node("avg_pool", [x], kernel=[2, 2], stride=[2, 2], padding=[1] * 4, count_padding=False)]
        )
        make.linear(make.function(make.linear(y, 7), "relu"), 5)


INTEGER_STEPS = tuple(step for step in STEPS if step not in (any_affine, any_last_axis, any_alone))
"""Steps that have an integer form if functions saturate."""


def random_graph(seed: int, n: int = 4, *, integer: bool = False) -> GraphMaker:
    """Graph of random operations, or of those with an integer form."""
    rng, kinds = np.random.default_rng(seed), INTEGER_STEPS if integer else STEPS
    make = GraphMaker(seed, (3, int(rng.integers(6, 11)), int(rng.integers(6, 11))), saturating=integer)
    x = IMAGE if rng.random() < 0.3 and not integer else make.function(make.conv(IMAGE, 8), "relu")
    for _ in range(n):
        x = kinds[int(rng.integers(len(kinds)))](make, x)
        while math.prod(make.shape(x)[1:]) > 400:
            x = make.node("max_pool", [x], kernel=[2, 2], stride=[2, 2], padding=[0] * 4, dilation=[1, 1])
        if min(make.shape(x)[1:]) < 3:
            x = make.node("upsample", [x], factor=3, mode="nearest")
    if integer:
        make.linear(make.node("flatten", [make.node("mean", [make.conv(x, 4)], keep=True)]), 5)
    else:
        any_end(make, x)
    return make


class Net(NamedTuple):
    """Network with random parameters and bits, its quantizers calibrated."""

    graph: Graph
    fused: tuple[FusedLayer, ...]
    layers: tuple[Layer, ...]
    parameters: RandomParameters
    images: NDArray[np.float32]
    values: dict[str, NDArray[np.float32]]

    @property
    def program(self) -> Program:
        return build(self.layers, self.parameters, forms_of_graph(self.graph))


def net_of(make: GraphMaker, n: int = 6, bits: int | None = None) -> Net:
    """Network of a graph, at given bits or at random ones."""
    graph, rng = make.graph(), make.rng
    layers = fused(graph)
    images = rng.standard_normal((n, *graph.image)).astype(np.float32)
    values = run_in_torch(make, graph, images)
    shapes = {IMAGE: graph.image} | {layer.name: layer.last.shape for layer in layers}
    each = {layer.name: (bits or int(rng.integers(2, 9)), bits or int(rng.integers(2, 9))) for layer in layers}
    stored = stored_bits(layers, {name: own[1] for name, own in each.items()})
    plain = tuple(layer_of(layer, shapes, each[layer.name], stored[layer.name]) for layer in layers)
    parameters = RandomParameters(make, layers, each, stored, values, exact=bits is not None)
    return Net(graph, layers, plain, parameters, images, values)


def run_in_torch(make: GraphMaker, graph: Graph, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Output of every node in full precision."""
    values = {IMAGE: torch.from_numpy(images)}
    for node in graph.nodes:
        given = {role: torch.from_numpy(make.tensors[name]) for role, name in node.parameters.items()}
        values[node.name] = compute(node, [values[name] for name in node.inputs], given)
    return {name: own.numpy() for name, own in values.items()}


def stored_bits(layers: tuple[FusedLayer, ...], a_bits: Mapping[str, int]) -> dict[str, int]:
    """Most bits that a reader of each tensor needs."""
    found: dict[str, int] = {IMAGE: 0} | {layer.name: 0 for layer in layers} | {layers[-1].name: 8}
    for layer in reversed(layers):
        moves = layer.main.kind in (*MOVING, "concat")
        need = a_bits[layer.name] if layer.main.kind in WEIGHTED else found[layer.name] if moves else 8
        for name in layer.inputs:
            found[name] = max(found[name], need)
    return found


def layer_of(layer: FusedLayer, shapes: Mapping[str, tuple[int, ...]], bits: tuple[int, int], stored: int) -> Layer:
    main, shape, source = layer.main, layer.last.shape, shapes[layer.inputs[0]]
    op = None
    if main.kind in WEIGHTED:
        groups = main.settings.get("groups", 1)
        op = Op(source[0], shape[0], 0, groups, source[-1], shape[-1], *bits)
    output = Tensor(math.prod(shape), 1, stored)
    activation = None if layer.function is None else layer.function.settings["name"]
    kind: Any = "pool" if main.kind == "mean" else main.kind
    return Layer(layer.name, kind, layer.inputs, output, op, activation)


class RandomParameters:
    """Parameters of a random graph; quantizers are calibrated to the largest values, times a random factor."""

    def __init__(
        self,
        make: GraphMaker,
        layers: tuple[FusedLayer, ...],
        bits: Mapping[str, tuple[int, int]],
        stored: Mapping[str, int],
        values: Mapping[str, NDArray[np.float32]],
        *,
        exact: bool,
    ) -> None:
        self._exact = exact
        self._make, self._layers = make, {layer.name: layer for layer in layers}
        self._bits, self._stored, self._made = bits, stored, dict[str, FrozenQuantizer]()
        for name, layer in self._layers.items():
            if stored[name] == 0 or layer.main.kind in MOVING:
                continue
            real = values[layer.last.name]
            if real.dtype == np.bool_:
                continue
            self._made[name] = self._calibrated(real, stored[name], self._is_unsigned(layer, real))
        for layer in layers:
            if layer.main.kind in WEIGHTED:
                real, name = values[layer.main.inputs[0]], f"{layer.name} reads"
                source = layer.inputs[0]
                while source != IMAGE and self._layers[source].main.kind in MOVING:
                    source = self._layers[source].inputs[0]
                unsigned = source != IMAGE and not self._made[source].signed
                self._made[name] = self._calibrated(real, bits[layer.name][1], unsigned)

    def _is_unsigned(self, layer: FusedLayer, real: NDArray[np.float32]) -> bool:
        last = layer.last
        if last.kind == "function" and last.settings["name"] in SATURATING:
            return True
        return bool(real.min() >= 0) and bool(self._make.rng.random() < 0.7)

    def _calibrated(self, real: NDArray[np.float32], bits: int, unsigned: bool) -> FrozenQuantizer:
        rng = self._make.rng
        largest = max(float(np.abs(real).max()), 0.1) * (1.0 if self._exact else rng.uniform(0.4, 1.1))
        high = (1 << bits - (not unsigned)) - 1
        scale = largest / high
        if rng.random() < 0.3 and not self._exact:  # many sums and requantized values are then halfway between levels
            scale = 2.0 ** round(math.log2(scale))
        return FrozenQuantizer(np.float32(scale), bits, not unsigned)

    def stored(self, name: str) -> FrozenQuantizer | None:
        return self._made.get(name)

    def read(self, name: str) -> FrozenQuantizer:
        return self._made[f"{name} reads"]

    def weights(self, name: str, input_scale: np.float32) -> FrozenWeights:
        layer = self._layers[name]
        own = {role: self._make.tensors[full].astype(np.float64) for role, full in layer.main.parameters.items()}
        weight = own["weight"]
        bias = own.get("bias", np.zeros(len(weight)))
        if layer.norm is not None:
            norm = {role: self._make.tensors[full].astype(np.float64) for role, full in layer.norm.parameters.items()}
            factor = norm["weight"] / np.sqrt(norm["variance"] + layer.norm.settings["eps"])
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            bias = (bias - norm["mean"]) * factor + norm["bias"]
        bits = self._bits[name][0]
        flat = np.abs(weight).reshape(len(weight), -1)
        scales = np.maximum(flat.max(axis=1), 1e-3) / (2 ** (bits - 1) - 1)
        levels = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1)))
        units = np.rint(bias / (scales * input_scale))
        return FrozenWeights(levels.astype(np.int8), scales.astype(np.float32), units.astype(np.int32), bits)

    def constants(self, name: str) -> dict[str, NDArray[np.float32]]:
        return {role: self._make.tensors[full] for role, full in self._layers[name].main.parameters.items()}


def model_of(program: Program, outputs: list[str]) -> onnx.ModelProto:
    graph, opset = graph_of(program)
    for name in outputs:
        tensor = program.tensors[name]
        kind = onnx.TensorProto.UINT8 if isinstance(tensor, IntegerTensor) else onnx.TensorProto.FLOAT
        if any(node.op_type == "Greater" and name in node.output for node in graph.node):
            kind = onnx.TensorProto.BOOL
        graph.output.append(helper.make_tensor_value_info(name, kind, ["n", *tensor.shape]))
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model


def in_onnxruntime(program: Program, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """All tensors as onnxruntime computes them."""
    names = [step.output for step in program.steps if step.output != "logits"]
    values = session(model_of(program, names)).run([*names, "logits"], {IMAGE: images})
    found: dict[str, NDArray[Any]] = {IMAGE: images}
    for name, value in zip([*names, "logits"], values, strict=True):
        tensor = program.tensors[name]
        found[name] = value.astype(np.int32) - tensor.zero if isinstance(tensor, IntegerTensor) else value
    return found


def faults_of(program: Program, values: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Steps whose output is not the one that the reference has for the same inputs.

    Integers must be equal but behind a floating-point step, where one in a thousand may be a level off.
    """
    makers = {step.output: step for step in program.steps}
    for step in program.steps:
        expected = reference.run_step(program, step, dict(values))
        given = values[step.output]
        if isinstance(program.tensors[step.output], IntegerTensor):
            wrong = np.abs(expected - given)
            maker = makers.get(step.inputs[0])
            rounded = isinstance(step, QuantizeStep) and isinstance(maker, FloatStep | FunctionStep | WeightedStep)
            if wrong.max() > (1 if rounded else 0) or wrong.astype(bool).mean() > 0.01:
                yield f"{step} {expected.shape} {wrong.astype(bool).mean()} {wrong.max()}"
        elif not np.allclose(expected, given, atol=1e-4 * max(1, float(np.abs(expected).max())), rtol=1e-4):
            yield f"{step} {np.abs(expected - given).max()}"
