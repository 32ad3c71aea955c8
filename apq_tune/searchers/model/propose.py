"""Which candidates to measure next: a pure function of what was measured, the settings and the generator."""

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
from apq_tune.searchers.model.gain import Believed, Exactly, Modelled, expected_gain
from apq_tune.searchers.model.process import ARDKernel, Posterior, likeliest
from apq_tune.searchers.model.warp import Warp
from apq_tune.searchers.select import select
from apq_tune.searchers.vary import spread, vary
from apq_tune.space.encoding import Genes, Genomes

ENUMERATED = 2000
"""Of a space with no more candidates every one is scored."""

REFIT = 5
"""From twenty observations on, the kernel's numbers are chosen anew after so many."""

MOST_FOR_KERNEL = 150
"""Observations that the kernel's numbers are chosen on."""

PARENTS = 20
"""The best so far, whose children are scored."""

KEPT = 60
"""Most promising candidates of all rounds, out of which a batch is chosen."""


class Candidates(Genes, Protocol):
    """What there is to propose."""

    def size(self) -> int:
        """Number of different candidates, or an upper bound."""
        ...

    def sample(self, n: int, rng: np.random.Generator, /) -> Genomes:
        """``n`` canonical, allowed genomes."""
        ...

    def canonicalise(self, genomes: Genomes, /) -> Genomes:
        """Equal candidates get equal genomes."""
        ...

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator, /) -> Genomes:
        """Draw genes that do not matter."""
        ...

    def uniform_policies(self) -> Genomes:
        """Candidates that anyone would try first; possibly none."""
        ...

    def enumerate(self) -> Genomes:
        """Every candidate."""
        ...


class Observations(NamedTuple):
    """What was measured, in the order in which it came in, and what is being measured."""

    genomes: Genomes  # (n, n_genes), canonical
    F: Floats  # (n, n_objectives), minimised; not finite where it was not measured
    G: Floats  # (n, n_constraints), kept where <= 0, or where it is not known
    pending: Genomes  # (p, n_genes), canonical


