"""What is known of a candidate without measuring it: the problem's own cost models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from apq_tune.problem.pareto import Floats
from apq_tune.problem.problem import Constraint, Indexed, Metric, Objective, Problem
from apq_tune.space.encoding import Genomes

Score = Callable[[Genomes], Floats]
"""``(n, n_genes)``, canonical ``-> (n,)``."""


class Exact(NamedTuple):
    """For each objective and each constraint a function that computes it, or ``None``: it has to be measured."""

    objectives: tuple[Score | None, ...] = ()  # minimised
    constraints: tuple[Score | None, ...] = ()  # violations, kept where <= 0

    @classmethod
    def of(cls, problem: Problem) -> Exact:
        """What cost models and cost tables say (``Indexed`` metrics); all else is taken to be expensive."""
        return cls(
            tuple(_objective(o) if _is_counted(o.metric) else None for o in problem.objectives),
            tuple(_constraint(c) if _is_counted(c.metric) else None for c in problem.constraints),
        )

    def on(self, part: Callable[[Genomes], Genomes]) -> Exact:
        """For genomes of which only a part is looked at."""
        return Exact(
            tuple(None if score is None else partial(_of_part, score, part) for score in self.objectives),
            tuple(None if score is None else partial(_of_part, score, part) for score in self.constraints),
        )

    def completed(self, n_objectives: int, n_constraints: int) -> Exact:
        """The same with ``None`` for whatever nothing is said of."""
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
