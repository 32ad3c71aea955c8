"""Searches with a predictor under the limits, the same for the stages of a run and for a method on a bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from apq_tune.predict import Floats, Pairs
from apq_tune.problem.front import Front
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint, Objective, Problem
from apq_tune.searchers import search
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding

EVALUATIONS = 10_000
"""Number of candidates that a predictor scores, the default of a run."""


def search_best(
    encoding: GeneEncoding,
    loss: Metric,
    limits: Sequence[Constraint],
    shown: Sequence[Metric] = (),
    *,
    n_evaluations: int = EVALUATIONS,
    seed: int,
) -> Front:
    """Search for the candidate with the lowest predicted loss.

    Args:
        encoding: Encoding of the search space.
        loss: Predictor of the loss.
        limits: Constraints on candidates.
        shown: Further metrics of the result.
        n_evaluations: Number of distinct candidates that are scored.
        seed: Random seed.
    """
    return search(Problem(encoding, [Objective(loss)], limits, shown), n_evaluations=n_evaluations, seed=seed)


def front_cost(limits: Sequence[Constraint], otherwise: Metric) -> Metric:
    """Cost that fronts trade off against loss: the metric of the first upper bound, or ``otherwise``."""
    return next((limit.metric for limit in limits if limit.sense == "<="), otherwise)


@dataclass(frozen=True)
class Recorder:
    """Metric that remembers all candidates whose values were asked for.

    Attributes:
        metric: Metric that is recorded.
    """

    metric: Metric
    _asked: list[Pairs] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.metric.name

    @property
    def unit(self) -> str:
        """Unit of the metric."""
        return self.metric.unit

    def __call__(self, genomes: Genomes) -> Floats:
        """Values of the metric, shape ``(n,)``."""
        values = self.metric(genomes)
        self._asked.append(Pairs(genomes, values))
        return values

    def least(self, n: int) -> Pairs:
        """The ``n`` recorded candidates with the least values, best first."""
        genomes, values = (np.concatenate(parts) for parts in zip(*self._asked, strict=True))
        rows = np.argsort(values, kind="stable")[:n]
        return Pairs(np.asarray(genomes[rows], np.int16), values[rows])
