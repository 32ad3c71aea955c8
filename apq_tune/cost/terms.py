"""Terms of costs over few genes each, and their layout in one table."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.network.network import Switch
from apq_tune.space.encoding import Genomes


class Term(NamedTuple):
    """Contribution to a cost that depends on few genes.

    Attributes:
        name: Name of the part of the network, for messages.
        genes: Names of the genes, one per axis of the table.
        table: Cost at each combination of the genes' values.
        allowed: Mask of the combinations that the search space allows, of the shape of the table.
        switch: Condition under which the term counts; otherwise it is zero.
    """

    name: str
    genes: tuple[str, ...]
    table: NDArray[np.float64]
    allowed: NDArray[np.bool_]
    switch: Switch | None = None

    @property
    def all_genes(self) -> frozenset[str]:
        """Genes of the table and of the switch."""
        return frozenset(self.genes) | (frozenset() if self.switch is None else {self.switch.gene})


Columns = slice | NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class TermLayout:
    """Positions of terms in one long table, whose entry 0 stands for a term that is switched off.

    Attributes:
        starts: Entry of the first combination of each term, shape ``(n_terms,)``.
        steps: Columns of a genome, of shape ``(n_terms,)`` or one for all terms, and the strides of their values,
            shape ``(n_terms,)``.
        switches: Columns of the genes that switch terms, and indices of the first values at which terms count, shape
            ``(n_terms,)``; ``None`` if no term has a switch.
    """

    starts: NDArray[np.int32]
    steps: tuple[tuple[Columns, NDArray[np.int32]], ...]
    switches: tuple[Columns, NDArray[np.int16]] | None

    def index(self, genomes: Genomes) -> NDArray[np.int32]:
        """Table entries of genomes of shape ``(n, n_genes)``, shape ``(n, n_terms)``."""
        index = np.repeat(self.starts[None], len(genomes), axis=0)
        for columns, strides in self.steps:
            index += genomes[:, columns] * strides
        if self.switches is not None:
            columns, first = self.switches
            index *= genomes[:, columns] >= first
        return index


Places = tuple[tuple[tuple[int, int], ...], tuple[int, int] | None]
"""Key of a term's layout: column and number of values of each gene, then column and first value of its switch."""


def layout_of(terms: Sequence[Term], genes: dict[str, tuple[int, ...]]) -> TermLayout:
    """TermLayout of terms; terms over the same genes have the same layout.

    Args:
        terms: Terms of a cost.
        genes: Values of all genes by name, in the order of the genome.
    """
    column = {name: number for number, name in enumerate(genes)}
    places: list[Places] = []
    for term in terms:
        switch = None
        if term.switch is not None:
            values = genes[term.switch.gene]
            switch = column[term.switch.gene], sum(value < term.switch.at_least for value in values)
        places.append((tuple((column[gene], len(genes[gene])) for gene in term.genes), switch))
    return _layout(tuple(places))


@functools.lru_cache(maxsize=64)
def _layout(places: tuple[Places, ...]) -> TermLayout:
    sizes = [[n for _, n in axes] for axes, _ in places]
    starts = np.cumsum([1, *(math.prod(own) for own in sizes)])[:-1]
    steps = []
    for step in range(max((len(own) for own in sizes), default=0)):
        columns, strides = [], []
        for (axes, _), own in zip(places, sizes, strict=True):
            there = step < len(own)
            columns.append(axes[step][0] if there else None)
            strides.append(math.prod(own[step + 1 :]) if there and own[step] > 1 else 0)
        if any(strides):
            steps.append((_columns(columns), np.array(strides, np.int32)))
    switches = None
    if any(switch is not None for _, switch in places):
        pairs = [switch or (None, 0) for _, switch in places]
        switches = _columns([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], np.int16)
    return TermLayout(starts.astype(np.int32), tuple(steps), switches)


def _columns(columns: Sequence[int | None]) -> Columns:
    """Columns of a genome as a slice if they are consecutive or identical; ``None`` entries match any column."""
    known = {column - number for number, column in enumerate(columns) if column is not None}
    if len(known) == 1 and min(known) >= 0 and None not in columns:
        return slice(min(known), min(known) + len(columns))
    same = {column for column in columns if column is not None}
    if len(same) == 1:
        return slice(min(same), min(same) + 1)
    return np.array([0 if column is None else column for column in columns])


def long_table(terms: Sequence[Term]) -> NDArray[Any]:
    """Concatenated tables of all terms, after the entry of switched-off terms."""
    return np.concatenate([np.zeros(1), *(term.table.ravel() for term in terms)])
