"""Exact choice of one value for each variable under budgets, by an integer program, and greedy choice as a control.

Each variable has a loss for each of its values, and the losses are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.searchers.program import SECONDS, Budget, IntegerProgram, Table, impossible

Losses = Sequence[NDArray[np.float64]]
"""Loss of each value of each variable, shape ``(n_values,)`` each."""


def exact_choice(
    losses: Losses,
    budgets: Sequence[Budget],
    *,
    without: Sequence[NDArray[np.intp]] = (),
    seconds: float = SECONDS,
) -> NDArray[np.intp]:
    """Choose the value of each variable so that the sum of losses is least and all budgets are kept.

    Args:
        losses: Loss of each value of each variable.
        budgets: Budgets.
        without: Choices that are excluded, so that the next best ones are found.
        seconds: Longest time for the solver.

    Returns:
        Index of the chosen value of each variable, shape ``(n_variables,)``.

    Raises:
        ProblemError: If no choice keeps all budgets; the message has the least reachable cost. Also if the solver does
            not finish in time.
    """
    goal = Budget("loss", math.inf, tuple(Table((v,), np.asarray(own, np.float64)) for v, own in enumerate(losses)))
    program = IntegerProgram([len(own) for own in losses], [goal, *budgets])
    every = range(len(losses))
    found = program.least([goal], budgets, seconds, without=[dict(zip(every, one, strict=True)) for one in without])
    if found is None:
        if len(without):
            raise ProblemError(f"there are no more than {len(without)} choices within the budgets; ask for fewer")
        raise ProblemError(impossible(program, budgets, seconds, "bits"))
    return found


def greedy_choice(losses: Losses, budgets: Sequence[Budget]) -> NDArray[np.intp]:
    """Choose step by step: from the values of least loss, always the change that gains most cost for its loss.

    Args:
        losses: Loss of each value of each variable.
        budgets: Budgets.

    Returns:
        Index of the chosen value of each variable, shape ``(n_variables,)``.

    Raises:
        ProblemError: If it ends above a budget, from which exact search may still find a choice.
    """
    choice = np.array([int(np.argmin(own)) for own in losses], np.intp)

    def excess(one: NDArray[np.intp]) -> float:
        return sum(max(0.0, (budget.cost(one) - budget.bound) / abs(budget.bound or 1.0)) for budget in budgets)

    over = excess(choice)
    while over > 0:
        steps: list[tuple[float, float, int, int]] = []
        for variable, own in enumerate(losses):
            for value in range(len(own)):
                changed = choice.copy()
                changed[variable] = value
                gain = over - excess(changed)
                if gain > 0:
                    steps.append(((own[value] - own[choice[variable]]) / gain, -gain, variable, value))
        if not steps:
            raise ProblemError("greedy choice ends above a budget, from which no single change leads on; solve exactly")
        _, _, variable, value = min(steps)
        choice[variable] = value
        over = excess(choice)
    return choice
