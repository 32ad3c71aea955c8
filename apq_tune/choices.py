"""Spaces of named choices without a network, and their genomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.candidate import Choice
from apq_tune.errors import CandidateError, SpaceError
from apq_tune.genotype import Genomes, draw
from apq_tune.parameters import Parameters


@dataclass(frozen=True)
class ChoiceSpace(Parameters):
    """Named choices without a network: a table-driven benchmark, or a problem of the user's own.

    Attributes:
        name: of the space.
        choices: name -> values, in order.
    """

    name: str
    choices: Mapping[str, tuple[Any, ...]]

    def __post_init__(self) -> None:
        if not self.choices:
            raise SpaceError(f"{self.name}: has no choices; give at least one name with its values")
        for name, values in self.choices.items():
            if not values:
                raise SpaceError(f"{self.name}: {name} has no values; give at least one")
            if len(set(values)) < len(values):
                raise SpaceError(f"{self.name}: {name} has a value twice in {list(values)}; keep one")

    @property
    def genes(self) -> Mapping[str, tuple[Any, ...]]:
        """The choices."""
        return self.choices

    def candidate_of(self, values: Mapping[str, Any]) -> Choice:
        """The candidate with these values."""
        return Choice(tuple((name, values[name]) for name in self.choices))

    def values_of(self, candidate: Choice) -> dict[str, Any]:
        """Name -> value of a candidate."""
        return dict(candidate.values)


class ChoiceEncoding:
    """The genomes of a space of named choices: one gene for each, all of them always active.

    Attributes:
        space: the choices.
        n_choices: ``(n_genes,)`` number of values of each gene.
    """

    def __init__(self, space: ChoiceSpace) -> None:
        self.space = space
        self.n_choices = np.array([len(values) for values in space.choices.values()], np.int16)
        self._index = [{value: i for i, value in enumerate(values)} for values in space.choices.values()]

    @property
    def name(self) -> str:
        """Of the search space."""
        return self.space.name

    @property
    def names(self) -> tuple[str, ...]:
        """``(n_genes,)`` names of the choices."""
        return tuple(self.space.choices)

    @property
    def choices(self) -> Sequence[tuple[Any, ...]]:
        """``(n_genes,)`` values of each gene, in order."""
        return tuple(self.space.choices.values())

    def size(self) -> int:
        """Number of different candidates."""
        return math.prod(self.n_choices.tolist())

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """``n`` genomes, uniform: ``(n, n_genes)``."""
        return draw(self.n_choices, n, rng)

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Genomes are canonical as they are."""
        return genomes

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:  # noqa: ARG002
        """No gene is ever inert."""
        return genomes

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:  # noqa: ARG002
        """Nothing is forbidden."""
        return genomes

    def uniform_policies(self) -> Genomes:
        """None: nothing is known of these choices."""
        return np.zeros((0, len(self.n_choices)), np.int16)

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        """Every genome, ``(size, n_genes)``.

        Raises:
            SpaceError: if there are more than ``limit``.
        """
        if self.size() > limit:
            raise SpaceError(f"{self.name}: {self.size()} candidates are too many to enumerate (limit {limit})")
        return np.indices(self.n_choices.tolist()).reshape(len(self.n_choices), -1).T.astype(np.int16)

    def features(self, genomes: Genomes) -> NDArray[np.float32]:
        """One-hot columns, choice after choice: ``(n, sum(n_choices))``."""
        first = np.cumsum(self.n_choices) - self.n_choices
        out = np.zeros((len(genomes), int(self.n_choices.sum())), np.float32)
        np.put_along_axis(out, first + genomes.astype(np.int64), 1, axis=1)
        return out

    def decode(self, genomes: Genomes) -> list[Choice]:
        """``(n, n_genes)`` -> ``n`` candidates."""
        choices = list(self.space.choices.items())
        return [Choice(tuple((n, v[i]) for (n, v), i in zip(choices, genome, strict=True))) for genome in genomes]

    def encode(self, candidates: Sequence[Choice]) -> Genomes:
        """``n`` candidates -> ``(n, n_genes)``.

        Raises:
            CandidateError: naming the candidate's position, the choice and the value.
        """
        genomes = np.zeros((len(candidates), len(self.n_choices)), np.int16)
        for i, candidate in enumerate(candidates):
            given = dict(candidate.values)
            if set(given) != set(self.names):
                raise CandidateError(
                    f"candidate {i}: has choices {sorted(given)}; {self.name} has {sorted(self.names)}"
                )
            for gene, name in enumerate(self.names):
                if given[name] not in self._index[gene]:
                    known = list(self.space.choices[name])
                    raise CandidateError(f"candidate {i}: {name} is {given[name]!r}; choose one of {known}")
                genomes[i, gene] = self._index[gene][given[name]]
        return genomes
