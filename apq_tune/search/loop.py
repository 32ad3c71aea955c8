"""The inner loop: ask, filter duplicates, evaluate, tell; one process, whole populations at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from apq_tune.encoding import Genomes, Genotype
from apq_tune.errors import ProblemError
from apq_tune.front import Front
from apq_tune.problem import Evaluation, Problem
from apq_tune.search.algorithms import NSGA2, Algorithm, Evolution, State
from apq_tune.search.archive import Archive, Seen

EVALUATIONS_PER_ISLAND = 100_000

TOLERANCE = 20
"""A batch is not topped up for the last of so many genomes: asking anew costs more than they are worth."""

MAX_ROUNDS = 20
"""How often a batch is topped up with fresh proposals before the space counts as exhausted."""


def search(
    problem: Problem,
    algorithm: Algorithm | None = None,
    *,
    n_evaluations: int = 10_000,
    seed: int = 0,
    initial: Genomes | None = None,
    islands: int | None = None,
    patience: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Front:
    """Search for the feasible non-dominated candidates.

    Linear algebra runs on one thread, so that results repeat bit by bit and searches can run side by side.

    Args:
        problem: objectives and constraints.
        algorithm: by default ``Evolution`` for one objective, ``NSGA2`` for several.
        n_evaluations: distinct candidates to evaluate; a space that has no more is enumerated.
        seed: same seed, same front.
        initial: ``(k, n_genes)`` genomes to evaluate first; by default the smallest and the largest network at each
            uniform bit-width.
        islands: populations that evolve side by side, apart from each other, on the one budget; by default one for
            every 100,000 evaluations, since each comes to rest on an optimum of its own.
        patience: stop when the front has not changed for so many evaluations; ``None`` spends the budget.
        progress: called with the number of evaluations so far, once a batch.

    Returns:
        The front of everything that was evaluated.

    Raises:
        ProblemError: if a count makes no sense, or nothing feasible was found; says how close the search came.
    """
    if islands is None:
        islands = max(1, n_evaluations // EVALUATIONS_PER_ISLAND)
    for name, count in (("n_evaluations", n_evaluations), ("islands", islands), ("patience", patience or 1)):
        if count < 1:
            raise ProblemError(f"{name} is {count}; give at least 1")
    if algorithm is None:
        algorithm = Evolution() if len(problem.objectives) == 1 else NSGA2()
    encoding, rng = problem.encoding, np.random.default_rng(seed)
    budget = min(n_evaluations, encoding.size())
    states: list[State | None] = [None] * islands
    seen, archive = Seen(len(encoding.n_choices)), Archive()
    if encoding.size() <= n_evaluations:
        proposed = encoding.enumerate(encoding.size())
    else:
        given = encoding.uniform_policies() if initial is None else initial
        proposed = encoding.fill_inert(encoding.canonicalise(given), rng)
    front_at, changed_at = b"", 0
    with threadpool_limits(limits=1):
        while len(seen) < budget:
            batches: list[Genomes] = []
            for state in states:
                wanted = min(algorithm.batch, budget - len(seen))
                batches.append(_fresh_batch(proposed[:wanted], wanted, seen, algorithm, state, encoding, rng))
                proposed = proposed[wanted:]
            genomes = encoding.canonicalise(np.concatenate(batches))
            if len(genomes) == 0:
                break  # nothing new was found
            evaluation = problem.evaluate(genomes)
            archive.add(genomes, evaluation)
            ends = np.cumsum([len(batch) for batch in batches])
            for island, (batch, end) in enumerate(zip(batches, ends, strict=True)):
                if len(batch):
                    own = Evaluation(*(part[end - len(batch) : end] for part in evaluation))
                    states[island] = algorithm.tell(states[island], batch, own)
            if progress is not None:
                progress(len(seen))
            if patience is not None and (best := archive.best()) is not None:
                front_now = np.sort(best[1].F, axis=0).tobytes()
                if front_now != front_at:
                    front_at, changed_at = front_now, len(seen)
                elif len(seen) - changed_at >= patience:
                    break
    best = archive.best()
    if best is None:
        raise ProblemError(_nothing_feasible(problem, archive, len(seen)))
    provenance = {
        "space": encoding.name,
        "constraints": [str(c) for c in problem.constraints],
        "algorithm": repr(algorithm),
        "n_evaluations": len(seen),
        "seed": seed,
    }
    return Front.from_evaluation(problem, *best, provenance)


def _nothing_feasible(problem: Problem, archive: Archive, tries: int) -> str:
    limits = " and ".join(map(str, problem.constraints))
    assert archive.closest is not None
    limited = {c.metric.name for c in problem.constraints}
    values = zip(problem.metrics, archive.closest.metrics[0], strict=True)
    reached = ", ".join(f"{metric.name} {value:.6g}" for metric, value in values if metric.name in limited)
    return f"no candidate with {limits} in {tries} tries; the closest has {reached}; relax a bound"


def _fresh_batch(
    proposed: Genomes,
    wanted: int,
    seen: Seen,
    algorithm: Algorithm,
    state: State | None,
    encoding: Genotype,
    rng: np.random.Generator,
) -> Genomes:
    """``wanted`` genomes never seen before, added to ``seen``; not canonical.

    A twentieth may be missing, more if they cannot be found.

    Those ``proposed`` are used first, then those that the algorithm asks for, and if these are all known, random ones.
    """
    rows = seen.new(encoding.canonicalise(proposed), wanted)
    batch, found = [proposed[rows]], len(rows)
    for attempt in range(MAX_ROUNDS):
        if wanted - found <= wanted // TOLERANCE:
            break
        if attempt < MAX_ROUNDS // 2:
            asked = algorithm.ask(state, wanted - found, encoding, rng)
        else:
            asked = encoding.fill_inert(encoding.sample(max(wanted, algorithm.batch), rng), rng)
        rows = seen.new(encoding.canonicalise(asked), wanted - found)
        batch.append(asked[rows])
        found += len(rows)
    return np.concatenate(batch)
