"""Part of a search space that the pairs of a predictor cover, outside of which predictions are extrapolations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.encoding import Encoding, Genomes, draw
from apq_tune.space.flat_encoding import FlatEncoding
from apq_tune.space.gene import Gene
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.model_encoding import ModelEncoding
from apq_tune.space.network_encoding import NetworkEncoding

Mask = NDArray[np.bool_]
"""Whether values are covered, shape ``(n_genes, maximum number of values)``, padded with False."""


def measured_values(encoding: Encoding, genomes: Genomes) -> Mask:
    """Mask of the values of each gene that measurements cover.

    Numbers are covered from the smallest to the largest measured one, other values if they were measured. All values of
    a gene that is inactive in all measured candidates are covered.

    Args:
        encoding: Encoding of the search space.
        genomes: ``(n, n_genes)`` genomes that were measured.
    """
    active = encoding.active_genes(genomes)
    mask = np.zeros((len(encoding.n_choices), int(encoding.n_choices.max())), bool)
    for place, gene in enumerate(encoding.genes):
        seen, values = np.unique(genomes[active[:, place], place]), gene.values
        if len(seen) == 0:
            inside = np.ones(len(values), bool)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            numbers = np.array(values, np.float64)
            inside = (numbers >= numbers[seen].min()) & (numbers <= numbers[seen].max())
        else:
            inside = np.isin(np.arange(len(values)), seen)
        mask[place, : len(values)] = inside
    return mask


def within(encoding: GeneEncoding, mask: Mask) -> Any:
    """Restrict an encoding to genomes that lie inside; returns it as it is if nothing is outside."""
    if not outside(encoding, mask):
        return encoding
    if isinstance(encoding, NetworkEncoding):
        return _WithinNetworks(encoding.space, mask)
    if isinstance(encoding, ModelEncoding):
        return _WithinModel(encoding.space, mask)
    return _WithinFlat(encoding.space, mask)


def outside(encoding: Encoding, mask: Mask) -> list[str]:
    """Say of each gene that has values outside which ones are inside."""
    found = []
    for gene, inside in zip(encoding.genes, mask, strict=True):
        kept = [value for value, keep in zip(gene.values, inside, strict=False) if keep]
        if len(kept) < len(gene.values):
            found.append(f"{gene.name} {', '.join(map(str, kept[:6]))}{', ...' if len(kept) > 6 else ''}")
    return found


class _Places:
    """Places of the values inside, for each gene.

    Attributes:
        counts: ``(n_genes,)`` number of values inside.
        nearest: ``(n_genes, n_values)`` place of the nearest value inside, for each value.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask, self.counts = mask, mask.sum(axis=1).astype(np.int16)
        self._order = np.argsort(~mask, axis=1, kind="stable").astype(np.int16)  # those inside, then the others
        place = np.arange(mask.shape[1])
        steps = np.where(mask[:, None, :], np.abs(place[:, None] - place), mask.shape[1])
        self.nearest = steps.argmin(axis=2).astype(np.int16)

    def draw(self, n: int, rng: np.random.Generator) -> Genomes:
        """Draw ``(n, n_genes)`` genomes, uniform over the values inside."""
        genes = np.arange(len(self.counts))
        return np.asarray(self._order[genes, draw(self.counts, n, rng)], np.int16)

    def move_in(self, genomes: Genomes) -> Genomes:
        """Move each gene to its nearest value inside."""
        return np.asarray(self.nearest[np.arange(len(self.counts)), genomes], np.int16)

    def contain(self, genomes: Genomes, active: Mask) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n,)``: whether all genes that matter are inside."""
        return np.asarray((self.mask[np.arange(len(self.counts)), genomes] | ~active).all(axis=1))

    def check(self, encoding: GeneEncoding, genomes: Genomes) -> None:
        """Refuse genomes outside the restricted space.

        Raises:
            CandidateError: If one is not; the message names the first such candidate, its gene and its value.
        """
        active = encoding.active_genes(genomes)
        for i in np.flatnonzero(~self.contain(genomes, active)):
            gene = int(np.argmax(~self.mask[np.arange(len(self.counts)), genomes[i]] & active[i]))
            values = encoding.choices[gene]
            kept = [value for value, keep in zip(values, self.mask[gene], strict=False) if keep]
            raise CandidateError(
                f"candidate {i}: {encoding.names[gene]} is {values[genomes[i, gene]]}, outside of what the predictor's "
                f"pairs measured ({', '.join(map(str, kept[:6]))}); choose one of those, or give --extrapolate"
            )


class _WithinFlat(FlatEncoding):
    def __init__(self, space: Any, mask: Mask) -> None:
        super().__init__(space)
        self._places = _Places(mask)

    @property
    def inside(self) -> Mask | None:
        return self._places.mask

    def size(self) -> int:
        return math.prod(self._places.counts.tolist())

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        return self._places.draw(n, rng)

    def uniform_policies(self) -> Genomes:
        policies = super().uniform_policies()
        return policies[self._places.contain(policies, self.active_genes(policies))]

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:  # noqa: ARG002
        return self._places.move_in(genomes)

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        if self.size() > limit:
            raise SpaceError(f"{self.name}: {self.size()} candidates are too many to enumerate (limit {limit})")
        inside = [np.flatnonzero(row) for row in self._places.mask]
        return np.stack([axis.ravel() for axis in np.meshgrid(*inside, indexing="ij")], axis=1).astype(np.int16)

    def encode(self, candidates: Sequence[Any], *, check: bool = True) -> Genomes:
        genomes = super().encode(candidates)
        if check:
            self._places.check(self, genomes)
        return genomes


class _Within(GeneEncoding):
    """What the encodings of both kinds of networks have in common; the other base class is the encoding itself."""

    _places: _Places

    @property
    def inside(self) -> Mask | None:
        return self._places.mask

    def _draw(self, n: int, rng: np.random.Generator) -> Genomes:
        return self._places.draw(n, rng)

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        return super().repair(self._places.move_in(genomes), rng)

    def uniform_policies(self) -> Genomes:
        policies = super().uniform_policies()
        return policies[self._places.contain(policies, self.active_genes(policies))]


class _WithinNetworks(_Within, NetworkEncoding):
    def __init__(self, space: Any, mask: Mask) -> None:
        super().__init__(space)
        self._places = _Places(mask)

    def _open_values(self, gene: int) -> list[int]:
        return [int(i) for i in np.flatnonzero(self._places.mask[gene])]

    def _open_blocks(self, number: int) -> NDArray[np.bool_]:
        table = super()._open_blocks(number).copy()
        for axis, gene in enumerate(self._block_genes[number]):
            size = table.shape[axis]
            table &= self._places.mask[gene, :size].reshape(-1, *[1] * (table.ndim - axis - 1))
        return table

    def size(self) -> int:
        counts = [int(self._open_blocks(slot).sum()) for slot in range(self.n_slots)]
        total = 1 if self._size_gene is None else len(self._open_values(self._size_gene))
        for number, stage in enumerate(self.space.stages):
            own = [n for n, of in zip(counts, self._stage, strict=True) if of == number]
            total *= sum(math.prod(own[: stage.depth[i]]) for i in self._open_values(number))
        return total

    def encode(self, candidates: Sequence[Any], *, check: bool = True) -> Genomes:
        genomes = super().encode(candidates, check=check)
        if check:
            self._places.check(self, genomes)
        return genomes


class _WithinModel(_Within, ModelEncoding):
    def __init__(self, space: Any, mask: Mask) -> None:
        super().__init__(space)
        self._places = _Places(mask)
        self._column = {name: place for place, name in enumerate(self.names)}

    def _open_values(self, gene: Gene) -> list[int]:
        return [int(i) for i in np.flatnonzero(self._places.mask[self._column[gene.name]])]

    def encode(self, candidates: Sequence[Any], *, check: bool = True) -> Genomes:
        genomes = super().encode(candidates, check=check)
        if check:
            self._places.check(self, genomes)
        return genomes
