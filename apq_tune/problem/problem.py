"""What is asked for: objectives to improve and constraints to keep. The only place with signs and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError, ReachError
from apq_tune.inputs.quantities import read_quantity
from apq_tune.inputs.ranges import shown
from apq_tune.space.choices import ChoiceSpace
from apq_tune.space.encoding import Encoding, Genomes
from apq_tune.space.network_encoding import encoding_of
from apq_tune.space.search_space import SearchSpace

Floats = NDArray[np.float64]
Part = TypeVar("Part")


class Metric(Protocol):
    """A number for each candidate: learned (predictor), counted (cost model) or run (evaluator)."""

    @property
    def name(self) -> str:
        """Of the metric, its unit included where it has one."""
        ...

    @property
    def unit(self) -> str:
        """Of its values, for people."""
        ...

    def __call__(self, genomes: Genomes, /) -> Floats:
        """``(n, n_genes) -> (n,)`` in ``unit``; never NaN."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A metric that knows the range it can take over its whole search space."""

    def reachable(self) -> tuple[float, float]:
        """Exact smallest and largest value."""
        ...


@runtime_checkable
class Indexed(Protocol):
    """A metric read from tables, in two steps, of which several metrics of one encoding can share the first."""

    def index(self, genomes: Genomes) -> tuple[NDArray[Any], ...]:
        """Where to look."""
        ...

    def at(self, *index: NDArray[Any]) -> Floats:
        """``(n,)`` values."""
        ...


Report = Callable[[int, Mapping[str, float], Callable[[], bytes]], None]
"""Told after each step of a training: how many are done, the scores so far, and how to make a checkpoint."""


@runtime_checkable
class TrainedMetric(Protocol):
    """A metric that has to train a candidate before it can say anything; it tells how it goes and can be resumed."""

    @property
    def name(self) -> str:
        """Of the metric; the scores that are reported have it."""
        ...

    @property
    def fidelity(self) -> str:
        """What was done to get the value, for people: ``"QAT, 6 epochs"``."""
        ...

    @property
    def epochs(self) -> int:
        """Steps of the whole training."""
        ...

    def adjusted(self, config: Mapping[str, Any]) -> TrainedMetric:
        """The same with those of its settings that a trial's configuration names (``learning_rate``)."""
        ...

    def train(self, candidate: Any, report: Report, checkpoint: bytes | None) -> None:
        """Train one candidate, from a checkpoint if there is one; the last report is the result."""
        ...


@dataclass(frozen=True)
class FunctionMetric:
    """Any batch function as a metric."""

    name: str
    unit: str
    function: Callable[[Genomes], Floats]

    @classmethod
    def of_candidates(
        cls, name: str, unit: str, function: Callable[[list[Any]], Sequence[float]], space: SearchSpace | ChoiceSpace
    ) -> FunctionMetric:
        """A batch function on candidates instead of genomes.

        Args:
            name: of the metric.
            unit: of its values.
            function: from ``n`` candidates to ``n`` numbers.
            space: that the candidates are from.
        """
        encoding = encoding_of(space)
        return cls(name, unit, lambda genomes: np.asarray(function(encoding.decode(genomes)), np.float64))

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)``."""
        return self.function(genomes)


def _check_metric(metric: Any, of: str) -> None:
    """Refuse what is no metric, such as a bare function.

    Raises:
        ProblemError: with how to make it one.
    """
    if isinstance(metric, type) or not callable(metric) or not isinstance(getattr(metric, "name", None), str):
        example = "FunctionMetric('name', 'unit', function), whose function takes genomes (n, n_genes) and returns (n,)"
        raise ProblemError(f"{of} needs a metric, got {shown(metric)}; make one with {example}")


def _all_of(parts: Any, kind: type[Part], name: str) -> tuple[Part, ...]:
    """The parts of a problem as a tuple.

    Raises:
        ProblemError: if they are no list of that kind.
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
    """A metric and which way is better."""

    metric: Metric
    direction: Literal["minimize", "maximize"] = "minimize"

    def __post_init__(self) -> None:
        _check_metric(self.metric, "an objective")
        if self.direction not in ("minimize", "maximize"):
            raise ProblemError(f"direction of {self.metric.name} is {self.direction!r}; use 'minimize' or 'maximize'")


@dataclass(frozen=True)
class Constraint:
    """``metric <= bound`` (or ``>=``)."""

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
        """How far values miss the bound, as a share of it (absolute if it is 0); feasible where ``<= 0``."""
        excess = values - self.bound if self.sense == "<=" else self.bound - values
        return excess / (abs(self.bound) or 1.0)

    def check_reachable(self) -> None:
        """Refuse a bound that no candidate meets, if the metric knows its range.

        Raises:
            ReachError: with the smallest and the largest reachable value.
        """
        if not isinstance(self.metric, Bounded):
            return
        low, high = self.metric.reachable()
        slack = 1e-12 * abs(self.bound)  # sums in another order differ in the last digits
        if (self.bound < low - slack) if self.sense == "<=" else (self.bound > high + slack):
            raise ReachError(
                f"no candidate reaches {self}: {self.metric.name} goes from {low:.6g} to {high:.6g} "
                f"{self.metric.unit}; give a bound in that range"
            )


