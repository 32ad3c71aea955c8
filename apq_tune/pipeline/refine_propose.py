"""Where candidates for real training come from: inner searches with an ensemble of predictors."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.errors import ProblemError
from apq_tune.genotype import Genomes
from apq_tune.methods.subspace import ARCHITECTURE_FIELDS, Subspace, fixed
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
        fp32: predicts the full-precision loss.
        constraints: to keep.
        cost: that a front is searched against.
        known: ``(k, n_genes)`` canonical genomes that need no training any more.
        n_evaluations: of each search.
        seed: of the searches.
    """

    encoding: Encoding
    ensemble: Ensemble
    fp32: Metric
    constraints: tuple[Constraint, ...]
    cost: Metric
    known: Genomes
    n_evaluations: int
    seed: int

    def batch(self, n: int, *, first: bool) -> tuple[Genomes, list[str]]:
        """Choose ``n`` candidates to train.

        Args:
            n: how many; fewer if the searches find fewer.
            first: whether the obvious rivals come first, the most promising before the others: the best network at
                each uniform bit-width, and what separate stages would choose.

        Returns:
            ``(<= n, n_genes)`` distinct canonical genomes, none of them known; and how each was found: ``uniform``,
            ``staged`` or ``joint``.

        Raises:
            ProblemError: if nothing new keeps the constraints.
        """
        rivals = [(genome, "uniform") for genome in self.uniform()] if first else []
        if first:
            rivals += [(genome, "staged") for genome in self.staged()]
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

    def uniform(self) -> list[Genomes]:
        """``(n_genes,)`` each: the predicted best new network at every width that keeps the constraints."""
        found = []
        for bits in self.encoding.uniform_bits():
            network = self._best_at(bits, self.ensemble, (*self.constraints, self._new))
            if network is not None:
                found.append(self.encoding.at_bits(network[None], bits)[0])
        return found

    def staged(self) -> list[Genomes]:
        """``(n_genes,)``, the predicted best new policy for a network that was chosen without knowing of bits.

        At every uniform width the network of the least full-precision loss that keeps the constraints is chosen, then
        bits for its layers (as ``apq_tune.methods.staged`` does with measurements); the best of these, if any is new.
        """
        found = []
        for bits in self.encoding.uniform_bits():
            network = self._best_at(bits, self.fp32, self.constraints)
            if network is None:
                continue
            part = Subspace(self.encoding, fixed(self.encoding, network, (*ARCHITECTURE_FIELDS, "channels")))
            problem = part.problem(self.ensemble, (*self.constraints, self._new))
            with contextlib.suppress(ProblemError):  # all its policies are known
                front = search(problem, n_evaluations=self.n_evaluations, seed=self.seed)
                found.append(self.encoding.encode(front.candidates[:1], check=False)[0])
        return sorted(found, key=lambda genome: float(self.ensemble(genome[None])[0]))[:1]

    def _best_at(self, bits: int, metric: Metric, limits: Sequence[Constraint]) -> Genomes | None:
        """The best network by a metric with all bits at a width; ``None`` if none is small enough, or all are known."""
        at = _AtBits(self.encoding, bits)
        own = tuple(replace(c, metric=at.of(c.metric)) for c in (*limits, self._allowed))
        try:
            front = search(
                Problem(self.encoding, [Objective(at.of(metric))], own),
                n_evaluations=self.n_evaluations,
                seed=self.seed,
            )
        except ProblemError:
            return None
        return np.asarray(self.encoding.encode(front.candidates[:1], check=False)[0])

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
