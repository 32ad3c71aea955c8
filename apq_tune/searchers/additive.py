"""Problems whose metrics are sums of terms over few genes, as integer programs."""

from __future__ import annotations

import fnmatch
import functools
import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost.additive import HasTerms, Sum
from apq_tune.errors import ProblemError
from apq_tune.network.network import has_network
from apq_tune.problem.problem import Constraint, Objective, Problem
from apq_tune.searchers.interactions import forbidden, interactions
from apq_tune.searchers.program import Budget, IntegerProgram, Table, impossible
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding

GAP = 1e-9
"""Largest relative distance of a solution from the proven bound."""

NO_TERMS = (
    "no sum of terms over few genes, which an integer program needs; take costs (but peak memory and image sizes or "
    "blocks that are open together in a traced model), an additive table, or another sampler"
)

Ties = Sequence[str | Sequence[str]]
"""Groups of genes that must have the same value, by names or patterns with ``*`` such as ``"1.* w_bits"``."""


def additive_metrics(problem: Problem) -> tuple[dict[str, tuple[Sum, ...]], str]:
    """Sums of all objectives and limits of a problem.

    Args:
        problem: Problem with objectives and constraints.

    Returns:
        Sums by the name of the metric, and why an integer program cannot solve the problem, empty if it can.
    """
    found: dict[str, tuple[Sum, ...]] = {}
    if not isinstance(problem.encoding, GeneEncoding):
        return found, f"{problem.encoding.name} has an encoding of its own, of which no integer program can be made"
    parts: list[Objective | Constraint] = [*problem.objectives, *problem.constraints]
    metrics = {part.metric.name: part.metric for part in parts}
    if other := [name for name, metric in metrics.items() if not isinstance(metric, HasTerms)]:
        return found, f"{other[0]} is {NO_TERMS}"
    for name, metric in metrics.items():
        sums = metric.additive() if isinstance(metric, HasTerms) else None
        if sums is None:
            return found, f"{name} is {NO_TERMS}"
        found[name] = sums
    upwards = [(o.metric.name, "is maximised") for o in problem.objectives if o.direction == "maximize"]
    upwards += [(c.metric.name, f"has the lower bound {c}") for c in problem.constraints if c.sense == ">="]
    for name, said in upwards:
        if len(found[name]) > 1:
            return found, f"{name} is the largest of several sums and {said}; minimise it, or take another sampler"
    return found, ""


class ExactSolver:
    """Integer program of a problem, which finds its optimum for any objective and any further bounds."""

    def __init__(self, problem: Problem, *, ties: Ties = (), seconds: float) -> None:
        """Make the program.

        Args:
            problem: Problem whose metrics are sums of terms over few genes.
            ties: Groups of genes that must have the same value.
            seconds: Longest time for one solution.

        Raises:
            ProblemError: If a metric is of another form, a tie names no genes, or the program is too large.
        """
        sums, why = additive_metrics(problem)
        if why:
            raise ProblemError(why)
        self._problem, self._seconds = Problem(problem.encoding, problem.objectives, problem.constraints), seconds
        self._encoding = cast(GeneEncoding, problem.encoding)
        self._goals = [
            [_budget(o.metric.name, math.inf, *_split(one), -1.0 if o.direction == "maximize" else 1.0) for one in own]
            for o in problem.objectives
            for own in [sums[o.metric.name]]
        ]
        self._budgets = [
            _bounded(limit, one, several=len(sums[limit.metric.name]) > 1)
            for limit in problem.constraints
            for one in sums[limit.metric.name]
        ]
        self._budgets.append(Budget("forbidden", math.inf, tuple(_forbidden(self._encoding))))
        goals = [one for goal in self._goals for one in goal]
        self._program = IntegerProgram(self._encoding.n_choices.tolist(), [*goals, *self._budgets])
        for tie in ties:
            genes = _tied(self._encoding, tie)
            self._program.tie(genes, [self._encoding.choices[gene] for gene in genes])

    def best(self, first: int, bounds: Sequence[float]) -> tuple[Genomes, NDArray[np.float64]] | None:
        """Candidate that is best in one objective, and among those in the others, within further bounds.

        Args:
            first: Index of the objective.
            bounds: Upper bounds of all objectives, which are minimised; infinite for none.

        Returns:
            Canonical genome of shape ``(1, n_genes)`` and its minimised objectives, shape ``(n_objectives,)``; ``None``
            if nothing is within the bounds.
        """
        bounds = list(bounds)
        found = None
        for number in (first, *(i for i in range(len(self._goals)) if i != first)):
            budgets = [
                sum_._replace(bound=bound)
                for goal, bound in zip(self._goals, bounds, strict=True)
                if bound < math.inf
                for sum_ in goal
            ]
            choice = self._program.least(
                self._goals[number],
                [*self._budgets, *budgets],
                self._seconds,
                refused=functools.partial(self._refused, tuple(bounds)),
                gap=GAP,
            )
            if choice is None:
                break
            found = self._genome(choice)
            bounds[number] = min(bounds[number], float(self._problem.evaluate(found).F[0, number]))
        return None if found is None else (found, self._problem.evaluate(found).F[0])

    def why_not(self) -> str:
        """Why no candidate keeps the limits of the problem."""
        limits = self._problem.constraints
        if all(budget.bound < math.inf for budget in self._budgets[:-1]) and all(one.sense == "<=" for one in limits):
            return impossible(self._program, self._budgets, self._seconds, "candidates")
        return f"no candidate keeps {' and '.join(map(str, limits))} together; relax one"

    def _refused(self, bounds: Sequence[float], choice: NDArray[np.intp]) -> dict[int, int] | None:
        """The active genes of a choice, if it is over a limit or a further bound by some digit."""
        genome = self._genome(choice)
        scores = self._problem.evaluate(genome)
        if scores.feasible[0] and (scores.F[0] <= bounds).all() and self._encoding.is_allowed(genome)[0]:
            return None
        active = np.flatnonzero(self._encoding.active_genes(genome)[0])
        return {int(gene): int(genome[0, gene]) for gene in active}

    def _genome(self, choice: NDArray[np.intp]) -> Genomes:
        return np.asarray(self._encoding.canonicalise(choice[None].astype(np.int16)), np.int16)


