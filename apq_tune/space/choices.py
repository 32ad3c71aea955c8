"""Spaces of named choices without a network, and their genomes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.candidate import Configuration, plain_value, same_value
from apq_tune.space.encoding import Genomes, draw
from apq_tune.space.gene import Gene
from apq_tune.space.parameters import Parameters

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MOST_VALUES = 2**15 - 1
"""Of one choice: genes are 16-bit numbers."""


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
        """Check the choices, and turn their values into plain ones: see ``plain_value``."""
        if not isinstance(self.choices, Mapping):
            raise SpaceError(f"{self.name}: choices are a {type(self.choices).__name__}; give names with their values")
        if not self.choices:
            raise SpaceError(f"{self.name}: has no choices; give at least one name with its values")
        object.__setattr__(self, "choices", {name: self._plain(name, own) for name, own in self.choices.items()})

    def _plain(self, name: Any, values: Any) -> tuple[Any, ...]:
        if not isinstance(name, str) or not name.strip():
            raise SpaceError(
                f"{self.name}: the name {name!r} is no text; files know names as text alone, give {str(name)!r}"
            )
        if isinstance(values, str | bytes | Mapping | set | frozenset) or not isinstance(values, Iterable):
            remedy = "[...]" if isinstance(values, Mapping | set | frozenset) else f"[{values!r}]"
            raise SpaceError(f"{self.name}: {name} is {values!r}; give a list of values, such as {remedy}")
        listed = list(values)
        if not listed:
            raise SpaceError(f"{self.name}: {name} has no values; give at least one")
        if len(listed) > MOST_VALUES:
            raise SpaceError(
                f"{self.name}: {name} has {len(listed)} values; give at most {MOST_VALUES}, or wider steps"
            )
        try:
            plain = tuple(plain_value(value) for value in listed)
        except CandidateError as error:
            raise SpaceError(f"{self.name}: {name}: {error}") from None
        if len(set(plain)) < len(plain):
            first = next(value for place, value in enumerate(plain) if value in plain[:place])
            raise SpaceError(f"{self.name}: {name} has a value twice: {first!r} (True counts as 1); keep one")
        return plain

    def to_dict(self) -> dict[str, Any]:
        """As a file of choices holds it, such as ``SearchSpace.load`` reads."""
        return {"name": self.name, "choices": {name: list(values) for name, values in self.choices.items()}}

    @functools.cached_property
    def genes(self) -> tuple[Gene, ...]:
        """The choices, of which nothing but their values is known."""
        return tuple(Gene(name, "choice", values) for name, values in self.choices.items())

    def candidate_of(self, values: Mapping[str, Any]) -> Configuration:
        """The candidate with these values."""
        return Configuration(tuple((name, plain_value(values[name])) for name in self.choices))

    def values_of(self, candidate: Configuration) -> dict[str, Any]:
        """Name -> value of a candidate."""
        return dict(candidate.values)


class ChoiceEncoding:
    """The genomes of a space of named choices: one gene for each, all of them always active.

    Attributes:
        space: the choices.
        n_choices: ``(n_genes,)`` number of values of each gene.
        n_arch_features: columns of ``features``.
        n_bit_features: none.
    """

    def __init__(self, space: ChoiceSpace) -> None:
        self.space = space
        self.n_choices = np.array([len(values) for values in space.choices.values()], np.int16)
        self._index = [{value: i for i, value in enumerate(values)} for values in space.choices.values()]
        self.n_arch_features, self.n_bit_features = int(self.n_choices.sum()), 0

    @property
    def name(self) -> str:
        """Of the search space."""
        return self.space.name

    @property
    def n_genes(self) -> int:
        """Length of a genome."""
        return len(self.n_choices)

    @property
    def names(self) -> tuple[str, ...]:
        """``(n_genes,)`` names of the choices."""
        return tuple(self.space.choices)

    @property
    def choices(self) -> Sequence[tuple[Any, ...]]:
        """``(n_genes,)`` values of each gene, in order."""
        return tuple(self.space.choices.values())

    @property
    def genes(self) -> tuple[Gene, ...]:
        """``(n_genes,)`` what each gene decides."""
        return self.space.genes

    def size(self) -> int:
        """Number of different candidates."""
        return math.prod(self.n_choices.tolist())

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """``n`` genomes, uniform: ``(n, n_genes)``."""
        return draw(self.n_choices, n, rng)

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """``(n, n_genes) -> (n, n_genes)``: all genes matter."""
        return np.ones(genomes.shape, bool)

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
        first = np.cumsum(self.n_choices, dtype=np.int64) - self.n_choices
        out = np.zeros((len(genomes), self.n_arch_features), np.float32)
        np.put_along_axis(out, first + genomes.astype(np.int64), 1, axis=1)
        return out

    def arch_matrix(self, genomes: Genomes) -> csr_array:
        """``features`` as a sparse matrix."""
        from scipy.sparse import csr_array

        n, width = genomes.shape
        columns = genomes + (np.cumsum(self.n_choices, dtype=np.int32) - self.n_choices)
        starts = np.arange(0, n * width + 1, width, dtype=np.int32)
        return csr_array((np.ones(n * width, np.float32), columns.ravel(), starts), shape=(n, self.n_arch_features))

    def decode(self, genomes: Genomes) -> list[Configuration]:
        """``(n, n_genes)`` -> ``n`` candidates."""
        choices = list(self.space.choices.items())
        return [
            Configuration(tuple((n, v[i]) for (n, v), i in zip(choices, genome, strict=True))) for genome in genomes
        ]

    def encode(self, candidates: Sequence[Configuration]) -> Genomes:
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
                genomes[i, gene] = self._place(i, gene, name, given[name])
        return genomes

    def _place(self, i: int, gene: int, name: str, given: Any) -> int:
        values = self.space.choices[name]
        try:
            value = plain_value(given)
        except CandidateError as error:
            raise CandidateError(f"candidate {i}: {name}: {error}") from None
        place = self._index[gene].get(value)
        if place is None or not same_value(value, values[place]):
            raise CandidateError(f"candidate {i}: {name} is {value!r}; choose one of {_listed(values)}")
        return place


def _listed(values: Sequence[Any], n: int = 20) -> str:
    shown = ", ".join(map(repr, values[:n]))
    return f"[{shown}]" if len(values) <= n else f"[{shown}, ...] ({len(values)} values)"
