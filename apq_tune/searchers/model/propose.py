"""Proposal of the candidates to measure next, by expected improvement over a pool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from apq_tune.errors import ProblemError
from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.surrogates import Observations, Surrogates
from apq_tune.searchers.select import select
from apq_tune.searchers.vary import spread, vary
from apq_tune.space.encoding import Genes, Genomes

ENUMERATED = 2000
"""Size of a search space up to which every candidate is scored."""

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
    model = Surrogates.of(known, columns, exact)
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
