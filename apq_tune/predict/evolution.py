"""Evolution of zero-cost proxies of bit policies (experimental), after EMQ (Dong 2023).

EMQ's operators, its evolution and the benchmark it was fitted to are not published, so that its own results cannot be
reproduced; this is the method, not its proxy. All of its scores are linear in the bits of an architecture. Where there
are measured pairs to evolve on, a ridge regression on one-hot bits is of the same class and fitted directly: an
expression is worth something only if it ranks held-out candidates better, or is used where there are no pairs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.predict.expressions import (
    BINARY,
    REDUCTIONS,
    TENSORS,
    UNARY,
    Expression,
    LayerTensors,
    Shape,
    canonical,
    parts_of,
    replaced,
    scores_of,
    shape_of,
    size_of,
    text_of,
)
from apq_tune.predict.pairs import Floats

PROBED = 4
"""Number of candidates on which expressions are tried first."""

ATTEMPTS = 30
"""Expressions that may be made for each one that is evaluated, the others being rejected."""


@dataclass(frozen=True)
class ProxyEvolution:
    """Settings of the evolution.

    Attributes:
        population: Number of expressions that live at a time.
        tournament: Number of expressions among which parents are selected.
        evaluations: Number of expressions that are evaluated.
        crossover: Share of children that have two parents.
        newcomers: Share of children that are drawn anew, what is left being mutants; 1 is random search.
        depth: Largest depth of random expressions.
        size: Largest number of tensors and operations of an expression.
    """

    population: int = 20
    tournament: int = 5
    evaluations: int = 1000
    crossover: float = 0.3
    newcomers: float = 0.1
    depth: int = 3
    size: int = 12


@dataclass(frozen=True)
class EvolvedProxy:
    """Expression that ranked the training pairs best.

    Attributes:
        expression: The expression.
        sign: Sign by which its scores rise with the target.
        fitness: Magnitude of Spearman's rank correlation with the target on the training pairs.
        evaluated: Number of expressions that were evaluated.
        rejected: Number of rejected expressions by reason: ``"same"`` as an earlier one, ``"not finite"``,
            ``"constant"``, or ``"equivalent"``, with the order of an earlier one.
    """

    expression: Expression
    sign: float
    fitness: float
    evaluated: int
    rejected: Mapping[str, int]

    def __call__(self, tensors: LayerTensors) -> Floats:
        """Scores of candidates, which rise with the target, shape ``(n,)``.

        Raises:
            ProblemError: If a score is not finite.
        """
        scores = scores_of(self.expression, tensors)
        if scores is None:
            raise ProblemError(f"{text_of(self.expression)} is not finite for a candidate; evolve another proxy")
        return self.sign * scores


@dataclass(frozen=True)
class _Member:
    expression: Expression
    ranks: Floats
    correlation: float

    @property
    def fitness(self) -> float:
        return abs(self.correlation)


def evolve_proxy(
    tensors: LayerTensors, target: Floats, *, seed: int = 0, settings: ProxyEvolution | None = None
) -> EvolvedProxy:
    """Evolve an expression whose sum over layers, times bits, ranks candidates as a target does.

    Regularized evolution (Real 2019): each child replaces the oldest member. The first parent is the best of a
    tournament; the second, for crossover, is the one of the others whose ranking differs most from that of the first,
    so that the population stays diverse. Expressions that were there before, are not finite or constant on the first
    few candidates, or rank all candidates as an earlier one does, are rejected before they count.

    Args:
        tensors: Tensors of the candidates.
        target: Losses or accuracies, shape ``(n,)``, at least five of them and not all the same.
        seed: Seed of the evolution.
        settings: Settings of the evolution.

    Returns:
        The best expression of all; of equally good ones the smaller.

    Raises:
        ProblemError: If there are too few pairs, or no expression is usable.
    """
    if len(target) <= PROBED or np.ptp(target) == 0:
        raise ProblemError(f"{len(target)} pairs, of {len(np.unique(target))} values; measure others, too")
    settings = settings or ProxyEvolution()
    rng, screen = np.random.default_rng(seed), _Screen(tensors, target)
    population: deque[_Member] = deque(maxlen=settings.population)
    best: _Member | None = None
    evaluated = 0
    for _ in range(ATTEMPTS * settings.evaluations):
        grown = len(population) == settings.population and rng.random() >= settings.newcomers
        child = _child(population, rng, settings) if grown else random_expression("number", rng, settings.depth)
        if size_of(child) > settings.size or (member := screen.member(child)) is None:
            continue
        population.append(member)
        if best is None or _key(member) > _key(best):
            best = member
        evaluated += 1
        if evaluated == settings.evaluations:
            break
    if best is None:
        raise ProblemError("no expression tells the candidates apart; give pairs of different bits")
    sign = 1.0 if best.correlation >= 0 else -1.0
    return EvolvedProxy(best.expression, sign, best.fitness, evaluated, dict(screen.rejected))


def _key(member: _Member) -> tuple[float, int]:
    return round(member.fitness, 9), -size_of(member.expression)


class _Screen:
    """Rejects what need not be evaluated, and evaluates the rest."""

    def __init__(self, tensors: LayerTensors, target: Floats) -> None:
        self._tensors, self._few = tensors, tensors.rows(np.arange(PROBED))
        self._target = _ranks(target)
        self._texts: set[Expression] = set()
        self._orders: set[bytes] = set()
        self.rejected: Counter[str] = Counter()

    def member(self, child: Expression) -> _Member | None:
        """The child with its fitness; ``None`` if it is rejected."""
        found = self._judged(canonical(child))
        if isinstance(found, str):
            self.rejected[found] += 1
            return None
        return found

    def _judged(self, child: Expression) -> _Member | str:
        if child in self._texts:
            return "same"
        self._texts.add(child)
        if scores_of(child, self._few) is None or (scores := scores_of(child, self._tensors)) is None:
            return "not finite"
        if np.ptp(scores) <= 1e-9 * np.abs(scores).max():
            return "constant"
        ranks = _ranks(scores)
        order = min(ranks.tobytes(), (len(ranks) + 1 - ranks).tobytes())
        if order in self._orders:
            return "equivalent"
        self._orders.add(order)
        return _Member(child, ranks, _correlation(ranks, self._target))


def _child(population: deque[_Member], rng: np.random.Generator, settings: ProxyEvolution) -> Expression:
    chosen = rng.choice(len(population), min(settings.tournament, len(population)), replace=False)
    first, *others = sorted((population[i] for i in chosen), key=_key, reverse=True)
    if others and rng.random() < settings.crossover:
        second = min(others, key=lambda other: abs(_correlation(first.ranks, other.ranks)))
        return crossed(first.expression, second.expression, rng)
    return mutated(first.expression, rng, settings.depth)


def random_expression(shape: Shape, rng: np.random.Generator, depth: int) -> Expression:
    """Draw an expression.

    Args:
        shape: What it gives for a layer.
        rng: Random number generator.
        depth: Largest number of operations on each other, beside one reduction.
    """
    dice = rng.random()
    if shape == "number" and (depth <= 0 or dice < 0.5):
        inner: Shape = "weights" if rng.random() < 0.5 else "channels"
        return (_pick(REDUCTIONS, rng), random_expression(inner, rng, depth - 1))
    if shape != "number" and (depth <= 0 or dice < 0.4):
        return _pick([name for name, own in TENSORS.items() if own == shape], rng)
    if dice < 0.7:
        return (_pick(UNARY, rng), random_expression(shape, rng, depth - 1))
    return (_pick(BINARY, rng), *(random_expression(shape, rng, depth - 1) for _ in range(2)))


def mutated(expression: Expression, rng: np.random.Generator, depth: int) -> Expression:
    """Change an expression at a random place.

    With equal probability the part there is drawn anew, gets an operation around it, loses its operation, or has it
    replaced by one of the same kind; the latter two only where there is one.
    """
    path, part = _any_part(expression, rng)
    how = rng.integers(2 if isinstance(part, str) else 4)
    if how == 0:
        return replaced(expression, path, random_expression(shape_of(part), rng, depth - len(path)))
    if how == 1:
        return replaced(expression, path, (_pick(UNARY, rng), part))
    if how == 2:
        inner = [own for own in part[1:] if shape_of(own) == shape_of(part)]
        return replaced(expression, path, inner[rng.integers(len(inner))]) if inner else expression
    alike = next(kind for kind in (tuple(UNARY), tuple(BINARY), REDUCTIONS) if part[0] in kind)
    return replaced(expression, path, (_pick(alike, rng), *part[1:]))


def crossed(one: Expression, other: Expression, rng: np.random.Generator) -> Expression:
    """Replace a random part of one expression by a part of another that gives the same for a layer, if there is one."""
    path, part = _any_part(one, rng)
    fitting = [own for _, own in parts_of(other) if shape_of(own) == shape_of(part)]
    return replaced(one, path, fitting[rng.integers(len(fitting))]) if fitting else one


def _any_part(expression: Expression, rng: np.random.Generator) -> tuple[tuple[int, ...], Expression]:
    found = list(parts_of(expression))
    return found[rng.integers(len(found))]


def _pick(names: tuple[str, ...] | list[str] | Mapping[str, object], rng: np.random.Generator) -> str:
    return list(names)[rng.integers(len(names))]


def _ranks(values: Floats) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), np.float64)


def _correlation(one: Floats, other: Floats) -> float:
    """Pearson's correlation of ranks, which is Spearman's of the values; NaN counts as 0."""
    a, b = one - one.mean(), other - other.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else 0.0
