"""Whether a predictor may be trusted with a search: its rank agreement with networks it has not seen, and its rivals'.

A search turns a predictor's ranking into its answer, and a ranking that is no better than chance turns into an answer
that is none. Forms are not chosen by cross-validation, which on few pairs picks by noise; only one that is demonstrably
of no use is given up, and then for what the same pairs support best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

PROXY = "proxy"
"""Name of the quantized supernet's predictor alone, which has seen none of the pairs."""

COSTS = ("macs", "bit_ops", "weight_bytes")
"""Costs that rank networks by themselves: the more, the less loss."""

LEVEL = 0.95
"""Of the intervals by which a predictor is judged."""

FEWEST_FOR_INTERVAL = 10
"""Networks below which an interval of a rank correlation says nothing and is not shown."""

FIELLER = 0.437
"""Variance of the inverse hyperbolic tangent of Kendall's tau of ``n`` networks, times ``n - 4`` (Fieller 1957)."""


class Support(NamedTuple):
    """How well one way to rank networks agrees with losses that it has not seen."""

    kendall_tau: float
    low: float  # ends of its interval
    high: float


class Trust(NamedTuple):
    """What a search should rank by.

    Attributes:
        form: that was asked for.
        used: the same, or what takes its place: another form, ``proxy``, or a cost.
        useless: whether ``form`` ranks no better than chance, or no better than the best cost.
        why: in words; empty if the form is of use.
        n: networks that all of this is judged by.
        support: of every way to rank.
    """

    form: str
    used: str
    useless: bool
    why: str
    n: int
    support: dict[str, Support]


def tau_interval(tau: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the interval of Kendall's tau, inside [-1, 1] (Fieller 1957: Fisher's transformation for ranks).

    Args:
        tau: of ``n`` networks; that of a perfect order counts as if one pair of them were in the wrong one.
        n: networks; of fewer than five, the interval is everything.
        level: share of samples whose interval holds the true value.
    """
    from scipy.stats import norm

    if n < 5:
        return -1.0, 1.0
    most = 1 - 4 / (n * (n - 1))
    centre = math.atanh(min(max(tau, -most), most))
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(FIELLER / (n - 4))
    return math.tanh(centre - half), math.tanh(centre + half)


def judge(form: str, taus: Mapping[str, float], n: int, *, fall_back: bool = True) -> Trust:
    """Say whether a form is of use, and what to rank by if it is not.

    A form is useless if the interval of its tau includes 0, or if a cost ranks the same networks as well. Then that is
    used whose interval has the highest lower end: the form itself, or one of its alternatives, whose intervals are
    wider by Bonferroni's rule, because the best of several is partly the luckiest.

    Args:
        form: that was asked for.
        taus: Kendall's tau with unseen losses of every form, ``proxy`` and ``COSTS``; what ranks nothing (not a
            number) counts as 0.
        n: networks, the same for all.
        fall_back: whether a useless form is to be replaced.
    """
    found = {name: 0.0 if math.isnan(tau) else tau for name, tau in taus.items()}
    n_others = max(1, len(found) - 1)
    support = {
        name: Support(tau, *tau_interval(tau, n, LEVEL if name == form else 1 - (1 - LEVEL) / n_others))
        for name, tau in found.items()
    }
    own = support[form]
    costs = {name: found[name] for name in COSTS if name in found}
    cost = max(costs, key=costs.__getitem__) if costs else None
    why = ""
    if own.low <= 0:
        why = f"no better than chance (Kendall tau {short(own.kendall_tau)}{of_interval(own, n)}, {n} networks)"
    elif cost is not None and own.kendall_tau <= costs[cost]:
        why = f"no better than {cost} alone (Kendall tau {short(own.kendall_tau)}, {cost} {short(costs[cost])})"
    used = form
    if why and fall_back:
        used = max(support, key=lambda name: (support[name].low, name == form))
    return Trust(form, used, bool(why), why, n, support)


def of_interval(support: Support, n: int) -> str:
    """The interval in words, nothing where there are too few networks for one."""
    if n < FEWEST_FOR_INTERVAL:
        return ""
    return f", 95% interval {short(support.low)} to {short(support.high)}"


def short(number: float) -> str:
    """Two digits of a number in [-1, 1], as people write correlations: ``.56``, ``-.38``."""
    return f"{number:.2f}".replace("0.", ".", 1)
