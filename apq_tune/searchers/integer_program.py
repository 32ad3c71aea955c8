"""Exact choice of one value for each variable under budgets, as an integer program (HiGHS, by ``scipy.optimize.milp``).

Each variable has a loss for each of its values, and the losses are added. A cost is a sum of tables over few variables
each, such as BitOps, which depend on the bits of the weights and of the input of a layer at once. A table over several
variables is made linear by one unknown per combination of their values, whose marginal sums are the choices of the
variables. HAWQ-V3 (Yao 2021) chooses bits by such a program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError

Losses = Sequence[NDArray[np.float64]]
"""Loss of each value of each variable, shape ``(n_values,)`` each."""

SECONDS = 60.0
"""Longest time for one program; the programs of 50 layers take some hundredths of a second."""

GAP = 1e-6
"""Largest relative distance of the solution's loss from the proven bound at which the solver may stop."""

ROW, SPREAD = 1e4, 1e4
"""Bounds and losses are scaled to these sizes, for which the absolute tolerances of the solver (1e-6) are small."""

REPAIRS = 100
"""Maximum number of solutions that are excluded since they are over a budget by less than the solver's tolerance."""


class Table(NamedTuple):
    """Contribution of some variables to a cost.

    Attributes:
        variables: Indices of different variables.
        values: Cost at each combination of their values, one axis per variable; infinite where it is not allowed.
    """

    variables: tuple[int, ...]
    values: NDArray[np.float64]


class Budget(NamedTuple):
    """Upper bound of a sum of tables.

    Attributes:
        name: Name of the cost, for messages. Budgets of the same name bound the largest of several sums.
        bound: Largest allowed cost.
        tables: Contributions.
        fixed: Cost that does not depend on any variable.
    """

    name: str
    bound: float
    tables: tuple[Table, ...]
    fixed: float = 0.0

    def cost(self, choice: NDArray[np.intp]) -> float:
        """Cost of a choice, an index of a value for each variable."""
        parts = (table.values[tuple(choice[list(table.variables)])] for table in self.tables)
        return self.fixed + math.fsum(float(part) for part in parts)


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
    program = _Program(losses, budgets)
    found = program.least(program.loss, budgets, seconds, without=without)
    if found is None:
        if len(without):
            raise ProblemError(f"there are no more than {len(without)} choices within the budgets; ask for fewer")
        raise ProblemError(_impossible(program, budgets, seconds))
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


