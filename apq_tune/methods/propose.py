"""Proposal of candidates for training by searches with an ensemble of predictors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq_tune.methods.rivals import Rivals
from apq_tune.predict.ensemble import Ensemble
from apq_tune.problem.metric import Floats, FunctionMetric, Metric
from apq_tune.problem.problem import Constraint, Objective, Problem
from apq_tune.searchers import search
from apq_tune.searchers.batch import choose_batch, similarity
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding

SEARCHES = 4
"""Divisor of the number of candidates that the search of a run scores, for each of the inner searches of a round."""


@dataclass(frozen=True)
class Proposals:
    """Inner searches of one round; each scores ``n_evaluations`` distinct candidates.

    Attributes:
        encoding: Encoding of the search space.
        ensemble: Predictors of the loss.
        fp32: Predictor of the full-precision loss.
        constraints: Constraints on candidates.
        cost: Cost that is traded off against the loss.
        known: Canonical genomes of candidates that are already trained, shape ``(k, n_genes)``.
        n_evaluations: Number of distinct candidates that each search scores.
        seed: Seed of the searches.
    """

    encoding: GeneEncoding
    ensemble: Ensemble
    fp32: Metric
    constraints: tuple[Constraint, ...]
    cost: Metric
    known: Genomes
    n_evaluations: int
    seed: int

    def batch(self, n: int, *, first: bool) -> tuple[Genomes, list[str]]:
        """Choose candidates to train.

        Args:
            n: Number of candidates; fewer are returned if the searches find fewer.
            first: Whether the baselines come first, the most promising before the others: the best network at each
                uniform bit-width, and the results of staged searches.

        Returns:
            New, distinct canonical genomes, shape ``(<= n, n_genes)``, and the search that found each of them:
            ``uniform``, ``staged`` or ``joint``.

        Raises:
            ProblemError: If no new candidate is feasible.
        """
        rivals = self.rivals() if first else []
        rivals.sort(key=lambda rival: float(self.ensemble(rival[0][None])[0]))
        pool = np.concatenate([np.array([g for g, _ in rivals]).reshape(-1, self.encoding.n_genes), self.pool()])
        _, index = np.unique(pool, axis=0, return_index=True)
        index.sort()
        names = [([name for _, name in rivals] + ["joint"] * len(pool))[row] for row in index]
        pool = pool[index].astype(np.int16)
        features = self.encoding.features(pool)
        mean, std = self.ensemble.moments(pool)
        n_rivals = sum(name != "joint" for name in names)
        rows = choose_batch(mean, std, similarity(features, features), n, first=range(n_rivals))
        return pool[rows], [names[row] for row in rows]

    def rivals(self) -> list[tuple[Genomes, str]]:
        """New candidates of the baseline searches, each with ``uniform`` or ``staged``."""
        own = Rivals(self.encoding, self.ensemble, self.fp32, self.constraints, self.n_evaluations, self.seed)
        uniform, staged = own.uniform((self._new,)), own.staged((self._new,))
        return [*((genome, "uniform") for genome in uniform), *((genome, "staged") for genome in staged[:1])]

    def pool(self) -> Genomes:
        """Best candidates by each member, and the front of lower bounds against the cost, shape ``(p, n_genes)``."""
        limits = (*self.constraints, self._new)
        bound = FunctionMetric("loss_bound", "nats", self.ensemble.lower_bound)
        problems = [Problem(self.encoding, [Objective(member)], limits) for member in self.ensemble.members]
        problems.append(Problem(self.encoding, [Objective(bound), Objective(self.cost)], limits))
        fronts = [search(p, n_evaluations=self.n_evaluations, seed=self.seed) for p in problems]
        return np.concatenate([self.encoding.encode(front.candidates, check=False) for front in fronts])

    @property
    def _new(self) -> Constraint:
        known = {genome.tobytes() for genome in self.known.astype(np.int16)}

        def measured(genomes: Genomes) -> Floats:
            return np.array([genome.tobytes() in known for genome in genomes.astype(np.int16)], np.float64)

        return Constraint(FunctionMetric("measured_before", "", measured), 0.0)


def searches_of_round(n_evaluations: int, seed: int, number: int) -> tuple[int, int]:
    """Number of candidates that each inner search of a round scores, and the seed of these searches.

    Args:
        n_evaluations: Number of candidates that the search of a run scores.
        seed: Random seed.
        number: Number of the round.
    """
    own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return max(1, n_evaluations // SEARCHES), own
