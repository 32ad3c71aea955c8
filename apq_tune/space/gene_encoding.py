"""Base class of encodings: genes by kind, their features, and bit policies."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import SpaceError
from apq_tune.space.encoding import Genomes, draw
from apq_tune.space.gene import BIT_KINDS, Gene, Kind, common_bits, places_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MAX_REPAIRS = 100
"""Maximum number of times that ``repair`` draws genes again."""

CONCENTRATION = 0.5
"""Concentration of the Dirichlet distribution of ``sample_policies``: at 1 all mixtures of bit-widths are equally
likely, towards 0 policies become uniform."""


class GeneEncoding(abc.ABC):
    """Encoding of a search space by genomes, whose genes have kinds.

    Attributes:
        space: Search space.
        genes: Genes of the search space, shape ``(n_genes,)``.
        names: Readable gene names, such as ``"depth 2"`` or ``"1.2 kernel_size"``, shape ``(n_genes,)``.
        choices: Values of each gene, in order, shape ``(n_genes,)``.
        n_choices: Number of values of each gene, shape ``(n_genes,)``.
        n_arch_features: Number of the columns of ``features`` that describe the network, or the named choices.
        n_bit_features: Number of the following columns, which describe its bits.
    """

    too_strict = "relax the rules"
    """Remedy where nearly all combinations are forbidden, for messages."""

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
        """Indices of the genes of the given kinds, ascending."""
        return places_of(self.genes, kinds)

    @abc.abstractmethod
    def size(self) -> int:
        """Number of distinct candidates."""

    @abc.abstractmethod
    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes affect the candidate, shape ``(n, n_genes)``."""

    @property
    def pairs(self) -> Sequence[tuple[int, int, NDArray[np.bool_]]]:
        """Pairs of genes whose combinations are not all allowed, with a table of those that are; here none."""
        return ()

    @property
    def inside(self) -> NDArray[np.bool_] | None:
        """Values to which genes are restricted, shape ``(n_genes, maximum number of values)``; ``None`` for all."""
        return None

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Redraw genes in forbidden combinations until there is none, shape ``(n, n_genes)``.

        Raises:
            SpaceError: If this fails, because nearly all combinations are forbidden.
        """
        if not self.forbids:
            return genomes
        genomes, rows = genomes.copy(), np.arange(len(genomes))
        for _ in range(MAX_REPAIRS):
            rows = rows[~self.is_allowed(genomes[rows])]
            if not len(rows):
                return genomes
            genomes[rows] = np.where(self._redrawn(genomes[rows]), self._draw(len(rows), rng), genomes[rows])
        raise SpaceError(f"{self.name}: forbidden combinations remain after {MAX_REPAIRS} redraws; {self.too_strict}")

    def _redrawn(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Genes that ``repair`` draws again, shape ``(n, n_genes)``; here none, as nothing is forbidden."""
        return np.zeros(genomes.shape, bool)

    @property
    def forbids(self) -> bool:
        """Whether combinations of values are forbidden; here none is."""
        return False

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genomes contain no forbidden combination, shape ``(n,)``; here none is forbidden."""
        return np.ones(len(genomes), bool)

    @abc.abstractmethod
    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        """All canonical, allowed genomes of a small space, shape ``(size, n_genes)``.

        Raises:
            SpaceError: If there are more than ``limit``.
        """

    def decode(self, genomes: Genomes) -> list[Any]:
        """Candidates of genomes of shape ``(n, n_genes)``."""
        named = list(zip(self.names, self.choices, strict=True))
        return [
            self.space.candidate_of({name: values[i] for (name, values), i in zip(named, genome, strict=True)})
            for genome in genomes.tolist()
        ]

    @abc.abstractmethod
    def encode(self, candidates: Sequence[Any], *, check: bool = True) -> Genomes:
        """Canonical genomes of candidates, shape ``(n, n_genes)``.

        Args:
            candidates: Points of the space.
            check: Whether to refuse candidates that break a rule of the space, too.

        Raises:
            CandidateError: If one is not in the space.
        """

    def _draw(self, n: int, rng: np.random.Generator) -> Genomes:
        return draw(self.n_choices, n, rng)

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """Sample canonical, allowed genomes with uniformly distributed genes, shape ``(n, n_genes)``."""
        return self.canonicalise(self.repair(self._draw(n, rng), rng))

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Set inactive genes to zero, so that equal networks have equal genomes."""
        return genomes * self.active_genes(genomes)

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw random values for inactive genes, so that blocks that become active are not always the smallest."""
        return np.where(self.active_genes(genomes), genomes, self._draw(len(genomes), rng))

    def at_largest(self, genomes: Genomes, kinds: Iterable[Kind]) -> Genomes:
        """Set genes of the given kinds to their last choice, without checks for forbidden combinations."""
        genomes, genes = genomes.copy(), self.places_of(kinds)
        genomes[:, genes] = self.n_choices[genes] - 1
        return self.canonicalise(genomes)

    def at_bits(self, genomes: Genomes, bits: int) -> Genomes:
        """Set all bits to a bit-width that every layer has, without checks for forbidden combinations."""
        genomes = genomes.copy()
        genomes[:, self._bits] = [self.choices[gene].index(bits) for gene in self._bits]
        return self.canonicalise(genomes)

    def uniform_bits(self) -> list[int]:
        """Bit-widths that all layers have in common, ascending."""
        return common_bits(self.genes)

    def ends(self) -> Genomes:
        """Smallest and largest network, both at the most bits, without checks for forbidden combinations."""
        genomes = np.zeros((2, self.n_genes), np.int16)
        genomes[1] = self.n_choices - 1
        genomes[0, self._bits] = self.n_choices[self._bits] - 1
        return self.canonicalise(genomes)

    def extremes(self) -> tuple[Any, Any]:
        """The smallest and the largest network, both at the most bits (forbidden rules are not consulted)."""
        smallest, largest = self.decode(self.ends())
        return smallest, largest

    def uniform_policies(self) -> Genomes:
        """Smallest and largest network at every uniform bit-width, where allowed."""
        ends, widths = self.ends(), self.uniform_bits()
        if not widths:
            return np.zeros((0, self.n_genes), np.int16)
        genomes = np.concatenate([self.at_bits(end[None], bits) for end in ends for bits in widths])
        return np.asarray(genomes[self.is_allowed(genomes)], np.int16)

    def sample_policies(self, n: int, rng: np.random.Generator) -> Genomes:
        """Sample canonical, allowed genomes with policies from uniform to mixed, shape ``(n, n_genes)``.

        With independently drawn bits, practically every network would have some layers with few bits. Here each network
        has its own probabilities of bit-widths for weights and for activations, drawn from a Dirichlet distribution.
        """
        genomes = self._draw(n, rng)
        widths = np.unique([bits for gene in self._bits for bits in self.choices[gene]])
        if len(widths):
            alpha = np.full(len(widths), CONCENTRATION)
            # Positive, as a gene may lack the likely bit-widths.
            probabilities = {kind: rng.dirichlet(alpha, n) + 1e-9 for kind in BIT_KINDS}
        for gene in self._bits:
            own = probabilities[self.genes[gene].kind][:, np.searchsorted(widths, self.choices[gene])]
            shares = own.cumsum(axis=1) / own.sum(axis=1, keepdims=True)
            genomes[:, gene] = (rng.random((n, 1)) >= shares[:, :-1]).sum(axis=1)
        return self.canonicalise(self.repair(genomes, rng))

    def features(self, genomes: Genomes) -> NDArray[np.float32]:
        """One-hot features of all genes except depths, zero for inactive genes, in the order of APQ (Wang 2020).

        Returns:
            Array of shape ``(n, n_arch_features + n_bit_features)``: columns of the architecture genes in order, then
            of the resolution, then of the bits.
        """
        n, width = len(genomes), self.n_arch_features + self.n_bit_features
        out = np.zeros((n, width), np.float32)
        place = genomes.take(self._hot, axis=1) + (self._columns + (np.arange(n) * width)[:, None])
        out.reshape(-1)[place[self.active_genes(genomes).take(self._hot, axis=1)]] = 1
        return out

    def arch_matrix(self, genomes: Genomes) -> csr_array:
        """First ``n_arch_features`` columns of ``features`` as a sparse matrix, which is faster to compute.

        Returns:
            Sparse matrix of shape ``(n, n_arch_features)``, with stored zeros for inactive genes.
        """
        from scipy.sparse import csr_array

        n, n_arch = len(genomes), len(self._arch)
        columns = genomes.take(self._arch, axis=1) + self._columns[:n_arch].astype(np.int32)
        ones = self.active_genes(genomes).take(self._arch, axis=1).astype(np.float32)
        starts = np.arange(n + 1, dtype=np.int32) * n_arch
        return csr_array((ones.ravel(), columns.ravel(), starts), shape=(n, self.n_arch_features))
