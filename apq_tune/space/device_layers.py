"""Choices of a traced model that a device runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from apq_tune.errors import DeviceError
from apq_tune.network.coupling import Coupling
from apq_tune.network.graph import WEIGHTED, Graph, Node
from apq_tune.space.device import DevicePreset, OpKind, OpRule
from apq_tune.space.device_rules import DENSE, Ends, check_function, kind_of_groups, rule_of, who
from apq_tune.space.gene import Kind

Values = dict[Kind, dict[str, tuple[int, ...]]]
Leaders = Mapping[Kind, Mapping[str, str]]

REMEDY = "leave its block out (genes, depth 0), or take another device"
"""What to do about a layer that a device does not run."""

STRUCK: tuple[Kind, ...] = ("w_bits", "a_bits", "width", "sparsity")
"""Quantities of which a device may not run all values."""


def of_device(
    preset: DevicePreset,
    graph: Graph,
    coupling: Coupling,
    nodes: Sequence[Node],
    ends: Ends,
    values: Values,
    leaders: Leaders,
) -> dict[str, frozenset[tuple[int, int]]]:
    """Strike values that a device does not run.

    Args:
        preset: Preset of the device.
        graph: The whole model.
        coupling: Its coupled channels.
        nodes: Operations that networks have.
        ends: First and last of all layers with weights.
        values: Values of each quantity by kind and name, which are changed.
        leaders: Globs of the quantities that are one gene, by kind and name.

    Returns:
        Pairs of the bits of weights and of inputs that are run, by the name of the layer, where these are not all pairs
        of the values that are left.

    Raises:
        DeviceError: If nothing is left of a quantity, or a layer is not run; the message names the layer, what it
            offers, what the device runs, and the remedy.
    """
    for node in nodes:
        if node.kind == "function":
            check_function(preset, _where(node), node.settings["name"], REMEDY)
    layers = [node for node in nodes if node.kind in WEIGHTED]
    rules: dict[str, OpRule] = {}
    before: list[dict[str, tuple[int, ...]]] = []
    # What is struck from one gene may leave less of others.
    while before != (now := [dict(values[kind]) for kind in STRUCK]):
        before = now
        for node in layers:
            rules[node.name] = _strike(preset, graph, coupling, node, ends, values)
        for kind in STRUCK:
            _agree(preset, kind, values[kind], leaders[kind])
    found = {}
    for name, rule in rules.items():
        pairs = frozenset((w, a) for w in values["w_bits"][name] for a in values["a_bits"][name])
        if not pairs <= rule.bits:
            found[name] = pairs & rule.bits
    return found


def _strike(preset: DevicePreset, graph: Graph, coupling: Coupling, node: Node, ends: Ends, values: Values) -> OpRule:
    """Strike values of a layer that its rule does not have, and return the rule; arguments as of ``of_device``."""
    kind, end = _kind(graph, node), ends.of(node.name)
    where = _where(node)
    rule = rule_of(preset, where, kind, end, REMEDY)
    subject = who(kind, end, rule, preset)
    _check_kernel(preset, graph, node, where, rule, subject)
    weights, inputs = values["w_bits"][node.name], values["a_bits"][node.name]
    run = [(w, a) for w in weights for a in inputs if (w, a) in rule.bits]
    if not run:
        wrong = not set(weights) & set(rule.weights)
        quantity, own = ("w_bits", weights) if wrong else ("a_bits", inputs)
        raise DeviceError(
            f"{where}: offers {quantity} {list(own)}, but {preset.name} runs {subject} with {rule}; offer "
            "one of these in the model's choices (w_bits, a_bits, ends, genes), or take another device"
        )
    values["w_bits"][node.name] = tuple(sorted({w for w, _ in run}))
    values["a_bits"][node.name] = tuple(sorted({a for _, a in run}))
    if 0 not in (shares := values["sparsity"][node.name]):
        raise DeviceError(
            f"{where}: offers sparsity {list(shares)}, but {preset.name} runs {subject} with {DENSE}; offer 0 as "
            "well, or take another device"
        )
    values["sparsity"][node.name] = (0,)
    if rule.channels is not None and end != "last":
        _strike_widths(preset, coupling, node.name, where, rule.channels, values["width"])
    return rule


def _where(node: Node) -> str:
    """Name of a layer, and its place in the user's source."""
    return f"{node.name}{f' ({node.place})' if node.place else ''}"


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
