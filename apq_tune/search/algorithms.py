"""Searchers: settings in a frozen object, the population in a state that is passed through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from apq_tune.encoding import Genomes, Genotype
from apq_tune.problem import Evaluation, Floats
from apq_tune.search.select import select
from apq_tune.search.vary import vary


class State(NamedTuple):
    """The parents, best first; empty before the first ``tell``."""

    genomes: Genomes  # (p, n_genes)
    F: Floats  # (p, m)
    G: Floats  # (p, c)


class Algorithm(Protocol):
    """How a searcher proposes genomes and what it keeps of their evaluations."""

    @property
    def batch(self) -> int:
        """Genomes asked for at once."""
        ...

    def ask(self, state: State | None, n: int, encoding: Genotype, rng: np.random.Generator) -> Genomes:
        """Propose ``(n, n_genes)``; duplicates are the caller's business."""
        ...

    def tell(self, state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:
        """The state that follows."""
        ...


@dataclass(frozen=True)
class RandomSearch:
    """Uniform samples: the baseline that every searcher must beat."""

    batch: int = 100

    def ask(self, state: State | None, n: int, encoding: Genotype, rng: np.random.Generator) -> Genomes:  # noqa: ARG002
        """Sample afresh."""
        return encoding.sample(n, rng)

    def tell(self, state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:  # noqa: ARG002
        """Remember nothing but the last batch."""
        return State(genomes, evaluation.F, evaluation.G)


@dataclass(frozen=True)
class Evolution:
    """Constrained evolution: keep the best, vary them (Real 2019; Wang 2020, APQ, with its crossover children kept).

    Attributes:
        population: children in each generation.
        parents: how many survive, out of parents and children together.
        crossover: share of children that mix two parents.
        mutation: chance of each gene to be redrawn.
    """

    population: int = 100
    parents: int = 25
    crossover: float = 0.5
    mutation: float = 0.1

    @property
    def batch(self) -> int:
        """One generation."""
        return self.population

    def ask(self, state: State | None, n: int, encoding: Genotype, rng: np.random.Generator) -> Genomes:
        """Sample at first, then vary the parents."""
        if state is None:
            return encoding.sample(n, rng)
        return vary(state.genomes, n, encoding, rng, crossover=self.crossover, mutation=self.mutation)

    def tell(self, state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:
        """Select the next parents out of the old ones and their children."""
        F, G = evaluation.F, evaluation.G
        if state is not None:
            genomes = np.concatenate([state.genomes, genomes])
            F, G = np.concatenate([state.F, F]), np.concatenate([state.G, G])
        best = select(F, G, self.parents)
        return State(genomes[best], F[best], G[best])


@dataclass(frozen=True)
class NSGA2(Evolution):
    """NSGA-II (Deb 2002): the same loop with as many parents as children, chosen by binary tournament."""

    parents: int = 100
    crossover: float = 0.9
    mutation: float = 0.05

    def ask(self, state: State | None, n: int, encoding: Genotype, rng: np.random.Generator) -> Genomes:
        """Sample at first, then vary the winners of tournaments; parents are kept best first."""
        if state is None:
            return encoding.sample(n, rng)
        winners = rng.integers(len(state.genomes), size=(2, max(n, 2))).min(axis=0)
        mating = State(state.genomes[winners], state.F[winners], state.G[winners])
        return super().ask(mating, n, encoding, rng)
