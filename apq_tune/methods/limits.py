"""Budgets with names: limits that a rule sets from the search space alone, before anything is trained.

``memory``: flash (``weight_bytes``) and RAM (``peak_activation_bytes``) at once, as on a microcontroller. Uniform 4
bits just fits the median random architecture: each limit is the median, over random architectures with random channels,
of its cost at 4 bits everywhere.

``memory-tight``: 0.7 of both, so that uniform 4 bits just does not fit the median architecture any more.

``latency``: ``latency_ms`` of the accelerator model; the same median.

``bit_ops``: 25% of the BitOps of the largest network at its most bits.

Where a space has no 4 bits that are open to all layers, its middle uniform width (the lower of two) takes their place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.errors import ProblemError
from apq_tune.metrics import with_cost_models
from apq_tune.problem import Constraint, Metric, parse_constraint

NAMED = ("memory", "memory-tight", "latency", "bit_ops")

BITS = 4
"""The width of the rule."""

RANDOM = 2001
"""Random architectures, an odd number: the median is one of them."""

TIGHT, SHARE = 0.7, 0.25

MEDIANS = {
    "memory": (("weight_bytes", "peak_activation_bytes"), 1.0),
    "memory-tight": (("weight_bytes", "peak_activation_bytes"), TIGHT),
    "latency": (("latency_ms",), 1.0),
}


def named_limits(encoding: Encoding, name: str) -> tuple[Constraint, ...]:
    """The limits of a budget.

    Args:
        encoding: of the space.
        name: one of ``NAMED``.

    Raises:
        ProblemError: if there is no such budget, or it is out of the space's reach.
    """
    metrics = with_cost_models({}, encoding)
    if name == "bit_ops":
        largest = encoding.encode([encoding.extremes()[1]], check=False)
        limits = [Constraint(metrics[name], SHARE * float(metrics[name](largest)[0]))]
    elif name in MEDIANS:
        costs, share = MEDIANS[name]
        widths = encoding.uniform_bits()
        if not widths:
            raise ProblemError(f"{encoding.name}: no bit-width is open to all layers; give constraints instead")
        bits = BITS if BITS in widths else widths[(len(widths) - 1) // 2]
        drawn = encoding.at_bits(encoding.sample(RANDOM, np.random.default_rng(0)), bits)
        limits = [Constraint(metrics[cost], share * float(np.median(metrics[cost](drawn)))) for cost in costs]
    else:
        raise ProblemError(f"unknown budget {name!r}; known: {', '.join(NAMED)}")
    for limit in limits:
        limit.check_reachable()
    return tuple(limits)


def read_limits(encoding: Encoding, texts: Sequence[str]) -> tuple[Constraint, ...]:
    """Limits as users write them, on any built-in cost; a percentage is of the largest network at its most bits.

    Raises:
        ProblemError: if one cannot be read, names no cost, or is out of reach.
    """
    metrics: list[Metric] = list(with_cost_models({}, encoding).values())
    largest = encoding.encode([encoding.extremes()[1]], check=False)
    limits = [parse_constraint(t, metrics, {m.name: float(m(largest)[0]) for m in metrics}) for t in texts]
    for limit in limits:
        limit.check_reachable()
    return tuple(limits)


def as_texts(limits: Sequence[Constraint]) -> list[str]:
    """What ``read_limits`` makes the same limits of, to the last digit."""
    return [f"{limit.metric.name}{limit.sense}{limit.bound!r}" for limit in limits]
