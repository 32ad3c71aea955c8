"""Encoding of the networks of a traced model: genes of residual blocks that are left out are inert."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import Gene
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.model_size import count
from apq_tune.space.model_space import ModelSpace


class ModelEncoding(GeneEncoding):
    """Encoding of the space of a traced model.

    A gene of bits is inert if its layer is in a block that is left out; a width, if all layers that make the channels
    are. Every combination is allowed, unless the space was narrowed for a device that does not run all pairs of bits.
    """

    too_strict = "take another device"

    def __init__(self, space: ModelSpace) -> None:
        super().__init__(space)
        choices = space.choices
        column = {name: place for place, name in enumerate(self.names)}
        self._depths_of = {gene.name: choices.depths_of(gene) for gene in self.genes}
        self._index = [{value: i for i, value in enumerate(values)} for values in self.choices]
        alone: dict[int, list[int]] = {}
        self._shared: list[tuple[int, list[int]]] = []
        for place, gene in enumerate(self.genes):
            depths = self._depths_of[gene.name]
            if depths is None:
                continue
            columns = sorted(column[depth] for depth in depths)
            if len(columns) == 1:
                alone.setdefault(columns[0], []).append(place)
            else:
                self._shared.append((place, columns))
        self._in_one = np.array([place for places in alone.values() for place in places], np.intp)
        """Genes that depend on one block, and the columns of the depths of these."""
        self._their_depth = np.array([depth for depth, places in alone.items() for _ in places], np.intp)

        self._pairs = [
            (
                column[w],
                column[a],
                np.array([[(i, j) in allowed for j in self.choices[column[a]]] for i in self.choices[column[w]]]),
            )
            for (w, a), allowed in choices.pairs.items()
        ]

    @property
    def pairs(self) -> Sequence[tuple[int, int, NDArray[np.bool_]]]:
        """Genes of the bits of weights and of inputs whose combinations are not all allowed, with those that are."""
        return self._pairs

    @property
    def forbids(self) -> bool:
        """Whether combinations of values are forbidden."""
        return bool(self._pairs)

    def _redrawn(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes are in a forbidden combination, shape ``(n, n_genes)``."""
        active, wrong = self.active_genes(genomes), np.zeros(genomes.shape, bool)
        for w, a, allowed in self._pairs:
            own = ~allowed[genomes[:, w], genomes[:, a]] & active[:, w] & active[:, a]
            wrong[:, w] |= own
            wrong[:, a] |= own
        return wrong

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genomes contain no forbidden combination, shape ``(n,)``."""
        return np.asarray(~self._redrawn(genomes).any(axis=1))

    def size(self) -> int:
        """Number of distinct candidates.

        It is an upper bound where more than 16 genes of depth share genes, or pairs of bits are forbidden.
        """
        return count(self.genes, self._depths_of, self._open_values)

    def _open_values(self, gene: Gene) -> Sequence[int]:
        """Places of the values that ``enumerate`` gives a gene."""
        return range(len(gene.values))

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes affect the candidate, shape ``(n, n_genes)``."""
        out = np.ones(genomes.shape, bool)
        out[:, self._in_one] = genomes.take(self._their_depth, axis=1) > 0
        for place, columns in self._shared:
            out[:, place] = (genomes.take(columns, axis=1) > 0).any(axis=1)
        return out

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        """All canonical genomes of a small space, shape ``(size, n_genes)``.

        Raises:
            SpaceError: If there are more than ``limit``.
        """
        if (size := self.size()) > limit:
            raise SpaceError(f"{self.name}: {Decimal(size):.2g} candidates are too many to enumerate (limit {limit})")
        depths = [place for place, gene in enumerate(self.genes) if gene.kind == "depth"]
        found = []
        for pattern in itertools.product(*(self._open_values(self.genes[place]) for place in depths)):
            base = np.zeros((1, self.n_genes), np.int16)
            base[0, depths] = pattern
            rest = np.flatnonzero(self.active_genes(base)[0])
            rest = rest[~np.isin(rest, depths)]
            axes = [np.asarray(self._open_values(self.genes[place]), np.int16) for place in rest]
            grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1) if axes else None
            own = np.repeat(base, 1 if grid is None else len(grid), axis=0)
            if grid is not None:
                own[:, rest] = grid
            found.append(own)
        every = np.concatenate(found)
        return every[self.is_allowed(every)] if self.forbids else every

    def encode(self, candidates: Sequence[Any], *, check: bool = True) -> Genomes:
        """Canonical genomes of candidates, shape ``(n, n_genes)``.

        Args:
            candidates: Points of this space.
            check: Whether to refuse candidates with forbidden pairs of bits, too.

        Raises:
            CandidateError: If one is not in the space; the message names its position, and the gene and its value.
        """
        genomes = np.zeros((len(candidates), self.n_genes), np.int16)
        for i, candidate in enumerate(candidates):
            try:
                values = self.space.values_of(candidate)
            except CandidateError as error:
                raise CandidateError(f"candidate {i}: {error}") from None
            genomes[i] = [index[values[name]] for name, index in zip(self.names, self._index, strict=True)]
        genomes = self.canonicalise(genomes)
        if check and self.forbids and not (allowed := self.is_allowed(genomes)).all():
            first = int(np.argmin(allowed))
            raise CandidateError(f"candidate {first}: {candidates[first]} has a combination that the space forbids")
        return genomes
