"""Layers of the networks of a traced model as functions of genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from apq_tune.network.coupling import ChannelMap, Coupling
from apq_tune.network.fused import FusedLayer, fused
from apq_tune.network.graph import MOVING, WEIGHTED, Graph
from apq_tune.network.graph_layers import PASSING, LayerBits, LayerSize, at_most, layer_of
from apq_tune.network.layer import IMAGE, Layer, Numbers
from apq_tune.network.network import Network, Part, Switch
from apq_tune.network.removable import Removable, removable_blocks
from apq_tune.space.model_choices import Choice, Choices
from apq_tune.space.model_plan import Planner

MOST_BITS = 8
"""Most bits of a stored tensor."""

Values = Mapping[str, Numbers]


class Channels(NamedTuple):
    """Number of channels as a function of genes.

    Attributes:
        fixed: Channels that always stay.
        open: Gene, channels in a unit of the group of the gene, and channels in a unit here.
    """

    fixed: int
    open: tuple[tuple[str, int, int], ...] = ()

    def at(self, values: Values) -> Numbers:
        """Number of channels at given values of genes."""
        total: Numbers = self.fixed
        for gene, unit, here in self.open:
            own = values[gene] * here if unit == 1 else values[gene] // unit * here
            total = total + own
        return total

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes that it depends on."""
        return tuple(gene for gene, _, _ in self.open)