@dataclass(frozen=True)
class ProposalSettings:
    """How proposals are made.

    Attributes:
        initial: candidates that are measured before a model is asked, as different from each other as can be.
        pool: candidates that are scored for each proposal, half of them random, half children of the best.
        rounds: how often the most promising of the pool get children of their own, a fifth of the pool each time.
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
    """The candidates with the greatest expected gain, none that is known or pending.

    Args:
        known: so far.
        n: how many.
        encoding: of the space.
        columns: of the space.
        settings: of the search.
        rng: source of randomness.
        exact: objectives and constraints that need no measuring; by default all have to be measured.

    Returns:
        ``(at most n, n_genes)``, canonical, distinct; fewer if the space is exhausted or nearly so.
    """
    exact = (exact or Exact()).completed(known.F.shape[1], known.G.shape[1])
    taken = {row.tobytes() for row in np.concatenate([known.genomes, known.pending])}
    n_before = len(known.genomes) + len(known.pending)
    if n_before < settings.initial:
        n = min(n, settings.initial - n_before)
        pool = _allowed(_new(_strangers(settings.pool, encoding, rng), taken), exact)
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


def _strangers(n: int, encoding: Candidates, rng: np.random.Generator) -> Genomes:
    """Candidates from all over the space, its middle and its ends alike."""
    return np.concatenate(
        [
            encoding.uniform_policies(),
            encoding.canonicalise(spread(n // 2, encoding, rng)),
            encoding.sample(n // 2, rng),
        ]
    )


def _first_pool(known: Observations, n: int, encoding: Candidates, rng: np.random.Generator) -> Genomes:
    """Every candidate of a small space; else random ones, and children of the best so far."""
    if _is_small(encoding):
        return encoding.enumerate()
    F = np.where(np.isfinite(known.F), known.F, np.inf)
    parents = encoding.fill_inert(known.genomes[select(F, np.nan_to_num(known.G, nan=0.0), PARENTS)], rng)
    pair = rng.integers(len(parents), size=(2, n // 2))
    children = vary(parents[pair[0]], parents[pair[1]], encoding, rng, crossover=0.5, mutation=(1.0, 3.0))
    return np.concatenate([encoding.canonicalise(children), _strangers(n // 2, encoding, rng)])


def _is_small(encoding: Candidates) -> bool:
    """Whether all candidates can be scored, and all combinations of genes, inert ones included, gone through."""
    return math.prod(encoding.n_choices.tolist()) <= 20 * ENUMERATED and encoding.size() <= ENUMERATED


def _new(genomes: Genomes, taken: set[bytes]) -> Genomes:
    """Those that are not taken, each once."""
    rows: dict[bytes, int] = {}
    for row, genome in enumerate(np.ascontiguousarray(genomes)):
        key = genome.tobytes()
        if key not in taken:
            rows.setdefault(key, row)
    return genomes[list(rows.values())]


def _allowed(genomes: Genomes, exact: Exact) -> Genomes:
    """Those that keep the constraints that are known; if none does, those that come closest."""
    miss = np.zeros(len(genomes))
    for constraint in exact.constraints:
        if constraint is not None and len(genomes):
            miss += np.maximum(constraint(genomes), 0.0)
    return np.asarray(genomes[miss <= max(miss.min(initial=np.inf), 0.0)], np.int16)


def _farthest(pool: Genomes, known: Observations, n: int, columns: Columns) -> Genomes:
    """One after the other the candidate that is least like any before it."""
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
    """One objective or constraint that was measured."""

    features: Floats  # (n, n_features)
    target: Floats  # (n,), standardised
    kernel: ARDKernel
    warp: Warp


@lru_cache(maxsize=32)
def _kernel(columns: Columns, genomes: bytes, target: bytes) -> ARDKernel:
    """A value of its arguments alone, kept because it serves several proposals."""
    values = np.frombuffer(target)
    rows = np.frombuffer(genomes, np.int16).reshape(len(values), -1)
    return likeliest(columns(rows), columns.groups, values)


def _output(columns: Columns, genomes: Genomes, values: Floats) -> _Output | None:
    """What the finite values say; ``None`` if they are too few."""
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
    """What is believed of candidates."""

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

    def _beliefs(self, pool: Genomes) -> tuple[list[Believed], list[Believed]]:
        """Of pending candidates and a pool, after believing in the pending ones."""
        every = np.concatenate([self.known.pending, pool])
        features = self.columns(every)
        told: list[list[Believed]] = []
        for scores, outputs in (
            (self.exact.objectives, self.objectives),
            (self.exact.constraints, self.constraints),
        ):
            own: list[Believed] = []
            for score, output in zip(scores, outputs, strict=True):
                if score is not None:
                    own.append(Exactly(score(every)))
                elif output is None:  # nothing is known: everything is equally likely to be good
                    own.append(Exactly(np.zeros(len(every))))
                else:
                    posterior = Posterior.of(
                        output.kernel, self.columns.groups, output.features, output.target, features
                    )
                    own.append(Modelled(posterior, output.warp))
            told.append(own)
        objectives, constraints = told
        for row in range(len(self.known.pending)):
            objectives = [belief.believing(row) for belief in objectives]
        return objectives, constraints

    def _scores(self, objectives: Sequence[Believed], constraints: Sequence[Believed], front: Floats) -> Floats:
        """Expected gain times the probability that all constraints are kept."""
        kept = np.ones(len(objectives[0].middle()))
        for belief in constraints:
            kept *= _probability(belief)
        if len(front) == 0:
            return kept
        gain = expected_gain(objectives, front, self.reference)
        if not (gain * kept).max(initial=0.0) > 0:  # nothing seems to be left to gain: learn
            gain = np.sum([_uncertainty(belief) for belief in objectives], axis=0) * 1e-300
        return np.asarray(gain * kept)

    def _assumed(self, objectives: Sequence[Believed]) -> Floats:
        """The front with pending candidates as they are believed to be."""
        n = len(self.known.pending)
        return np.concatenate([self.front, np.stack([belief.middle()[:n] for belief in objectives], axis=1)])

    def score(self, pool: Genomes) -> Floats:
        """``(m,)`` how much a candidate promises."""
        if len(pool) == 0:
            return np.zeros(0)
        objectives, constraints = self._beliefs(pool)
        n = len(self.known.pending)
        front = self._assumed(objectives) if len(self.front) else self.front
        return self._scores(objectives, constraints, front)[n:]

    def batch(self, pool: Genomes, n: int) -> list[int]:
        """Rows of a pool, each chosen as if those before it had turned out as they are believed to."""
        first = len(self.known.pending)
        objectives, constraints = self._beliefs(pool)
        front = self._assumed(objectives) if len(self.front) else self.front
        chosen: list[int] = []
        while len(chosen) < min(n, len(pool)):
            scores = self._scores(objectives, constraints, front)
            scores[:first] = -np.inf
            scores[[first + row for row in chosen]] = -np.inf
            row = int(scores.argmax())
            chosen.append(row - first)
            if len(front):
                front = np.vstack([front, [belief.middle()[row] for belief in objectives]])
            objectives = [belief.believing(row) for belief in objectives]
        return chosen


def _probability(belief: Believed) -> Floats:
    """``(m,)`` that a violation is not above zero."""
    if isinstance(belief, Modelled):
        posterior = belief.posterior
        limit = float(belief.warp(np.zeros(1))[0])
        return np.asarray(ndtr((limit - posterior.mean) / np.sqrt(posterior.variance)))
    return (belief.middle() <= 0).astype(np.float64)


def _uncertainty(belief: Believed) -> Floats:
    return np.sqrt(belief.posterior.variance) if isinstance(belief, Modelled) else np.zeros(len(belief.middle()))
