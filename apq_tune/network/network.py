"""Networks of a search space: parts in the order of the forward pass, each a function of few genes.

A search space has one ``Network``, from which cost models, cost tables and reports derive the layers of candidates.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import SpaceError
from apq_tune.network.layer import Layer, Numbers, Op, Tensor

MOST_COMBINATIONS = 4_000_000
"""Maximum number of combinations of choices of a part that are gone through at once."""


class Describe(Protocol):
    """Function from the image size and the values of a part's genes to its layers."""

    def __call__(self, size: int, /, *values: Numbers) -> tuple[Layer, ...]:
        """Layers in the order of the forward pass; values may be broadcastable arrays."""
        ...


class Switch(NamedTuple):
    """Condition under which a part is active: the value of a gene is at least ``at_least``."""

    gene: str
    at_least: int


@dataclass(frozen=True)
class Part:
    """Layers that depend on the same few genes, or on none.

    Layers refer to layers of the same part and, by the names of parts, to outputs of other parts; the output of a part
    is that of its last layer.

    Attributes:
        name: Unique name, such as ``"1.2"`` or ``"stem"``.
        genes: Names of the genes that the layers depend on, besides the image size.
        describe: Function from the values of these genes to the layers.
        switch: Condition under which the part is active; ``None`` for always.
        passes: Name of the part whose output replaces that of an inactive part.
        allowed: Whether combinations of values of the genes are allowed, broadcastable to their numbers of values;
            ``None`` if all are.
    """

    name: str
    genes: tuple[str, ...]
    describe: Describe
    switch: Switch | None = None
    passes: str | None = None
    allowed: NDArray[np.bool_] | None = None

    @property
    def searched(self) -> bool:
        """Whether the part depends on genes other than that of the image size."""
        return bool(self.genes) or self.switch is not None


@dataclass(frozen=True)
class Network:
    """Networks of a search space.

    Attributes:
        genes: Values of every gene by name, in the order of the genome.
        sizes: Image sizes, ascending.
        size_gene: Name of the gene of the image size; ``None`` if there is a single size.
        channels: Number of channels of the image.
        bits: Bits at which the image is stored.
        parts: Parts in the order of the forward pass, each of which reads outputs of earlier parts.
        direct: Whether parts depend on too many genes for tables of their costs, which are then computed candidate by
            candidate.
        width: Width of the images in pixels; ``None`` if they are square.
    """

    genes: Mapping[str, tuple[int, ...]]
    sizes: tuple[int, ...]
    size_gene: str | None
    channels: int
    bits: int
    parts: tuple[Part, ...]
    direct: bool = False
    width: int | None = None

    @property
    def searched(self) -> tuple[Part, ...]:
        """Parts that depend on genes."""
        return tuple(part for part in self.parts if part.searched)

    @property
    def fixed(self) -> tuple[Part, ...]:
        """Parts that all networks of the space share."""
        return tuple(part for part in self.parts if not part.searched)

    def image(self, size: int) -> Tensor:
        """Input tensor."""
        return Tensor(self.channels, size, self.bits, self.width)

    def shape(self, part: Part) -> tuple[int, ...]:
        """Number of values of each of a part's genes."""
        return tuple(len(self.genes[gene]) for gene in part.genes)

    def allowed(self, part: Part) -> NDArray[np.bool_]:
        """Whether combinations of the values of a part's genes are allowed, shape ``shape(part)``."""
        return np.broadcast_to(True if part.allowed is None else part.allowed, self.shape(part))

    def layers(self, part: Part, size: int) -> tuple[Layer, ...]:
        """Layers of a part at all of its choices at once, with numbers that broadcast to ``shape(part)``.

        Args:
            part: Part of this network.
            size: Image size, one of ``sizes``.

        Raises:
            SpaceError: If it has too many choices.
        """
        if (n := math.prod(self.shape(part))) > MOST_COMBINATIONS:
            raise SpaceError(
                f"layer {part.name!r} depends on {n:.2g} combinations of choices, too many to go through; give it "
                "fewer widths, or leave out what needs them all, such as a table of costs"
            )
        return part.describe(size, *np.ix_(*(self.genes[gene] for gene in part.genes)))

    def fixed_layers(self, size: int) -> tuple[Layer, ...]:
        """Layers that are not searched, in the order of the forward pass."""
        return tuple(layer for part in self.fixed for layer in part.describe(size))

    def at(self, values: Mapping[str, int]) -> tuple[Layer, ...]:
        """Layers of one candidate in the order of the forward pass.

        Args:
            values: Value of each gene by name; those of inactive parts are ignored.

        Returns:
            Layers with integer numbers, whose inputs are layers of active parts.
        """
        size = self.sizes[-1] if self.size_gene is None else values[self.size_gene]
        outputs: dict[str, str] = {}  # output layer of each part
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
        """Parts by name."""
        return {part.name: part for part in self.parts}


def first_difference(one: Network, other: Network) -> tuple[str, str, object, object] | None:
    """First difference between the searched parts of two networks at the largest values of all genes.

    Returns:
        Name of the part, name of the property, and both values; ``None`` if there is no difference.
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
    """Search space with networks."""

    @property
    def name(self) -> str:
        """Name of the search space."""
        ...

    @property
    def network(self) -> Network:
        """Networks of the space."""
        ...


def network_of(space: object) -> Network:
    """Networks of a search space.

    Raises:
        SpaceError: If it has none, such as a space of named choices.
    """
    network = getattr(space, "network", None)
    if not isinstance(network, Network):
        name = getattr(space, "name", space)
        raise SpaceError(
            f"{name!r} has no network whose costs could be counted; give a SearchSpace, or a space with a network"
        )
    return network


def has_network(space: object) -> bool:
    """Whether a search space has networks, for which cost models are available."""
    return isinstance(getattr(space, "network", None), Network)


def ops(layers: tuple[Layer, ...]) -> tuple[Op, ...]:
    """Convolutions and linear layers among layers, in order."""
    return tuple(layer.op for layer in layers if layer.op is not None)
