"""Networks of the candidates of a traced model: their graphs, their layers, and where their parameters come from."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import SpaceError
from apq_tune.network.coupling import Coupling, couple
from apq_tune.network.fused import PLAIN, FusedLayer, fused
from apq_tune.network.graph import WEIGHTED, Graph
from apq_tune.network.graph_layers import graph_layers
from apq_tune.network.layer import Layer
from apq_tune.network.removable import Removable, removable_blocks, without
from apq_tune.network.shapes import resized
from apq_tune.network.slicing import Indices, slice_graph
from apq_tune.space.model_choices import Choices, ModelOptions

MOST_PLANS = 256
"""Networks that a planner remembers."""

WITH_WEIGHTS = (
    *(f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)),
    *("convolution", "bilinear", "einsum", "linear", "matmul", "mm", "bmm", "addmm", "tensordot"),
)
"""Operations of ATen that multiply with weights."""

Ranks = Mapping[int, NDArray[Any]]
"""Units of groups of coupled channels by the index of the group, from the most important one."""


class ModelPlan(NamedTuple):
    """Network of a candidate.

    Attributes:
        graph: Its graph.
        takes: Indices along the axes of each parameter by name; see ``apq_tune.network.slicing.Sliced``.
        layers: Its layers as they are stored, at its bits.
    """

    graph: Graph
    takes: Mapping[str, tuple[Indices | None, ...]]
    layers: tuple[Layer, ...]


class Planner:
    """Maker of the networks of candidates.

    What it remembers only saves time, and does not travel to other processes.

    Attributes:
        graph: The whole model.
        options: Options of its space.
        fixed_bits: Bits of the inputs of layers without weights.
    """

    def __init__(self, graph: Graph, options: ModelOptions, fixed_bits: int) -> None:
        self.graph, self.options, self.fixed_bits = graph, options, fixed_bits
        self._graphs: dict[tuple[int, frozenset[str]], Graph] = {}
        self._ranks: Ranks | None = None
        self._plans: dict[tuple[int, ...], ModelPlan] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """The model and its options."""
        return type(self), (self.graph, self.options, self.fixed_bits)

    @functools.cached_property
    def coupling(self) -> Coupling:
        """Coupled channels of the whole model."""
        return couple(self.graph, self.options.keep)

    @functools.cached_property
    def blocks(self) -> tuple[Removable, ...]:
        """Blocks that can be left out, whatever becomes of the others."""
        return separable(self.graph, removable_blocks(self.graph, self.coupling))

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Heights of the images to choose from, ascending."""
        return self.options.sizes or (self.graph.image[1],)

    @functools.cached_property
    def choices(self) -> Choices:
        """What is open in the model."""
        return Choices(self.graph, self.coupling, self.blocks, self.options, self.sizes)

    def check(self) -> None:
        """Refuse options that do not fit the model.

        Raises:
            SpaceError: If an image size is impossible, an entry of ``keep`` or ``genes`` does not fit, or the model has
                an operation whose costs are not known.
        """
        check_counted(self.graph)
        channels, height, width = self.graph.image
        if (pixels := self.options.normalisation) is not None:
            for name, own in (("mean", pixels.mean), ("std", pixels.std)):
                if len(own) != channels:
                    raise SpaceError(
                        f"normalisation.{name}: has {len(own)} values; give one for each of {channels} channels"
                    )
        if self.options.sizes and height != width:
            raise SpaceError(f"sizes: images of {height}x{width} pixels are not square; leave sizes out")
        for size in self.sizes:
            self.graph_of(size, frozenset())
        assert self.choices is not None

    def graph_of(self, size: int, gone: frozenset[str]) -> Graph:
        """The model for images of a size, without some blocks.

        Raises:
            SpaceError: If it cannot have images of this size.
        """
        if (size, gone) not in self._graphs:
            if len(self._graphs) >= MOST_PLANS:
                self._graphs.clear()
            if gone:
                whole = self.graph_of(size, frozenset())
                found = without(whole, [block for block in self.blocks if block.name in gone])
            else:
                found = self.graph if size == self.graph.image[1] else resized(self.graph, size)
            self._graphs[size, gone] = found
        return self._graphs[size, gone]

    def plan(self, values: Mapping[str, int], ranks: Ranks | None = None) -> ModelPlan:
        """Network with given values of all genes.

        Args:
            values: Value of each gene by name.
            ranks: Units of each group from the most important one; by default as they come in the model. One and the
                same object as in the last call must have the same content.
        """
        if ranks is not self._ranks:
            self._ranks, self._plans = ranks, {}
        key = tuple(values[gene.name] for gene in self.choices.genes)
        if key not in self._plans:
            if len(self._plans) >= MOST_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = self._made(values, ranks)
        return self._plans[key]

    def _made(self, values: Mapping[str, int], ranks: Ranks | None) -> ModelPlan:
        choices = self.choices
        gone = frozenset(name for name, depth in choices.depths.items() if not depth.among(values))
        graph = self.graph_of(values.get("resolution", self.sizes[-1]), gone)
        kept: dict[int, NDArray[np.bool_]] = {}
        for index, width in choices.widths.items():
            group = self.coupling.groups[index]
            n_units = width.among(values) // group.unit_channels
            if n_units < group.n_units:
                order = np.arange(group.n_units) if ranks is None else np.asarray(ranks[index])
                kept[index] = np.zeros(group.n_units, bool)
                kept[index][order[:n_units]] = True
        sliced = slice_graph(graph, self.coupling, kept)
        w_bits, a_bits = (
            {node.name: own[node.name].among(values) for node in sliced.graph.weighted}
            for own in (choices.w_bits, choices.a_bits)
        )
        sparse = {
            node.name: (share, choices.sparse_groups[node.name])
            for node in sliced.graph.weighted
            if (share := choices.sparsity[node.name].among(values))
        }
        layers = graph_layers(sliced.graph, self.coupling.axes, w_bits, a_bits, self.fixed_bits, sparse)
        return ModelPlan(sliced.graph, sliced.takes, layers)


