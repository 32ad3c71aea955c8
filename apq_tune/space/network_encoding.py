"""Candidates as arrays: the one place that knows which gene, and which feature, stands where.

A genome is ``(n_genes,)`` small integers, each an index into a choice: first the depth of each stage, then the
resolution if there are several, then for every field of ``Block`` one gene for each slot. Genes of slots beyond the
depth are inert and canonically zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.candidate import Candidate
from apq_tune.space.choices import ChoiceEncoding, ChoiceSpace
from apq_tune.space.encoding import Encoding, Genomes, draw
from apq_tune.space.mbconv import Block
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.skeleton import BIT_FIELDS

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MAX_REPAIRS = 100
"""Rounds of redrawing forbidden combinations; each leaves at most the share of them that is forbidden."""

CONCENTRATION = 0.5
"""Of the Dirichlet distribution of ``sample_policies``: at 1 all shares are equally likely, towards 0 policies get
uniform."""


class NetworkEncoding:
    """The genome and feature layout of one search space.

    Attributes:
        space: the search space.
        genes: ``(n_genes,)`` what each gene decides.
        names: ``(n_genes,)`` readable gene names, such as ``"depth 2"`` or ``"1.2 kernel_size"``.
        n_choices: ``(n_genes,)`` number of values of each gene.
        n_arch_features: columns that describe the network.
        n_bit_features: columns that describe its bits; they follow the former.
    """

    def __init__(self, space: SearchSpace | Any) -> None:
        """Lay out the genome.

        Raises:
            SpaceError: if the space has no network.
        """
        if not isinstance(space, SearchSpace):
            raise SpaceError(_no_network(space))
        self.space = space
        slots, self._n_stages = space.slots, len(space.stages)
        self._has_resolution = len(space.resolutions) > 1
        self._first = self._n_stages + self._has_resolution  # gene of the blocks
        self.genes = space.genes
        self.names = tuple(gene.name for gene in self.genes)
        self._values = [gene.values for gene in self.genes]
        self.n_choices = np.array([len(values) for values in self._values], np.int16)
        self._position = np.array([slot.position for slot in slots])
        self._stage = np.array([slot.stage for slot in slots])
        padded = np.zeros((len(self._values), self.n_choices.max()), np.int64)
        for row, values in zip(padded, self._values, strict=True):
            row[: len(values)] = values
        self._lookup = padded
        self._block_strides, self._block_starts, self._allowed = self._block_layout()
        sizes = self.n_choices[self._first :].astype(np.int64)
        ends = np.cumsum(sizes)
        self.n_arch_features = int(ends[2 * len(slots) - 1])
        if self._has_resolution:  # its columns stand between architecture and bits
            self._resolution_column = self.n_arch_features
            ends[2 * len(slots) :] += len(space.resolutions)
            self.n_arch_features += len(space.resolutions)
        self._first_column = ends - sizes
        self.n_bit_features = int(ends[-1]) - self.n_arch_features

    def _block_layout(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """How ``block_index`` numbers the choices of all blocks, and which of them are allowed."""
        strides, starts, allowed = [], [], [np.ones(1, bool)]
        start = 1  # 0 is a block that depth switches off
        for slot in self.space.slots:
            table = np.repeat(self.space.allowed(slot)[:, None], len(slot.channels), axis=1)
            strides.append([math.prod(table.shape[axis + 1 :]) for axis in range(table.ndim)])
            starts.append(start)
            allowed.append(table.ravel())
            start += table.size
        return np.array(strides, np.int32).T.copy(), np.array(starts, np.int32), np.concatenate(allowed)

    @property
    def name(self) -> str:
        """Of the search space."""
        return self.space.name

    def size(self) -> int:
        """Number of different candidates."""
        return self.space.size()

    @property
    def choices(self) -> Sequence[tuple[int, ...]]:
        """``(n_genes,)`` values of each gene, in order."""
        return self._values

    @property
    def n_genes(self) -> int:
        """Length of a genome."""
        return len(self.n_choices)

    @property
    def n_slots(self) -> int:
        """Number of blocks of the deepest network."""
        return len(self._position)

    def block_genes(self, genomes: Genomes) -> NDArray[np.int16]:
        """``(n, n_genes) -> (n, 6, n_slots)``: the genes of ``Block``'s fields, in their order."""
        return genomes[:, self._first :].reshape(len(genomes), len(Block._fields), self.n_slots)

    def block_index(self, genomes: Genomes) -> NDArray[np.int32]:
        """``(n, n_genes) -> (n, n_slots)``: each block's place among all choices of all blocks, 0 if it is off.

        Tables of costs are laid out by it: entry 0, then for each slot its choices, the last field running fastest.
        """
        genes = self.block_genes(genomes)
        index = np.repeat(self._block_starts[None], len(genomes), axis=0)
        for field, strides in enumerate(self._block_strides):
            index += genes[:, field] * strides
        index *= self.active(genomes)
        return index

    def block_place(self, slot: int, block: Block) -> int:
        """The entry of one block in tables that ``block_index`` points into."""
        genes = [self._values[self._first + f * self.n_slots + slot].index(value) for f, value in enumerate(block)]
        return int(self._block_starts[slot] + np.dot(self._block_strides[:, slot], genes))

    def resolution_index(self, genomes: Genomes) -> NDArray[np.int16]:
        """``(n, n_genes) -> (n,)``: each candidate's place among the resolutions."""
        return genomes[:, self._n_stages] if self._has_resolution else np.zeros(len(genomes), np.int16)

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n, n_slots)``: which slots the depths leave switched on."""
        depths = self._lookup[np.arange(self._n_stages), genomes[:, : self._n_stages]]
        return self._position < depths[:, self._stage]

    def _inert(self, genomes: Genomes) -> NDArray[np.bool_]:
        off = np.tile(~self.active(genomes), (1, len(Block._fields)))
        return np.concatenate([np.zeros((len(genomes), self._first), bool), off], axis=1)

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n, n_genes)``: which genes matter."""
        return ~self._inert(genomes)

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Set inert genes to zero, so that equal networks have equal genomes."""
        genomes = genomes.copy()
        self.block_genes(genomes)[...] *= self.active(genomes)[:, None]
        return genomes

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw inert genes at random, so that a block which variation switches on is not always the smallest."""
        return np.where(self._inert(genomes), self._draw(len(genomes), rng), genomes)

    def _draw(self, n: int, rng: np.random.Generator) -> Genomes:
        return draw(self.n_choices, n, rng)

    def _offences(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_slots)``: active blocks with a forbidden combination."""
        return ~self._allowed.take(self.block_index(genomes))

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n,)``: whether no forbidden rule of the space is broken."""
        return np.asarray(~self._offences(genomes).any(axis=1))

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Redraw the kernel and bits of blocks with a forbidden combination until there is none.

        Raises:
            SpaceError: if that does not succeed, because the rules leave next to nothing.
        """
        if self._allowed.all():
            return genomes
        redrawn = np.array([field != "channels" for field in Block._fields])
        genomes, rows = genomes.copy(), np.arange(len(genomes))
        for _ in range(MAX_REPAIRS):
            offences = self._offences(genomes[rows])
            wrong = offences.any(axis=1)
            if not wrong.any():
                return genomes
            rows, offences = rows[wrong], offences[wrong]
            bad = np.zeros((len(rows), self.n_genes), bool)
            bad[:, self._first :] = (offences[:, None] & redrawn[:, None]).reshape(len(rows), -1)
            genomes[rows] = np.where(bad, self._draw(len(rows), rng), genomes[rows])
        raise SpaceError(
            f"{self.space.name}: forbidden combinations remain after {MAX_REPAIRS} redraws; relax the rules"
        )

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """``n`` canonical, allowed genomes, each gene uniform over its choices: ``(n, n_genes)``."""
        return self.canonicalise(self.repair(self._draw(n, rng), rng))

    def at_largest(self, genomes: Genomes, fields: Sequence[str]) -> Genomes:
        """Set the genes of some fields (``"depth"`` or of ``Block``) to their last choice; not checked for rules."""
        genomes = genomes.copy()
        for field in fields:
            first = 0 if field == "depth" else self._first + Block._fields.index(field) * self.n_slots
            genes = slice(first, first + (self._n_stages if field == "depth" else self.n_slots))
            genomes[:, genes] = self.n_choices[genes] - 1
        return self.canonicalise(genomes)

    def at_bits(self, genomes: Genomes, bits: int) -> Genomes:
        """Set all bits of all blocks to one width that every layer can take; not checked for rules."""
        genomes, first = genomes.copy(), self._first + 2 * self.n_slots
        for gene in range(first, self.n_genes):
            genomes[:, gene] = self._values[gene].index(bits)
        return self.canonicalise(genomes)

    def sample_policies(self, n: int, rng: np.random.Generator) -> Genomes:
        """``n`` canonical, allowed genomes, ``(n, n_genes)``, with bits from one width everywhere to all widths mixed.

        Bits drawn gene by gene leave no network without its share of the fewest ones. Here each network has its own
        probability of every width, one for weights and one for activations, drawn from a Dirichlet distribution.
        """
        genomes = self._draw(n, rng)
        widths = np.unique(np.concatenate(self._values[-len(BIT_FIELDS) * self.n_slots :]))
        alpha = np.full(len(widths), CONCENTRATION)
        probabilities = {kind: rng.dirichlet(alpha, n) + 1e-9 for kind in "wa"}  # a gene may lack the likely widths
        for gene in range(self.n_genes - len(BIT_FIELDS) * self.n_slots, self.n_genes):
            field = Block._fields[(gene - self._first) // self.n_slots]
            own = probabilities["w" if "_w_" in field else "a"][:, np.searchsorted(widths, self._values[gene])]
            shares = own.cumsum(axis=1) / own.sum(axis=1, keepdims=True)
            genomes[:, gene] = (rng.random((n, 1)) >= shares[:, :-1]).sum(axis=1)
        return self.canonicalise(self.repair(genomes, rng))

    def uniform_bits(self) -> list[int]:
        """Bit-widths that every layer can take, ascending."""
        return sorted(set(self.space.bit_choices()[0]).intersection(*self.space.bit_choices()))

    def extremes(self) -> tuple[Candidate, Candidate]:
        """The smallest and the largest network, both at the most bits (forbidden rules are not consulted)."""
        genome = np.zeros((2, self.n_genes), np.int16)
        genome[1] = self.n_choices - 1
        first_bit_gene = self._first + 2 * self.n_slots
        genome[0, first_bit_gene:] = self.n_choices[first_bit_gene:] - 1
        smallest, largest = self.decode(self.canonicalise(genome))
        return smallest, largest

    def uniform_policies(self) -> Genomes:
        """The smallest and the largest network at every bit-width that all layers can take, where allowed."""
        networks = [network.with_bits(b) for network in self.extremes() for b in self.uniform_bits()]
        genomes = self.encode(networks, check=False)
        return genomes[self.is_allowed(genomes)]

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        """Every canonical, allowed genome of a small space, ``(size, n_genes)``.

        Raises:
            SpaceError: if there are more than ``limit``.
        """
        size = self.space.size()
        if size > limit:
            raise SpaceError(
                f"{self.space.name}: {Decimal(size):.2g} candidates are too many to enumerate (limit {limit})"
            )
        bits = self.space.bit_choices()
        blocks = [
            [
                Block(slot.kernel_sizes[k], channels, *(values[i] for values, i in zip(bits, indices, strict=True)))
                for k, *indices in np.argwhere(self.space.allowed(slot))
                for channels in slot.channels
            ]
            for slot in self.space.slots
        ]
        stages = []
        for number, stage in enumerate(self.space.stages):
            own = [b for b, slot in zip(blocks, self.space.slots, strict=True) if slot.stage == number]
            stages.append([chosen for depth in stage.depth for chosen in itertools.product(*own[:depth])])
        resolutions = self.space.resolutions if self._has_resolution else (None,)
        return self.encode([Candidate(chosen, r) for r in resolutions for chosen in itertools.product(*stages)])

    def decode(self, genomes: Genomes) -> list[Candidate]:
        """``(n, n_genes)`` -> ``n`` candidates."""
        active = self.active(genomes)
        values = self._lookup[np.arange(self.n_genes), genomes]
        fields = self.block_genes(values)
        candidates = []
        for i in range(len(genomes)):
            stages: list[tuple[Block, ...]] = []
            for stage in range(self._n_stages):
                on = np.flatnonzero(active[i] & (self._stage == stage))
                stages.append(tuple(Block(*map(int, fields[i, :, slot])) for slot in on))
            resolution = int(values[i, self._n_stages]) if self._has_resolution else None
            candidates.append(Candidate(tuple(stages), resolution))
        return candidates

    def encode(self, candidates: Sequence[Candidate], *, check: bool = True) -> Genomes:
        """``n`` candidates -> canonical ``(n, n_genes)``.

        Args:
            candidates: points of this space.
            check: also refuse candidates that break a forbidden rule.

        Raises:
            CandidateError: naming the candidate's position, the gene, its value and its choices.
        """
        genomes = np.zeros((len(candidates), self.n_genes), np.int16)
        for i, candidate in enumerate(candidates):
            if len(candidate.stages) != self._n_stages:
                raise CandidateError(
                    f"candidate {i}: {len(candidate.stages)} stages; {self.space.name} has {self._n_stages}"
                )
            if self._has_resolution != (candidate.resolution is not None):
                given = f"{self.space.name} needs one of {list(self.space.resolutions)}"
                raise CandidateError(
                    f"candidate {i}: resolution is {candidate.resolution}; "
                    + (given if self._has_resolution else f"{self.space.name} offers no choice of it, leave it out")
                )
            if candidate.resolution is not None:
                genomes[i, self._n_stages] = self._index(i, self._n_stages, candidate.resolution)
            for stage, depth in enumerate(candidate.depths):
                genomes[i, stage] = self._index(i, stage, depth)
            for slot, (stage, position) in enumerate(zip(self._stage, self._position, strict=True)):
                if position < candidate.depths[stage]:
                    for number, value in enumerate(candidate.stages[stage][position]):
                        gene = self._first + number * self.n_slots + slot
                        genomes[i, gene] = self._index(i, gene, value)
        if check and not (allowed := self.is_allowed(genomes)).all():
            first = int(np.argmin(allowed))
            raise CandidateError(f"candidate {first}: {candidates[first]} has a combination that the space forbids")
        return genomes

    def _index(self, i: int, gene: int, value: int) -> int:
        try:
            return self._values[gene].index(value)
        except ValueError:
            choices = list(self._values[gene])
            raise CandidateError(f"candidate {i}: {self.names[gene]} is {value}; choose one of {choices}") from None

    def features(self, genomes: Genomes) -> NDArray[np.float32]:
        """One-hot columns of every gene but the depths; blocks beyond the depth are all zero (APQ's layout).

        Returns:
            ``(n, n_arch_features + n_bit_features)`` of 0 and 1: kernel sizes of all slots, their channels, the
            resolution if there are several, then each kind of bits.
        """
        n, width = len(genomes), self.n_arch_features + self.n_bit_features
        out = np.zeros((n, width), np.float32)
        on = np.tile(self.active(genomes), (1, len(Block._fields)))
        place = genomes[:, self._first :] + (self._first_column + np.arange(0, n * width, width)[:, None])
        out.reshape(-1)[place[on]] = 1
        if self._has_resolution:
            out[np.arange(n), self._resolution_column + genomes[:, self._n_stages]] = 1
        return out

    def arch_matrix(self, genomes: Genomes) -> csr_array:
        """The first ``n_arch_features`` columns of ``features`` as a sparse matrix, a good deal quicker than these.

        Returns:
            ``(n, n_arch_features)``; zeros of blocks beyond the depth are stored, too.
        """
        from scipy.sparse import csr_array

        n, n_arch = len(genomes), 2 * self.n_slots
        columns = genomes[:, self._first : self._first + n_arch] + self._first_column[:n_arch].astype(np.int32)
        ones = np.tile(self.active(genomes), (1, 2)).astype(np.float32)
        if self._has_resolution:
            columns = np.column_stack([columns, self._resolution_column + genomes[:, self._n_stages].astype(np.int32)])
            ones = np.column_stack([ones, np.ones(n, np.float32)])
        starts = np.arange(0, columns.size + 1, columns.shape[1], dtype=np.int32)
        return csr_array((ones.ravel(), columns.ravel(), starts), shape=(n, self.n_arch_features))

    def from_features(self, features: NDArray[np.float32]) -> Genomes:
        """Inverse of ``features``: ``(n, n_features)`` -> canonical ``(n, n_genes)``.

        Raises:
            CandidateError: if a row's active blocks are no depth that the space offers.
        """
        genomes = np.zeros((len(features), self.n_genes), np.int16)
        if self._has_resolution:
            first = self._resolution_column
            resolution = features[:, first : first + len(self.space.resolutions)]
            if (missing := ~resolution.any(axis=1)).any():
                raise CandidateError(f"row {int(missing.argmax())}: no resolution is set")
            genomes[:, self._n_stages] = resolution.argmax(axis=1)
        for gene, first in enumerate(self._first_column, start=self._first):
            genomes[:, gene] = features[:, first : first + self.n_choices[gene]].argmax(axis=1)
        ends = self._first_column[: self.n_slots] + self.n_choices[self._first : self._first + self.n_slots]
        on = np.stack([features[:, a:b].any(axis=1) for a, b in zip(self._first_column, ends, strict=False)], axis=1)
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
        return f"{space.name}: holds named choices and no network; ChoiceEncoding encodes it, this needs a SearchSpace"
    return f"{space!r} is no search space; give one, such as SearchSpace.load('digits')"


def encoding_of(space: SearchSpace | ChoiceSpace | Encoding) -> Any:
    """The encoding of a space; an encoding stays what it is."""
    if isinstance(space, SearchSpace):
        return NetworkEncoding(space)
    return ChoiceEncoding(space) if isinstance(space, ChoiceSpace) else space