@dataclass(frozen=True)
class Needed:
    """Bits that readers of a tensor need, as a function of genes.

    Attributes:
        fixed: Least bits, whatever the genes.
        genes_: Genes of bits, the most of which is needed.
        cases: Blocks that read the tensor and whose output it is if they are left out: name of the depth gene, bits
            that are needed if the block is there, and if it is not.
    """

    fixed: int = 0
    bits: tuple[str, ...] = ()
    cases: tuple[tuple[str, Needed, Needed], ...] = ()

    def at(self, values: Values) -> Numbers:
        """Bits at given values of genes."""
        found: list[Numbers] = [self.fixed, *(values[gene] for gene in self.bits)]
        for gene, there, gone in self.cases:
            depth, one, other = values[gene], there.at(values), gone.at(values)
            found.append((one if depth else other) if isinstance(depth, int) else np.where(depth >= 1, one, other))
        return at_most(*found)

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes that it depends on."""
        below = (gene for case in self.cases for gene in (case[0], *case[1].genes, *case[2].genes))
        return tuple(dict.fromkeys((*self.bits, *below)))

    @classmethod
    def most(cls, needs: Sequence[Needed]) -> Needed:
        """Bits of several readers."""
        fixed = max((need.fixed for need in needs), default=0)
        if fixed >= MOST_BITS:
            return cls(fixed)
        bits = tuple(dict.fromkeys(gene for need in needs for gene in need.bits))
        return cls(fixed, bits, tuple(dict.fromkeys(case for need in needs for case in need.cases)))

    @classmethod
    def of(cls, choice: Choice) -> Needed:
        """Bits of a layer."""
        return cls(0, (choice.gene,)) if choice.gene else cls(choice.values[-1])


@dataclass(frozen=True)
class LayerFormula:
    """Function from genes to a layer; see ``Describe``.

    Attributes:
        layer: Nodes of the layer.
        axis: Axis of the channels of its output.
        genes: Names of the genes, in the order of the arguments.
        shapes: Shapes of its output and of its first input in the whole model, by height of the image.
        input_axis: Axis of the channels of its first input.
        outputs: Channels of its output.
        inputs: Channels of its first input.
        kernel: Height and width of its kernel.
        groups: Groups of its convolution at all channels.
        w_bits: Bits of its weights.
        a_bits: Bits of their input.
        stored: Bits at which its output is stored.
        sparsity: Share of zeros among its weights.
        sparse_group: Inputs in a group of N:M sparsity; 1 for unstructured sparsity.
    """

    layer: FusedLayer
    axis: int
    genes: tuple[str, ...]
    shapes: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]]
    input_axis: int
    outputs: Channels
    inputs: Channels
    kernel: tuple[int, ...]
    groups: int
    w_bits: Needed
    a_bits: Needed
    stored: Needed
    sparsity: Choice
    sparse_group: int

    def __call__(self, size: int, /, *values: Numbers) -> tuple[Layer, ...]:
        """The layer at an image size and values of its genes."""
        named = dict(zip(self.genes, values, strict=True))
        (output, source), outputs, inputs = self.shapes[size], self.outputs.at(named), self.inputs.at(named)
        groups: Numbers = self.groups
        if groups > 1 and self.outputs.open:
            groups = groups * outputs // output[self.axis]
        shapes = LayerSize(
            _with(output, self.axis, outputs),
            _with(source, self.input_axis, inputs),
            (outputs, 0, *self.kernel) if self.kernel else (),
            groups,
        )
        bits = LayerBits(
            self.stored.at(named),
            self.w_bits.at(named),
            self.a_bits.at(named),
            self.sparsity.among(named),
            self.sparse_group,
        )
        return (layer_of(self.layer, self.axis, shapes, bits),)


def _with(shape: tuple[int, ...], axis: int, channels: Numbers) -> tuple[Numbers, ...]:
    return (*shape[:axis], channels, *shape[axis + 1 :]) if shape else shape


@dataclass(frozen=True)
class ModelNetwork(Network):
    """Networks of a traced model, whose parts are its layers.

    Attributes:
        planner: Maker of the graphs of candidates.
    """

    planner: Planner | None = None

    def at(self, values: Mapping[str, int]) -> tuple[Layer, ...]:
        """Layers of one candidate in the order of the forward pass, of the first channels of each group."""
        assert self.planner is not None
        return self.planner.plan(values).layers


def network_of_graph(planner: Planner, fixed_bits: int) -> ModelNetwork:
    """Networks of a traced model.

    Args:
        planner: The model, and what is open in it.
        fixed_bits: Bits of the inputs of layers without weights.
    """
    choices, coupling = planner.choices, planner.coupling
    gone = frozenset(name for name, depth in choices.depths.items() if depth.values == (0,))
    graphs = {size: planner.graph_of(size, gone) for size in planner.sizes}
    graph = graphs[planner.sizes[-1]]
    name_of = {block.output: block.name for block in planner.blocks if choices.depths[block.name].gene}
    found = (block for block in removable_blocks(graph, coupling) if block.output in name_of)
    blocks = {name_of[block.output]: block for block in found}
    layers = fused(graph)
    stored = _stored(layers, choices, blocks, fixed_bits)
    layer_of_node = {node.name: layer.name for layer in layers for node in layer.nodes}
    parts = []
    for layer in layers:
        formula = _formula(layer, graphs, coupling, choices, stored[layer.name])
        part = Part(layer.name, formula.genes, formula)
        if (block := blocks.get(choices.block_of.get(layer.name, ""))) is not None:
            passes = layer_of_node.get(block.source, block.source)
            part = Part(layer.name, formula.genes, formula, Switch(choices.depths[block.name].gene, 1), passes)
        parts.append(part)
    genes = {gene.name: gene.values for gene in choices.genes}
    size_gene = "resolution" if "resolution" in genes else None
    width = None if graph.image[1] == graph.image[2] else graph.image[2]
    return ModelNetwork(genes, planner.sizes, size_gene, graph.image[0], fixed_bits, tuple(parts), True, width, planner)


def _formula(
    layer: FusedLayer, graphs: Mapping[int, Graph], coupling: Coupling, choices: Choices, stored: Needed
) -> LayerFormula:
    node, source = layer.main, layer.main.inputs[0]
    graph = graphs[max(graphs)]
    outputs = _channels(coupling.outputs[layer.last.name], coupling, choices)
    inputs = Channels(graph.image[0]) if source == IMAGE else _channels(coupling.outputs[source], coupling, choices)
    nothing = Needed()
    w_bits, a_bits = nothing, nothing
    if node.kind in WEIGHTED:
        w_bits, a_bits = Needed.of(choices.w_bits[node.name]), Needed.of(choices.a_bits[node.name])
    used = (outputs, inputs, w_bits, a_bits, stored) if node.kind in WEIGHTED else (outputs, stored)
    sparsity = choices.sparsity.get(node.name, Choice((0,)))
    genes = [*(gene for one in used for gene in one.genes), *([sparsity.gene] if sparsity.gene else [])]
    return LayerFormula(
        layer,
        coupling.axes[layer.last.name],
        tuple(dict.fromkeys(genes)),
        {size: (own.shape_of(layer.last.name), own.shape_of(source)) for size, own in graphs.items()},
        0 if source == IMAGE else coupling.axes[source],
        outputs,
        inputs if node.kind in WEIGHTED else Channels(0),
        graph.shapes[node.parameters["weight"]][2:] if node.kind == "conv" else (),
        node.settings["groups"] if node.kind == "conv" else 1,
        w_bits,
        a_bits,
        stored,
        sparsity,
        choices.sparse_groups.get(node.name, 1),
    )


def _channels(entries: ChannelMap, coupling: Coupling, choices: Choices) -> Channels:
    """Number of entries along an axis."""
    fixed, open_ = int((entries.group < 0).sum()), []
    for index, count in zip(*np.unique(entries.group[entries.group >= 0], return_counts=True), strict=True):
        group, choice = coupling.groups[index], choices.widths.get(int(index))
        here = int(count) // group.n_units
        if choice is not None and choice.gene:
            open_.append((choice.gene, group.unit_channels, here))
        else:
            units = group.n_units if choice is None else choice.values[-1] // group.unit_channels
            fixed += units * here
    return Channels(fixed, tuple(open_))


def _stored(
    layers: Sequence[FusedLayer], choices: Choices, blocks: Mapping[str, Removable], fixed_bits: int
) -> dict[str, Needed]:
    """Bits at which the output of each layer is stored, as ``graph_layers.stored_bits`` has them.

    Args:
        layers: Layers in the order of the forward pass.
        choices: What is open in them.
        blocks: Blocks that can be left out, by name.
        fixed_bits: Bits of the inputs of layers without weights, and of the logits.
    """
    layer_of_node = {node.name: layer.name for layer in layers for node in layer.nodes} | {IMAGE: IMAGE}
    needed = _needed(layers, choices, blocks, fixed_bits, layer_of_node)
    depth_of = {layer_of_node[block.output]: choices.depths[name].gene for name, block in blocks.items()}
    source_of = {layer_of_node[block.output]: layer_of_node[block.source] for block in blocks.values()}
    stored = {IMAGE: Needed(fixed_bits)}
    for layer in layers:
        stored[layer.name] = needed[layer.name]
        if layer.main.kind in MOVING:  # the bits of its input, which is another tensor if that is of a block left out
            name = layer.inputs[0]
            moved = [name]
            while name in source_of:
                name = source_of[name]
                moved.append(name)
            own = stored[moved[-1]]
            for output in reversed(moved[:-1]):
                there = stored[output]
                own = there if there == own else Needed(0, (), ((depth_of[output], there, own),))
            stored[layer.name] = own
    return stored


def _needed(
    layers: Sequence[FusedLayer],
    choices: Choices,
    blocks: Mapping[str, Removable],
    fixed_bits: int,
    layer_of_node: Mapping[str, str],
) -> dict[str, Needed]:
    """Bits that the readers of the output of each layer need; arguments are those of ``_stored``."""
    replaced: dict[str, list[tuple[str, Removable]]] = {}  # blocks that read the output of a layer
    for name, block in blocks.items():
        replaced.setdefault(layer_of_node[block.source], []).append((choices.depths[name].gene, block))
    readers: dict[str, list[FusedLayer]] = {}
    for layer in layers:
        for name in dict.fromkeys(layer.inputs):
            readers.setdefault(name, []).append(layer)
    found: dict[str, Needed] = {}

    def needs(layer: FusedLayer) -> Needed:
        if layer.main.kind in PASSING:
            return found[layer.name]
        return Needed.of(choices.a_bits[layer.name]) if layer.main.kind in WEIGHTED else Needed(fixed_bits)

    for layer in reversed(layers):
        own = readers.get(layer.name, [])
        if not own:
            found[layer.name] = Needed(fixed_bits)
            continue
        parts: list[Needed] = []
        for gene, block in replaced.get(layer.name, []):
            inside = [reader for reader in own if reader.name in block.nodes]
            own = [reader for reader in own if reader not in inside]
            there, gone = Needed.most([needs(reader) for reader in inside]), found[layer_of_node[block.output]]
            parts.append(there if there == gone else Needed(0, (), ((gene, there, gone),)))
        found[layer.name] = Needed.most([*parts, *(needs(reader) for reader in own)])
    return found
