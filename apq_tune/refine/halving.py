"""Successive halving (Jamieson 2016): rungs of trainings with fewer candidates and longer training each."""

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
    """Lengths of the rungs in a geometric progression from ``first`` to ``last``.

    Args:
        first: Length of the first rung.
        last: Length of the last rung, at least ``first``.
        factor: Ratio of the lengths of consecutive rungs.
    """
    result = [first]
    while result[-1] < last:
        result.append(min(factor * result[-1], last))
    return result


def half(n: int) -> int:
    """Half of ``n`` candidates, rounded up."""
    return -(-n // 2)


def survivors(losses: NDArray[Any], kinds: Sequence[NDArray[np.bool_]], n: int) -> Rows:
    """The best ``n`` candidates of a rung, including the best one of each kind.

    Short training underestimates networks with few bits, and results of joint search are only meaningful beside trained
    uniform and staged ones. Therefore the best candidate of each kind survives, at the expense of the last places; the
    best of all always survives.

    Args:
        losses: Losses after equal training, shape (p,).
        kinds: For each kind, whether candidates belong to it, shape (p,); kinds may be empty.
        n: Number of survivors; there are more if the best of all and of each kind exceed it.

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
    """Train the best candidates for longer, rung by rung.

    Args:
        entrants: Candidates.
        losses: Losses, or other scores to minimise, before the first of these rungs, shape (p,).
        n: Number of candidates in the first of these rungs.
        rungs: Length of the trainings of each rung.
        train: Function from candidates and a length to their results.
        fewer: Function from the number of candidates of a rung to that of the next.
        kinds: Function from candidates to their membership in kinds; see ``survivors``.

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
