"""Decision whether a predictor ranks unseen networks well enough to guide a search, and what replaces it if not.

The result of a search is only as good as the ranking of its predictor. Forms of predictor are not selected by
cross-validation, which on few pairs selects by noise; only a form that is demonstrably no better than chance, or than a
plain cost, is replaced by the alternative that the same pairs support best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

PROXY = "proxy"
"""Name of the predictor of the quantized supernet's losses, which is fitted to none of the pairs."""

COSTS = ("macs", "bit_ops", "weight_bytes")
"""Costs that serve as baseline rankings: the higher the cost, the lower the loss."""

LEVEL = 0.95
"""Confidence level of the intervals by which a predictor is judged."""

FEWEST_FOR_INTERVAL = 10
"""Minimum number of networks for which the interval of a rank correlation is shown."""

FIELLER = 0.437
"""Variance of ``atanh`` of Kendall's tau over ``n`` networks, times ``n - 4`` (Fieller 1957)."""


class Support(NamedTuple):
    """Rank agreement of one ranking with unseen losses.

    Attributes:
        kendall_tau: Kendall's tau.
        low: Lower end of its confidence interval.
        high: Upper end of its confidence interval.
    """

    kendall_tau: float
    low: float
    high: float


class Trust(NamedTuple):
    """Decision what a search should rank candidates by.

    Attributes:
        form: Requested form of predictor.
        used: Form to use: the requested one or its replacement, which is another form, ``proxy`` or a cost.
        useless: Whether ``form`` ranks no better than chance or than the best cost.
        why: Reason why the form is useless; empty if it is not.
        n: Number of networks that the decision is based on.
        support: Rank agreement of each form, of ``proxy`` and of the costs, by name.
    """

    form: str
    used: str
    useless: bool
    why: str
    n: int
    support: dict[str, Support]


def tau_interval(tau: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Confidence interval of Kendall's tau, within [-1, 1], by Fisher's transformation for ranks (Fieller 1957).

    Args:
        tau: Kendall's tau of ``n`` networks; a perfect order is treated as if one pair were discordant.
        n: Number of networks; the interval is [-1, 1] for fewer than five.
        level: Confidence level.
    """
    from scipy.stats import norm

    if n < 5:
        return -1.0, 1.0
    most = 1 - 4 / (n * (n - 1))
    centre = math.atanh(min(max(tau, -most), most))
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(FIELLER / (n - 4))
    return math.tanh(centre - half), math.tanh(centre + half)


def judge(form: str, taus: Mapping[str, float], n: int, *, fall_back: bool = True) -> Trust:
    """Decide whether a form of predictor is useful, and what to rank by otherwise.

    A form is useless if the confidence interval of its tau includes 0, or if a cost ranks the same networks at least as
    well. It is then replaced by whatever has the highest lower confidence bound, the form itself included. The
    intervals of the alternatives are widened by the Bonferroni correction, as the best of several is biased upwards.

    Args:
        form: Requested form of predictor.
        taus: Kendall's tau with unseen losses of every form, ``proxy`` and ``COSTS``; NaN (a constant ranking) counts
            as 0.
        n: Number of networks, the same for all.
        fall_back: Whether a useless form is replaced.
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
    """Text of the confidence interval; empty if there are too few networks for one."""
    if n < FEWEST_FOR_INTERVAL:
        return ""
    return f", 95% interval {short(support.low)} to {short(support.high)}"


def short(number: float) -> str:
    """Number in [-1, 1] with two decimals and no leading zero, as correlations are written: ``.56``, ``-.38``."""
    return f"{number:.2f}".replace("0.", ".", 1)
