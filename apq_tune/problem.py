"""What is asked for: objectives to improve and constraints to keep. The only place with signs and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from apq_tune.encoding import Encoding, Genomes
from apq_tune.errors import ProblemError
from apq_tune.space import SearchSpace

Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class FunctionMetric:
    """Any batch function as a metric."""

    name: str
    unit: str
    function: Callable[[Genomes], Floats]

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)``."""
        return self.function(genomes)


@dataclass(frozen=True)
class Objective:
    """A metric and which way is better."""

    metric: Metric
    direction: Literal["minimize", "maximize"] = "minimize"

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise ProblemError(f"direction of {self.metric.name} is {self.direction!r}; use 'minimize' or 'maximize'")


@dataclass(frozen=True)
class Constraint:
    """``metric <= bound`` (or ``>=``)."""

    metric: Metric
    bound: float
    sense: Literal["<=", ">="] = "<="

    def __post_init__(self) -> None:
        if self.sense not in ("<=", ">="):
            raise ProblemError(f"constraint on {self.metric.name} uses {self.sense!r}; use '<=' or '>='")
        if not math.isfinite(self.bound):
            raise ProblemError(f"bound of {self.metric.name} is {self.bound}; give a finite number")

    def __str__(self) -> str:
        return f"{self.metric.name} {self.sense} {self.bound:g}"

    def violation(self, values: Floats) -> Floats:
        """How far values miss the bound, as a share of it (absolute if it is 0); feasible where ``<= 0``."""
        excess = values - self.bound if self.sense == "<=" else self.bound - values
        return excess / (abs(self.bound) or 1.0)

    def check_reachable(self) -> None:
        """Refuse a bound that no candidate meets, if the metric knows its range.

        Raises:
            ProblemError: with the smallest and the largest reachable value.
        """
        if not isinstance(self.metric, Bounded):
            return
        low, high = self.metric.reachable()
        if (self.bound < low) if self.sense == "<=" else (self.bound > high):
            raise ProblemError(
                f"no candidate reaches {self}: {self.metric.name} goes from {low:.6g} to {high:.6g} "
                f"{self.metric.unit}; give a bound in that range"
            )


class Evaluation(NamedTuple):
    """What a problem says of ``n`` candidates."""

    F: Floats  # (n, n_objectives), all minimised
    G: Floats  # (n, n_constraints), feasible where <= 0
    metrics: Floats  # (n, n_metrics), raw, in the order of Problem.metrics

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
        space: SearchSpace | Encoding,
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
        self.encoding = space if isinstance(space, Encoding) else Encoding(space)
        self.objectives, self.constraints = tuple(objectives), tuple(constraints)
        if not self.objectives:
            raise ProblemError("a problem needs at least one objective, got none")
        by_name: dict[str, Metric] = {}
        named = [o.metric for o in self.objectives] + [c.metric for c in self.constraints] + list(also)
        for metric in named:
            if by_name.setdefault(metric.name, metric) is not metric:
                raise ProblemError(f"two different metrics are called {metric.name!r}; rename one")
        self.metrics = tuple(by_name.values())
        for constraint in self.constraints:
            constraint.check_reachable()

    def evaluate(self, genomes: Genomes) -> Evaluation:
        """Score canonical genomes ``(n, n_genes)``.

        Raises:
            ProblemError: if a metric is not finite somewhere, naming the metric and the candidate.
        """
        columns = {}
        for metric in self.metrics:
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
        F = [columns[o.metric.name] * (1 if o.direction == "minimize" else -1) for o in self.objectives]
        G = [c.violation(columns[c.metric.name]) for c in self.constraints]
        return Evaluation(
            np.stack(F, axis=1),
            np.stack(G, axis=1) if G else np.zeros((len(genomes), 0)),
            np.stack(list(columns.values()), axis=1),
        )


def parse_constraint(text: str, metrics: Sequence[Metric], reference: Mapping[str, float] | None = None) -> Constraint:
    """Read ``"bit_ops <= 2e6"`` or ``"bit_ops <= 25%"``.

    Args:
        text: metric, ``<=`` or ``>=``, number.
        metrics: those that may be named.
        reference: metric name -> what 100% is; without it percentages are refused.

    Raises:
        ProblemError: if it is no comparison, its number is none, or its metric is unknown (lists the known ones).
    """
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*", text)
    if match is None:
        raise ProblemError(f"cannot read constraint {text!r}; write METRIC<=NUMBER or METRIC>=NUMBER")
    name, sense, number = match.groups()
    by_name = {metric.name: metric for metric in metrics}
    if name not in by_name:
        raise ProblemError(f"unknown metric {name!r} in {text!r}; known: {', '.join(by_name)}")
    try:
        bound = float(number.removesuffix("%"))
    except ValueError:
        raise ProblemError(f"{number!r} in {text!r} is not a number; write for instance {name}{sense}2e6") from None
    if number.endswith("%"):
        if name not in (reference or {}):
            raise ProblemError(f"{number} in {text!r}: what 100% of {name} is, is not known here; give a plain number")
        bound *= (reference or {})[name] / 100
    return Constraint(by_name[name], bound, "<=" if sense == "<=" else ">=")
