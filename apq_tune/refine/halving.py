"""Successive halving (Jamieson 2016): candidates are trained in rungs, ever fewer of them for ever longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = list[int]


class Rung(NamedTuple):
    """Trainings of equal length."""

    n: int  # candidates
    length: int  # epochs or optimizer steps


class Compared(Protocol):
    """The result of a training."""

    @property
    def loss(self) -> float:
        """Loss that candidates of a rung are compared by."""
        ...


Entrant = TypeVar("Entrant")
Outcome = TypeVar("Outcome", bound=Compared)


def lengths(first: int, last: int, factor: int) -> list[int]:
    """Lengths of the rungs: ``first``, each later one ``factor`` times as long, the last one ``last``.

    Args:
        first: Length of the first rung.
        last: Length of the last rung, at least ``first``.
        factor: How much longer each rung is than the one before.
    """
    result = [first]
    while result[-1] < last:
        result.append(min(factor * result[-1], last))
    return result


def half(n: int) -> int:
    """Half of ``n`` candidates, rounded up."""
    return -(-n // 2)


def survivors(losses: NDArray[Any], kinds: Sequence[NDArray[np.bool_]], n: int) -> Rows:
    """The best ``n`` of one rung, the best one of each kind among them.

    Short training under-rates the fewest bits, and a joint find that no uniform and no staged one was trained against
    proves nothing: so the best of each kind stays, and takes the last places if it has not earned a better one. The
    best of all stays in any case.

    Args:
        losses: Losses after equal training, shape (p,).
        kinds: For each kind who belongs to it, shape (p,); nobody may.
        n: Number of places; more are taken if the best of all and of each kind need them.

    Returns:
        Rows of the survivors, best first.
    """
    order = np.argsort(losses, kind="stable").tolist()
    stay = {order[0], *(next(row for row in order if kind[row]) for kind in kinds if kind.any())}
    for row in order:
        if len(stay) >= n:
            break
        stay.add(row)
    return [row for row in order if row in stay]


def successive_halving(
    entrants: Sequence[Entrant],
    losses: NDArray[Any],
    n: int,
    rungs: Sequence[int],
    train: Callable[[Sequence[Entrant], int], Sequence[Outcome]],
    *,
    fewer: Callable[[int], int] = half,
    kinds: Callable[[Sequence[Entrant]], Sequence[NDArray[np.bool_]]] = lambda _: (),
) -> list[Outcome]:
    """Train the best for longer, then the best of these for still longer.

    Args:
        entrants: What competes.
        losses: What is known of the entrants before the first of these rungs, such as their losses, shape (p,).
        n: Number of places in the first of these rungs.
        rungs: Lengths of the trainings of each rung.
        train: From entrants and a length to the result of each.
        fewer: From the number of entrants of a rung to the number of places in the next.
        kinds: From entrants to who belongs to each kind whose best one stays, see ``survivors``.

    Returns:
        All results, rung by rung.
    """
    results: list[Outcome] = []
    for length in rungs:
        entrants = [entrants[row] for row in survivors(losses, kinds(entrants), n)]
        own = train(entrants, length)
        losses, n = np.array([result.loss for result in own]), fewer(len(own))
        results += own
    return results
