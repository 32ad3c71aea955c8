"""All networks of a search space: parts in the order of the forward pass, each a function of few genes.

A search space makes one ``Network``; cost models, cost tables, reports and whatever else has to know what a candidate
looks like read only that.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import SpaceError
from apq_tune.network.layer import Layer, Numbers, Op, Tensor


class Describe(Protocol):
    """Layers of a part as a function of the size of the image and of the values of the part's genes."""

    def __call__(self, size: int, /, *values: Numbers) -> tuple[Layer, ...]:
        """Layers in the order of the forward pass; values may be arrays that broadcast against each other."""
        ...


class Switch(NamedTuple):
    """When a part is there: while a gene's value is ``at_least`` or more; such a gene has ascending values."""

    gene: str
    at_least: int


@dataclass(frozen=True)
class Part:
    """Layers that depend on the same few genes, or on none.

    Its layers read each other, and outputs of other parts by the names of these; its output is that of its last layer.

    Attributes:
        name: Unique in the network, such as ``"1.2"`` or ``"stem"``.
        genes: Names of the genes that the layers depend on, besides the size of the image.
        describe: Layers at given values of these genes.
        switch: When the part is there; ``None`` for always.
        passes: Name of the part whose output stands for this one's own where it is switched off.
        allowed: Which combinations of the genes' values the space allows, an array that broadcasts to their numbers of
            values; ``None`` for all.
    """

    name: str
    genes: tuple[str, ...]
    describe: Describe
    switch: Switch | None = None
    passes: str | None = None
    allowed: NDArray[np.bool_] | None = None

    @property
    def searched(self) -> bool:
        """Whether any choice but that of the image's size changes it."""
        return bool(self.genes) or self.switch is not None


@dataclass(frozen=True)
class Network:
    """The networks of one search space.

    Attributes:
        genes: Name -> values of every gene, in the order of the genome.
        sizes: Sides of the input image to choose from, ascending.
        size_gene: Name of the gene that chooses; ``None`` where there is one size.
        channels: Channels of the image.
        bits: Bits at which the image is stored.
        parts: Parts in the order of the forward pass. Each reads outputs of parts before it.
    """

    genes: Mapping[str, tuple[int, ...]]
    sizes: tuple[int, ...]
    size_gene: str | None
    channels: int
    bits: int
    parts: tuple[Part, ...]

    @property
    def searched(self) -> tuple[Part, ...]:
        """The parts that genes change."""
        return tuple(part for part in self.parts if part.searched)

    @property
    def fixed(self) -> tuple[Part, ...]:
        """The parts that every network of the space has as they are."""
        return tuple(part for part in self.parts if not part.searched)

    def image(self, size: int) -> Tensor:
        """The input tensor."""
        return Tensor(self.channels, size, self.bits)

    def shape(self, part: Part) -> tuple[int, ...]:
        """Number of values of each of a part's genes."""
        return tuple(len(self.genes[gene]) for gene in part.genes)

    def allowed(self, part: Part) -> NDArray[np.bool_]:
        """Which combinations of a part's genes are allowed, an array of ``shape(part)``."""
        return np.broadcast_to(True if part.allowed is None else part.allowed, self.shape(part))

    def layers(self, part: Part, size: int) -> tuple[Layer, ...]:
        """A part at all of its choices at once: numbers broadcast to ``shape(part)``.

        Args:
            part: Part of this network.
            size: Side of the image, one of ``sizes``.
        """
        return part.describe(size, *np.ix_(*(self.genes[gene] for gene in part.genes)))

    def fixed_layers(self, size: int) -> tuple[Layer, ...]:
        """The layers that are not searched, in the order of the forward pass."""
        return tuple(layer for part in self.fixed for layer in part.describe(size))

    def at(self, values: Mapping[str, int]) -> tuple[Layer, ...]:
        """The layers of one candidate in the order of the forward pass.

        Args:
            values: Gene name -> value, one for each gene; those of parts that are switched off do not matter.

        Returns:
            Layers whose numbers are integers; inputs name layers that are there.
        """
        size = self.sizes[-1] if self.size_gene is None else values[self.size_gene]
        outputs: dict[str, str] = {}  # part -> the layer whose output it hands on
        found: list[Layer] = []
        for part in self.parts:
            if part.switch is not None and values[part.switch.gene] < part.switch.at_least:
                if part.passes is None:
                    raise SpaceError(f"part {part.name} can be switched off and passes nothing on; name what it passes")
                outputs[part.name] = outputs.get(part.passes, part.passes)
                continue
            own = part.describe(size, *(values[gene] for gene in part.genes))
            found += [layer._replace(inputs=tuple(outputs.get(name, name) for name in layer.inputs)) for layer in own]
            outputs[part.name] = own[-1].name
        return tuple(found)

    @functools.cached_property
    def by_name(self) -> Mapping[str, Part]:
        """Name -> part."""
        return {part.name: part for part in self.parts}


def first_difference(one: Network, other: Network) -> tuple[str, str, object, object] | None:
    """The first place in which the searched parts of two networks differ, at the largest values of all genes.

    Returns:
        Name of the part, what differs, and both values; ``None`` if nothing does.
    """
    for mine, yours in zip(one.searched, other.searched, strict=False):
        pairs = zip(_largest(one, mine), _largest(other, yours), strict=False)
        for a, b in pairs:
            facts: list[tuple[str, object, object]] = [("layer", a.role, b.role)]
            facts.append(("activation", a.activation, b.activation))
            if a.op is not None and b.op is not None:
                facts += zip(Op._fields, a.op, b.op, strict=True)
            for name, value, theirs in facts:
                if value != theirs:
                    return mine.name, name, value, theirs
        if len(_largest(one, mine)) != len(_largest(other, yours)):
            return mine.name, "layers", len(_largest(one, mine)), len(_largest(other, yours))
    return None


def _largest(network: Network, part: Part) -> tuple[Layer, ...]:
    return part.describe(network.sizes[-1], *(network.genes[gene][-1] for gene in part.genes))


class HasNetwork(Protocol):
    """What costs need of a search space."""

    @property
    def name(self) -> str:
        """Name of the search space."""
        ...

    @property
    def network(self) -> Network:
        """Its networks."""
        ...


def network_of(space: object) -> Network:
    """The networks of a search space.

    Raises:
        SpaceError: If it has none, as a space of named choices has.
    """
    network = getattr(space, "network", None)
    if not isinstance(network, Network):
        name = getattr(space, "name", space)
        raise SpaceError(
            f"{name!r} has no network whose costs could be counted; give a SearchSpace, or a space with a network"
        )
    return network


def has_network(space: object) -> bool:
    """Whether a search space has networks, whose costs can be counted."""
    return isinstance(getattr(space, "network", None), Network)


def ops(layers: tuple[Layer, ...]) -> tuple[Op, ...]:
    """The multiplications of some layers, in their order."""
    return tuple(layer.op for layer in layers if layer.op is not None)
