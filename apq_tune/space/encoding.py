"""Genomes, and what variation and search need to know of them, whatever they encode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.gene import Gene

if TYPE_CHECKING:
    from scipy.sparse import csr_array

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
        """Name of the search space."""
        ...

    @property
    def genes(self) -> tuple[Gene, ...]:
        """``(n_genes,)`` what each gene decides."""
        ...

    @property
    def space(self) -> Any:
        """The search space."""
        ...

    def size(self) -> int:
        """Number of different candidates, or an upper bound."""
        ...

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n, n_genes)``: which genes matter."""
        ...

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n,)``: whether no rule of the space is broken."""
        ...

    def features(self, genomes: Genomes) -> NDArray[np.float32]:
        """``(n, n_genes) -> (n, n_features)`` numbers of 0 and 1; equal rows only for equal candidates."""
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

    def decode(self, genomes: Genomes) -> list[Any]:
        """``(n, n_genes)`` -> ``n`` candidates."""
        ...

    def encode(self, candidates: Sequence[Any]) -> Genomes:
        """``n`` candidates -> canonical ``(n, n_genes)``; refuses those that are not in the space."""
        ...


class Featured(Encoding, Protocol):
    """What learned predictors need to know of genomes beyond what a search does."""

    @property
    def n_arch_features(self) -> int:
        """Number of the columns of ``features`` that describe the network, or named choices; they stand first."""
        ...

    @property
    def n_bit_features(self) -> int:
        """Number of the columns that describe bits."""
        ...

    def arch_matrix(self, genomes: Genomes) -> csr_array:
        """The first ``n_arch_features`` columns of ``features`` as a sparse matrix."""
        ...
