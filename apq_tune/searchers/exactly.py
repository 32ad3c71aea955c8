"""The function ``solve_exactly``: the optimum, or the front, of a problem whose metrics are sums over few genes."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.inputs.ranges import shown
from apq_tune.problem.front import Front
from apq_tune.problem.problem import Evaluation, Problem
from apq_tune.searchers.additive import ExactSolver, Ties, additive_metrics
from apq_tune.space.encoding import Genomes

POINTS = 20
"""Number of points of a front."""

SECONDS = 120.0
"""Longest time for one program; those of 20 blocks with all choices open take some seconds."""

NEAR = 1e-6
"""Points that are closer than this share of the front's range are one."""

Point = tuple[Genomes, NDArray[np.float64]]


def is_additive(problem: Problem) -> bool:
    """Whether all objectives and limits of a problem are sums over few genes, which ``solve_exactly`` needs."""
    return not additive_metrics(problem)[1]


def solve_exactly(
    problem: Problem,
    *,
    points: int | None = POINTS,
    ties: Ties = (),
    seconds: float = SECONDS,
    progress: Callable[[int], None] | None = None,
) -> Front:
    """Solve a problem whose metrics are sums of terms over few genes, by integer programs (HAWQ-V3, Yao 2021).

    Such metrics are costs that are added up over layers, peak memory where it is a maximum over parts, tables of
    sensitivities, and their like (``AdditiveMetric``). The result is the optimum and not the best of some candidates:
    no sampler can find a better one. Several objectives are traded off by bounds of one of them (epsilon constraints,
    Haimes 1971): of two objectives, always in the largest gap of the front.

    Args:
        problem: Problem with objectives and constraints.
        points: Number of points of the front of several objectives; ``None`` for all that are further apart than a
            millionth of its range (of two objectives).
        ties: Groups of genes that must have the same value, such as the bits of layers whose outputs are added; names
            of genes or patterns with ``*``, such as ``["1.* pw_w_bits", ("1.1 dw_w_bits", "1.1 dw_a_bits")]``.
        seconds: Longest time for the solution of one program.
        progress: Callback with the number of points so far, called after each one.

    Returns:
        Front; of one objective, the best candidate.

    Raises:
        ProblemError: If a metric is of another form, the program is too large or not solved in time, an argument is
            invalid, or no candidate keeps the limits; the message then has the least reachable cost where it is known.
    """
    if not isinstance(problem, Problem):
        raise ProblemError(f"give a Problem(space, objectives, constraints), got {shown(problem)}")
    if points is not None and (isinstance(points, bool) or not isinstance(points, int) or points < 1):
        raise ProblemError(f"points is {shown(points)}; give a whole number from 1, or None for all")
    solver = ExactSolver(problem, ties=ties, seconds=seconds)
    n = len(problem.objectives)
    found: Iterator[Point] = (
        _one(solver) if n == 1 else _pairs(solver) if n == 2 else _grid(solver, n, POINTS if points is None else points)
    )
    genomes, scores = list[Genomes](), list[Evaluation]()
    for genome, _ in itertools.islice(found, points):
        genomes.append(genome)
        scores.append(problem.evaluate(genome))
        if progress is not None:
            progress(len(genomes))
    if not genomes:
        raise ProblemError(solver.why_not())
    provenance = {
        "space": problem.encoding.name,
        "constraints": [str(c) for c in problem.constraints],
        "algorithm": "milp",
        "n_evaluations": len(genomes),
    }
    evaluation = Evaluation(*(np.concatenate(parts) for parts in zip(*scores, strict=True)))
    return Front.from_evaluation(problem, np.concatenate(genomes), evaluation, provenance)


def _one(solver: ExactSolver) -> Iterator[Point]:
    """The optimum of one objective."""
    if (best := solver.best(0, [math.inf])) is not None:
        yield best


def _pairs(solver: ExactSolver) -> Iterator[Point]:
    """Points of the front of two objectives: its ends, then always one in the largest gap."""
    ends = [solver.best(first, [math.inf, math.inf]) for first in (0, 1)]
    if ends[0] is None or ends[1] is None:
        return
    yield ends[0]
    if (ends[0][1] == ends[1][1]).all():
        return
    yield ends[1]
    ranges = np.abs(ends[0][1] - ends[1][1])
    number = itertools.count()  # so that points are never compared
    gaps: list[Any] = []

    def open_gap(one: Point, other: Point, low: float, high: float) -> None:
        """Keep the part of a gap, between two bounds of the second objective, in which there may be points."""
        if high - low > NEAR * ranges[1]:
            area = (other[1][0] - one[1][0]) * (high - low)
            heapq.heappush(gaps, (-area, next(number), one, other, low, high))

    open_gap(ends[0], ends[1], ends[1][1][1], ends[0][1][1])
    while gaps:
        _, _, one, other, low, high = heapq.heappop(gaps)
        middle = (low + high) / 2
        found = solver.best(0, [math.inf, middle])
        if found is None or (found[1] >= other[1]).all():  # nothing between the two bounds
            open_gap(one, other, middle, high)
            continue
        yield found
        open_gap(one, found, middle, high)
        open_gap(found, other, low, found[1][1])


def _grid(solver: ExactSolver, n: int, points: int) -> Iterator[Point]:
    """Points of the front of three or more objectives: best in each, then in the first within bounds of the others."""
    ends = [solver.best(first, [math.inf] * n) for first in range(n)]
    known = [end for end in ends if end is not None]
    if len(known) < n:
        return
    yield from known
    values = np.array([F for _, F in known])
    steps = max(1, math.ceil(points ** (1 / (n - 1))))
    levels = [np.linspace(values[:, i].min(), values[:, i].max(), steps + 1)[1:] for i in range(1, n)]
    for bounds in itertools.product(*levels):
        if (found := solver.best(0, [math.inf, *bounds])) is not None:
            yield found
