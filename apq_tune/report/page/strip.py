"""The chosen network layer by layer: channels, bits, and the share that each layer has in a constrained cost."""

from __future__ import annotations

from typing import Any, NamedTuple

from apq_tune.cost.shares import PEAKS, layer_costs
from apq_tune.network.layer import Layer
from apq_tune.report.limits import amount
from apq_tune.report.page.facts import ReportFacts
from apq_tune.space.candidate import candidate_in

TALL = 460.0
"""Height of the whole strip in pixels; thin layers are drawn somewhat thicker than their share."""

THINNEST, LABELLED = 5.0, 15.0
"""Height of the thinnest layer, and from which a layer is labelled, in pixels."""

NARROW, LETTER = 350.0, 6.2
"""Width of the strip on a telephone, and of a letter of a label, in pixels; labels must fit into their bars."""

SCALE = (2, 3, 4, 5, 6, 7, 8)
"""Bits that have a colour of their own; others have that of the nearest."""


class LayerRow(NamedTuple):
    """Layer of the chosen network; ``height`` and ``width`` of its bar are in pixels and percent."""

    name: str
    kind: str
    channels: str
    kernel: str
    size: str
    bits: str
    macs: str
    cost: str
    share: str
    width: float
    height: float
    colour: int
    label: str
    tip: str


class Strip(NamedTuple):
    """Layers of a network.

    Attributes:
        name: Name of the network.
        notation: Its compact notation.
        cost: Name of the cost whose shares are the heights.
        note: What the heights are.
        rows: Layers in the order of the forward pass.
        scale: Bits that occur, for the legend.
        resolution: Side length of its input in pixels.
    """

    name: str
    notation: str
    cost: str
    note: str
    rows: tuple[LayerRow, ...]
    scale: tuple[int, ...]
    resolution: int


def strip_of(facts: ReportFacts) -> Strip | None:
    """Layers of the chosen network; ``None`` if there is none."""
    chosen = facts.chosen
    if chosen is None:
        return None
    candidate = candidate_in(chosen["candidate_json"])
    network, values = facts.space.network, facts.space.values_of(candidate)
    layers = network.at(values)
    metric, unit = facts.cost.name, facts.cost.unit
    costs = layer_costs(metric, network, values, list(facts.tables.values()))
    note = f"heights are shares of {metric}"
    if metric in PEAKS:
        note = f"heights are the bytes that are alive while a layer runs; {metric} is the largest of them"
    if costs is None:
        costs, note = layer_costs("bit_ops", network, values) or {}, (
            f"{metric} comes from a table of whole blocks, so heights are shares of bit_ops"
        )  # fmt: skip
        metric, unit = "bit_ops", "BitOps"
    elif any(metric in table.metrics for table in facts.tables.values()):
        note += "; the table has one value for all fixed layers, whose heights say nothing"
    whole = max(costs.values(), default=0.0) if metric in PEAKS else sum(costs.values())
    shown = [layer for layer in layers if layer.op is not None]
    most = max(layer.output.channels for layer in shown)
    drawn = sum(costs.get(layer.name, 0.0) for layer in shown) or 1.0
    heights = {layer.name: max(THINNEST, round(TALL * costs.get(layer.name, 0.0) / drawn, 1)) for layer in shown}
    rows = tuple(_row(layer, costs.get(layer.name), whole, most, unit, heights[layer.name]) for layer in shown)
    bits = {int(layer.op.w_bits) for layer in shown if layer.op is not None}
    size = network.sizes[-1] if network.size_gene is None else values[network.size_gene]
    return Strip(str(chosen["name"]), str(chosen["candidate"]), metric, note, rows, tuple(sorted(bits)), int(size))


def _row(layer: Layer, cost: float | None, whole: float, most: Any, unit: str, height: float) -> LayerRow:
    op = layer.op
    assert op is not None
    share = (cost or 0.0) / whole if whole else 0.0
    kind = "depthwise" if op.groups > 1 and op.groups == op.in_channels else layer.kind
    bits = f"w{op.w_bits} a{op.a_bits}" + (f" s{op.sparsity:g}" if op.sparsity else "")
    channels = f"{op.in_channels} \N{RIGHTWARDS ARROW} {op.out_channels}"
    kernel = f"{op.kernel_size}\N{MULTIPLICATION SIGN}{op.kernel_size}" + (
        f", stride {op.stride}" if op.stride > 1 else ""
    )
    width = round(max(4.0, 100.0 * float(op.out_channels) / float(most)), 1)
    label = f"{layer.name} {bits}"
    of = "" if cost is None else amount(cost, unit)
    part = "" if cost is None else f"{100 * share:.1f}%"
    return LayerRow(
        layer.name,
        kind,
        channels,
        kernel,
        f"{op.in_size} \N{RIGHTWARDS ARROW} {op.out_size}",
        bits,
        amount(float(op.macs), ""),
        of,
        part,
        width,
        height,
        min(SCALE, key=lambda known: abs(known - int(op.w_bits))),
        label if height >= LABELLED and len(label) * LETTER < width / 100 * NARROW else "",
        f"{layer.name}: {kind} {kernel}, {channels} channels, weights of {op.w_bits} bits, inputs of {op.a_bits} bits"
        + (f", {100 * op.sparsity:.0f}% of the weights zero" if op.sparsity else "")
        + (f", {of} ({part})" if of else ""),
    )
