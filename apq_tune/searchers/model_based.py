"""Model-based algorithm for expensive evaluations: Gaussian processes at first, NSGA-II after many evaluations."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import numpy as np

from apq_tune.errors import ProblemError
from apq_tune.problem.problem import Evaluation, Problem
from apq_tune.searchers.algorithms import NSGA2, State, appended
from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.propose import ProposalSettings, propose
from apq_tune.searchers.model.surrogates import Observations
from apq_tune.searchers.select import select
from apq_tune.space.encoding import Encoding, Genomes

MODELLED = 300
"""Number of evaluations up to which models are used: by then nearly the whole front is found, and proposals have become
slow."""


@dataclass(frozen=True)
class ModelBased:
    """Bayesian optimization by expected hypervolume improvement (Emmerich 2011).

    Each objective and each constraint is modelled by a Gaussian process of its own, refitted as results come in. After
    ``modelled`` evaluations, candidates are proposed by NSGA-II from the best of all evaluated ones.
    ``docs/guides/samplers.md`` compares the algorithms by number of evaluations.

    Attributes:
        initial: Number of mutually distant candidates that are evaluated before models are fitted.
        modelled: Number of evaluations up to which models are used.
        pool: Number of candidates that are scored for each proposal.
        batch: Number of genomes proposed at once; 1 is best unless evaluations run in parallel.
        exact: Objectives and constraints that are computed by cost models; by default all are modelled.
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
        """Algorithm that computes the costs of a problem exactly instead of modelling them."""
        return cls(exact=Exact.of(problem))

    def ask(self, state: State | None, n: int, encoding: Encoding, rng: np.random.Generator) -> Genomes:
        """Propose mutually distant candidates at first, then those with the greatest expected improvement."""
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
        """Append the batch to all previous evaluations."""
        return appended(state, genomes, evaluation)


@lru_cache(maxsize=8)
def columns_of(encoding: Hashable) -> Columns:
    """Cached features of a search space, whose scaling takes as long as a proposal."""
    return Columns.of(cast(Encoding, encoding))
