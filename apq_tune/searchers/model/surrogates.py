"""Surrogates of all objectives and constraints, and the expected improvement that they promise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from apq_tune.problem.pareto import Floats
from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.gain import ExactValues, ModelledValues, ObjectiveDistribution, expected_gain
from apq_tune.searchers.model.process import ARDKernel, Posterior, likeliest
from apq_tune.searchers.model.warp import Warp
from apq_tune.space.encoding import Genomes

REFIT = 5
"""Number of observations between fits of the kernel hyperparameters, from ``4 * REFIT`` observations on."""

MOST_FOR_KERNEL = 150
"""Maximum number of observations on which kernel hyperparameters are fitted."""


class Observations(NamedTuple):
    """Measured candidates, in the order of their results, and pending ones.

    Attributes:
        genomes: Canonical genomes of the measured candidates, shape ``(n, n_genes)``.
        F: Objective values, minimised, not finite where not measured, shape ``(n, n_objectives)``.
        G: Constraint violations, feasible where ``<= 0`` or unknown, shape ``(n, n_constraints)``.
        pending: Canonical genomes of the pending candidates, shape ``(p, n_genes)``.
    """

    genomes: Genomes
    F: Floats
    G: Floats
    pending: Genomes


class _Surrogate(NamedTuple):
    """Fitted surrogate of one objective or constraint."""

    features: Floats  # (n, n_features)
    target: Floats  # (n,), standardised
    kernel: ARDKernel
    warp: Warp


@lru_cache(maxsize=32)
def _kernel(columns: Columns, genomes: bytes, target: bytes) -> ARDKernel:
    """Fitted kernel, cached for several proposals."""
    values = np.frombuffer(target)
    rows = np.frombuffer(genomes, np.int16).reshape(len(values), -1)
    return likeliest(columns(rows), columns.groups, values)


def _fitted(columns: Columns, genomes: Genomes, values: Floats) -> _Surrogate | None:
    """Fit a surrogate to the finite values; ``None`` if there are fewer than two."""
    usable = np.isfinite(values)
    genomes, values = genomes[usable], values[usable]
    n = len(values)
    if n < 2:
        return None
    early = n if n < 4 * REFIT else n // REFIT * REFIT
    rows = np.unique(np.linspace(0, early - 1, min(early, MOST_FOR_KERNEL)).round().astype(int))
    kernel = _kernel(columns, genomes[rows].tobytes(), Warp.of(values[rows])(values[rows]).tobytes())
    warp = Warp.of(values)
    return _Surrogate(columns(genomes), warp(values), kernel, warp)


class Surrogates(NamedTuple):
    """Fitted surrogates of all objectives and constraints."""

    known: Observations
    columns: Columns
    exact: Exact
    objectives: Sequence[_Surrogate | None]
    constraints: Sequence[_Surrogate | None]
    front: Floats
    reference: Floats

    @classmethod
    def of(cls, known: Observations, columns: Columns, exact: Exact) -> Surrogates:
        """Fit surrogates of what is not known exactly."""
        objectives = [
            None if score is not None else _fitted(columns, known.genomes, known.F[:, place])
            for place, score in enumerate(exact.objectives)
        ]
        constraints = [
            None if score is not None else _fitted(columns, known.genomes, known.G[:, place])
            for place, score in enumerate(exact.constraints)
        ]
        measured = known.F[np.isfinite(known.F).all(axis=1)]
        front = known.F[np.isfinite(known.F).all(axis=1) & ~(known.G > 0).any(axis=1)]
        reference = measured.max(axis=0) if len(measured) else np.ones(known.F.shape[1])
        return cls(known, columns, exact, objectives, constraints, front, reference)

    def _distributions(self, pool: Genomes) -> tuple[list[ObjectiveDistribution], list[ObjectiveDistribution]]:
        """Distributions of objectives and constraints for pending candidates and a pool.

        Those of the objectives are conditioned on the pending candidates being measured at their predicted values.
        """
        every = np.concatenate([self.known.pending, pool])
        features = self.columns(every)
        both: list[list[ObjectiveDistribution]] = []
        for scores, outputs in (
            (self.exact.objectives, self.objectives),
            (self.exact.constraints, self.constraints),
        ):
            own: list[ObjectiveDistribution] = []
            for score, output in zip(scores, outputs, strict=True):
                if score is not None:
                    own.append(ExactValues(score(every)))
                elif output is None:  # without observations all candidates are equally promising
                    own.append(ExactValues(np.zeros(len(every))))
                else:
                    posterior = Posterior.of(
                        output.kernel, self.columns.groups, output.features, output.target, features
                    )
                    own.append(ModelledValues(posterior, output.warp))
            both.append(own)
        objectives, constraints = both
        for row in range(len(self.known.pending)):
            objectives = [distribution.condition_on_mean(row) for distribution in objectives]
        return objectives, constraints

    def _scores(
        self, objectives: Sequence[ObjectiveDistribution], constraints: Sequence[ObjectiveDistribution], front: Floats
    ) -> Floats:
        """Expected improvement times the probability of feasibility."""
        kept = np.ones(len(objectives[0].middle()))
        for distribution in constraints:
            kept *= _probability(distribution)
        if len(front) == 0:
            return kept
        gain = expected_gain(objectives, front, self.reference)
        if not (gain * kept).max(initial=0.0) > 0:  # no improvement is expected: explore by uncertainty
            gain = np.sum([_uncertainty(distribution) for distribution in objectives], axis=0) * 1e-300
        return np.asarray(gain * kept)

    def _assumed(self, objectives: Sequence[ObjectiveDistribution]) -> Floats:
        """Front with the predicted objectives of pending candidates added."""
        n = len(self.known.pending)
        return np.concatenate(
            [self.front, np.stack([distribution.middle()[:n] for distribution in objectives], axis=1)]
        )

    def score(self, pool: Genomes) -> Floats:
        """Acquisition values of a pool, shape ``(m,)``."""
        if len(pool) == 0:
            return np.zeros(0)
        objectives, constraints = self._distributions(pool)
        n = len(self.known.pending)
        front = self._assumed(objectives) if len(self.front) else self.front
        return self._scores(objectives, constraints, front)[n:]

    def batch(self, pool: Genomes, n: int) -> list[int]:
        """Choose rows of a pool greedily, each conditioned on the predicted values of those chosen before."""
        first = len(self.known.pending)
        objectives, constraints = self._distributions(pool)
        front = self._assumed(objectives) if len(self.front) else self.front
        chosen: list[int] = []
        while len(chosen) < min(n, len(pool)):
            scores = self._scores(objectives, constraints, front)
            scores[:first] = -np.inf
            scores[[first + row for row in chosen]] = -np.inf
            row = int(scores.argmax())
            chosen.append(row - first)
            if len(front):
                front = np.vstack([front, [distribution.middle()[row] for distribution in objectives]])
            objectives = [distribution.condition_on_mean(row) for distribution in objectives]
        return chosen


def _probability(distribution: ObjectiveDistribution) -> Floats:
    """Probability that a constraint is satisfied, shape ``(m,)``."""
    if isinstance(distribution, ModelledValues):
        posterior = distribution.posterior
        limit = float(distribution.warp(np.zeros(1))[0])
        return np.asarray(ndtr((limit - posterior.mean) / np.sqrt(posterior.variance)))
    return (distribution.middle() <= 0).astype(np.float64)


def _uncertainty(distribution: ObjectiveDistribution) -> Floats:
    return (
        np.sqrt(distribution.posterior.variance)
        if isinstance(distribution, ModelledValues)
        else np.zeros(len(distribution.middle()))
    )
