"""Integer programs over variables with few values each (HiGHS, by ``scipy.optimize.milp``).

What is minimised or bounded is a sum of tables over few variables each, such as BitOps, which depend on the bits of the
weights and of the input of a layer at once, or the largest of several sums. A table over several variables is made
linear by one unknown per combination of their values, whose marginal sums are the choices of the variables. HAWQ-V3
(Yao 2021) chooses bits by such a program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError

SECONDS = 60.0
"""Longest time for one program; the programs of 50 layers take some hundredths of a second."""

GAP = 1e-6
"""Largest relative distance of the solution's loss from the proven bound at which the solver may stop."""

ROW, SPREAD = 1e4, 1e4
"""Bounds and losses are scaled to these sizes, for which the absolute tolerances of the solver (1e-6) are small."""

MOST_UNKNOWNS = 60_000
"""Maximum number of unknowns of a program."""

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


class TooLargeError(ProblemError):
    """A program that has too many unknowns, or was not solved in time."""


class _Product(NamedTuple):
    """Table over several variables, of which values that make no difference are one.

    Attributes:
        variables: Variables on which the table depends.
        classes: Class of each value of each variable.
        values: Table over the classes.
    """

    variables: tuple[int, ...]
    classes: tuple[tuple[int, ...], ...]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, table: Table) -> _Product:
        values, kept, classes = np.asarray(table.values, np.float64), list[int](), list[tuple[int, ...]]()
        for axis in range(values.ndim):
            rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
            _, first, own = np.unique(rows, axis=0, return_index=True, return_inverse=True)
            order = np.argsort(np.argsort(first))
            values = values.take(np.sort(first), axis=axis)
            classes.append(tuple(order[own.ravel()].tolist()))
        kept = [axis for axis, n in enumerate(values.shape) if n > 1]
        return cls(
            tuple(table.variables[axis] for axis in kept),
            tuple(classes[axis] for axis in kept),
            values.reshape([values.shape[axis] for axis in kept]),
        )


