"""The model-based searcher, for evaluations that cost minutes: Gaussian processes, and NSGA-II once they are many."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import numpy as np

from apq_tune.errors import ProblemError
from apq_tune.problem.problem import Evaluation, Problem
from apq_tune.searchers.algorithms import NSGA2, State
from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.propose import Observations, ProposalSettings, propose
from apq_tune.searchers.select import select
from apq_tune.space.encoding import Encoding, Genomes

MODELLED = 300
"""Evaluations up to which a model pays: by then it has found nearly all of the front, and each proposal takes longer
than the one before."""


@dataclass(frozen=True)
class ModelBased:
    """Measure next what is expected to add most to the front (expected hypervolume improvement, Emmerich 2011).

    Each objective and each constraint has a Gaussian process of its own, refitted as results come in. After
    ``modelled`` evaluations the children are those of NSGA-II, whose parents are the best of all that was measured.
    Which searcher to take for how many evaluations: ``docs/guides/samplers.md``.

    Attributes:
        initial: candidates that are measured before a model is asked, as different from each other as can be.
        modelled: evaluations up to which the model is asked.
        pool: candidates that are scored for each proposal.
        batch: genomes proposed at once; one is best, unless several are measured side by side.
        exact: objectives and constraints that cost models compute; by default all count as expensive.
    """

    initial: int = ProposalSettings.initial
    modelled: int = MODELLED
    pool: int = ProposalSettings.pool
    batch: int = 1
    exact: Exact | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        ProposalSettings(self.initial, self.pool)
        for name, count in (("modelled", self.modelled), ("batch", self.batch)):
            if count < 1:
                raise ProblemError(f"{name} is {count}; give at least 1")

    @classmethod
    def of(cls, problem: Problem) -> ModelBased:
        """With the problem's own cost models instead of processes that would have to learn them."""
        return cls(exact=Exact.of(problem))

    def ask(self, state: State | None, n: int, encoding: Encoding, rng: np.random.Generator) -> Genomes:
        """Candidates unlike each other at first, then the most promising ones."""
        if state is not None and len(state.genomes) >= self.modelled:
            best = select(state.F, state.G, NSGA2.parents)
            parents = State(state.genomes[best], state.F[best], state.G[best], state.age[best])
            return NSGA2().ask(parents, n, encoding, rng)
        none = np.zeros((0, len(encoding.n_choices)), np.int16)
        known = Observations(none, np.zeros((0, 1)), np.zeros((0, 0)), none)
        if state is not None:
            known = Observations(encoding.canonicalise(state.genomes), state.F, state.G, none)
        exact = None if state is None else self.exact
        return propose(
            known,
            n,
            encoding,
            columns_of(cast(Hashable, encoding)),
            ProposalSettings(self.initial, self.pool),
            rng,
            exact,
        )

    def tell(self, state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:
        """Remember everything."""
        new = State(genomes, evaluation.F, evaluation.G, np.zeros(len(genomes), np.intp))
        if state is None:
            return new
        return State(
            np.concatenate([state.genomes, new.genomes]),
            np.concatenate([state.F, new.F]),
            np.concatenate([state.G, new.G]),
            np.concatenate([state.age, new.age]),
        )


@lru_cache(maxsize=8)
def columns_of(encoding: Hashable) -> Columns:
    """Of a space; measuring the spread of a network's features takes as long as a proposal."""
    return Columns.of(cast(Encoding, encoding))
