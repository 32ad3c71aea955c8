"""The inner loop: ask, filter duplicates, evaluate, tell; one process, whole populations at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apq_tune.encoding import Genomes
from apq_tune.errors import ProblemError
from apq_tune.front import Front
from apq_tune.problem import Evaluation, Problem
from apq_tune.search.algorithms import NSGA2, Algorithm, Evolution, State

MAX_ROUNDS = 20
"""How often a batch is topped up with fresh proposals before the space counts as exhausted."""


def search(
    problem: Problem,
    algorithm: Algorithm | None = None,
    *,
    n_evaluations: int = 10_000,
    seed: int = 0,
    initial: Genomes | None = None,
    progress: Callable[[int], None] | None = None,
) -> Front:
    """Search for the feasible non-dominated candidates.

    Args:
        problem: objectives and constraints.
        algorithm: by default ``Evolution`` for one objective, ``NSGA2`` for several.
        n_evaluations: distinct candidates to evaluate; a space that has no more is enumerated.
        seed: same seed, same front.
        initial: ``(k, n_genes)`` genomes to evaluate first; by default the smallest and the largest network at each
            uniform bit-width.
        progress: called with the number of evaluations so far, once a batch.

    Returns:
        The front of everything that was evaluated.

    Raises:
        ProblemError: if nothing feasible was found; says how close the search came.
    """
    if n_evaluations < 1:
        raise ProblemError(f"n_evaluations is {n_evaluations}; give at least 1")
    if algorithm is None:
        algorithm = Evolution() if len(problem.objectives) == 1 else NSGA2()
    encoding, rng = problem.encoding, np.random.default_rng(seed)
    size = encoding.space.size()
    state: State | None = None
    seen: set[bytes] = set()
    archive: list[tuple[Genomes, Evaluation]] = []

    def resample(attempt: int, n: int) -> Genomes:
        if attempt < MAX_ROUNDS // 2:
            return algorithm.ask(state, n, encoding, rng)
        return encoding.sample(max(n, algorithm.batch), rng)

    if size <= n_evaluations:
        proposed = encoding.enumerate(size)
    else:
        proposed = encoding.uniform_policies() if initial is None else encoding.canonicalise(initial)
    while len(seen) < min(n_evaluations, size):
        wanted = min(algorithm.batch, min(n_evaluations, size) - len(seen))
        genomes = _fresh_batch(proposed[:wanted], wanted, seen, resample)
        proposed = proposed[wanted:]
        if len(genomes) == 0:
            break  # nothing new was found
        evaluation = problem.evaluate(genomes)
        archive.append((genomes, evaluation))
        state = algorithm.tell(state, genomes, evaluation)
        if progress is not None:
            progress(len(seen))
    genomes = np.concatenate([g for g, _ in archive])
    evaluation = Evaluation(*(np.concatenate(parts) for parts in zip(*(e for _, e in archive), strict=True)))
    if not evaluation.feasible.any():
        closest = evaluation.metrics[np.clip(evaluation.G, 0, None).sum(axis=1).argmin()]
        reached = ", ".join(f"{m.name} {v:.6g}" for m, v in zip(problem.metrics, closest, strict=True))
        limits = " and ".join(map(str, problem.constraints))
        raise ProblemError(
            f"no candidate with {limits} in {len(genomes)} tries; the closest has {reached}; relax a bound"
        )
    provenance = {
        "space": encoding.space.name,
        "constraints": [str(c) for c in problem.constraints],
        "algorithm": repr(algorithm),
        "n_evaluations": len(genomes),
        "seed": seed,
    }
    return Front.from_evaluation(problem, genomes, evaluation, provenance)


def _fresh_batch(proposed: Genomes, wanted: int, seen: set[bytes], resample: Callable[[int, int], Genomes]) -> Genomes:
    """``wanted`` genomes never seen before (fewer if they cannot be found), added to ``seen``.

    Args:
        proposed: used first.
        wanted: how many.
        seen: keys of all genomes so far.
        resample: from an attempt's number and a count to further proposals.
    """
    batch = [_unseen(proposed, wanted, seen)]
    for attempt in range(MAX_ROUNDS):
        missing = wanted - sum(map(len, batch))
        if missing == 0:
            break
        batch.append(_unseen(resample(attempt, missing), missing, seen))
    return np.concatenate(batch)


def _unseen(genomes: Genomes, limit: int, seen: set[bytes]) -> Genomes:
    rows: list[int] = []
    for row, genome in enumerate(genomes):
        if len(rows) == limit:
            break
        key = genome.tobytes()
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return genomes[rows]