class _Program:
    """Unknowns and equations of the program: one binary per value of each variable, one number per combination."""

    def __init__(self, losses: Losses, budgets: Sequence[Budget]) -> None:
        self.sizes = [len(own) for own in losses]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.n_binary = self.n = int(self.starts[-1])
        self.forbidden: set[int] = set()
        self.places: dict[tuple[int, ...], int] = {(number,): int(at) for number, at in enumerate(self.starts[:-1])}
        tables = [table for budget in budgets for table in budget.tables]
        for table in tables:
            if table.variables and table.variables not in self.places:
                self.places[table.variables] = self.n
                self.n += table.values.size
            if table.variables:
                self.forbidden |= {
                    self.places[table.variables] + int(i) for i in np.flatnonzero(~np.isfinite(table.values.ravel()))
                }
        self.loss = np.zeros(self.n)
        own = np.concatenate([np.asarray(one, np.float64) - np.min(one) for one in losses]) if losses else np.zeros(0)
        spread = math.fsum(float(np.max(one) - np.min(one)) for one in losses)
        self.loss[: self.n_binary] = own * (SPREAD / spread if spread > 0 else 0.0)
        self.equations = self._equations()

    def _equations(self) -> tuple[list[tuple[NDArray[np.int64], NDArray[np.float64]]], list[float]]:
        """Rows (columns and coefficients) that are zero or one: one value per variable, marginals of combinations."""
        rows: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        right: list[float] = []
        for number, size in enumerate(self.sizes):
            rows.append((np.arange(size) + self.starts[number], np.ones(size)))
            right.append(1.0)
        for variables, start in self.places.items():
            if len(variables) == 1:
                continue
            cells = np.arange(math.prod(self.sizes[v] for v in variables)).reshape([self.sizes[v] for v in variables])
            for axis, variable in enumerate(variables):
                for value in range(self.sizes[variable]):
                    inside = cells.take(value, axis=axis).ravel() + start
                    columns = np.append(inside, self.starts[variable] + value)
                    rows.append((columns, np.append(np.ones(len(inside)), -1.0)))
                    right.append(0.0)
        return rows, right

    def row(self, budget: Budget) -> tuple[NDArray[np.float64], float]:
        """Coefficients of all unknowns in a cost, and its constant part."""
        row, fixed = np.zeros(self.n), budget.fixed
        for table in budget.tables:
            values = np.where(np.isfinite(table.values), table.values, 0.0).ravel()
            if not table.variables:
                fixed += float(values[0])
                continue
            start = self.places[table.variables]
            row[start : start + len(values)] += values
        return row, fixed

    def least(
        self,
        goal: NDArray[np.float64],
        budgets: Sequence[Budget],
        seconds: float,
        *,
        of: Sequence[Budget] = (),
        without: Sequence[NDArray[np.intp]] = (),
    ) -> NDArray[np.intp] | None:
        """Choice with the least value of a goal, or of the largest cost ``of`` some budgets; ``None`` if impossible."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        rows, right = self.equations
        n = self.n + bool(of)
        lower, upper = list(right), list(right)
        coefficients = list(rows)
        for budget in budgets:
            if budget.bound == math.inf:
                continue
            row, fixed = self.row(budget)
            scale = ROW / max(abs(budget.bound - fixed), 1e-300)
            used = np.flatnonzero(row)
            coefficients.append((used, row[used] * scale))
            lower.append(-np.inf)
            upper.append((budget.bound - fixed) * scale)
        largest = [self.row(budget) for budget in of]
        scale = ROW / max((abs(row).sum() for row, _ in largest), default=1.0) if of else 1.0
        for row, fixed in largest:  # row * choice + fixed <= the last unknown
            used = np.flatnonzero(row)
            coefficients.append((np.append(used, self.n), np.append(row[used] * scale, -1.0)))
            lower.append(-np.inf)
            upper.append(-fixed * scale)
        cost = np.append(np.zeros(self.n), 1.0) if of else goal
        top = np.ones(n)
        top[list(self.forbidden)] = 0.0
        bottom = np.zeros(n)
        if of:
            bottom[-1], top[-1] = -np.inf, np.inf

        def exclude(choice: NDArray[np.intp]) -> None:
            chosen = self.starts[:-1] + choice
            coefficients.append((chosen, np.ones(len(chosen))))
            lower.append(-np.inf)
            upper.append(len(chosen) - 1.0)

        for known in without:
            exclude(known)
        integral = (np.arange(n) < self.n_binary).astype(np.int64)
        for _ in range(REPAIRS):
            matrix = csr_array(
                (
                    np.concatenate([values for _, values in coefficients]),
                    np.concatenate([columns for columns, _ in coefficients]),
                    np.cumsum([0, *(len(columns) for columns, _ in coefficients)]),
                ),
                shape=(len(coefficients), n),
            )
            result = milp(
                cost,
                constraints=LinearConstraint(matrix, lower, upper),
                integrality=integral,
                bounds=Bounds(bottom, top),
                options={"time_limit": seconds, "mip_rel_gap": GAP},
            )
            if result.status == 2:
                return None
            if result.status != 0:
                raise ProblemError(
                    f"the integer program was not solved in {seconds:g} s ({result.message}); relax a bound, or open "
                    "fewer bit-widths"
                )
            choice = np.array(
                [int(np.argmax(result.x[a:b])) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)],
                np.intp,
            )
            if all(budget.cost(choice) <= budget.bound for budget in budgets):
                return choice
            exclude(choice)  # it is over a budget by less than the tolerance
        return None


def _impossible(program: _Program, budgets: Sequence[Budget], seconds: float) -> str:
    """Why no choice keeps all budgets: the first one that cannot be kept together with those before it."""
    kept: list[Budget] = []
    for name in dict.fromkeys(budget.name for budget in budgets):
        own = [budget for budget in budgets if budget.name == name]
        best = program.least(program.loss, kept, seconds, of=own)
        least = math.inf if best is None else max(budget.cost(best) for budget in own)
        bound = min(budget.bound for budget in own)
        if least > bound:
            given = "".join(f" with {one.name}<={one.bound:.15g}" for one in {one.name: one for one in kept}.values())
            return f"no bits keep {name}<={bound:.15g}{given}; the least reachable is {least:.15g}, relax the bound"
        kept += own
    return "no bits keep all bounds at once; relax one"
