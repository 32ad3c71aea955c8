"""Encoding of spaces whose genes are always active: named choices, or networks of fixed depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.candidate import plain_value, same_value
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding


class FlatEncoding(GeneEncoding):
    """One gene for each choice, all of them always active, every combination allowed.

    The space has a ``name`` and ``genes``, and turns values by name into candidates and back (``candidate_of``,
    ``values_of``), as what inherits ``Space`` does.
    """

    def __init__(self, space: Any) -> None:
        super().__init__(space)
        self._index: list[Mapping[Any, int]] = [{value: i for i, value in enumerate(own)} for own in self.choices]

    def size(self) -> int:
        """Number of distinct candidates."""
        return math.prod(self.n_choices.tolist())

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n, n_genes)``: all genes matter."""
        return np.ones(genomes.shape, bool)

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Genomes are canonical as they are."""
        return genomes

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:  # noqa: ARG002
        """No gene is ever inert."""
        return genomes

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        """Every genome, ``(size, n_genes)``.

        Raises:
            SpaceError: If there are more than ``limit``.
        """
        if self.size() > limit:
            raise SpaceError(f"{self.name}: {self.size()} candidates are too many to enumerate (limit {limit})")
        return np.indices(self.n_choices.tolist()).reshape(len(self.n_choices), -1).T.astype(np.int16)

    def encode(self, candidates: Sequence[Any], *, check: bool = True) -> Genomes:  # noqa: ARG002
        """Genomes of candidates, shape ``(n, n_genes)``.

        Raises:
            CandidateError: If one is not in the space; the message names its position, the choice and the value.
        """
        genomes = np.zeros((len(candidates), self.n_genes), np.int16)
        for i, candidate in enumerate(candidates):
            given = self.space.values_of(candidate)
            if set(given) != set(self.names):
                raise CandidateError(
                    f"candidate {i}: has choices {sorted(given)}; {self.name} has {sorted(self.names)}"
                )
            for gene, name in enumerate(self.names):
                genomes[i, gene] = self._place(i, gene, given[name])
        return genomes

    def _place(self, i: int, gene: int, given: Any) -> int:
        name, values = self.names[gene], self.choices[gene]
        try:
            value = plain_value(given)
        except CandidateError as error:
            raise CandidateError(f"candidate {i}: {name}: {error}") from None
        place = self._index[gene].get(value)
        if place is None or not same_value(value, values[place]):
            raise CandidateError(f"candidate {i}: {name} is {value!r}; choose one of {_listed(values)}")
        return place


def _listed(values: Sequence[Any], n: int = 20) -> str:
    shown = ", ".join(map(repr, values[:n]))
    return f"[{shown}]" if len(values) <= n else f"[{shown}, ...] ({len(values)} values)"
