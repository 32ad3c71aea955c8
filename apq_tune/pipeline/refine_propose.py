"""Where candidates for real training come from: inner searches with an ensemble of predictors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.errors import ProblemError
from apq_tune.genotype import Genomes
from apq_tune.predict.ensemble import Ensemble
from apq_tune.problem import Constraint, Floats, FunctionMetric, Metric, Objective, Problem
from apq_tune.search import search
from apq_tune.search.batch import choose_batch, similarity


@dataclass(frozen=True)
class Proposals:
    """Inner searches of one round; each scores ``n_evaluations`` distinct candidates.

    Attributes:
        encoding: of the space.
        ensemble: predicts the loss.
        constraints: to keep.
        cost: that a front is searched against.
        known: ``(k, n_genes)`` canonical genomes that need no training any more.
        n_evaluations: of each search.
        seed: of the searches.
    """

    encoding: Encoding
    ensemble: Ensemble
    constraints: tuple[Constraint, ...]
    cost: Metric
    known: Genomes
    n_evaluations: int
    seed: int

    def batch(self, n: int, *, uniform: bool) -> tuple[Genomes, list[int]]:
        """Choose ``n`` candidates to train.

        Args:
            n: how many; fewer if the searches find fewer.
            uniform: whether the best ones of uniform bit-widths come first, the most promising width first.

        Returns:
            ``(<= n, n_genes)`` distinct canonical genomes, none of them known; and the uniform width of each, 0 where
            a search proposed it.

        Raises:
            ProblemError: if nothing new keeps the constraints.
        """
        own = self.uniform() if uniform else {}
        first = sorted(own, key=lambda bits: float(self.ensemble(own[bits][None])[0]))
        pool = np.concatenate([np.array([own[bits] for bits in first]).reshape(-1, self.encoding.n_genes), self.pool()])
        _, index = np.unique(pool, axis=0, return_index=True)
        pool = pool[np.sort(index)].astype(np.int16)
        features = self.encoding.features(pool)
        mean, std = self.ensemble.moments(pool)
        rows = choose_batch(mean, std, similarity(features, features), n, first=range(len(first)))
        return pool[rows], [first[row] if row < len(first) else 0 for row in rows]

    def uniform(self) -> dict[int, Genomes]:
        """Width -> ``(n_genes,)``: the predicted best new network at each width that keeps the constraints."""
        found = {}
        for bits in self.encoding.uniform_bits():
            at = _AtBits(self.encoding, bits)
            limits = tuple(replace(c, metric=at.of(c.metric)) for c in (*self.constraints, self._new, self._allowed))
            problem = Problem(self.encoding, [Objective(at.of(self.ensemble))], limits)
            try:
                front = search(problem, n_evaluations=self.n_evaluations, seed=self.seed)
            except ProblemError:  # no network is small enough at this width, or all are known
                continue
            found[bits] = self.encoding.at_bits(self.encoding.encode(front.candidates[:1], check=False), bits)[0]
        return found

    def pool(self) -> Genomes:
        """``(p, n_genes)``: the best in the eyes of each member, and the front of lower bounds against the cost."""
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

    @property
    def _allowed(self) -> Constraint:
        def forbidden(genomes: Genomes) -> Floats:
            return (~self.encoding.is_allowed(genomes)).astype(np.float64)

        return Constraint(FunctionMetric("forbidden", "", forbidden), 0.0)


@dataclass(frozen=True)
class _AtBits:
    """Metrics of candidates whose bits are overruled by one width."""

    encoding: Encoding
    bits: int

    def of(self, metric: Metric) -> FunctionMetric:
        return FunctionMetric(metric.name, metric.unit, lambda g: metric(self.encoding.at_bits(g, self.bits)))
