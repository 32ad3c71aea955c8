"""The function ``search``: a whole search in one process, evaluated in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apq_tune.problem.front import Front
from apq_tune.problem.problem import Problem
from apq_tune.searchers.algorithms import Algorithm
from apq_tune.searchers.exactly import POINTS, is_additive, solve_exactly
from apq_tune.searchers.program import TooLargeError
from apq_tune.searchers.registry import MILP
from apq_tune.searchers.searching import Searching
from apq_tune.space.encoding import Genomes

AT_ONCE = 20.0
"""Longest time of a program that is solved without having been asked for."""


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

    By default, a problem of one objective whose metrics are all sums of terms over few genes is not searched but solved
    (``solve_exactly``), and in one of several such objectives, points of the exact front are evaluated first.

    Linear algebra is limited to one thread, so that results are reproducible bit by bit and searches can run in
    parallel.

    Args:
        problem: Problem with objectives and constraints.
        algorithm: Algorithm, or the name of one in ``ALGORITHMS``, or ``"milp"`` for ``solve_exactly``; by default
            ``Evolution`` for one objective and ``NSGA2`` for several.
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
    if algorithm == MILP:
        return solve_exactly(problem, points=min(n_evaluations, POINTS), progress=progress)

    def begin(first: Genomes | None) -> Searching:
        return Searching(
            problem,
            algorithm,
            n_evaluations=n_evaluations,
            seed=seed,
            initial=first,
            islands=islands,
            patience=patience,
        )

    searching = begin(initial)
    if algorithm is None and initial is None and (exact := _exact(problem, n_evaluations, progress)) is not None:
        if len(problem.objectives) == 1:
            return exact
        encoding = problem.encoding
        searching = begin(np.concatenate([encoding.encode(exact.candidates), encoding.uniform_policies()]))
    searching.step(None, progress)
    return searching.front()


def _exact(problem: Problem, n_evaluations: int, progress: Callable[[int], None] | None) -> Front | None:
    """The exact front of an additive problem; ``None`` if it is of another form, or too large to be solved at once."""
    if problem.encoding.size() <= n_evaluations or not is_additive(problem):
        return None
    try:
        return solve_exactly(problem, points=min(n_evaluations, POINTS), seconds=AT_ONCE, progress=progress)
    except TooLargeError:
        return None
