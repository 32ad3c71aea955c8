"""What is linear in tables over several variables: sums of tables over fewer of them, and forbidden combinations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.searchers.program import Table

TOLERANCE = 1e-11
"""Interactions smaller than this share of the largest value are rounding errors."""


def interactions(variables: Sequence[int], values: NDArray[np.float64]) -> list[Table]:
    """Split a table into a sum of tables over as few variables each as possible.

    A value is the sum of one interaction for each subset of the variables, which is zero wherever one of them has its
    first value (anchored decomposition, Sobol 2003). BitOps of a block, for instance, depend on the kernel together
    with the bits of the depthwise convolution, but not with those of the others.

    Args:
        variables: Variables, one for each axis.
        values: Table; one with infinite entries is not split.
    """
    variables = tuple(variables)
    kept = [axis for axis, n in enumerate(values.shape) if n > 1]
    variables, values = tuple(variables[axis] for axis in kept), values.reshape([values.shape[axis] for axis in kept])
    if not np.isfinite(values).all():
        return [Table(variables, values)]
    own = values.astype(np.float64, copy=True)
    for axis in range(own.ndim):
        rows = np.moveaxis(own, axis, 0)
        rows[1:] -= rows[:1]
    own[np.abs(own) <= TOLERANCE * np.abs(values).max(initial=0.0)] = 0.0
    found: list[tuple[int, ...]] = []
    for axes in _subsets(own.ndim):
        if not any(set(axes) <= set(larger) for larger in found) and own[_inside(axes, own.ndim, 1)].any():
            found.append(axes)
    tables = []
    for axes in found:
        place = _inside(axes, own.ndim, 0)
        part = own[place].copy()
        own[place] = 0.0
        for axis in range(part.ndim):
            rows = np.moveaxis(part, axis, 0)
            rows[1:] += rows[:1]
        tables.append(Table(tuple(variables[axis] for axis in axes), part))
    if own[(0,) * own.ndim]:
        tables.append(Table((), np.asarray(own[(0,) * own.ndim])))
    return tables


def forbidden(variables: Sequence[int], allowed: NDArray[np.bool_]) -> list[Table]:
    """Tables that are infinite where combinations are forbidden, over as few variables each as possible.

    Args:
        variables: Variables, one for each axis.
        allowed: Whether combinations are allowed.
    """
    bad = ~np.asarray(allowed)
    covered = np.zeros_like(bad)
    tables = []
    for axes in reversed(list(_subsets(bad.ndim))):
        if covered.sum() == bad.sum():
            break
        others = tuple(axis for axis in range(bad.ndim) if axis not in axes)
        own = bad.all(axis=others)
        if (own & ~covered.all(axis=others)).any():
            tables.append(Table(tuple(variables[axis] for axis in axes), np.where(own, math.inf, 0.0)))
            covered |= np.expand_dims(own, others)
    return tables


def _subsets(n: int) -> Iterator[tuple[int, ...]]:
    """Subsets of axes that are not empty, the largest first."""
    for size in range(n, 0, -1):
        yield from itertools.combinations(range(n), size)


def _inside(axes: Sequence[int], n: int, first: int) -> tuple[slice | int, ...]:
    """Index of the values from ``first`` on of some axes at the first value of all others."""
    return tuple(slice(first, None) if axis in axes else 0 for axis in range(n))
