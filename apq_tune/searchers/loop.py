"""The inner search from beginning to end; one process, whole populations at a time."""

from __future__ import annotations

from collections.abc import Callable

from apq_tune.problem.front import Front
from apq_tune.problem.problem import Problem
from apq_tune.searchers.algorithms import Algorithm
from apq_tune.searchers.searching import Searching
from apq_tune.space.encoding import Genomes


def search(
    problem: Problem,
    algorithm: Algorithm | str | None = None,
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
        algorithm: or its name, ``"evolution"``, ``"nsga2"`` or ``"random"``; by default
            ``Evolution`` for one objective, ``NSGA2`` for several.
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
    searching = Searching(
        problem,
        algorithm,
        n_evaluations=n_evaluations,
        seed=seed,
        initial=initial,
        islands=islands,
        patience=patience,
    )
    searching.step(None, progress)
    return searching.front()
