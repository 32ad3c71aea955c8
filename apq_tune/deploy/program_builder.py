"""Building programs of layers: which steps each kind of layer becomes, and which tensors they write.

| layer | steps |
|---|---|
| conv, linear | ``ConvStep``, ``LinearStep``; before them ``QuantizeStep`` or ``RequantizeStep`` if need be |
| add, multiply, pool, avg_pool | ``AddStep``, ``MultiplyStep``, ``MeanStep``, ``AveragePoolStep`` |
| concat | ``ConcatStep``, which requantizes |
| slice, select, shuffle, max_pool, flatten, pad, permute | ``MoveStep`` |
| upsample | nearest: ``MoveStep``, ``RequantizeStep`` if it is stored at another scale; bilinear: ``FloatStep`` |
| function | ``RequantizeStep`` if saturation does it, else ``FunctionStep`` |
| norm, affine, layer_norm, opaque | ``FloatStep``, ``QuantizeStep`` |

A function that does more than saturate, at the end of any of these, makes the operation before it a float one:
``FunctionStep`` and ``QuantizeStep`` follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.forms import LayerForm, Shape
from apq_tune.deploy.program import (
    LOGITS,
    AddStep,
    AveragePoolStep,
    ConcatStep,
    ConvStep,
    FloatStep,
    FloatTensor,
    FunctionStep,
    IntegerTensor,
    LinearStep,
    MeanStep,
    MoveStep,
    MultiplyStep,
    ProgramTensor,
    QuantizeStep,
    RequantizeStep,
    Step,
)
from apq_tune.errors import DeployError
from apq_tune.network.graph import MOVING
from apq_tune.network.layer import IMAGE, Function, Layer
from apq_tune.supernet.frozen import FrozenQuantizer, FrozenWeights

SATURATING: tuple[Function, ...] = ("relu", "relu6")
"""Functions of which quantization to unsigned levels does all."""


class Parameters(Protocol):
    """Parameters of a network by the names of its layers; ``FrozenSubnet`` has those of a subnet."""

    def stored(self, name: str) -> FrozenQuantizer | None:
        """Quantizer of the output of a layer; ``None`` if the only layer that reads it quantizes it."""
        ...

    def read(self, name: str) -> FrozenQuantizer:
        """Quantizer of the input of a layer with weights."""
        ...

    def weights(self, name: str, input_scale: np.float32) -> FrozenWeights:
        """Integer weights and bias of a layer whose input has the given scale."""
        ...

    def constants(self, name: str) -> Mapping[str, NDArray[np.float32]]:
        """Parameters by role of a layer that is computed in floating point, as in ``apq_tune.network.graph``."""
        ...


class ProgramBuilder:
    """Steps and tensors of a program so far."""

    def __init__(self, layers: Sequence[Layer], parameters: Parameters, forms: Mapping[str, LayerForm]) -> None:
        self.steps: list[Step] = []
        self.tensors: dict[str, ProgramTensor] = {}
        self._parameters, self._forms, self._last = parameters, forms, layers[-1].name
        self._names: dict[str, str] = {}  # tensor of each layer
        self._reserved = {IMAGE, LOGITS, *(layer.name for layer in layers)}
        self._readers: dict[str, list[Layer]] = {}
        for layer in layers:
            for name in layer.inputs:
                self._readers.setdefault(name, []).append(layer)
        self._real: set[str] = set()  # layers whose output is not quantized
        for layer in reversed(layers):
            readers = self._readers.get(layer.name, [])
            passed = all(own.name in self._real and self._moves(own) for own in readers)
            if layer.name == self._last or passed or self._is_truth(layer):
                self._real.add(layer.name)

    def image(self) -> None:
        """Image as the network reads it; layers with weights quantize it."""
        self._names[IMAGE] = self._keep(FloatTensor(IMAGE, self._forms[IMAGE].shape))

    def add(self, layer: Layer) -> None:
        """Append the steps of one layer."""
        if layer.op is not None:
            self._weighted(layer)
        elif self._moves(layer):
            self._move(layer)
        elif layer.kind == "function":
            self._function(layer)
        elif layer.kind == "concat" and layer.name not in self._real:
            self._concat(layer)
        else:
            self._arithmetic(layer)

    def _weighted(self, layer: Layer) -> None:
        op, source = layer.op, self._input(layer)
        assert op is not None
        weights = self._parameters.weights(layer.name, source.scale)
        scales = source.scale * weights.scales

        def step(output: ProgramTensor) -> Step:
            multipliers = scales / output.scale if isinstance(output, IntegerTensor) else scales
            names = layer.name, (source.name,), output.name
            if layer.kind == "linear":
                return LinearStep(*names, weights, multipliers)
            given = self._forms[layer.name].settings
            stride, padding, dilation = (tuple(given[key]) for key in ("stride", "padding", "dilation"))
            return ConvStep(*names, weights, multipliers, stride, padding, dilation, given["groups"])

        self._emit(layer, step)

    def _arithmetic(self, layer: Layer) -> None:
        """Append an operation without weights: in integers if it has such a form there, else in floating point."""
        sources = [self.tensors[self._names[name]] for name in layer.inputs]
        integers = [own for own in sources if isinstance(own, IntegerTensor)]
        form = _INTEGER_FORMS.get(layer.kind)
        if form is None or len(integers) < len(sources) or (layer.kind == "multiply" and len(integers[1].shape) < 3):
            self._float(layer)
            return

        def step(output: ProgramTensor) -> Step:
            if isinstance(output, IntegerTensor):
                return form(layer, self._forms[layer.name].settings, integers, output)
            return self._float_step(layer, output)

        self._emit(layer, step)

    def _float(self, layer: Layer) -> None:
        """Append an operation in floating point, whose output is quantized by a step of its own."""
        self._emit(layer, lambda output: self._float_step(layer, output), in_float=True)

    def _float_step(self, layer: Layer, output: ProgramTensor) -> Step:
        names = tuple(self._names[name] for name in layer.inputs)
        constants = self._parameters.constants(layer.name)
        return FloatStep(layer.name, names, output.name, layer.kind, self._settings(layer), constants)

    def _function(self, layer: Layer) -> None:
        source = self.tensors[self._names[layer.inputs[0]]]
        settings = self._settings(layer)
        function: Function = settings.pop("name")

        def step(output: ProgramTensor) -> Step:
            if isinstance(output, IntegerTensor):
                return RequantizeStep(layer.name, (source.name,), output.name)
            return FunctionStep(layer.name, (source.name,), output.name, function, settings)

        in_float = function not in SATURATING or not isinstance(source, IntegerTensor)
        self._emit(layer._replace(activation=None), step, in_float=in_float, saturates=function in SATURATING)

    def _concat(self, layer: Layer) -> None:
        quantizer = self._quantizer(layer)
        names = []
        for number, name in enumerate(layer.inputs):
            source = self.tensors[self._names[name]]
            if isinstance(source, FloatTensor):  # a part of the image
                part = self._output(self._free(f"{layer.name}.input{number}"), source.shape, quantizer)
                self.steps.append(QuantizeStep(part.name, (source.name,), part.name))
                source = part
            names.append(source.name)
        output = self._output(self._name_of(layer), self._forms[layer.name].shape, quantizer)
        self.steps.append(ConcatStep(layer.name, tuple(names), output.name))
        self._names[layer.name] = output.name

    def _move(self, layer: Layer) -> None:
        source, shape = self.tensors[self._names[layer.inputs[0]]], self._forms[layer.name].shape
        settings = self._settings(layer)
        if layer.kind == "pad" and settings.get("value", 0) and layer.name not in self._real:
            raise DeployError(
                f"layer {layer.name}: pads with {settings['value']}, and only zero is sure to be a level of its "
                "quantizer; pad with zero, or keep the layer in the convolution that follows"
            )
        own = layer.kind == "upsample" and layer.name not in self._real
        wanted = self._quantizer(layer) if own else None
        real = layer.name in self._real or isinstance(source, FloatTensor)
        name = self._name_of(layer) if wanted is None else self._free(f"{layer.name}.moved")
        moved: ProgramTensor = FloatTensor(name, shape) if real else source._replace(name=name, shape=shape)
        self._keep(moved)
        self.steps.append(MoveStep(layer.name, (source.name,), name, layer.kind, settings))
        self._names[layer.name] = name
        if wanted is not None:
            self._names[layer.name] = self._output(self._name_of(layer), shape, wanted).name
            kind = QuantizeStep if real else RequantizeStep
            self.steps.append(kind(f"{layer.name}.quantize", (name,), self._names[layer.name]))

    def _emit(
        self,
        layer: Layer,
        step: Callable[[ProgramTensor], Step],
        *,
        in_float: bool = False,
        saturates: bool = False,
    ) -> None:
        """Append the step of a layer, its activation function if quantization does not do it, and its quantization.

        Args:
            layer: Layer.
            step: Function from the output tensor of the step to the step.
            in_float: Whether the output of the step is float even if that of the layer is quantized.
            saturates: Whether the quantizer must be unsigned for another reason than the layer's activation.
        """
        shape = self._forms[layer.name].shape
        quantizer = None if layer.name in self._real else self._quantizer(layer, saturates=saturates)
        function = None if quantizer is not None and layer.activation in SATURATING else layer.activation
        final = self._name_of(layer)
        self._names[layer.name] = final
        if quantizer is not None and function is None and not in_float:
            self.steps.append(step(self._output(final, shape, quantizer)))
            return
        ends = quantizer is None and function is None
        value = FloatTensor(final if ends else self._free(f"{layer.name}.float"), shape)
        self._keep(value)
        self.steps.append(step(value))
        if function is not None:
            name = f"{layer.name}.{function}"
            activated = FloatTensor(final if quantizer is None else self._free(name), shape)
            self._keep(activated)
            settings = {key: own for key, own in self._forms[layer.name].function.items() if key != "name"}
            self.steps.append(FunctionStep(name, (value.name,), activated.name, function, settings))
            value = activated
        if quantizer is not None:
            self._output(final, shape, quantizer)
            self.steps.append(QuantizeStep(f"{layer.name}.quantize", (value.name,), final))

    def _input(self, layer: Layer) -> IntegerTensor:
        """Integer tensor that a layer with weights reads, quantized here if it is not yet."""
        assert layer.op is not None
        source = self.tensors[self._names[layer.inputs[0]]]
        if isinstance(source, IntegerTensor) and source.bits == int(layer.op.a_bits):
            return source
        output = self._output(self._free(f"{layer.name}.input"), source.shape, self._parameters.read(layer.name))
        kind = RequantizeStep if isinstance(source, IntegerTensor) else QuantizeStep
        self.steps.append(kind(output.name, (source.name,), output.name))
        return output

    def _quantizer(self, layer: Layer, *, saturates: bool = False) -> FrozenQuantizer:
        """Quantizer of the output of a layer: its own, or that of the only layer that reads it.

        Raises:
            DeployError: If there is none, or it is signed though it must saturate, as after a ReLU.
        """
        quantizer, name = self._parameters.stored(layer.name), layer.name
        while quantizer is None:
            readers = self._readers.get(name, [])
            if len(readers) != 1 or (readers[0].op is None and not self._moves(readers[0])):
                names = ", ".join(reader.name for reader in readers)
                raise DeployError(f"layer {layer.name}: is read by {names} and has no quantizer of its own")
            name = readers[0].name
            quantizer = None if readers[0].op is None else self._parameters.read(name)
        if quantizer.signed and (saturates or layer.activation in SATURATING):
            raise DeployError(f"layer {layer.name}: the quantizer after its ReLU is signed; calibrate it again")
        return quantizer

    def _settings(self, layer: Layer) -> dict[str, Any]:
        return dict(self._forms[layer.name].settings)

    def _moves(self, layer: Layer) -> bool:
        """Whether a layer moves or selects values without arithmetic."""
        if layer.kind == "upsample" and self._forms[layer.name].settings["mode"] == "nearest":
            return layer.activation is None or (layer.activation in SATURATING and layer.name not in self._real)
        return layer.kind in MOVING

    def _is_truth(self, layer: Layer) -> bool:
        """Whether a layer yields truth values, which are not quantized."""
        return layer.kind == "opaque" and self._parameters.stored(layer.name) is None

    def _name_of(self, layer: Layer) -> str:
        """Name of the tensor that a layer stores."""
        if layer.name == self._last:
            return LOGITS
        return self._free(LOGITS) if layer.name == LOGITS else layer.name

    def _free(self, name: str) -> str:
        """Name of a tensor that no layer has, as users may give their modules any name."""
        while name in self._reserved or name in self.tensors:
            name += "_"
        return name

    def _output(self, name: str, shape: Shape, quantizer: FrozenQuantizer) -> IntegerTensor:
        tensor = IntegerTensor(name, shape, quantizer.bits, quantizer.signed, quantizer.scale)
        self._keep(tensor)
        return tensor

    def _keep(self, tensor: ProgramTensor) -> str:
        assert tensor.name not in self.tensors
        self.tensors[tensor.name] = tensor
        return tensor.name


def _sum(layer: Layer, _: Mapping[str, Any], inputs: list[IntegerTensor], output: IntegerTensor) -> Step:
    ratios = inputs[0].scale / output.scale, inputs[1].scale / output.scale
    zeros = [np.float32(tensor.zero) for tensor in (output, *inputs)]
    offset = zeros[0] - (ratios[0] * zeros[1] + ratios[1] * zeros[2])
    return AddStep(layer.name, (inputs[0].name, inputs[1].name), output.name, ratios, offset)


def _product(layer: Layer, _: Mapping[str, Any], inputs: list[IntegerTensor], output: IntegerTensor) -> Step:
    ratio = inputs[0].scale * inputs[1].scale / output.scale
    return MultiplyStep(layer.name, (inputs[0].name, inputs[1].name), output.name, ratio)


def _mean(layer: Layer, _: Mapping[str, Any], inputs: list[IntegerTensor], output: IntegerTensor) -> Step:
    (source,) = inputs
    pixels = np.float32(source.shape[1] * source.shape[2])
    return MeanStep(layer.name, (source.name,), output.name, source.scale / (output.scale * pixels))


def _average(layer: Layer, settings: Mapping[str, Any], inputs: list[IntegerTensor], output: IntegerTensor) -> Step:
    kernel, stride, padding, count = (settings[key] for key in ("kernel", "stride", "padding", "count_padding"))
    return AveragePoolStep(
        layer.name, (inputs[0].name,), output.name, tuple(kernel), tuple(stride), tuple(padding), bool(count)
    )


_INTEGER_FORMS: dict[str, Callable[[Layer, Mapping[str, Any], list[IntegerTensor], IntegerTensor], Step]] = {
    "add": _sum,
    "multiply": _product,
    "pool": _mean,
    "avg_pool": _average,
}
"""Integer forms of operations without weights."""
