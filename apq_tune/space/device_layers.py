"""Choices of a traced model that a device runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from apq_tune.errors import DeviceError
from apq_tune.network.coupling import Coupling
from apq_tune.network.graph import Graph, Node
from apq_tune.space.device import DevicePreset, OpKind, OpRule
from apq_tune.space.device_rules import Ends, kind_of_groups, rule_of, who
from apq_tune.space.gene import Kind

Values = dict[Kind, dict[str, tuple[int, ...]]]
Leaders = Mapping[Kind, Mapping[str, str]]


def of_device(
    preset: DevicePreset,
    graph: Graph,
    coupling: Coupling,
    layers: Sequence[Node],
    ends: Ends,
    values: Values,
    leaders: Leaders,
) -> None:
    """Strike values that a device does not run.

    Args:
        preset: Preset of the device.
        graph: The whole model.
        coupling: Its coupled channels.
        layers: Layers with weights that networks have.
        ends: First and last of all layers with weights.
        values: Values of each quantity by kind and name, which are changed.
        leaders: Globs of the quantities that are one gene, by kind and name.

    Raises:
        DeviceError: If nothing is left of a quantity, or a layer is not run; the message names the layer, what it
            offers, what the device runs, and the remedy.
    """
    shared: Kind
    quantity: Kind
    for node in layers:
        kind, end = _kind(graph, node), ends.of(node.name)
        where = f"{node.name}{f' ({node.place})' if node.place else ''}"
        rule = rule_of(preset, where, kind, end, "leave its block out (genes, depth 0), or take another device")
        subject = who(kind, end, rule, preset)
        _check_kernel(preset, graph, node, where, rule, subject)
        if not rule.is_product:
            raise DeviceError(
                f"{where}: {preset.name} runs {subject} with {rule}, where not all bits of weights go with all bits "
                "of inputs, and the space of a model cannot forbid combinations; make a preset of w_bits and a_bits"
            )
        for quantity, allowed in (("w_bits", rule.weights), ("a_bits", rule.inputs)):
            own = values[quantity][node.name]
            kept = tuple(bits for bits in own if bits in allowed)
            if not kept:
                raise DeviceError(
                    f"{where}: offers {quantity} {list(own)}, but {preset.name} runs {subject} with {rule}; offer "
                    "one of these in the model's choices (w_bits, a_bits, ends, genes), or take another device"
                )
            values[quantity][node.name] = kept
        if rule.channels is not None and end != "last":
            _strike_widths(preset, coupling, node.name, where, rule.channels, values["width"])
    for shared in ("w_bits", "a_bits", "width"):
        _agree(preset, shared, values[shared], leaders[shared])


def _kind(graph: Graph, node: Node) -> OpKind:
    if node.kind == "linear":
        return "linear"
    groups = node.settings["groups"]
    return kind_of_groups(groups, graph.shapes[node.parameters["weight"]][1] * groups)


def _check_kernel(preset: DevicePreset, graph: Graph, node: Node, where: str, rule: OpRule, subject: str) -> None:
    sides = graph.shapes[node.parameters["weight"]][2:]
    if rule.kernels is not None and any(side not in rule.kernels for side in sides):
        raise DeviceError(
            f"{where}: its kernel is {'x'.join(map(str, sides))}, but {preset.name} runs {subject} with {rule}; change "
            "the model, or take another device"
        )


def _strike_widths(
    preset: DevicePreset,
    coupling: Coupling,
    name: str,
    where: str,
    multiple: int,
    widths: dict[str, tuple[int, ...]],
) -> None:
    """Strike widths with which a layer's output channels would be no multiple of a number."""
    entries = coupling.outputs[name].group
    fixed = 0
    for index, count in zip(*np.unique(entries, return_counts=True), strict=True):
        group = coupling.groups[index] if index >= 0 else None
        if group is None or group.name not in widths:
            fixed += int(count)
            continue
        here, own = int(count) // group.n_units, widths[group.name]
        kept = tuple(width for width in own if width // group.unit_channels * here % multiple == 0)
        if not kept:
            raise DeviceError(
                f"{where}: offers widths {_some(own)} of {group.name!r}, but {preset.name} runs multiples of "
                f"{multiple} channels; offer such widths (step), or take another device"
            )
        widths[group.name] = kept
    if fixed % multiple:
        raise DeviceError(
            f"{where}: has {fixed} channels that always stay, but {preset.name} runs multiples of {multiple}; change "
            "the model, or take another device"
        )


def _agree(preset: DevicePreset, kind: Kind, values: dict[str, tuple[int, ...]], leaders: Mapping[str, str]) -> None:
    """Leave to quantities that are one gene what all of them may have."""
    for glob in dict.fromkeys(leaders.values()):
        members = [name for name, own in leaders.items() if own == glob and name in values]
        common = tuple(value for value in values[members[0]] if all(value in values[name] for name in members))
        if not common:
            first = members[0]
            apart = next((name for name in members if not set(values[name]) & set(values[first])), members[-1])
            one, other = (f"{name!r} {list(values[name])}" for name in (first, apart))
            raise DeviceError(
                f"genes: {glob!r}: {kind}: {one} and {other} are what {preset.name} runs, so no gene can be of both; "
                "give a glob of fewer layers"
            )
        values |= dict.fromkeys(members, common)


def _some(values: Sequence[int], n: int = 8) -> str:
    shown = ", ".join(map(str, values[:n]))
    return f"[{shown}, ...]" if len(values) > n else f"[{shown}]"
