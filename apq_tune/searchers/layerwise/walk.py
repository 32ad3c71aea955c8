"""Order in which an episode decides the genes of a space, and what the agents see of them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.searchers.layerwise.layer_facts import FACTS, layer_facts
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import BIT_KINDS, Gene, Kind

Floats = NDArray[np.float64]

WHOLE: tuple[Kind, ...] = ("depth", "resolution")
"""Kinds that decide which other genes matter, and so come first."""


class Walkable(Protocol):
    """What is needed of an encoding."""

    @property
    def space(self) -> object:
        """The search space."""
        ...

    @property
    def genes(self) -> Sequence[Gene]:
        """Genes, shape ``(n_genes,)``."""
        ...

    @property
    def n_choices(self) -> NDArray[np.int16]:
        """Number of values of each gene, shape ``(n_genes,)``."""
        ...

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Canonical genomes, which are equal for equal candidates."""
        ...

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes affect the candidate, shape ``(n, n_genes)``."""
        ...

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genomes contain no forbidden combination, shape ``(n,)``."""
        ...

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Replace what is not allowed."""
        ...


@dataclass(frozen=True, eq=False)
class Walk:
    """Genes in the order in which an episode decides them; those with a single value are left out.

    Attributes:
        encoding: Encoding of the search space.
        unordered: Genes whose three or more values have no order, such as words; they are drawn before the first pass.
        channels: Genes of the first pass, that of AMC: depths and sizes of the network, then block by block kernels,
            channels and all other numbers.
        bits: Genes of the second pass, that of HAQ: layer by layer the bits of weights, then those of the input.
        channel_facts: What the agent of the first pass sees of each gene, shape ``(n_genes, 7)``.
        bit_facts: What the agent of the second pass sees of each gene, shape ``(n_genes, 9)``.
    """

    encoding: Walkable
    unordered: tuple[int, ...]
    channels: tuple[int, ...]
    bits: tuple[int, ...]
    channel_facts: Floats
    bit_facts: Floats

    @classmethod
    def of(cls, encoding: Walkable, kinds: Collection[Kind] | None = None) -> Walk:
        """Lay out the walk over a search space.

        Args:
            encoding: Encoding of the search space.
            kinds: Kinds of the genes to decide; ``None`` for all. Others keep the values that the walk starts with.
        """
        genes, n_choices = encoding.genes, encoding.n_choices
        blocks = _places(gene.block for gene in genes)
        layers = _places((gene.block, gene.layer) for gene in genes if gene.kind in BIT_KINDS)
        own = [p for p, gene in enumerate(genes) if n_choices[p] > 1 and (kinds is None or gene.kind in kinds)]
        unordered = tuple(place for place in own if not has_order(genes[place].values))
        rest = [place for place in own if place not in unordered]
        channels = sorted(
            (place for place in rest if genes[place].kind not in BIT_KINDS),
            key=lambda place: (genes[place].kind not in WHOLE, blocks[genes[place].block], place),
        )
        bits = sorted(
            (place for place in rest if genes[place].kind in BIT_KINDS),
            key=lambda place: (
                blocks[genes[place].block],
                layers[genes[place].block, genes[place].layer],
                genes[place].kind == "a_bits",
                place,
            ),
        )
        facts = layer_facts(getattr(encoding.space, "whole", encoding.space), genes)
        column = {name: facts[:, number] for number, name in enumerate(FACTS)}
        by_channels = ("depthwise", "in_channels", "out_channels", "stride", "kernel_size", "n_weights")
        by_bits = ("in_channels", "out_channels", "kernel_size", "stride", "in_size", "n_weights", "depthwise")
        of_input = np.array([gene.kind == "a_bits" for gene in genes], np.float64)
        return cls(
            encoding,
            unordered,
            tuple(channels),
            tuple(bits),
            np.column_stack([_index(channels, len(genes)), *(column[name] for name in by_channels)]),
            np.column_stack([_index(bits, len(genes)), *(column[name] for name in by_bits), of_input]),
        )

    def active(self, genome: Genomes, places: Sequence[int]) -> list[int]:
        """Those of some genes that matter in a genome of shape ``(n_genes,)``."""
        on = self.encoding.active_genes(genome[None])[0]
        return [place for place in places if on[place]]

    def rank(self, gene: int, action: float) -> int:
        """Index of the value that an action from 0 to 1 selects; all values have an equal share of the range.

        For bits from ``b_min`` to ``b_max`` it is HAQ's ``round(b_min - .5 + action * (b_max - b_min + 1))``.
        """
        n = int(self.encoding.n_choices[gene])
        return min(int(action * n), n - 1)

    def action(self, gene: int, rank: int) -> float:
        """Middle of the actions that select a value."""
        return float((rank + 0.5) / self.encoding.n_choices[gene])


def has_order(values: Sequence[object]) -> bool:
    """Whether values can be decided by their rank: numbers, or no more than two."""
    return len(values) <= 2 or all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _places(keys: Iterable[Hashable]) -> dict[Hashable, int]:
    """Number of each key by its first appearance."""
    found: dict[Hashable, int] = {}
    for key in keys:
        found.setdefault(key, len(found))
    return found


def _index(places: Sequence[int], n: int) -> Floats:
    """Position of each gene in a pass, from 0 to 1; 0 of those that are not in it."""
    index = np.zeros(n)
    index[list(places)] = np.linspace(0, 1, len(places))
    return index
