"""Proposal of the candidates to measure next, by expected improvement over a pool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from scipy.special import ndtr

from apq_tune.errors import ProblemError
from apq_tune.problem.pareto import Floats
from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.gain import ExactValues, ModelledValues, ObjectiveDistribution, expected_gain
from apq_tune.searchers.model.process import ARDKernel, Posterior, likeliest
from apq_tune.searchers.model.warp import Warp
from apq_tune.searchers.select import select
from apq_tune.searchers.vary import spread, vary
from apq_tune.space.encoding import Genes, Genomes

ENUMERATED = 2000
"""Size of a search space up to which every candidate is scored."""

REFIT = 5
"""Number of observations between fits of the kernel hyperparameters, from ``4 * REFIT`` observations on."""

MOST_FOR_KERNEL = 150
"""Maximum number of observations on which kernel hyperparameters are fitted."""

PARENTS = 20
"""Number of the best observed candidates whose children are in the pool."""

KEPT = 60
"""Number of the most promising candidates of all rounds from which a batch is chosen."""


class Candidates(Genes, Protocol):
    """Encoding of which candidates are proposed."""

    def size(self) -> int:
        """Number of distinct candidates, or an upper bound."""
        ...

    def sample(self, n: int, rng: np.random.Generator, /) -> Genomes:
        """Sample ``n`` canonical, allowed genomes."""
        ...

    def canonicalise(self, genomes: Genomes, /) -> Genomes:
        """Map genomes of equal candidates to the same genome."""
        ...

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator, /) -> Genomes:
        """Draw random values for inactive genes."""
        ...

    def uniform_policies(self) -> Genomes:
        """Smallest and largest network at each uniform bit-width; empty if the space has none."""
        ...

    def enumerate(self) -> Genomes:
        """All candidates."""
        ...


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


@dataclass(frozen=True)
class ProposalSettings:
    """Settings of proposals.

    Attributes:
        initial: Number of mutually distant candidates that are measured before models are fitted.
        pool: Number of candidates in the first pool, half of them random and half children of the best.
        rounds: Number of further pools, a fifth as large, of children of the most promising candidates.
    """

    initial: int = 10
    pool: int = 1000
    rounds: int = 2

    def __post_init__(self) -> None:
        for name, count, least in (("initial", self.initial, 1), ("pool", self.pool, 10), ("rounds", self.rounds, 0)):
            if count < least:
                raise ProblemError(f"{name} is {count}; give at least {least}")


def propose(
    known: Observations,
    n: int,
    encoding: Candidates,
    columns: Columns,
    settings: ProposalSettings,
    rng: np.random.Generator,
    exact: Exact | None = None,
) -> Genomes:
    """Propose the new candidates with the greatest expected improvement.

    Args:
        known: Measured and pending candidates, which are not proposed again.
        n: Number of candidates.
        encoding: Encoding of the search space.
        columns: Features of the search space.
        settings: Settings of the proposals.
        rng: Random number generator.
        exact: Objectives and constraints that are computed exactly; by default all are modelled.

    Returns:
        Canonical, distinct genomes, shape ``(n, n_genes)``; fewer if the search space is (nearly) exhausted.
    """
    exact = (exact or Exact()).completed(known.F.shape[1], known.G.shape[1])
    taken = {row.tobytes() for row in np.concatenate([known.genomes, known.pending])}
    n_before = len(known.genomes) + len(known.pending)
    if n_before < settings.initial:
        n = min(n, settings.initial - n_before)
        pool = _allowed(_new(_of_all_sizes(settings.pool, encoding, rng), taken), exact)
        return _farthest(pool, known, n, columns)
    model = _Model.of(known, columns, exact)
    pool = _new(_first_pool(known, settings.pool, encoding, rng), taken)
    best, scores = np.zeros((0, pool.shape[1]), np.int16), np.zeros(0)
    for left in range(settings.rounds, -1, -1):
        best = np.concatenate([best, pool])
        scores = np.concatenate([scores, model.score(pool)])
        order = np.argsort(-scores, kind="stable")[:KEPT]
        best, scores = best[order], scores[order]
        if left == 0 or len(best) == 0 or _is_small(encoding):
            break
        parents = encoding.fill_inert(best[: KEPT // 3], rng)
        pair = rng.integers(len(parents), size=(2, settings.pool // 5))
        children = vary(parents[pair[0]], parents[pair[1]], encoding, rng, crossover=0.5, mutation=(1.0, 2.0))
        pool = _new(encoding.canonicalise(children), taken | {row.tobytes() for row in best})
    return best[:1] if n == 1 else best[model.batch(best, n)]


def _of_all_sizes(n: int, encoding: Candidates, rng: np.random.Generator) -> Genomes:
    """Sample candidates of all sizes: uniform policies, skewed samples and uniform samples."""
    return np.concatenate(
        [
            encoding.uniform_policies(),
            encoding.canonicalise(spread(n // 2, encoding, rng)),
            encoding.sample(n // 2, rng),
        ]
    )


def _first_pool(known: Observations, n: int, encoding: Candidates, rng: np.random.Generator) -> Genomes:
    """First pool: every candidate of a small space; otherwise children of the best candidates, and random samples."""
    if _is_small(encoding):
        return encoding.enumerate()
    F = np.where(np.isfinite(known.F), known.F, np.inf)
    parents = encoding.fill_inert(known.genomes[select(F, np.nan_to_num(known.G, nan=0.0), PARENTS)], rng)
    pair = rng.integers(len(parents), size=(2, n // 2))
    children = vary(parents[pair[0]], parents[pair[1]], encoding, rng, crossover=0.5, mutation=(1.0, 3.0))
    return np.concatenate([encoding.canonicalise(children), _of_all_sizes(n // 2, encoding, rng)])


def _is_small(encoding: Candidates) -> bool:
    """Whether the search space is small enough for all its candidates to be enumerated and scored."""
    return math.prod(encoding.n_choices.tolist()) <= 20 * ENUMERATED and encoding.size() <= ENUMERATED


def _new(genomes: Genomes, taken: set[bytes]) -> Genomes:
    """Distinct genomes that are not in ``taken``."""
    rows: dict[bytes, int] = {}
    for row, genome in enumerate(np.ascontiguousarray(genomes)):
        key = genome.tobytes()
        if key not in taken:
            rows.setdefault(key, row)
    return genomes[list(rows.values())]


def _allowed(genomes: Genomes, exact: Exact) -> Genomes:
    """Genomes that satisfy the exactly known constraints; if none does, those with the smallest violation."""
    miss = np.zeros(len(genomes))
    for constraint in exact.constraints:
        if constraint is not None and len(genomes):
            miss += np.maximum(constraint(genomes), 0.0)
    return np.asarray(genomes[miss <= max(miss.min(initial=np.inf), 0.0)], np.int16)


def _farthest(pool: Genomes, known: Observations, n: int, columns: Columns) -> Genomes:
    """Greedy maximin selection: each candidate is the one farthest from all known and chosen ones."""
    n = min(n, len(pool))
    features = columns(pool)
    before = columns(np.concatenate([known.genomes, known.pending]))
    chosen: list[int] = []
    nearest = np.full(len(pool), np.inf)
    for row in before:
        nearest = np.minimum(nearest, ((features - row) ** 2).sum(axis=1))
    while len(chosen) < n:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((features - features[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen] = -np.inf
    return pool[chosen]


class _Output(NamedTuple):
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


def _output(columns: Columns, genomes: Genomes, values: Floats) -> _Output | None:
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
    return _Output(columns(genomes), warp(values), kernel, warp)


class _Model(NamedTuple):
    """Surrogates of all objectives and constraints."""

    known: Observations
    columns: Columns
    exact: Exact
    objectives: Sequence[_Output | None]
    constraints: Sequence[_Output | None]
    front: Floats
    reference: Floats

    @classmethod
    def of(cls, known: Observations, columns: Columns, exact: Exact) -> _Model:
        objectives = [
            None if score is not None else _output(columns, known.genomes, known.F[:, place])
            for place, score in enumerate(exact.objectives)
        ]
        constraints = [
            None if score is not None else _output(columns, known.genomes, known.G[:, place])
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
