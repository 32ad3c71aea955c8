"""Ask-and-tell algorithms: immutable settings, with the population in an explicit state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.problem.metric import Floats
from apq_tune.problem.problem import Evaluation, Problem
from apq_tune.searchers.select import duel, select
from apq_tune.searchers.vary import spread, vary
from apq_tune.space.encoding import Encoding, Genes, Genomes

NEIGHBOURS = 3
"""Maximum distance of the two parents in ranks along an objective."""


class State(NamedTuple):
    """State of an algorithm: its population, best first."""

    genomes: Genomes  # (p, n_genes), not canonical
    F: Floats  # (p, m)
    G: Floats  # (p, c)
    age: NDArray[np.intp]  # (p,) number of generations survived


def appended(state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:
    """State of an algorithm that keeps all candidates, in the order in which they were told.

    Args:
        state: State before; ``None`` at the beginning.
        genomes: New candidates, shape ``(n, n_genes)``.
        evaluation: Their scores.
    """
    new = State(genomes, evaluation.F, evaluation.G, np.zeros(len(genomes), np.intp))
    if state is None:
        return new
    return State(
        np.concatenate([state.genomes, new.genomes]),
        np.concatenate([state.F, new.F]),
        np.concatenate([state.G, new.G]),
        np.concatenate([state.age, new.age]),
    )


class Algorithm(Protocol):
    """Protocol of search algorithms."""

    @property
    def batch(self) -> int:
        """Number of genomes to ask for at once."""
        ...

    def ask(self, state: State | None, n: int, encoding: Encoding, rng: np.random.Generator) -> Genomes:
        """Propose genomes.

        Args:
            state: State returned by the last ``tell``; ``None`` before the first one.
            n: Number of genomes.
            encoding: Encoding of the search space.
            rng: Random number generator.

        Returns:
            Genomes of shape ``(n, n_genes)``, not necessarily canonical or distinct.
        """
        ...

    def tell(self, state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:
        """State after the evaluation of proposed genomes."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """Algorithm that has to know more of a search than what it is asked and told."""

    def prepared(self, problem: Problem, seed: int) -> Algorithm:
        """Copy for one search.

        Args:
            problem: Problem to solve, of which it may use the costs.
            seed: Seed of the search.
        """
        ...


@dataclass(frozen=True)
class RandomSearch:
    """Random search: uniform samples, the baseline of all algorithms."""

    batch: int = 100

    def ask(self, state: State | None, n: int, encoding: Encoding, rng: np.random.Generator) -> Genomes:  # noqa: ARG002
        """Sample genomes uniformly."""
        return encoding.sample(n, rng)

    def tell(self, state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:  # noqa: ARG002
        """Keep only the last batch."""
        return State(genomes, evaluation.F, evaluation.G, np.zeros(len(genomes), np.intp))


@dataclass(frozen=True)
class Evolution:
    """Constrained evolutionary search with truncation selection (Wang 2020, APQ) and aging (Real 2019).

    Unlike in APQ's published search, children of crossover stay in the population, and depth is a gene like any other.
    Defaults were chosen on once-for-all's predictor and tables (``benchmarks/ofa_search.py``).

    Attributes:
        population: Number of children per generation.
        parents: Number of survivors, out of parents and children together.
        crossover: Share of children that mix two parents.
        mutation: Smallest and largest expected number of mutated genes; each child draws its own, log-uniformly.
        max_age: Number of generations after which even the best candidates leave the population (though not the
            front); ``None`` for no limit.
    """

    population: int = 50
    parents: int = 50
    crossover: float = 0.9
    mutation: tuple[float, float] = (1.0, 8.0)
    max_age: int | None = 10

    def __post_init__(self) -> None:
        for name, count in (("population", self.population), ("parents", self.parents), ("max_age", self.max_age)):
            if count is not None and count < 1:
                raise ProblemError(f"{name} is {count}; give at least 1")
        if not 0 <= self.crossover <= 1:
            raise ProblemError(f"crossover is {self.crossover}; give a share between 0 and 1")
        low, high = self.mutation
        if not 0 < low <= high:
            raise ProblemError(f"mutation is {self.mutation}; give two positive numbers of genes, the smaller first")

    @property
    def batch(self) -> int:
        """Size of a generation."""
        return self.population

    def ask(self, state: State | None, n: int, encoding: Genes, rng: np.random.Generator) -> Genomes:
        """Sample networks of all sizes at first, then vary the winners of tournaments."""
        if state is None:
            return spread(n, encoding, rng)
        first, second = state.genomes[self._mates(state, n, rng)]
        return vary(first, second, encoding, rng, crossover=self.crossover, mutation=self.mutation)

    def _mates(self, state: State, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Rows of the winners of binary tournaments, shape ``(2, n)``; the population is sorted by fitness."""
        return np.asarray(rng.integers(len(state.genomes), size=(2, 2, n)).min(axis=0))

    def tell(self, state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:
        """Select the next population from the old one and its children."""
        F, G, age = evaluation.F, evaluation.G, np.zeros(len(genomes), np.intp)
        if state is not None:
            young = np.flatnonzero(state.age < (self.max_age or np.inf))
            genomes = np.concatenate([state.genomes[young], genomes])
            F, G = np.concatenate([state.F[young], F]), np.concatenate([state.G[young], G])
            age = np.concatenate([state.age[young] + 1, age])
        best = select(F, G, self.parents)
        return State(genomes[best], F[best], G[best], age[best])


@dataclass(frozen=True)
class NSGA2(Evolution):
    """NSGA-II (Deb 2002) with neighbourhood crossover (NCGA, Watanabe 2002).

    Children of two networks of very different size are rarely good, whereas neighbours along an objective share what
    works at their size. The population is small, since the front is archived outside of it. Defaults were chosen with
    ``benchmarks/front_quality.py``.
    """

    population: int = 20
    parents: int = 20
    mutation: tuple[float, float] = (1.0, 2.0)
    max_age: int | None = None

    def _mates(self, state: State, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Rows of tournament winners and of their neighbours along an objective that each call draws, ``(2, n)``."""
        winners = duel(state.F, state.G, n, rng)
        by_objective = np.argsort(state.F[:, rng.integers(state.F.shape[1])], kind="stable")
        place = np.argsort(by_objective)
        away = rng.integers(1, NEIGHBOURS + 1, n) * rng.choice([-1, 1], n)
        return np.stack([winners, by_objective[np.clip(place[winners] + away, 0, len(place) - 1)]])
