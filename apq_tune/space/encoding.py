"""Genomes, and what variation and search need to know of them, whatever they encode."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.candidate import Candidate, Configuration

Genomes = NDArray[np.int16]


def draw(n_choices: NDArray[np.int16], n: int, rng: np.random.Generator) -> Genomes:
    """``(n, n_genes)`` genes, each uniform over its choices."""
    return (rng.random((n, len(n_choices)), np.float32) * n_choices).astype(np.int16)


class Genes(Protocol):
    """What variation needs to know of genomes."""

    @property
    def n_choices(self) -> NDArray[np.int16]:
        """``(n_genes,)`` number of values of each gene."""
        ...

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Make genomes allowed."""
        ...


class Encoding(Genes, Protocol):
    """What a search needs to know of genomes."""

    @property
    def name(self) -> str:
        """Of the search space."""
        ...

    @property
    def space(self) -> Any:
        """The search space."""
        ...

    def size(self) -> int:
        """Number of different candidates."""
        ...

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """``n`` canonical, allowed genomes: ``(n, n_genes)``."""
        ...

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Equal candidates get equal genomes."""
        ...

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw genes that do not matter."""
        ...

    def uniform_policies(self) -> Genomes:
        """Candidates that anyone would try first; possibly none."""
        ...

    def enumerate(self, limit: int = ...) -> Genomes:
        """Every candidate."""
        ...

    def decode(self, genomes: Genomes) -> list[Candidate] | list[Configuration]:
        """``(n, n_genes)`` -> ``n`` candidates."""
        ...

    def encode(self, candidates: Any) -> Genomes:
        """``n`` candidates -> canonical ``(n, n_genes)``; refuses those that are not in the space."""
        ...