def check_counted(graph: Graph) -> None:
    """Refuse operations whose weights no cost counts and nothing quantizes.

    Raises:
        SpaceError: If there is one; the message names its place and the remedy.
    """
    for node in graph.nodes:
        target = str(node.settings.get("target", "")).removeprefix("aten.").partition(".")[0]
        where = f"{node.name!r}{f' ({node.place})' if node.place else ''}"
        if not node.inputs:
            raise SpaceError(
                f"{where} computes a tensor from parameters alone (aten.{target}), which cannot be searched; store the "
                "result as a parameter: load the weights, then call "
                "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight'), or remove_weight_norm(layer) or "
                "remove_spectral_norm(layer) of torch.nn.utils"
            )
        if node.kind == "opaque" and node.parameters and target in WITH_WEIGHTS:
            raise SpaceError(
                f"{where} is the operation aten.{target}, whose weights can neither be quantized nor counted; write it "
                "with convolutions and linear layers (a transposed convolution as nn.Upsample and nn.Conv2d)"
            )


def separable(graph: Graph, blocks: Sequence[Removable]) -> tuple[Removable, ...]:
    """Blocks without which all other layers remain as they are.

    A block stays if an activation function after it is computed with its sum, or would be joined to the layer before
    it.

    Args:
        graph: Traced model.
        blocks: Its removable blocks.
    """
    layers = fused(graph)
    ends = {layer.last.name: layer for layer in layers}
    found = list(blocks)
    while True:
        source_of = {block.output: block.source for block in found}
        safe = [
            block
            for block in found
            if block.output in ends
            and block.output != graph.nodes[-1].name
            and not _joins(graph, ends, block, source_of)
        ]
        if len(safe) == len(found):
            return tuple(safe)
        found = safe


def _joins(graph: Graph, ends: Mapping[str, FusedLayer], block: Removable, source_of: Mapping[str, str]) -> bool:
    """Whether a reader of a block's output could be joined to a layer that takes its place."""
    readers = graph.readers[block.output]
    source: str | None = block.source
    while source is not None:
        before = ends.get(source)
        if before is not None:
            takes_norm = before.main.kind in WEIGHTED and before.norm is None and before.function is None
            takes_function = before.main.kind not in PLAIN and before.function is None
            if any(
                (node.kind == "norm" and takes_norm) or (node.kind == "function" and takes_function) for node in readers
            ):
                return True
        source = source_of.get(source)
    return False
