"""Protocols of encodings for variation operators, search algorithms and predictors."""

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
    """Draw genes, each uniform over its choices, shape ``(n, n_genes)``."""
    return (rng.random((n, len(n_choices)), np.float32) * n_choices).astype(np.int16)


class Genes(Protocol):
    """Genomes, as used by variation operators."""

    @property
    def n_choices(self) -> NDArray[np.int16]:
        """``(n_genes,)`` number of values of each gene."""
        ...

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Replace forbidden combinations by allowed ones."""
        ...


class Encoding(Genes, Protocol):
    """Encoding of a search space, as used by search algorithms."""

    @property
    def name(self) -> str:
        """Name of the search space."""
        ...

    @property
    def genes(self) -> tuple[Gene, ...]:
        """Genes of the search space, shape ``(n_genes,)``."""
        ...

    @property
    def space(self) -> Any:
        """The search space."""
        ...

    def size(self) -> int:
        """Number of distinct candidates, or an upper bound."""
        ...

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes affect the candidate, shape ``(n, n_genes)``."""
        ...

    @property
    def forbids(self) -> bool:
        """Whether combinations of values are forbidden."""
        ...

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genomes contain no forbidden combination, shape ``(n,)``."""
        ...

    def features(self, genomes: Genomes) -> NDArray[np.float32]:
        """Binary features, distinct for distinct candidates, shape ``(n, n_features)``."""
        ...

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """Sample canonical, allowed genomes, shape ``(n, n_genes)``."""
        ...

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Canonical genomes, which are equal for equal candidates."""
        ...

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw random values for inactive genes."""
        ...

    def uniform_policies(self) -> Genomes:
        """Genomes of uniform policies as starting points of searches; possibly none."""
        ...

    def enumerate(self, limit: int = ...) -> Genomes:
        """Genomes of all candidates."""
        ...

    def decode(self, genomes: Genomes) -> list[Any]:
        """Candidates of genomes of shape ``(n, n_genes)``."""
        ...

    def encode(self, candidates: Sequence[Any]) -> Genomes:
        """Canonical genomes of candidates, which must be in the space, shape ``(n, n_genes)``."""
        ...


class Featured(Encoding, Protocol):
    """Encoding of a search space, as used by learned predictors."""

    @property
    def n_arch_features(self) -> int:
        """Number of the first columns of ``features``, which describe the architecture or named choices."""
        ...

    @property
    def n_bit_features(self) -> int:
        """Number of the following columns, which describe bits."""
        ...

    def arch_matrix(self, genomes: Genomes) -> csr_array:
        """First ``n_arch_features`` columns of ``features`` as a sparse matrix."""
        ...
