"""Lowering: the integer program of a network, from its layers and their parameters.

A tensor that layers without weights read, or several layers, is quantized once, at the bits at which it is stored; a
layer whose multiplications have other bits requantizes it. Any other tensor is quantized at the bits of its reader.
This is what ``apq_tune.supernet.subnet.Subnet`` simulates in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from apq_tune.deploy.program import (
    LOGITS,
    AddStep,
    ConvStep,
    FloatTensor,
    FunctionStep,
    IntegerTensor,
    LinearStep,
    MeanStep,
    MultiplyStep,
    Program,
    ProgramTensor,
    QuantizeStep,
    RequantizeStep,
    ResizeStep,
    Step,
)
from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE, Layer
from apq_tune.supernet.frozen import FrozenQuantizer, FrozenSubnet, FrozenWeights
from apq_tune.supernet.interfaces import AnySubnet


class Parameters(Protocol):
    """Integer parameters of a network by the names of its layers; ``FrozenSubnet`` has those of a subnet."""

    def stored(self, name: str) -> FrozenQuantizer | None:
        """Quantizer of the output of a layer; ``None`` if the only layer that reads it quantizes it."""
        ...

    def read(self, name: str) -> FrozenQuantizer:
        """Quantizer of the input of a layer with weights."""
        ...

    def weights(self, name: str, input_scale: np.float32) -> FrozenWeights:
        """Integer weights and bias of a layer whose input has the given scale."""
        ...


def program_of(subnet: AnySubnet) -> Program:
    """Integer program of a subnet at the bits of its candidate.

    Raises:
        DeployError: If a layer has no integer form.
    """
    return build(subnet.layers, FrozenSubnet(subnet), subnet.space.input.channels, subnet.space.resolutions[-1])


def build(layers: Sequence[Layer], parameters: Parameters, channels: int, size: int) -> Program:
    """Integer program of a network.

    Args:
        layers: Layers in the order of the forward pass, with integer numbers; the output of the last one is the logits.
        parameters: Parameters of the layers.
        channels: Number of channels of the image.
        size: Image size as the data loader yields it; resized if the first layer reads another size.

    Raises:
        DeployError: If a layer has no integer form.
    """
    builder = _ProgramBuilder(layers, parameters)
    builder.image(channels, size)
    for layer in layers:
        builder.add(layer)
    return Program(tuple(builder.steps), builder.tensors)


class _ProgramBuilder:
    """Steps and tensors of a program so far."""

    def __init__(self, layers: Sequence[Layer], parameters: Parameters) -> None:
        self.steps: list[Step] = []
        self.tensors: dict[str, ProgramTensor] = {}
        self._parameters, self._last = parameters, layers[-1].name
        self._readers: dict[str, list[Layer]] = {}
        for layer in layers:
            for name in layer.inputs:
                self._readers.setdefault(name, []).append(layer)

    def image(self, channels: int, size: int) -> None:
        """Image, resized and quantized."""
        source = self._keep(FloatTensor(IMAGE, (channels, size, size)))
        first = self._readers[IMAGE][0]
        assert first.op is not None
        wanted = first.op.in_size
        if wanted != size:
            resized = self._keep(FloatTensor(f"{IMAGE}.resized", (channels, wanted, wanted)))
            self.steps.append(ResizeStep(resized, (source,), resized))
            source = resized
        self._image = source

    def add(self, layer: Layer) -> None:
        """Append the steps of one layer."""
        if layer.op is not None:
            self._weighted(layer)
        elif layer.kind == "add":
            self._sum(layer)
        elif layer.kind == "pool":
            self._mean(layer)
        elif layer.kind == "multiply":
            self._multiply(layer)
        else:
            raise DeployError(f"layer {layer.name}: is a {layer.kind}, which has no integer form yet")

    def _weighted(self, layer: Layer) -> None:
        op, source = layer.op, self.tensors[self._input(layer)]
        assert op is not None and isinstance(source, IntegerTensor)
        weights = self._parameters.weights(layer.name, source.scale)
        shape = (int(op.out_channels),) if layer.kind == "linear" else (int(op.out_channels), op.out_size, op.out_size)
        quantizer = self._quantizer(layer)
        scales = source.scale * weights.scales
        float_output = quantizer is None or quantizer.function is not None
        name = LOGITS if quantizer is None else f"{layer.name}.float" if float_output else layer.name
        multipliers = scales if quantizer is None or float_output else scales / quantizer.scale
        self._output(name, shape, None if float_output else quantizer)
        if layer.kind == "linear":
            self.steps.append(LinearStep(layer.name, (source.name,), name, weights, multipliers))
        else:
            k, groups = int(op.kernel_size), int(op.groups)
            self.steps.append(
                ConvStep(layer.name, (source.name,), name, weights, multipliers, op.stride, k // 2, groups)
            )
        if quantizer is not None and quantizer.function is not None:
            activated = self._keep(FloatTensor(f"{layer.name}.{quantizer.function}", shape))
            self.steps.append(FunctionStep(activated, (name,), activated, quantizer.function))
            self._output(layer.name, shape, quantizer)
            self.steps.append(QuantizeStep(f"{layer.name}.quantize", (activated,), layer.name))

    def _sum(self, layer: Layer) -> None:
        one, two = (self._integer(layer, name) for name in layer.inputs)
        output = self._stored(layer, one.shape)
        ratios = one.scale / output.scale, two.scale / output.scale
        zeros = [np.float32(tensor.zero) for tensor in (output, one, two)]
        offset = zeros[0] - (ratios[0] * zeros[1] + ratios[1] * zeros[2])
        self.steps.append(AddStep(layer.name, layer.inputs, layer.name, ratios, offset))

    def _mean(self, layer: Layer) -> None:
        source = self._integer(layer, layer.inputs[0])
        output = self._stored(layer, source.shape[:1])
        pixels = np.float32(source.shape[1] * source.shape[2])
        self.steps.append(MeanStep(layer.name, layer.inputs, layer.name, source.scale / (output.scale * pixels)))

    def _multiply(self, layer: Layer) -> None:
        source = self._integer(layer, layer.inputs[0])
        self._stored(layer, source.shape)
        self.steps.append(MultiplyStep(layer.name, layer.inputs, layer.name))

    def _input(self, layer: Layer) -> str:
        """Name of the integer tensor that a layer with weights reads, quantized here if it is not yet."""
        assert layer.op is not None
        source, bits = layer.inputs[0], int(layer.op.a_bits)
        if source == IMAGE:
            image = self.tensors[self._image]
            name = self._output(f"{layer.name}.input", image.shape, self._parameters.read(layer.name))
            self.steps.append(QuantizeStep(name, (image.name,), name))
            return name
        stored = self._integer(layer, source)
        if stored.bits == bits:
            return source
        name = self._output(f"{layer.name}.input", stored.shape, self._parameters.read(layer.name))
        self.steps.append(RequantizeStep(name, (source,), name))
        return name

    def _quantizer(self, layer: Layer) -> FrozenQuantizer | None:
        """Quantizer of the output of a layer; ``None`` for the logits."""
        if layer.name == self._last:
            return None
        quantizer, readers = self._parameters.stored(layer.name), self._readers.get(layer.name, [])
        if quantizer is None:
            if len(readers) != 1 or readers[0].op is None:
                names = ", ".join(reader.name for reader in readers)
                raise DeployError(f"layer {layer.name}: is read by {names} and has no quantizer of its own")
            quantizer = self._parameters.read(readers[0].name)
        if layer.activation in ("relu", "relu6") and quantizer.signed:
            raise DeployError(f"layer {layer.name}: the quantizer after its {layer.activation} is signed")
        return quantizer

    def _stored(self, layer: Layer, shape: tuple[int, ...]) -> IntegerTensor:
        """Integer output of a layer without weights."""
        quantizer = self._quantizer(layer)
        if quantizer is None or quantizer.function is not None:
            raise DeployError(f"layer {layer.name}: a {layer.kind} must be quantized without a function before it")
        tensor = self.tensors[self._output(layer.name, shape, quantizer)]
        assert isinstance(tensor, IntegerTensor)
        return tensor

    def _integer(self, layer: Layer, name: str) -> IntegerTensor:
        tensor = self.tensors[name]
        if not isinstance(tensor, IntegerTensor):
            raise DeployError(f"layer {layer.name}: reads {name}, which is not quantized")
        return tensor

    def _output(self, name: str, shape: tuple[int, ...], quantizer: FrozenQuantizer | None) -> str:
        if quantizer is None:
            return self._keep(FloatTensor(name, shape))
        return self._keep(IntegerTensor(name, shape, quantizer.bits, quantizer.signed, quantizer.scale))

    def _keep(self, tensor: ProgramTensor) -> str:
        assert tensor.name not in self.tensors
        self.tensors[tensor.name] = tensor
        return tensor.name
