"""Rules of a device on layers: which operations of a network, or of all choices of a block, it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import DeviceError
from apq_tune.network.layer import IMAGE, Layer
from apq_tune.space.device import DevicePreset, End, OpKind, OpRule, either

NAMES: dict[OpKind, str] = {
    "conv": "convolutions",
    "depthwise": "depthwise convolutions",
    "grouped": "grouped convolutions",
    "linear": "linear layers",
}
"""Kinds of operations in messages."""

DENSE = "dense weights (sparsity 0), since its kernels multiply zeros, too"
"""What all devices run, in words."""


class Ends(NamedTuple):
    """Names of the layers with weights that read the image, and of those that no other one reads."""

    first: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()

    def of(self, name: str) -> End | None:
        """Which of them a layer is; the first one if it is both."""
        if name in self.first:
            return "first"
        return "last" if name in self.last else None


class OpVerdict(NamedTuple):
    """What a device says of one quantity of a layer.

    Attributes:
        quantity: Name of the quantity, such as ``"w_bits"``.
        values: Value, or values that broadcast over the choices of a block.
        ok: Whether they are run.
        allowed: What is run, in words.
    """

    quantity: str
    values: tuple[Any, ...]
    ok: NDArray[np.bool_]
    allowed: str


def kind_of(layer: Layer) -> OpKind:
    """Kind of the operation of a layer with weights."""
    assert layer.op is not None
    if layer.kind == "linear":
        return "linear"
    return kind_of_groups(int(np.max(layer.op.groups)), int(np.max(layer.op.in_channels)))


def kind_of_groups(groups: int, in_channels: int) -> OpKind:
    """Kind of a convolution."""
    if groups == 1:
        return "conv"
    return "depthwise" if groups == in_channels else "grouped"


def ends_of(layers: Sequence[Layer]) -> Ends:
    """First and last layers with weights of a network.

    Args:
        layers: Layers in the order of the forward pass.
    """
    fresh, first = {IMAGE}, set()
    for layer in layers:
        if layer.op is not None and not fresh.isdisjoint(layer.inputs):
            first.add(layer.name)
        elif layer.op is None and fresh.issuperset(layer.inputs):
            fresh.add(layer.name)
    final, last = {layers[-1].name} if layers else set(), set()
    for layer in reversed(layers):
        if layer.name in final:
            if layer.op is not None:
                last.add(layer.name)
            else:
                final.update(layer.inputs)
    return Ends(frozenset(first), frozenset(last))


def rule_of(preset: DevicePreset, layer: str, kind: OpKind, end: End | None, remedy: str) -> OpRule:
    """Rule for a layer.

    Raises:
        DeviceError: If the device does not run its kind.
    """
    rule = preset.rule(kind, end)
    if rule is None:
        raise DeviceError(f"{layer}: {preset.name} runs no {NAMES[kind]}; {remedy}")
    return rule


def verdicts(rule: OpRule, layer: Layer, end: End | None) -> list[OpVerdict]:
    """What a rule says of each quantity of a layer.

    Args:
        rule: Rule of the device for the layer.
        layer: Layer with weights; numbers may be arrays that broadcast over choices.
        end: Whether it is the first or the last layer, whose outputs are classes and of any number.
    """
    op = layer.op
    assert op is not None
    w, a = np.asarray(op.w_bits), np.asarray(op.a_bits)
    found = []
    if rule.is_product:
        found.append(OpVerdict("w_bits", (w,), np.isin(w, rule.weights), f"weights of {either(rule.weights)} bits"))
        found.append(OpVerdict("a_bits", (a,), np.isin(a, rule.inputs), f"inputs of {either(rule.inputs)} bits"))
    else:
        pairs = sorted(rule.bits)
        ok = np.logical_or.reduce([(w == own) & (a == other) for own, other in pairs])
        said = ", ".join(f"{own}/{other}" for own, other in pairs)
        found.append(OpVerdict("w_bits/a_bits", (w, a), np.asarray(ok), f"weights/inputs of {said} bits"))
    if rule.kernels is not None and layer.kind != "linear":
        sides = [op.kernel_size] if op.kernel_width is None else [op.kernel_size, op.kernel_width]
        allowed = f"kernels of {either(rule.kernels)}"
        found += [OpVerdict("kernel_size", (np.asarray(side),), np.isin(side, rule.kernels), allowed) for side in sides]
    if rule.channels is not None and end != "last":
        outputs = np.asarray(op.out_channels)
        allowed = f"multiples of {rule.channels} channels"
        found.append(OpVerdict("channels", (outputs,), np.asarray(outputs % rule.channels == 0), allowed))
    if op.is_sparse:
        share = np.asarray(op.sparsity)
        found.append(OpVerdict("sparsity", (share,), np.asarray(share == 0), DENSE))
    return found


def check_function(preset: DevicePreset, layer: str, function: str | None, remedy: str) -> None:
    """Refuse an activation function that a device does not compute.

    Args:
        preset: Preset of the device.
        layer: Name of the layer.
        function: Its activation function; ``None`` for none.
        remedy: What to do about it.

    Raises:
        DeviceError: If the device does not compute it; the message names the layer, both, and the remedy.
    """
    if function is not None and preset.functions is not None and function not in preset.functions:
        own = " or ".join(preset.functions) or "no activation functions"
        raise DeviceError(f"{layer}: its activation function is {function}, but {preset.name} computes {own}; {remedy}")


def check_layers(preset: DevicePreset, layers: Iterable[Layer], ends: Ends, remedy: str) -> None:
    """Refuse layers that a device does not run.

    Args:
        preset: Preset of the device.
        layers: Layers with numbers, not arrays.
        ends: Names of the first and the last layers.
        remedy: What to do about it.

    Raises:
        DeviceError: If there is one; the message names it, its value, what the device runs, and the remedy.
    """
    for layer in layers:
        check_function(preset, layer.name, layer.activation, remedy)
        if layer.op is None:
            continue
        kind, end = kind_of(layer), ends.of(layer.name)
        rule = rule_of(preset, layer.name, kind, end, remedy)
        for verdict in verdicts(rule, layer, end):
            if not verdict.ok.all():
                value, subject = "/".join(str(own.item()) for own in verdict.values), who(kind, end, rule, preset)
                raise DeviceError(
                    f"{layer.name}: {verdict.quantity} is {value}, but {preset.name} runs {subject} with "
                    f"{verdict.allowed}; {remedy}"
                )


def who(kind: OpKind, end: End | None, rule: OpRule, preset: DevicePreset) -> str:
    """What a rule is about, in words."""
    return f"{end} layers" if end is not None and getattr(preset.ops, end) is rule else NAMES[kind]


def check_network(preset: DevicePreset, layers: Sequence[Layer]) -> None:
    """Refuse a network that a device cannot run.

    Args:
        preset: Preset of the device.
        layers: Layers of the network in the order of the forward pass, as ``network.at`` and ``FoundNetwork.layers``
            have them.

    Raises:
        DeviceError: If it cannot run one; the message names the layer and the rule.
    """
    check_layers(preset, layers, ends_of(layers), "take a network that was searched for this device, or another device")
