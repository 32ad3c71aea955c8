"""Objectives and constraints that cost models compute exactly, so that they need no surrogate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from apq_tune.problem.metric import Indexed, Metric
from apq_tune.problem.pareto import Floats
from apq_tune.problem.problem import Constraint, Objective, Problem
from apq_tune.space.encoding import Genomes

Score = Callable[[Genomes], Floats]
"""Function from canonical genomes of shape ``(n, n_genes)`` to values of shape ``(n,)``."""


class Exact(NamedTuple):
    """Functions that compute objectives and constraints; ``None`` for those that have to be measured.

    Attributes:
        objectives: Functions that compute the objectives, minimised.
        constraints: Functions that compute the violations, feasible where ``<= 0``.
    """

    objectives: tuple[Score | None, ...] = ()
    constraints: tuple[Score | None, ...] = ()

    @classmethod
    def of(cls, problem: Problem) -> Exact:
        """Use the cost models and tables of a problem (``Indexed`` metrics); all other metrics have to be measured."""
        return cls(
            tuple(_objective(o) if _is_counted(o.metric) else None for o in problem.objectives),
            tuple(_constraint(c) if _is_counted(c.metric) else None for c in problem.constraints),
        )

    def on(self, part: Callable[[Genomes], Genomes]) -> Exact:
        """Apply ``part`` to genomes before the functions are evaluated."""
        return Exact(
            tuple(None if score is None else partial(_of_part, score, part) for score in self.objectives),
            tuple(None if score is None else partial(_of_part, score, part) for score in self.constraints),
        )

    def completed(self, n_objectives: int, n_constraints: int) -> Exact:
        """Pad with ``None`` to the given numbers of objectives and constraints."""
        return Exact(
            (*self.objectives, *[None] * (n_objectives - len(self.objectives))),
            (*self.constraints, *[None] * (n_constraints - len(self.constraints))),
        )


def _is_counted(metric: Metric) -> bool:
    return isinstance(metric, Indexed) and not getattr(metric, "costly", False)


def _of_part(score: Score, part: Callable[[Genomes], Genomes], genomes: Genomes) -> Floats:
    return score(part(genomes))


def _objective(objective: Objective) -> Score:
    return partial(_minimised, objective)


def _minimised(objective: Objective, genomes: Genomes) -> Floats:
    values = np.asarray(objective.metric(genomes), np.float64)
    return values if objective.direction == "minimize" else -values


def _constraint(constraint: Constraint) -> Score:
    return partial(_violation, constraint)


def _violation(constraint: Constraint, genomes: Genomes) -> Floats:
    return constraint.violation(np.asarray(constraint.metric(genomes), np.float64))
