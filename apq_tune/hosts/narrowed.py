"""Restriction of a search space to a subset of the values of each gene."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.encoding import Genomes, draw
from apq_tune.space.gene import Gene
from apq_tune.space.parameters import Space

MAX_REPAIRS = 100
"""Maximum number of rounds of redrawing forbidden combinations: single genes at first, whole genomes from half on."""

MAX_COMBINATIONS = 200_000
"""Maximum number of combinations of genes, inactive ones included, that ``enumerate`` visits."""


@dataclass(frozen=True)
class NarrowedSpace(Space):
    """Search space with restricted values of its parameters.

    Attributes:
        whole: Unrestricted search space.
        choices: Allowed values of every gene by name, in the order of the unrestricted space.
    """

    whole: Any
    choices: Mapping[str, tuple[Any, ...]]

    @property
    def name(self) -> str:
        """Name of the search space."""
        return str(self.whole.name)

    @functools.cached_property
    def genes(self) -> tuple[Gene, ...]:
        """The genes of the whole space with the values that may be tried."""
        return tuple(gene._replace(values=self.choices[gene.name]) for gene in self.whole.genes)

    def candidate_of(self, values: Mapping[str, Any]) -> Any:
        """Candidate as in the unrestricted space; repair may give it values that are not allowed here."""
        return self.whole.candidate_of(values)

    def values_of(self, candidate: Any) -> dict[str, Any]:
        """Values of a candidate by gene name; inactive genes have their first allowed value."""
        values = self.whole.values_of(candidate)
        return {name: value if value in self.choices[name] else self.choices[name][0] for name, value in values.items()}


class NarrowedEncoding:
    """Encoding of a restricted search space, whose genes enumerate the allowed values."""

    def __init__(self, encoding: Any, choices: Mapping[str, Sequence[Any]]) -> None:
        """Restrict an encoding.

        Args:
            encoding: Encoding of the unrestricted space, with ``names`` and ``choices``.
            choices: Allowed values by gene name; other genes keep all their values.

        Raises:
            CandidateError: If no candidate of the space has allowed values only.
        """
        self._whole = encoding
        self.names: tuple[str, ...] = tuple(encoding.names)
        kept = [
            [value for value in own if value in choices.get(name, own)]
            for name, own in zip(self.names, encoding.choices, strict=True)
        ]
        self.choices: Sequence[tuple[Any, ...]] = [tuple(values) for values in kept]
        self.n_choices = np.array([len(values) for values in kept], np.int16)
        self._places = np.zeros((len(kept), max(map(len, encoding.choices))), np.int16)  # here -> in the whole space
        self._here = np.zeros_like(self._places)  # and back; what is left out is 0, as what is inert
        for gene, (values, own) in enumerate(zip(kept, encoding.choices, strict=True)):
            places = [own.index(value) for value in values]
            self._places[gene, : len(places)] = places
            self._here[gene, places] = np.arange(len(places))
        self.space = NarrowedSpace(encoding.space, dict(zip(self.names, self.choices, strict=True)))
        try:
            self.sample(1, np.random.default_rng(0))
        except SpaceError:
            given = ", ".join(f"{name} {list(values)}" for name, values in choices.items())
            raise CandidateError(f"config: {self.name} forbids every candidate with {given}; allow more") from None

    @property
    def name(self) -> str:
        """Name of the search space."""
        return str(self._whole.name)

    def widen(self, genomes: Genomes) -> Genomes:
        """Convert genomes of the restricted space to the unrestricted one."""
        return np.asarray(self._places[np.arange(len(self.names)), genomes], np.int16)

    def _narrow(self, genomes: Genomes) -> Genomes:
        """Inverse of ``widen`` for canonical genomes, unchecked."""
        return np.asarray(self._here[np.arange(len(self.names)), genomes], np.int16)

    def size(self) -> int:
        """Number of distinct candidates, or an upper bound if there are too many to count."""
        combinations: int = math.prod(self.n_choices.tolist())
        if combinations > MAX_COMBINATIONS:
            return min(combinations, int(self._whole.size()))
        return len(self._all)

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Map genomes of equal candidates to the same genome."""
        return self._narrow(self._whole.canonicalise(self.widen(genomes)))

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """Sample ``n`` canonical, allowed genomes."""
        return self.canonicalise(self.repair(draw(self.n_choices, n, rng), rng))

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Replace forbidden combinations of genes by random allowed values.

        Raises:
            SpaceError: If hardly any combination of the allowed values is permitted by the space.
        """
        genomes = genomes.copy()
        for round_ in range(MAX_REPAIRS):
            wide = self.widen(genomes)
            wrong = self._whole.repair(wide, rng) != wide
            if not wrong.any():
                return genomes
            if round_ >= MAX_REPAIRS // 2:
                wrong = np.repeat(wrong.any(axis=1, keepdims=True), genomes.shape[1], axis=1)
            genomes = np.where(wrong, draw(self.n_choices, len(genomes), rng), genomes)
        raise SpaceError(f"{self.name}: hardly any candidate with the given values is allowed; allow more values")

    @property
    def genes(self) -> tuple[Gene, ...]:
        """Genes with the values that may be tried, shape ``(n_genes,)``."""
        return self.space.genes

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes affect the candidate, shape ``(n, n_genes)``."""
        return np.asarray(self._whole.active_genes(self.widen(genomes)))

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genomes contain no forbidden combination, shape ``(n,)``."""
        return np.asarray(self._whole.is_allowed(self.widen(genomes)))

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw random values for inactive genes."""
        wide = self.widen(genomes)
        inert = self._whole.fill_inert(wide, rng) != wide
        return np.where(inert, draw(self.n_choices, len(genomes), rng), genomes)

    def uniform_policies(self) -> Genomes:
        """Uniform policies of the unrestricted space that have allowed values only."""
        wide = self._whole.uniform_policies()
        genomes = self._narrow(wide)
        return np.asarray(genomes[(self._whole.canonicalise(self.widen(genomes)) == wide).all(axis=1)], np.int16)

    @functools.cached_property
    def _all(self) -> Genomes:
        every: Genomes = np.indices(self.n_choices.tolist()).reshape(len(self.n_choices), -1).T.astype(np.int16)
        wide = np.unique(self._whole.canonicalise(self.widen(every)), axis=0)
        wide = wide[(self._whole.repair(wide, np.random.default_rng(0)) == wide).all(axis=1)]
        return self._narrow(wide)

    def enumerate(self, limit: int = MAX_COMBINATIONS) -> Genomes:
        """All candidates as canonical genomes.

        Raises:
            SpaceError: If there are more than ``limit`` combinations of genes.
        """
        combinations: int = math.prod(self.n_choices.tolist())
        if combinations > min(limit, MAX_COMBINATIONS):
            raise SpaceError(f"{self.name}: {combinations} combinations are too many to enumerate (limit {limit})")
        return self._all

    def features(self, genomes: Genomes) -> NDArray[np.float32]:
        """Features as in the unrestricted space."""
        return np.asarray(self._whole.features(self.widen(genomes)), np.float32)

    def decode(self, genomes: Genomes) -> Any:
        """Candidates of genomes of shape ``(n, n_genes)``."""
        return self._whole.decode(self.widen(genomes))

    def encode(self, candidates: Sequence[Any]) -> Genomes:
        """Inverse of ``decode``.

        Raises:
            CandidateError: If a candidate is not in the space or has a value that is not allowed.
        """
        wide = self._whole.encode(candidates)
        genomes = self._narrow(wide)
        wrong = self._whole.canonicalise(self.widen(genomes)) != wide
        if wrong.any():
            self._refuse(*np.argwhere(wrong)[0].tolist())
        return genomes

    def _refuse(self, candidate: int, gene: int) -> NoReturn:
        raise CandidateError(
            f"candidate {candidate}: {self.names[gene]} is none of {list(self.choices[gene])}, "
            "the only values that may be tried"
        )
