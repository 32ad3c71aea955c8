"""Encoding of networks: genes of blocks beyond the depth of their stage are inactive and canonically zero.

A genome is ``(n_genes,)`` small integers, each an index into a choice, in the order of ``SearchSpace.genes``: first the
depth of each stage, then the resolution if there are several, then for every field of the blocks one gene for each
block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.block_types import type_with
from apq_tune.space.candidate import Candidate
from apq_tune.space.choices import ChoiceSpace
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.search_space import SearchSpace


class NetworkEncoding(GeneEncoding):
    """Encoding of a search space of networks with blocks in stages of variable depth.

    Attributes:
        n_slots: Number of blocks of the deepest network.
    """

    def __init__(self, space: SearchSpace | Any) -> None:
        """Lay out the genome.

        Raises:
            SpaceError: If the space has no network.
        """
        if not isinstance(space, SearchSpace):
            raise SpaceError(_no_network(space))
        super().__init__(space)
        slots, self._n_stages = space.slots, len(space.stages)
        self.n_slots = len(slots)
        self._size_gene = next(iter(self.places_of(["resolution"]).tolist()), None)
        self._position = np.array([slot.position for slot in slots])
        self._stage = np.array([slot.stage for slot in slots])
        self._types = [type_with(space.fields(slot)) for slot in slots]
        places = {name: place for place, name in enumerate(self.names)}
        self._block_genes = [
            np.array([places[f"{slot.name} {name}"] for name in known.names])
            for slot, known in zip(slots, self._types, strict=True)
        ]
        """Indices of the genes of each block, in the order of its fields."""
        self._in_blocks = np.array([place for place, gene in enumerate(self.genes) if gene.block], np.intp)
        block = {slot.name: number for number, slot in enumerate(slots)}
        self._block_of = np.array([block[self.genes[place].block] for place in self._in_blocks], np.intp)
        """Block of each gene in ``_in_blocks``."""
        self._depths = np.zeros((self._n_stages, int(self.n_choices[: self._n_stages].max())), np.int64)
        for row, stage in zip(self._depths, space.stages, strict=True):
            row[: len(stage.depth)] = stage.depth
        self._tables = [self._rules(number) for number in range(self.n_slots)]
        self._field_genes, self._strides, self._starts = self._layout()
        self._allowed = np.concatenate([np.ones(1, bool), *(table.ravel() for table in self._tables)])

    def _rules(self, number: int) -> NDArray[np.bool_]:
        """Whether combinations of a block's choices are allowed, with one axis for each field."""
        slot = self.space.slots[number]
        fields = self.space.fields(slot)
        widths = tuple(axis for axis, field in enumerate(fields) if field.kind == "width")  # no rule names a width
        return np.broadcast_to(
            np.expand_dims(self.space.allowed(slot), widths), [len(values) for values in fields.values()]
        )

    def _layout(self) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
        """Strides by which ``_block_index`` numbers the choices of all blocks.

        Returns:
            ``(n_fields, n_slots)`` places of genes, and how far apart their values are; ``(n_slots,)`` first entries.
        """
        genes = np.zeros((max(map(len, self._block_genes)), self.n_slots), np.intp)
        strides = np.zeros(genes.shape, np.int32)
        for number, (own, table) in enumerate(zip(self._block_genes, self._tables, strict=True)):
            genes[: len(own), number] = own
            strides[: len(own), number] = [math.prod(table.shape[axis + 1 :]) for axis in range(table.ndim)]
        sizes = [table.size for table in self._tables]
        return genes, strides, np.cumsum([1, *sizes[:-1]]).astype(np.int32)  # 0 is a block that depth switches off

    def size(self) -> int:
        """Number of distinct candidates."""
        return int(self.space.size())

    def _block_index(self, genomes: Genomes) -> NDArray[np.int32]:
        """``(n, n_genes) -> (n, n_slots)``: each block's place among all choices of all blocks, 0 if it is off.

        Tables are laid out by it: entry 0, then for each slot its choices, the last field running fastest.
        """
        index = np.repeat(self._starts[None], len(genomes), axis=0)
        for genes, strides in zip(self._field_genes, self._strides, strict=True):
            index += genomes.take(genes, axis=1) * strides
        index *= self.active(genomes)
        return index

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether blocks are active, shape ``(n, n_slots)``."""
        depths = self._depths[np.arange(self._n_stages), genomes[:, : self._n_stages]]
        return self._position < depths[:, self._stage]

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes affect the candidate, shape ``(n, n_genes)``."""
        out = np.ones(genomes.shape, bool)
        out[:, self._in_blocks] = self.active(genomes).take(self._block_of, axis=1)
        return out

    def _offences(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether active blocks have a forbidden combination, shape ``(n, n_slots)``."""
        return ~self._allowed.take(self._block_index(genomes))

    @property
    def forbids(self) -> bool:
        """Whether combinations of values are forbidden."""
        return not self._allowed.all()

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genomes contain no forbidden combination, shape ``(n,)``."""
        return np.asarray(~self._offences(genomes).any(axis=1))

    def _redrawn(self, genomes: Genomes) -> NDArray[np.bool_]:
        """All genes of blocks with a forbidden combination, except widths, shape ``(n, n_genes)``."""
        drawn = np.array([self.genes[place].kind != "width" for place in self._in_blocks])
        bad = np.zeros(genomes.shape, bool)
        bad[:, self._in_blocks] = self._offences(genomes).take(self._block_of, axis=1) & drawn
        return bad

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        """All canonical, allowed genomes of a small space, shape ``(size, n_genes)``.

        Raises:
            SpaceError: If there are more than ``limit``.
        """
        if (size := self.size()) > limit:
            raise SpaceError(
                f"{self.space.name}: {Decimal(size):.2g} candidates are too many to enumerate (limit {limit})"
            )
        blocks = [self._every_block(number) for number in range(self.n_slots)]
        stages = []
        for number, stage in enumerate(self.space.stages):
            own = [block for block, of in zip(blocks, self._stage, strict=True) if of == number]
            depths = self._open_values(number)
            stages.append([(i, chosen) for i in depths for chosen in itertools.product(*own[: stage.depth[i]])])
        first = [int(np.argmax(self._stage == number)) for number in range(self._n_stages)]
        sizes = [0] if self._size_gene is None else self._open_values(self._size_gene)
        genomes = np.zeros((size, self.n_genes), np.int16)
        for genome, (resolution, *chosen_stages) in zip(genomes, itertools.product(sizes, *stages), strict=True):
            if self._size_gene is not None:
                genome[self._size_gene] = resolution
            for number, (depth, chosen) in enumerate(chosen_stages):
                genome[number] = depth
                for slot, block in enumerate(chosen, start=first[number]):
                    genome[self._block_genes[slot]] = block
        return genomes

    def _open_values(self, gene: int) -> list[int]:
        """Places of the values that ``enumerate`` gives a gene of the whole network."""
        return list(range(self.n_choices[gene]))

    def _open_blocks(self, number: int) -> NDArray[np.bool_]:
        """Which combinations of a block's choices ``enumerate`` goes through: one axis for each field."""
        return self._tables[number]

    def _every_block(self, number: int) -> NDArray[np.intp]:
        """``(n_combinations, n_fields)``: the genes of a block at each allowed combination, widths running fastest."""
        table, fields = self._open_blocks(number), self._types[number].fields
        order = sorted(range(table.ndim), key=lambda axis: fields[axis].kind == "width")
        return np.argwhere(table.transpose(order))[:, np.argsort(order)]

    def decode(self, genomes: Genomes) -> list[Candidate]:
        """Candidates of genomes of shape ``(n, n_genes)``."""
        active, chosen = self.active(genomes).tolist(), genomes.tolist()
        candidates = []
        for on, genome in zip(active, chosen, strict=True):
            stages: list[list[Any]] = [[] for _ in range(self._n_stages)]
            for slot in range(self.n_slots):
                if on[slot]:
                    values = [self.choices[gene][genome[gene]] for gene in self._block_genes[slot].tolist()]
                    stages[self._stage[slot]].append(self._types[slot].make(*values))
            resolution = None if self._size_gene is None else self.choices[self._size_gene][genome[self._size_gene]]
            candidates.append(Candidate(tuple(map(tuple, stages)), resolution))
        return candidates

    def encode(self, candidates: Sequence[Candidate], *, check: bool = True) -> Genomes:
        """Canonical genomes of candidates, shape ``(n, n_genes)``.

        Args:
            candidates: Points of this space.
            check: Whether to refuse candidates that break a forbidden rule, too.

        Raises:
            CandidateError: If one is not in the space; the message names its position, the gene, its value and the
                choices.
        """
        genomes = np.zeros((len(candidates), self.n_genes), np.int16)
        for i, candidate in enumerate(candidates):
            self._check_shape(i, candidate)
            if self._size_gene is not None:
                genomes[i, self._size_gene] = self._index(i, self._size_gene, candidate.resolution)
            for stage, depth in enumerate(candidate.depths):
                genomes[i, stage] = self._index(i, stage, depth)
            for genes, stage, position in zip(self._block_genes, self._stage, self._position, strict=True):
                if position < candidate.depths[stage]:
                    block = candidate.stages[stage][position]
                    genomes[i, genes] = [self._index(i, gene, v) for gene, v in zip(genes, block, strict=True)]
        if check and not (allowed := self.is_allowed(genomes)).all():
            first = int(np.argmin(allowed))
            raise CandidateError(f"candidate {first}: {candidates[first]} has a combination that the space forbids")
        return genomes

    def _check_shape(self, i: int, candidate: Candidate) -> None:
        """Check that a candidate has the stages, the types of blocks and a resolution of the space.

        Raises:
            CandidateError: If it has not; the message names its position and the difference.
        """
        if len(candidate.stages) != self._n_stages:
            raise CandidateError(
                f"candidate {i}: {len(candidate.stages)} stages; {self.space.name} has {self._n_stages}"
            )
        first = [self._types[int(np.argmax(self._stage == number))] for number in range(self._n_stages)]
        for number, (given, own) in enumerate(zip(candidate.types, first, strict=True)):
            if given != own and candidate.stages[number]:
                raise CandidateError(
                    f"candidate {i}: stage {number + 1} has blocks of type {given.name}; {self.space.name} has "
                    f"{own.name} there"
                )
        if (self._size_gene is None) != (candidate.resolution is None):
            needed = f"{self.space.name} needs one of {list(self.space.resolutions)}"
            none = f"{self.space.name} offers no choice of it, leave it out"
            raise CandidateError(
                f"candidate {i}: resolution is {candidate.resolution}; {none if self._size_gene is None else needed}"
            )

    def _index(self, i: int, gene: int, value: Any) -> int:
        try:
            return self.choices[gene].index(value)
        except ValueError:
            choices = list(self.choices[gene])
            raise CandidateError(f"candidate {i}: {self.names[gene]} is {value}; choose one of {choices}") from None

    def from_features(self, features: NDArray[np.float32]) -> Genomes:
        """Inverse of ``features``: ``(n, n_features)`` -> canonical ``(n, n_genes)``.

        Raises:
            CandidateError: If a row's active blocks are not a depth that the space offers.
        """
        genomes = np.zeros((len(features), self.n_genes), np.int16)
        there = np.zeros((len(features), self.n_genes), bool)
        for gene, first in zip(self._hot.tolist(), self._columns.tolist(), strict=True):
            columns = features[:, first : first + self.n_choices[gene]]
            genomes[:, gene], there[:, gene] = columns.argmax(axis=1), columns.any(axis=1)
        if self._size_gene is not None and not (given := there[:, self._size_gene]).all():
            raise CandidateError(f"row {int(given.argmin())}: no resolution is set")
        on = there[:, [genes[0] for genes in self._block_genes]]
        for stage in range(self._n_stages):
            for i, depth in enumerate(on[:, self._stage == stage].sum(axis=1)):
                genomes[i, stage] = self._index(i, stage, int(depth))
        if (gaps := (on != self.active(genomes)).any(axis=1)).any():
            raise CandidateError(
                f"row {int(gaps.argmax())}: a block is off before one that is on; fill up from the first"
            )
        return genomes


def _no_network(space: Any) -> str:
    if isinstance(space, ChoiceSpace):
        return f"{space.name}: holds named choices and no network; FlatEncoding encodes it, this needs a SearchSpace"
    return f"{space!r} is not a search space; give one, such as SearchSpace.load('digits')"
