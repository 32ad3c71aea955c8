"""Problems: a search space with objectives and constraints. Directions and bounds are handled nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError, ReachError
from apq_tune.inputs.ranges import shown
from apq_tune.problem.metric import Bounded, Floats, Indexed, Metric
from apq_tune.space.encoding import Encoding, Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.parameters import Space

Part = TypeVar("Part")


def _check_metric(metric: Any, of: str) -> None:
    """Refuse objects that are not metrics, such as bare functions.

    Raises:
        ProblemError: If the object is not a metric; the message shows how to make one.
    """
    if isinstance(metric, type) or not callable(metric) or not isinstance(getattr(metric, "name", None), str):
        example = "FunctionMetric('name', 'unit', function), whose function takes genomes (n, n_genes) and returns (n,)"
        raise ProblemError(f"{of} needs a metric, got {shown(metric)}; make one with {example}")


def _all_of(parts: Any, kind: type[Part], name: str) -> tuple[Part, ...]:
    """Objectives or constraints as a tuple.

    Raises:
        ProblemError: If they are not a list of objects of that class.
    """
    if not isinstance(parts, Iterable) or isinstance(parts, str):
        raise ProblemError(f"{name} of a problem come as a list, got {shown(parts)}; write [...]")
    found: tuple[Part, ...] = tuple(parts)
    for part in found:
        if not isinstance(part, kind):
            raise ProblemError(f"{name} of a problem are {kind.__name__}(metric, ...), got {shown(part)}")
    return found


@dataclass(frozen=True)
class Objective:
    """Metric to be minimised or maximised."""

    metric: Metric
    direction: Literal["minimize", "maximize"] = "minimize"

    def __post_init__(self) -> None:
        _check_metric(self.metric, "an objective")
        if self.direction not in ("minimize", "maximize"):
            raise ProblemError(f"direction of {self.metric.name} is {self.direction!r}; use 'minimize' or 'maximize'")


@dataclass(frozen=True)
class Constraint:
    """Bound on a metric: ``metric <= bound`` or ``metric >= bound``."""

    metric: Metric
    bound: float
    sense: Literal["<=", ">="] = "<="

    def __post_init__(self) -> None:
        _check_metric(self.metric, "a constraint")
        if self.sense not in ("<=", ">="):
            raise ProblemError(f"constraint on {self.metric.name} uses {self.sense!r}; use '<=' or '>='")
        bound: Any = self.bound
        if isinstance(bound, bool) or not isinstance(bound, Real) or not math.isfinite(self.bound):
            raise ProblemError(f"bound of {self.metric.name} is {self.bound!r}; give a finite number")

    def __str__(self) -> str:
        return f"{self.metric.name} {self.sense} {self.bound:g}"

    def violation(self, values: Floats) -> Floats:
        """Violation of values, relative to the bound (absolute if that is 0); feasible where ``<= 0``."""
        excess = values - self.bound if self.sense == "<=" else self.bound - values
        return excess / (abs(self.bound) or 1.0)

    def check_reachable(self) -> None:
        """Refuse a bound that no candidate satisfies, if the metric is ``Bounded``.

        Raises:
            ReachError: If the bound is out of reach; the message has the smallest and the largest reachable value.
        """
        if not isinstance(self.metric, Bounded):
            return
        low, high = self.metric.reachable()
        slack = 1e-12 * abs(self.bound)  # sums taken in another order differ in the last digits
        if (self.bound < low - slack) if self.sense == "<=" else (self.bound > high + slack):
            raise ReachError(
                f"no candidate reaches {self}: {self.metric.name} goes from {low:.6g} to {high:.6g} "
                f"{self.metric.unit}; give a bound in that range"
            )


def constraint_name(constraint: Constraint) -> str:
    """Name of a constraint's violation, unless ``Problem.constraint_names`` has to disambiguate it."""
    return f"violation_{constraint.metric.name}_{'max' if constraint.sense == '<=' else 'min'}"


def _shortest(number: float) -> str:
    """Shortest text that reads back as the number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


class Evaluation(NamedTuple):
    """Objectives, constraint violations and metrics of ``n`` candidates.

    Attributes:
        F: Objective values, all minimised, infinite for infeasible candidates, shape ``(n, n_objectives)``.
        G: Constraint violations, feasible where ``<= 0``, shape ``(n, n_constraints)``.
        metrics: Raw values in the order of ``Problem.metrics``, NaN where not evaluated, shape ``(n, n_metrics)``.
    """

    F: Floats
    G: Floats
    metrics: Floats

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Mask of the candidates that satisfy all constraints, shape ``(n,)``."""
        return np.asarray((self.G <= 0).all(axis=1))