class IntegerProgram:
    """Unknowns and equations of a program: one binary per value of each variable, one number per combination.

    Attributes:
        sizes: Number of values of each variable.
        n: Number of unknowns.
    """

    def __init__(self, sizes: Sequence[int], budgets: Sequence[Budget]) -> None:
        """Lay out the unknowns.

        Args:
            sizes: Number of values of each variable.
            budgets: Sums that are bounded or minimised, all whose tables there may ever be.

        Raises:
            TooLargeError: If there are more unknowns than can be solved for.
        """
        self.sizes = [int(size) for size in sizes]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.n_binary = self.n = int(self.starts[-1])
        self._forbidden: set[int] = set()
        self._products: dict[int, _Product] = {}  # by the identity of a table, which is kept alive by its budget
        self._places: dict[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], int] = {}
        self._budgets = tuple(budgets)
        self._more: list[_Row] = []
        for table in [table for budget in budgets for table in budget.tables]:
            product = self._products.setdefault(id(table), _Product.of(table))
            bad = np.flatnonzero(~np.isfinite(product.values.ravel()))
            if len(product.variables) == 1:
                own = np.isin(product.classes[0], bad)
                self._forbidden |= {int(self.starts[product.variables[0]] + value) for value in np.flatnonzero(own)}
            elif product.variables:
                place = self._places.setdefault((product.variables, product.classes), self.n)
                if place == self.n:
                    self.n += product.values.size
                self._forbidden |= {place + int(cell) for cell in bad}
        if self.n > MOST_UNKNOWNS:
            raise TooLargeError(
                f"the integer program has {self.n} unknowns, more than {MOST_UNKNOWNS}; open fewer choices (such as "
                "one image size, or fewer widths), or search with a sampler"
            )
        self._equations = self._linked()

    def _linked(self) -> list[_Row]:
        """One value per variable, and marginals of combinations."""
        rows = [
            _Row(np.arange(size) + start, np.ones(size), 1.0, 1.0)
            for size, start in zip(self.sizes, self.starts[:-1], strict=True)
        ]
        for (variables, classes), start in self._places.items():
            shape = [max(own) + 1 for own in classes]
            cells = np.arange(math.prod(shape)).reshape(shape) + start
            for axis, (variable, own) in enumerate(zip(variables, classes, strict=True)):
                for number in range(shape[axis]):
                    inside = cells.take(number, axis=axis).ravel()
                    values = np.flatnonzero(np.equal(own, number)) + self.starts[variable]
                    signs = np.concatenate([np.ones(len(inside)), -np.ones(len(values))])
                    rows.append(_Row(np.concatenate([inside, values]), signs, 0.0, 0.0))
        return rows

    def tie(self, variables: Sequence[int], values: Sequence[Sequence[object]]) -> None:
        """Give variables the same value, of those that all of them have.

        Args:
            variables: The variables.
            values: Values of each of them, in order.
        """
        first, *others = variables
        for other in others:
            for value in dict.fromkeys([*values[variables.index(first)], *values[variables.index(other)]]):
                columns = [
                    self.starts[one] + values[variables.index(one)].index(value)
                    for one in (first, other)
                    if value in values[variables.index(one)]
                ]
                self._more.append(_Row(np.array(columns), np.array([1.0, -1.0][: len(columns)]), 0.0, 0.0))

    def row(self, budget: Budget) -> tuple[NDArray[np.float64], float]:
        """Coefficients of all unknowns in a cost, and its constant part."""
        row, fixed = np.zeros(self.n), budget.fixed
        for table in budget.tables:
            product = self._products[id(table)]
            values = np.where(np.isfinite(product.values), product.values, 0.0)
            if not product.variables:
                fixed += float(values)
            elif len(product.variables) == 1:
                start = self.starts[product.variables[0]]
                row[start : start + len(product.classes[0])] += values[list(product.classes[0])]
            else:
                start = self._places[product.variables, product.classes]
                row[start : start + values.size] += values.ravel()
        return row, fixed

    def _goal(self, budget: Budget) -> NDArray[np.float64]:
        """Coefficients of a cost above the sum of the least entries of its tables, scaled to the size of ``SPREAD``."""
        shifted, spread = [], 0.0
        row = np.zeros(self.n)
        for table in budget.tables:
            product = self._products[id(table)]
            values = product.values[np.isfinite(product.values)]
            if product.variables and len(values):
                spread += float(np.ptp(values))
                shifted.append((product, float(values.min())))
        row, _ = self.row(budget)
        for product, least in shifted:  # all unknowns of a table together are one
            if len(product.variables) == 1:
                start = self.starts[product.variables[0]]
                row[start : start + len(product.classes[0])] -= least
            else:
                start = self._places[product.variables, product.classes]
                row[start : start + product.values.size] -= least
        return row * (SPREAD / spread if spread > 0 else 0.0)

    def least(
        self,
        goal: Sequence[Budget],
        budgets: Sequence[Budget],
        seconds: float,
        *,
        without: Sequence[Mapping[int, int]] = (),
        refused: Callable[[NDArray[np.intp]], Mapping[int, int] | None] | None = None,
        gap: float = GAP,
    ) -> NDArray[np.intp] | None:
        """Choice with the least value of the largest of some sums; ``None`` if no choice keeps the budgets.

        Args:
            goal: Sums, of which the largest is minimised; their bounds do not matter.
            budgets: Budgets.
            seconds: Longest time for the solver.
            without: Values of variables that are not taken together.
            refused: Values of a choice that must not be taken together, since they are over a budget by less than the
                solver's tolerance; ``None`` if it is within all of them. By default the budgets are asked.
            gap: Largest relative distance from the proven bound.

        Raises:
            TooLargeError: If the solver does not finish in time.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        several = len(goal) > 1
        n = self.n + several
        rows = [*self._equations, *self._more, *(row for budget in budgets for row in self._bounding(budget))]
        if several:
            largest = [self.row(budget) for budget in goal]
            scale = ROW / max((abs(row).sum() for row, _ in largest), default=1.0)
            for row, fixed in largest:  # row * choice + fixed <= the last unknown
                used = np.flatnonzero(row)
                signs = np.append(row[used] * scale, -1.0)
                rows.append(_Row(np.append(used, self.n), signs, -np.inf, -fixed * scale))
        cost = np.append(np.zeros(self.n), 1.0) if several else self._goal(goal[0])
        bottom, top = np.zeros(n), np.ones(n)
        top[list(self._forbidden)] = 0.0
        if several:
            bottom[-1], top[-1] = -np.inf, np.inf
        rows += [self._excluding(known) for known in without]
        integral = (np.arange(n) < self.n_binary).astype(np.int64)
        for _ in range(REPAIRS):
            matrix = csr_array(
                (
                    np.concatenate([row.values for row in rows]),
                    np.concatenate([row.columns for row in rows]),
                    np.cumsum([0, *(len(row.columns) for row in rows)]),
                ),
                shape=(len(rows), n),
            )
            result = milp(
                cost,
                constraints=LinearConstraint(matrix, [row.low for row in rows], [row.high for row in rows]),
                integrality=integral,
                bounds=Bounds(bottom, top),
                options={"time_limit": seconds, "mip_rel_gap": gap},
            )
            if result.status == 2:
                return None
            if result.status != 0:
                raise TooLargeError(
                    f"the integer program was not solved in {seconds:g} s ({result.message}); relax a bound, or open "
                    "fewer bit-widths"
                )
            choice = np.array(
                [int(np.argmax(result.x[a:b])) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)],
                np.intp,
            )
            bad = _over(budgets, choice) if refused is None else refused(choice)
            if bad is None:
                return choice
            rows.append(self._excluding(bad))
        return None

    def _bounding(self, budget: Budget) -> list[_Row]:
        """The row that bounds a cost."""
        if budget.bound == math.inf:
            return []
        row, fixed = self.row(budget)
        scale = ROW / max(abs(budget.bound - fixed), 1e-300)
        used = np.flatnonzero(row)
        return [_Row(used, row[used] * scale, -np.inf, (budget.bound - fixed) * scale)]

    def _excluding(self, known: Mapping[int, int]) -> _Row:
        """The row that forbids values of variables together."""
        chosen = np.array([self.starts[variable] + value for variable, value in known.items()], np.int64)
        return _Row(chosen, np.ones(len(chosen)), -np.inf, len(chosen) - 1.0)


def _over(budgets: Sequence[Budget], choice: NDArray[np.intp]) -> Mapping[int, int] | None:
    """The choice, if it is over a budget."""
    kept = all(budget.cost(choice) <= budget.bound for budget in budgets)
    return None if kept else dict(enumerate(choice.tolist()))


class _Row(NamedTuple):
    """Bounded sum of unknowns."""

    columns: NDArray[np.int64]
    values: NDArray[np.float64]
    low: float
    high: float


def impossible(program: IntegerProgram, budgets: Sequence[Budget], seconds: float, what: str) -> str:
    """Why no choice keeps all budgets: the first one that cannot be kept together with those before it.

    Args:
        program: The program.
        budgets: Budgets; those without a bound only forbid combinations.
        seconds: Longest time for the solver, each time.
        what: What is chosen, in the plural.
    """
    kept = [budget for budget in budgets if budget.bound == math.inf]
    for name in dict.fromkeys(budget.name for budget in budgets if budget.bound < math.inf):
        own = [budget for budget in budgets if budget.name == name]
        best = program.least(own, kept, seconds)
        least = math.inf if best is None else max(budget.cost(best) for budget in own)
        bound = min(budget.bound for budget in own)
        if least > bound:
            told = {one.name: one for one in kept if one.bound < math.inf}.values()
            given = "".join(f" with {one.name}<={one.bound:.15g}" for one in told)
            return f"no {what} keep {name}<={bound:.15g}{given}; the least reachable is {least:.15g}, relax the bound"
        kept += own
    return f"no {what} keep all bounds at once; relax one"
