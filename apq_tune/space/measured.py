"""The part of a search space in which a predictor's pairs lie: outside it, a predictor only guesses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.choices import ChoiceEncoding
from apq_tune.space.encoding import Genomes, draw
from apq_tune.space.mbconv import Block
from apq_tune.space.network_encoding import NetworkEncoding

Mask = NDArray[np.bool_]
"""``(n_genes, most values of a gene)``: which values are inside; beyond a gene's values all is False."""


def measured_values(encoding: NetworkEncoding | ChoiceEncoding, genomes: Genomes) -> Mask:
    """Which values of each gene lie within what was measured.

    Numbers are inside between the smallest and the largest one that was measured, anything else if it was measured
    itself. A gene that is off in all candidates has nothing outside.

    Args:
        encoding: of the space.
        genomes: ``(n, n_genes)`` that were measured.
    """
    active = encoding.active_genes(genomes)
    mask = np.zeros((len(encoding.n_choices), int(encoding.n_choices.max())), bool)
    for gene, values in enumerate(encoding.choices):
        seen = np.unique(genomes[active[:, gene], gene])
        if len(seen) == 0:
            inside = np.ones(len(values), bool)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            numbers = np.array(values, np.float64)
            inside = (numbers >= numbers[seen].min()) & (numbers <= numbers[seen].max())
        else:
            inside = np.isin(np.arange(len(values)), seen)
        mask[gene, : len(values)] = inside
    return mask


def within(encoding: NetworkEncoding | ChoiceEncoding, mask: Mask) -> Any:
    """The same encoding, all of whose genomes lie inside; itself if nothing is outside."""
    if not outside(encoding, mask):
        return encoding
    kind = _WithinChoices if isinstance(encoding, ChoiceEncoding) else _WithinNetworks
    return kind(encoding.space, mask)


def outside(encoding: NetworkEncoding | ChoiceEncoding, mask: Mask) -> list[str]:
    """In words, each gene of which something is outside, with what is inside."""
    found = []
    for name, values, inside in zip(encoding.names, encoding.choices, mask, strict=True):
        kept = [value for value, keep in zip(values, inside, strict=False) if keep]
        if len(kept) < len(values):
            found.append(f"{name} {', '.join(map(str, kept[:6]))}{', ...' if len(kept) > 6 else ''}")
    return found


