"""Supernets of traced models with gates: all values of the searched genes in one pass.

A tensor whose bits depend on genes is quantized by each of its readers alone: not first to the most bits that one of
them needs, and not before it is concatenated. Behind a block that is left out, the quantizer of the block's own output
serves its readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.network.fused import FusedLayer
from apq_tune.network.graph import WEIGHTED
from apq_tune.network.layer import IMAGE, Layer
from apq_tune.searchers.gates.draws import Gates
from apq_tune.searchers.gates.kinds import check_kinds
from apq_tune.space.encodings import encoding_of
from apq_tune.space.model_choices import Choice
from apq_tune.supernet.elastic import Conv, InputStep, Norms
from apq_tune.supernet.gated import Quantity, at_sizes, masked, mixed, mixed_weight, total_gate
from apq_tune.supernet.graph_forward import GraphLayers, run_layers
from apq_tune.supernet.graph_quantizers import is_stored
from apq_tune.supernet.graph_supernet import GraphSupernet, PlannedNetwork
from apq_tune.tracing.functions import compute


class _Group(NamedTuple):
    """Group of coupled channels that can shrink.

    Attributes:
        first: First of its units among those of all groups.
        gene: Index of the gene of its width; ``None`` if there is one width.
        there: Whether each of its units is there at each value of the gene, shape ``(n_values, n_units)``.
    """

    first: int
    gene: int | None
    there: NDArray[np.bool_]


class _GatedNetwork(NamedTuple):
    """Largest network at an image size.

    Attributes:
        planned: Network.
        stored: Its layers, with the bits at which tensors are stored; ``None`` where readers decide.
        read: Node whose quantizer serves the input of each layer with weights, and the bits of that tensor.
        blocks: Gene of the depth of removable blocks, whether each of its values keeps the block, and the place of
            the source among the inputs, by the name of the layer that makes the output of the block.
    """

    planned: PlannedNetwork
    stored: tuple[Layer, ...]
    read: Mapping[str, tuple[str, int | None]]
    blocks: Mapping[str, tuple[int, NDArray[np.bool_], int]]


class GatedGraph:
    """Supernet of a traced model as a function of gates.

    Attributes:
        supernet: Supernet, whose ranks of channels must not change.
    """

    def __init__(self, supernet: GraphSupernet) -> None:
        """Find out what depends on which gene.

        Raises:
            SpaceError: If the space has genes that gates cannot run.
        """
        self.supernet, self._space = supernet, supernet.space
        self._encoding = encoding_of(supernet.space)
        check_kinds(self._encoding)
        self._column = {name: place for place, name in enumerate(self._encoding.names)}
        self._places = self._space.coupling.places
        self._n_units = int(self._space.coupling.first_units[-1])
        self._groups = self._found_groups()
        self._networks: dict[int, _GatedNetwork] = {}
        self._axes: dict[int, NDArray[np.int64]] = {}
        sizes = self._encoding.places_of(["resolution"])
        self._size = Quantity(tuple(self._encoding.choices[sizes[0]]), int(sizes[0])) if len(sizes) else None

    def __call__(self, x: Tensor, gates: Gates, *, quantize: bool = True) -> Tensor:
        """Logits of shape ``(n, classes)`` of images of shape ``(n, channels, h, w)``."""

        def at(size: int) -> Tensor:
            return self._run(x, self._network(size), gates, quantize=quantize)

        return at(self._space.network.sizes[-1]) if self._size is None else at_sizes(at, self._size.gated(gates))

    def passes(self, gates: Gates) -> int:
        """Number of passes that gates take, one for each image size."""
        return 1 if self._size is None else len(self._size.gated(gates))

    def _quantity(self, choice: Choice) -> Quantity:
        if not choice.gene:
            return Quantity((choice.values[-1],))
        gene = self._column[choice.gene]
        return Quantity(tuple(self._encoding.choices[gene]), gene)

    def _found_groups(self) -> list[_Group]:
        coupling, ranks, found = self._space.coupling, self.supernet.ranks.by_group, []
        for index, width in self._space.choices.widths.items():
            group, own = coupling.groups[index], self._quantity(width)
            rank = np.empty(group.n_units, np.int64)
            rank[np.asarray(ranks[index])] = np.arange(group.n_units)
            kept = np.array(own.values) // group.unit_channels
            found.append(_Group(int(coupling.first_units[index]), own.gene, rank < kept[:, None]))
        return found

    def _network(self, size: int) -> _GatedNetwork:
        if size not in self._networks:
            self._networks[size] = self._made(size)
        return self._networks[size]

    def _made(self, size: int) -> _GatedNetwork:
        encoding, space = self._encoding, self._space
        ends = np.stack([encoding.n_choices - 1] * 2)
        ends[1, encoding.places_of(["w_bits", "a_bits"])] = 0
        if self._size is not None and self._size.gene is not None:
            ends[:, self._size.gene] = self._size.values.index(size)
        most, fewest = (self.supernet.planned(candidate) for candidate in encoding.decode(ends))
        own = most.network
        pairs = list(zip(own.layers, fewest.network.layers, strict=True))
        bits = {a.name: a.output.bits if a.output.bits == b.output.bits else None for a, b in pairs}
        stored = tuple(
            layer._replace(
                op=None if layer.op is None else layer.op._replace(a_bits=cast(int, None)),
                output=layer.output._replace(bits=cast(int, bits[layer.name])),
            )
            for layer in own.layers
        )
        kept: dict[str, tuple[str, int | None]] = {IMAGE: (IMAGE, None)}
        for layer in own.fused:
            here = cast("int | None", bits[layer.name])
            kept[layer.name] = (layer.last.name, here) if is_stored(layer) else kept[layer.inputs[0]]
        read = {layer.name: kept[layer.inputs[0]] for layer in own.fused if layer.main.kind in WEIGHTED}
        layer_of = {layer.last.name: layer.name for layer in own.fused}
        blocks = {}
        for block in space.blocks:
            depth = self._quantity(space.choices.depths[block.name])
            if depth.gene is not None:
                (layer,) = (layer for layer in own.fused if layer.last.name == block.output)
                place = layer.inputs.index(layer_of.get(block.source, block.source))
                blocks[layer.name] = depth.gene, np.array(depth.values) > 0, place
        return _GatedNetwork(most, stored, read, blocks)

    def _run(self, x: Tensor, own: _GatedNetwork, gates: Gates, *, quantize: bool) -> Tensor:
        supernet, planned, norms = self.supernet, own.planned, Norms(None, None)
        units = self._units(gates, x)
        axes = self._space.coupling.axes

        def mask_of(axis: int | None) -> Tensor | None:
            """Mask of the channels along an axis that the largest network has."""
            if axis is None or units is None or not len(places := self._open_places(axis)):
                return None
            return units[torch.from_numpy(places).to(units.device)]

        def masked_output(layer: FusedLayer, y: Tensor) -> Tensor:
            return masked(y, mask_of(self._places.outputs[layer.name]), axes[layer.name] + 1)

        def weighted(layer: FusedLayer) -> Conv:
            node = layer.main

            def run(x: Tensor, w_bits: int | None, *, input_step: InputStep | None = None) -> Tensor:  # noqa: ARG001
                parameters = supernet.parameters_of(planned, node)
                if w_bits is not None:
                    x = self._quantized(x, own.read[layer.name], node.name, gates)
                    name = node.parameters["weight"]
                    there = mask_of(self._places.parameters[name][1])
                    parameters["weight"] = mixed_weight(
                        parameters["weight"],
                        self._quantity(self._space.choices.w_bits[node.name]).gated(gates),
                        there,
                        lambda bits: supernet.factor_of(planned, node, bits),
                    )
                y = compute(node, [x], parameters)
                return masked_output(
                    layer, y if layer.norm is None else supernet.normalised(planned, layer.norm, y, norms)
                )

            return run

        def others(layer: FusedLayer, inputs: Sequence[Tensor]) -> Tensor:
            if layer.main.kind == "norm":
                return masked_output(layer, supernet.normalised(planned, layer.main, inputs[0], norms))
            y = compute(layer.main, inputs, supernet.parameters_of(planned, layer.main))
            return masked_output(layer, y) if layer.main.parameters else y

        def after(layer: FusedLayer, y: Tensor, inputs: Sequence[Tensor]) -> Tensor:
            if layer.name not in own.blocks:
                return y
            gene, keeps, place = own.blocks[layer.name]
            on, off = total_gate(gates, gene, keeps), total_gate(gates, gene, ~keeps)
            if isinstance(on, bool) or isinstance(off, bool):
                return y if on else inputs[place]
            return mixed([(y, on), (inputs[place], off)])

        layers = own.stored if quantize else None
        return run_layers(x, planned.network, GraphLayers(weighted, others), supernet.quantizers, layers, after=after)

    def _open_places(self, axis: int) -> NDArray[np.int64]:
        """Units of the channels along an axis of the largest network; empty if gates remove none of them."""
        if axis not in self._axes:
            largest, open_ = np.ones(self._n_units + 1, bool), np.zeros(self._n_units + 1, bool)
            for own in self._groups:
                place = slice(own.first, own.first + own.there.shape[1])
                largest[place], open_[place] = own.there[-1], not own.there.all()
            places = self._places.units[self._places.starts[axis] : self._places.starts[axis + 1]]
            places = places[largest[places]]
            self._axes[axis] = places if open_[places].any() else places[:0]
        return self._axes[axis]

    def _units(self, gates: Gates, like: Tensor) -> Tensor | None:
        """How much each unit of all groups counts, with a last entry for channels that always stay."""
        if not self._groups:
            return None
        units = like.new_ones(self._n_units + 1)
        for own in self._groups:
            there = torch.from_numpy(own.there).to(units)
            count = there[-1] if own.gene is None else mixed([(there[i], gate) for i, gate in gates.of(own.gene)])
            units = units.index_copy(0, torch.arange(own.first, own.first + len(count), device=units.device), count)
        return units

    def _quantized(self, x: Tensor, read: tuple[str, int | None], name: str, gates: Gates) -> Tensor:
        """Input of a layer with weights at its bits."""
        source, stored = read
        quantizer = self.supernet.quantizers.of(source)
        widths = self._quantity(self._space.choices.a_bits[name]).gated(gates)
        return mixed([(x if bits == stored else quantizer(x, bits), gate) for bits, gate in widths])