def reported_name(metric: Metric) -> str:
    """The name under which trackers and tables see a metric: its unit is in it."""
    unit = "".join(filter(str.isalnum, metric.unit)).lower()
    has_unit = unit in ("", "fraction") or unit in metric.name.replace("_", "").lower()
    return metric.name if has_unit else f"{metric.name}_{unit}"


def constraint_name(constraint: Constraint) -> str:
    """The name of a constraint's violation, unless ``Problem.constraint_names`` has to tell two apart."""
    return f"violation_{constraint.metric.name}_{'max' if constraint.sense == '<=' else 'min'}"


def _shortest(number: float) -> str:
    """The fewest digits that read back as the number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


class Evaluation(NamedTuple):
    """What a problem says of ``n`` candidates."""

    F: Floats  # (n, n_objectives), all minimised; infinite where a constraint is broken
    G: Floats  # (n, n_constraints), feasible where <= 0
    metrics: Floats  # (n, n_metrics), raw, in the order of Problem.metrics; NaN where not asked for

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """``(n,)``: which candidates keep all constraints."""
        return np.asarray((self.G <= 0).all(axis=1))


class Problem:
    """A search space, what to improve in it and what to keep.

    Attributes:
        encoding: genome layout of the space.
        objectives: at least one.
        constraints: possibly none.
        metrics: every metric that objectives, constraints or ``also`` name, once.
    """

    def __init__(
        self,
        space: SearchSpace | ChoiceSpace | Encoding,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        also: Sequence[Metric] = (),
    ) -> None:
        """Check that the question can be answered at all.

        Args:
            space: where to search.
            objectives: what to improve.
            constraints: what to keep.
            also: metrics to report beside them.

        Raises:
            ProblemError: if there is no objective, two metrics share a name, or a bound is out of reach.
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
        """The name of each constraint's violation, feasible where ``<= 0``: in results, tables and studies alike.

        Where two limit one metric from the same side, both names end with the bound.
        """
        names = [constraint_name(constraint) for constraint in self.constraints]
        return tuple(
            f"{name}_{_shortest(constraint.bound)}" if names.count(name) > 1 else name
            for name, constraint in zip(names, self.constraints, strict=True)
        )

    def evaluate(self, genomes: Genomes) -> Evaluation:
        """Score canonical genomes ``(n, n_genes)``.

        Metrics of constraints come first; the others, which may be costly, are asked only for candidates that keep all
        constraints.

        Raises:
            ProblemError: if a metric is not finite somewhere, naming the metric and the candidate.
        """
        columns: dict[str, Floats] = {}
        shared: dict[type, tuple[NDArray[Any], ...]] = {}
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
        """Values of some metrics by name, of feasible and of infeasible candidates: name -> ``(n,)``.

        Raises:
            ProblemError: if a metric is not finite somewhere, naming the metric and the candidate.
        """
        columns: dict[str, Floats] = {}
        self._measure(metrics, genomes, columns, {})
        return columns

    def _measure(
        self,
        metrics: Sequence[Metric],
        genomes: Genomes,
        columns: dict[str, Floats],
        shared: dict[type, tuple[NDArray[Any], ...]],
    ) -> None:
        """Add the values of some metrics to ``columns``; what tables of one kind share is looked up once."""
        for metric in metrics:
            if isinstance(metric, Indexed):
                kind = type(metric)
                if kind not in shared:
                    shared[kind] = metric.index(genomes)
                values = np.asarray(metric.at(*shared[kind]), np.float64)
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


def parse_constraint(
    text: str,
    metrics: Sequence[Metric],
    reference: Mapping[str, float] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Constraint:
    """Read ``"bit_ops <= 2e6"``, ``"weight_bytes <= 200kB"`` or ``"bit_ops <= 25%"``.

    Args:
        text: metric, ``<=`` or ``>=``, number, possibly with a unit (see ``read_quantity``).
        metrics: those that may be named.
        reference: metric name -> what 100% is; without it percentages are refused, but of fractions.
        aliases: other names of metrics.

    Raises:
        ProblemError: if it is no comparison, its number is none, its unit does not fit, or its metric is unknown (lists
            the known ones).
    """
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S.*?)\s*", text)
    if match is None:
        raise ProblemError(f"cannot read constraint {text!r}; write METRIC<=NUMBER or METRIC>=NUMBER")
    given, sense, number = match.groups()
    by_name, aliases = {metric.name: metric for metric in metrics}, aliases or {}
    metric = by_name.get(aliases.get(given, given))
    if metric is None:
        also = {name: alias for alias, name in aliases.items()}
        known = ", ".join(f"{name} (or {also[name]})" if name in also else name for name in by_name)
        raise ProblemError(f"unknown metric {given!r} in {text!r}; known: {known}")
    try:
        if number.endswith("%") and metric.unit != "fraction":
            if metric.name not in (reference or {}):
                raise ProblemError(f"what 100% of {metric.name} is, is not known here; give a plain number")
            bound = read_quantity(number.removesuffix("%"), "percent") * ((reference or {})[metric.name] / 100)
        else:
            bound = read_quantity(number, metric.unit)
    except ProblemError as error:
        raise ProblemError(f"cannot read {text!r}: {error}") from None
    return Constraint(metric, bound, "<=" if sense == "<=" else ">=")