class _Places:
    """Where the values inside are, for each gene.

    Attributes:
        counts: ``(n_genes,)`` how many are inside.
        nearest: ``(n_genes, n_values)`` the place of the nearest one inside, for each value.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask, self.counts = mask, mask.sum(axis=1).astype(np.int16)
        self._order = np.argsort(~mask, axis=1, kind="stable").astype(np.int16)  # those inside, then the others
        place = np.arange(mask.shape[1])
        steps = np.where(mask[:, None, :], np.abs(place[:, None] - place), mask.shape[1])
        self.nearest = steps.argmin(axis=2).astype(np.int16)

    def draw(self, n: int, rng: np.random.Generator) -> Genomes:
        """``(n, n_genes)``, uniform over what is inside."""
        genes = np.arange(len(self.counts))
        return np.asarray(self._order[genes, draw(self.counts, n, rng)], np.int16)

    def move_in(self, genomes: Genomes) -> Genomes:
        """Each gene to its nearest value inside."""
        return np.asarray(self.nearest[np.arange(len(self.counts)), genomes], np.int16)

    def contain(self, genomes: Genomes, active: Mask) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n,)``: which genomes are inside with all genes that matter."""
        return np.asarray((self.mask[np.arange(len(self.counts)), genomes] | ~active).all(axis=1))

    def check(self, encoding: NetworkEncoding | ChoiceEncoding, genomes: Genomes) -> None:
        """Refuse genomes that are not inside.

        Raises:
            CandidateError: naming the first candidate, its gene and its value.
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


class _WithinChoices(ChoiceEncoding):
    def __init__(self, space: Any, mask: Mask) -> None:
        super().__init__(space)
        self._places = _Places(mask)

    def size(self) -> int:
        return math.prod(self._places.counts.tolist())

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        return self._places.draw(n, rng)

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:  # noqa: ARG002
        return self._places.move_in(genomes)

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        if self.size() > limit:
            raise SpaceError(f"{self.name}: {self.size()} candidates are too many to enumerate (limit {limit})")
        inside = [np.flatnonzero(row) for row in self._places.mask]
        return np.stack([axis.ravel() for axis in np.meshgrid(*inside, indexing="ij")], axis=1).astype(np.int16)

    def encode(self, candidates: Sequence[Any]) -> Genomes:
        genomes = super().encode(candidates)
        self._places.check(self, genomes)
        return genomes


class _WithinNetworks(NetworkEncoding):
    def __init__(self, space: Any, mask: Mask) -> None:
        super().__init__(space)
        self._places = _Places(mask)
        self._gene = {name: gene for gene, name in enumerate(self.names)}

    def _inside(self, name: str) -> list[int]:
        """Places of the values of a gene that are inside."""
        return [int(i) for i in np.flatnonzero(self._places.mask[self._gene[name]])] if name in self._gene else [0]

    def _open(self, slot: int) -> NDArray[np.bool_]:
        """``(n_kernel_size, n_channels, ...)``: choices of a block that no rule forbids and that are inside."""
        own = self.space.slots[slot]
        allowed = np.repeat(self.space.allowed(own)[:, None], len(own.channels), axis=1)
        inside = [self._places.mask[self._gene[f"{own.name} {field}"]] for field in Block._fields]
        for axis, row in enumerate(inside):
            size = allowed.shape[axis]
            allowed &= row[:size].reshape(-1, *[1] * (allowed.ndim - axis - 1))
        return allowed

    def size(self) -> int:
        counts = [int(self._open(slot).sum()) for slot in range(self.n_slots)]
        total = len(self._inside("resolution"))
        for number, stage in enumerate(self.space.stages):
            own = [n for n, of in zip(counts, self._stage, strict=True) if of == number]
            depths = [stage.depth[i] for i in self._inside(f"depth {number + 1}")]
            total *= sum(math.prod(own[:depth]) for depth in depths)
        return total

    def _draw(self, n: int, rng: np.random.Generator) -> Genomes:
        return self._places.draw(n, rng)

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        return super().repair(self._places.move_in(genomes), rng)

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        if (size := self.size()) > limit:
            raise SpaceError(f"{self.name}: {size:.2g} candidates are too many to enumerate (limit {limit})")
        blocks = [np.argwhere(self._open(slot)) for slot in range(self.n_slots)]
        stages: list[list[tuple[int, tuple[Any, ...]]]] = []
        for number, stage in enumerate(self.space.stages):
            own = [block for block, of in zip(blocks, self._stage, strict=True) if of == number]
            depths = self._inside(f"depth {number + 1}")
            stages.append([(i, chosen) for i in depths for chosen in itertools.product(*own[: stage.depth[i]])])
        genomes = np.zeros((size, self.n_genes), np.int16)
        slots_of = [np.flatnonzero(self._stage == number) for number in range(self._n_stages)]
        combined = itertools.product(self._inside("resolution"), *stages)
        for genome, (resolution, *chosen_stages) in zip(genomes, combined, strict=True):
            genome[self._n_stages : self._first] = resolution
            fields = genome[self._first :].reshape(len(Block._fields), self.n_slots)
            for number, (depth, chosen) in enumerate(chosen_stages):
                genome[number] = depth
                for slot, block in zip(slots_of[number], chosen, strict=False):
                    fields[:, slot] = block
        return genomes

    def uniform_policies(self) -> Genomes:
        policies = super().uniform_policies()
        return policies[self._places.contain(policies, self.active_genes(policies))]

    def encode(self, candidates: Sequence[Any], *, check: bool = True) -> Genomes:
        genomes = super().encode(candidates, check=check)
        if check:
            self._places.check(self, genomes)
        return genomes
