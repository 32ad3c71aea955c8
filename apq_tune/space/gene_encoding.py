"""What all encodings have in common: genes by kind, their features, bit policies."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.encoding import Genomes, draw
from apq_tune.space.gene import BIT_KINDS, Gene, Kind, common_bits, places_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CONCENTRATION = 0.5
"""Of the Dirichlet distribution of ``sample_policies``: at 1 all shares are equally likely, towards 0 policies get
uniform."""


class GeneEncoding(abc.ABC):
    """The genomes of a search space, whose genes say of what kind they are.

    Attributes:
        space: Search space.
        genes: ``(n_genes,)`` what each gene decides.
        names: ``(n_genes,)`` readable gene names, such as ``"depth 2"`` or ``"1.2 kernel_size"``.
        choices: ``(n_genes,)`` values of each gene, in order.
        n_choices: ``(n_genes,)`` number of values of each gene.
        n_arch_features: Number of the columns of ``features`` that describe the network, or the named choices.
        n_bit_features: Number of those that describe its bits; they follow the former.
    """

    def __init__(self, space: Any) -> None:
        self.space = space
        self.genes: tuple[Gene, ...] = tuple(space.genes)
        self.names = tuple(gene.name for gene in self.genes)
        self.choices: Sequence[tuple[Any, ...]] = tuple(gene.values for gene in self.genes)
        self.n_choices = np.array([len(values) for values in self.choices], np.int16)
        self._bits = places_of(self.genes, BIT_KINDS)
        sizes = self.places_of(["resolution"])
        rest = [place for place, gene in enumerate(self.genes) if gene.kind not in ("depth", "resolution", *BIT_KINDS)]
        self._arch = np.array([*rest, *sizes], np.intp)
        self._hot = np.concatenate([self._arch, self._bits])
        """Genes with one-hot columns, in the order of these."""
        widths = self.n_choices[self._hot].astype(np.int64)
        self._columns = np.cumsum(widths) - widths  # the first column of each
        self.n_arch_features = int(self.n_choices[self._arch].sum())
        self.n_bit_features = int(widths.sum()) - self.n_arch_features

    @property
    def name(self) -> str:
        """Name of the search space."""
        return str(self.space.name)

    @property
    def n_genes(self) -> int:
        """Length of a genome."""
        return len(self.n_choices)

    def places_of(self, kinds: Iterable[Kind]) -> NDArray[np.intp]:
        """Places of the genes of some kinds, ascending."""
        return places_of(self.genes, kinds)

    @abc.abstractmethod
    def size(self) -> int:
        """Number of different candidates."""

    @abc.abstractmethod
    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n, n_genes)``: which genes matter."""

    @abc.abstractmethod
    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Replace forbidden combinations by allowed ones."""

    @abc.abstractmethod
    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n,)``: whether no rule of the space is broken."""

    @abc.abstractmethod
    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        """Every canonical, allowed genome of a small space, ``(size, n_genes)``.

        Raises:
            SpaceError: If there are more than ``limit``.
        """

    @abc.abstractmethod
    def decode(self, genomes: Genomes) -> list[Any]:
        """``(n, n_genes)`` -> ``n`` candidates."""

    @abc.abstractmethod
    def encode(self, candidates: Sequence[Any], *, check: bool = True) -> Genomes:
        """``n`` candidates -> canonical ``(n, n_genes)``.

        Args:
            candidates: Points of the space.
            check: Whether to refuse candidates that break a rule of the space, too.

        Raises:
            CandidateError: If one is not in the space.
        """

    def _draw(self, n: int, rng: np.random.Generator) -> Genomes:
        return draw(self.n_choices, n, rng)

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """``n`` canonical, allowed genomes, each gene uniform over its choices: ``(n, n_genes)``."""
        return self.canonicalise(self.repair(self._draw(n, rng), rng))

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Set inert genes to zero, so that equal networks have equal genomes."""
        return genomes * self.active_genes(genomes)

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw inert genes at random, so that a block which variation switches on is not always the smallest."""
        return np.where(self.active_genes(genomes), genomes, self._draw(len(genomes), rng))

    def at_largest(self, genomes: Genomes, kinds: Iterable[Kind]) -> Genomes:
        """Set the genes of some kinds to their last choice; not checked for rules."""
        genomes, genes = genomes.copy(), self.places_of(kinds)
        genomes[:, genes] = self.n_choices[genes] - 1
        return self.canonicalise(genomes)

    def at_bits(self, genomes: Genomes, bits: int) -> Genomes:
        """Set all bits to one width that every layer can take; not checked for rules."""
        genomes = genomes.copy()
        genomes[:, self._bits] = [self.choices[gene].index(bits) for gene in self._bits]
        return self.canonicalise(genomes)

    def uniform_bits(self) -> list[int]:
        """Bit-widths that every layer can take, ascending."""
        return common_bits(self.genes)

    def ends(self) -> Genomes:
        """The smallest and the largest network, both at the most bits, ``(2, n_genes)`` (rules are not consulted)."""
        genomes = np.zeros((2, self.n_genes), np.int16)
        genomes[1] = self.n_choices - 1
        genomes[0, self._bits] = self.n_choices[self._bits] - 1
        return self.canonicalise(genomes)

    def uniform_policies(self) -> Genomes:
        """The smallest and the largest network at every bit-width that all layers can take, where allowed."""
        ends, widths = self.ends(), self.uniform_bits()
        if not widths:
            return np.zeros((0, self.n_genes), np.int16)
        genomes = np.concatenate([self.at_bits(end[None], bits) for end in ends for bits in widths])
        return np.asarray(genomes[self.is_allowed(genomes)], np.int16)

    def sample_policies(self, n: int, rng: np.random.Generator) -> Genomes:
        """``n`` canonical, allowed genomes, ``(n, n_genes)``, with bits from one width everywhere to all widths mixed.

        Bits drawn gene by gene leave no network without its share of the fewest ones. Here each network has its own
        probability of every width, one for weights and one for activations, drawn from a Dirichlet distribution.
        """
        genomes = self._draw(n, rng)
        widths = np.unique([bits for gene in self._bits for bits in self.choices[gene]])
        if len(widths):
            alpha = np.full(len(widths), CONCENTRATION)
            # A gene may lack the likely widths.
            probabilities = {kind: rng.dirichlet(alpha, n) + 1e-9 for kind in BIT_KINDS}
        for gene in self._bits:
            own = probabilities[self.genes[gene].kind][:, np.searchsorted(widths, self.choices[gene])]
            shares = own.cumsum(axis=1) / own.sum(axis=1, keepdims=True)
            genomes[:, gene] = (rng.random((n, 1)) >= shares[:, :-1]).sum(axis=1)
        return self.canonicalise(self.repair(genomes, rng))

    def features(self, genomes: Genomes) -> NDArray[np.float32]:
        """One-hot columns of every gene but the depths; those of inert genes are all zero (APQ's layout).

        Returns:
            ``(n, n_arch_features + n_bit_features)`` of 0 and 1: gene after gene, but the resolution after all others
            that are not bits, and the bits last.
        """
        n, width = len(genomes), self.n_arch_features + self.n_bit_features
        out = np.zeros((n, width), np.float32)
        place = genomes.take(self._hot, axis=1) + (self._columns + np.arange(0, n * width, width)[:, None])
        out.reshape(-1)[place[self.active_genes(genomes).take(self._hot, axis=1)]] = 1
        return out

    def arch_matrix(self, genomes: Genomes) -> csr_array:
        """The first ``n_arch_features`` columns of ``features`` as a sparse matrix, a good deal quicker than these.

        Returns:
            ``(n, n_arch_features)``; zeros of inert genes are stored, too.
        """
        from scipy.sparse import csr_array

        n, n_arch = len(genomes), len(self._arch)
        columns = genomes.take(self._arch, axis=1) + self._columns[:n_arch].astype(np.int32)
        ones = self.active_genes(genomes).take(self._arch, axis=1).astype(np.float32)
        starts = np.arange(0, n * n_arch + 1, n_arch, dtype=np.int32)
        return csr_array((ones.ravel(), columns.ravel(), starts), shape=(n, self.n_arch_features))
