"""The function ``search``: a whole search in one process, evaluated in batches."""

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
    """Search for the feasible non-dominated candidates of a problem.

    Linear algebra is limited to one thread, so that results are reproducible bit by bit and searches can run in
    parallel.

    Args:
        problem: Problem with objectives and constraints.
        algorithm: Algorithm, or the name of one in ``ALGORITHMS``; by default ``Evolution`` for one objective and
            ``NSGA2`` for several.
        n_evaluations: Number of distinct candidates to evaluate; a space with at most that many is enumerated.
        seed: Random seed.
        initial: Genomes to evaluate first, shape ``(k, n_genes)``; by default the smallest and the largest network at
            each uniform bit-width.
        islands: Number of independent populations that share the budget, since each may converge to another optimum;
            by default one per 100,000 evaluations.
        patience: Number of evaluations without a change of the front after which the search stops; ``None`` to spend
            the whole budget.
        progress: Callback with the number of evaluations so far, called after each batch.

    Returns:
        Front of all evaluated candidates.

    Raises:
        ProblemError: If an argument is invalid, or no feasible candidate was found; the message then has the values of
            the least infeasible one.
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