def _split(one: Sum) -> tuple[float, list[Table]]:
    """Constant and tables of a sum, over as few genes as possible; terms over the same genes are added."""
    fixed, together = one.fixed, dict[tuple[int, ...], NDArray[np.float64]]()
    for term in one.terms:
        for table in interactions(term.genes, np.asarray(term.values, np.float64)):
            order = tuple(int(i) for i in np.argsort(table.variables))
            genes = tuple(table.variables[i] for i in order)
            if not genes:
                fixed += float(table.values)
            else:
                values = table.values.transpose(order)
                together[genes] = together[genes] + values if genes in together else values
    return fixed, [Table(genes, values) for genes, values in together.items()]


def _budget(name: str, bound: float, fixed: float, tables: Sequence[Table], sign: float) -> Budget:
    """Bounded sum of tables, or of their negatives."""
    if sign > 0:
        return Budget(name, bound, tuple(tables), fixed)
    negated = (Table(table.variables, np.where(np.isfinite(table.values), -table.values, math.inf)) for table in tables)
    return Budget(name, -bound, tuple(negated), -fixed)


def _bounded(limit: Constraint, one: Sum, *, several: bool) -> Budget:
    """Budget of a limit on one of the sums whose largest is a metric."""
    name, open_terms = limit.metric.name, [term for term in one.terms if term.genes]
    if several and len(open_terms) == 1:  # a peak: what is above the bound is forbidden
        fixed = one.fixed + sum(float(term.values) for term in one.terms if not term.genes)
        kept = fixed + open_terms[0].values <= limit.bound
        return Budget(name, math.inf, tuple(forbidden(open_terms[0].genes, kept)))
    return _budget(name, limit.bound, *_split(one), 1.0 if limit.sense == "<=" else -1.0)


def _forbidden(encoding: GeneEncoding) -> list[Table]:
    """Combinations of genes that are not in the search space."""
    places = {name: place for place, name in enumerate(encoding.names)}
    tables = []
    if has_network(encoding.space):
        for part in encoding.space.network.parts:
            if part.allowed is not None:
                genes = [places[gene] for gene in part.genes]
                tables += forbidden(genes, encoding.space.network.allowed(part))
    for w, a, allowed in encoding.pairs:
        tables += forbidden((w, a), allowed)
    if encoding.inside is not None:
        for gene, n in enumerate(encoding.n_choices):
            tables += forbidden((gene,), encoding.inside[gene, :n])
    return tables


def _tied(encoding: GeneEncoding, tie: str | Sequence[str]) -> list[int]:
    """Indices of the genes of a tie.

    Raises:
        ProblemError: If a name or pattern fits no gene, or there is only one.
    """
    found: dict[int, None] = {}
    for pattern in [tie] if isinstance(tie, str) else tie:
        own = [place for place, name in enumerate(encoding.names) if fnmatch.fnmatchcase(name, pattern)]
        if not own:
            raise ProblemError(
                f"ties: {encoding.name} has no gene {pattern!r}; give names such as {encoding.names[-1]!r}, or patterns"
            )
        found |= dict.fromkeys(own)
    if len(found) < 2:
        raise ProblemError(f"ties: {tie!r} is one gene; name the others that must have the same value")
    return list(found)
