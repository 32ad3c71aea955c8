"""Predictor-guided search that all methods share: random samples, then batches that a refitted predictor proposes.

Methods differ only in the part of the space that they search, so that differences between them are not those of search
algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from apq_tune.errors import ProblemError
from apq_tune.methods.bench import Question
from apq_tune.methods.subspace import Subspace
from apq_tune.predict import Floats, GaussianProcessPredictor, Pairs, fit_gp
from apq_tune.problem.metric import FunctionMetric
from apq_tune.problem.problem import Constraint
from apq_tune.searchers import Evolution, search
from apq_tune.searchers.batch import choose_batch, similarity
from apq_tune.space.encoding import Genomes

FIRST = 0.3
"""Share of the measurements that are random samples, before the first predictor is fitted."""

ROUNDS = 16
"""Number of batches of the remaining measurements; the predictor is refitted before each."""

EVALUATIONS = 1000
"""Number of candidates that the predictor scores for a batch."""

POOL = 150
"""Number of the most promising candidates from which a batch is chosen."""

SMALL = 1000
"""Number of samples by which a subspace is recognised as small: it has less than a quarter as many candidates."""

FEWEST = 6
"""Minimum number of pairs that a predictor is fitted to."""


def explore(
    question: Question,
    subspace: Subspace,
    limits: Sequence[Constraint],
    measure: Callable[[Genomes], Floats],
    n: int,
    rng: np.random.Generator,
    *,
    known: Pairs | None = None,
    start: Genomes | None = None,
) -> Pairs:
    """Measure ``n`` candidates of a subspace, increasingly where losses are low.

    Args:
        question: Task of the method.
        subspace: Subspace to search.
        limits: Constraints on candidates.
        measure: Function from genomes of shape ``(k, n_genes)`` to losses in nats of shape ``(k,)``.
        n: Number of candidates; fewer are measured if the subspace has no more.
        rng: Random number generator.
        known: Earlier measurements of the same kind, which the predictor is fitted to, too, and which are not repeated.
        start: Candidates to measure first, if they are in the subspace and feasible.

    Returns:
        New measurements.

    Raises:
        ProblemError: If no candidate of the subspace is feasible.
    """
    empty = Pairs(np.zeros((0, question.encoding.n_genes), np.int16), np.zeros(0))
    before = empty if known is None else known
    own = empty

    def add(genomes: Genomes) -> None:
        nonlocal own
        genomes = genomes[: n - len(own.target)]
        if len(genomes):
            own = joined(own, Pairs(genomes, measure(genomes)))

    if start is not None and len(start):
        start = _unique(subspace.canonicalise(start))
        add(without(start[subspace.violations(start, limits) <= 0], before.genomes))
    wanted = max(FEWEST, round(FIRST * n)) - len(own.target) - len(before.target)
    if wanted > 0 or not len(before.target) + len(own.target):
        add(subspace.sample_band(limits, max(1, wanted), rng, joined(before, own).genomes))
    part = _unique(subspace.sample(SMALL, rng))
    small = part if len(part) <= SMALL // 4 else None
    kernel, fitted = None, 0
    batch = max(1, -(-(n - len(own.target)) // ROUNDS))
    while len(own.target) < n:
        pairs = joined(before, own)
        if len(pairs.target) < FEWEST:
            new = subspace.sample_band(limits, batch, rng, pairs.genomes)
        else:
            if len(pairs.target) >= 1.5 * fitted:  # fitting a kernel takes most of the time
                kernel, fitted = None, len(pairs.target)
            with threadpool_limits(limits=1):
                predictor = fit_gp(question.encoding, pairs, question.seed, kernel=kernel)
            kernel = predictor.kernel
            new = propose(question, subspace, limits, predictor, pairs, batch, rng, small)
        if not len(new):
            break
        add(new)
    return own


def propose(
    question: Question,
    subspace: Subspace,
    limits: Sequence[Constraint],
    predictor: GaussianProcessPredictor,
    pairs: Pairs,
    n: int,
    rng: np.random.Generator,
    small: Genomes | None = None,
) -> Genomes:
    """Propose new, mutually dissimilar candidates with low confidence bounds of the loss.

    Evolution starts from the best known candidates and from samples near the limits; all candidates of a ``small``
    subspace are scored instead. Half of the batch is chosen by the predicted mean alone, since in many dimensions there
    are always uncertain candidates far from all measured ones.
    """
    if small is None:
        genomes = _evolved(subspace, limits, predictor, pairs, rng)
    else:
        genomes = small[subspace.violations(small, limits) <= 0]
    genomes = without(genomes, pairs.genomes)
    mean, std = predictor.moments(genomes)
    top = np.argsort(mean - std, kind="stable")[:POOL]
    top = np.union1d(top, np.argsort(mean, kind="stable")[:POOL])
    first = np.argsort(mean[top], kind="stable")[: n // 2].tolist()
    features = question.encoding.features(genomes[top])
    rows = choose_batch(mean[top], std[top] / 2, similarity(features, features), n, first=first)
    return np.asarray(genomes[top][rows], np.int16)


def _evolved(
    subspace: Subspace,
    limits: Sequence[Constraint],
    predictor: GaussianProcessPredictor,
    pairs: Pairs,
    rng: np.random.Generator,
) -> Genomes:
    """All feasible candidates that a search with the predictor evaluated."""
    scored: list[Genomes] = []

    def bound(genomes: Genomes) -> Floats:
        scored.append(genomes)
        return predictor.lower_bound(genomes, 1.0)

    near = subspace.sample_band(limits, 50, rng, pairs.genomes)
    best = pairs.genomes[np.argsort(pairs.target, kind="stable")]
    best = best[subspace.violations(best, limits) <= 0]
    try:
        search(
            subspace.problem(FunctionMetric("loss_bound", "nats", bound), limits),
            Evolution(),
            n_evaluations=EVALUATIONS,
            seed=int(rng.integers(2**31)),
            initial=np.concatenate([best[:50], near]),
        )
    except ProblemError:  # nothing feasible is left
        return near
    return np.concatenate(scored)


def joined(one: Pairs, other: Pairs) -> Pairs:
    """Concatenate two sets of pairs."""
    return Pairs(np.concatenate([one.genomes, other.genomes]), np.concatenate([one.target, other.target]))


def best_of(pairs: Pairs, n: int) -> Pairs:
    """The ``n`` pairs with the lowest losses, best first."""
    return pairs.rows(np.argsort(pairs.target, kind="stable")[:n])


def _unique(genomes: Genomes) -> Genomes:
    """Distinct genomes in the order of their first appearance."""
    _, first = np.unique(genomes, axis=0, return_index=True)
    return np.asarray(genomes[np.sort(first)])


def _new_rows(genomes: Genomes, known: Genomes) -> list[int]:
    seen = {genome.tobytes() for genome in known.astype(np.int16)}
    rows = []
    for row, genome in enumerate(genomes.astype(np.int16)):
        if (key := genome.tobytes()) not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def without(genomes: Genomes, known: Genomes) -> Genomes:
    """Distinct genomes that are not among known ones, in order."""
    return np.asarray(genomes[_new_rows(genomes, known)])
