"""Confidence intervals of accuracies, and of the difference of two networks on the same images."""

from __future__ import annotations

import math
from typing import NamedTuple

Z = 1.959963984540054
"""Quantile of the normal distribution for 95% intervals."""


class Interval(NamedTuple):
    """Ends of a 95% confidence interval."""

    low: float
    high: float


def accuracy_interval(accuracy: float, n: int) -> Interval:
    """Score interval of a binomial proportion (Wilson 1927).

    Args:
        accuracy: Share of right answers.
        n: Number of images.
    """
    centre = (accuracy + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(accuracy * (1 - accuracy) / n + Z**2 / (4 * n**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def difference_interval(one: float, other: float, n: int) -> Interval:
    """Conservative interval of the difference of two accuracies on the same images.

    Results of single images are not kept, so it is unknown which images both networks miss. The score interval for
    paired proportions (Newcombe 1998, method 10) is taken with the least correlation that the accuracies allow, that is
    with as few images missed by both as possible, which makes it the widest.

    Args:
        one: Accuracy of one network.
        other: Accuracy of the other one, which is subtracted.
        n: Number of images.
    """
    mine, yours = accuracy_interval(one, n), accuracy_interval(other, n)
    correlation = least_correlation(one, other)

    def half(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a**2 - 2 * correlation * a * b + b**2))

    difference = one - other
    return Interval(
        max(-1.0, difference - half(one - mine.low, yours.high - other)),
        min(1.0, difference + half(mine.high - one, other - yours.low)),
    )


def least_correlation(one: float, other: float) -> float:
    """Least correlation of two binary outcomes with given means; 0 if one of them never varies."""
    spread = math.sqrt(one * (1 - one) * other * (1 - other))
    both_right = max(0.0, one + other - 1)
    return max(-1.0, (both_right - one * other) / spread) if spread > 0 else 0.0