class Problem:
    """Search space with objectives and constraints.

    Attributes:
        encoding: Encoding of the search space.
        objectives: Objectives, at least one.
        constraints: Constraints, possibly none.
        metrics: All distinct metrics of objectives, constraints and ``also``.
    """

    def __init__(
        self,
        space: Space | Encoding,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        also: Sequence[Metric] = (),
    ) -> None:
        """Check objectives and constraints.

        Args:
            space: Search space, or its encoding.
            objectives: Objectives, at least one.
            constraints: Constraints.
            also: Further metrics to report.

        Raises:
            ProblemError: If there is no objective, two metrics share a name, or a bound is out of reach.
        """
        self.encoding: Encoding = encoding_of(space)
        self.objectives = _all_of(objectives, Objective, "objectives")
        self.constraints = _all_of(constraints, Constraint, "constraints")
        if not self.objectives:
            raise ProblemError("a problem needs at least one objective, got none")
        by_name: dict[str, Metric] = {}
        named = [o.metric for o in self.objectives] + [c.metric for c in self.constraints] + list(also)
        for metric in named:
            if by_name.setdefault(metric.name, metric) is not metric:
                raise ProblemError(f"two different metrics are called {metric.name!r}; rename one")
        self.metrics = tuple(by_name.values())
        improved = [objective.metric.name for objective in self.objectives]
        if twice := sorted({name for name in improved if improved.count(name) > 1}):
            raise ProblemError(f"{twice[0]} is an objective twice; give it once")
        for constraint in self.constraints:
            constraint.check_reachable()

    @property
    def constraint_names(self) -> tuple[str, ...]:
        """Name of each constraint's violation in results, tables and studies.

        If two constraints bound a metric on the same side, their names end with the bound.
        """
        names = [constraint_name(constraint) for constraint in self.constraints]
        return tuple(
            f"{name}_{_shortest(constraint.bound)}" if names.count(name) > 1 else name
            for name, constraint in zip(names, self.constraints, strict=True)
        )

    def evaluate(self, genomes: Genomes) -> Evaluation:
        """Evaluate canonical genomes of shape ``(n, n_genes)``.

        Constrained metrics are evaluated first; the others, which may be expensive, only for feasible candidates.

        Raises:
            ProblemError: If a metric is not finite; the message names the metric and the candidate.
        """
        columns: dict[str, Floats] = {}
        shared: dict[int, tuple[NDArray[Any], ...]] = {}
        limited = {c.metric.name for c in self.constraints}
        self._measure([m for m in self.metrics if m.name in limited], genomes, columns, shared)
        G = np.zeros((len(genomes), len(self.constraints)))
        for column, constraint in enumerate(self.constraints):
            G[:, column] = constraint.violation(columns[constraint.metric.name])
        rest = [m for m in self.metrics if m.name not in limited]
        feasible = (G <= 0).all(axis=1)
        if feasible.all():
            self._measure(rest, genomes, columns, shared)
        else:
            own: dict[str, Floats] = {}
            self._measure(rest, genomes[feasible], own, {})
            for name, values in own.items():
                columns[name] = np.full(len(genomes), np.nan)
                columns[name][feasible] = values
        F = np.stack([columns[o.metric.name] * (1 if o.direction == "minimize" else -1) for o in self.objectives], 1)
        F[~feasible] = np.inf
        return Evaluation(F, G, np.stack([columns[m.name] for m in self.metrics], axis=1))

    def measure(self, metrics: Sequence[Metric], genomes: Genomes) -> dict[str, Floats]:
        """Evaluate metrics of all candidates, infeasible ones included.

        Args:
            metrics: Metrics to evaluate.
            genomes: Canonical genomes, shape ``(n, n_genes)``.

        Returns:
            Values of shape ``(n,)`` by metric name.

        Raises:
            ProblemError: If a metric is not finite; the message names the metric and the candidate.
        """
        columns: dict[str, Floats] = {}
        self._measure(metrics, genomes, columns, {})
        return columns

    def _measure(
        self,
        metrics: Sequence[Metric],
        genomes: Genomes,
        columns: dict[str, Floats],
        shared: dict[int, tuple[NDArray[Any], ...]],
    ) -> None:
        """Add the values of metrics to ``columns``; indices that table metrics share are computed once."""
        for metric in metrics:
            if isinstance(metric, Indexed):
                layout = id(metric.layout)
                if layout not in shared:
                    shared[layout] = metric.index(genomes)
                values = np.asarray(metric.at(*shared[layout]), np.float64)
            else:
                values = np.asarray(metric(genomes), np.float64)
            if values.shape != (len(genomes),):
                raise ProblemError(
                    f"{metric.name} returned shape {values.shape} for {len(genomes)} genomes; return (n,)"
                )
            if not np.isfinite(values).all():
                worst = int(np.argmin(np.isfinite(values)))
                (candidate,) = self.encoding.decode(genomes[worst : worst + 1])
                raise ProblemError(f"{metric.name} is {values[worst]} for candidate {candidate}; it must be finite")
            columns[metric.name] = values
