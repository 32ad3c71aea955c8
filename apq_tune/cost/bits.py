"""How the costs in a table depend on bits: violations of monotonicity, and bits below which nothing gets cheaper."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from apq_tune.cost.rows import Key

TIMES = ("s", "ms", "us", "ns", "cycles")
"""Units of metrics that are times."""

FULL_BITS = 8
"""Most bits of a search space."""

SAME = 0.01
"""Relative difference below which two measured costs count as equal."""


def pairs_that_shrink(costs: Mapping[Key, float]) -> tuple[int, int]:
    """Count violations of monotonicity in bits: pairs of ops of equal shape in which the one with more bits costs less.

    Args:
        costs: Costs of convolutions by shape and bits (``CONV_KEY``).

    Returns:
        Number of such pairs, and number of all comparable pairs.
    """
    shapes: dict[Key, list[tuple[int, int, float]]] = {}
    for key, value in costs.items():
        shapes.setdefault(key[:-2], []).append((key[-2], key[-1], value))
    wrong = total = 0
    for entries in shapes.values():
        for (w1, a1, low), (w2, a2, high) in itertools.permutations(entries, 2):
            if w1 <= w2 and a1 <= a2:
                total += 1
                wrong += high < low
    return wrong, total


def useless_below(costs: Mapping[Key, float]) -> int | None:
    """Bit-width below which fewer bits make no convolution cheaper, as on a runtime without kernels of fewer bits.

    Args:
        costs: Costs of convolutions by shape and bits (``CONV_KEY``).

    Returns:
        The largest such bit-width; ``None`` if fewer bits always help somewhere, or the table has one bit-width only.
    """
    widths = sorted({bits for key in costs for bits in key[-2:]})
    shapes: dict[Key, dict[Key, float]] = {}
    for key, value in costs.items():
        shapes.setdefault(key[:-2], {})[key[-2:]] = value
    for least in reversed(widths[1:]):
        if not any(_saves(own, least) for own in shapes.values()):
            return least
    return None


def _saves(costs: Mapping[Key, float], least: int) -> bool:
    """Whether bits below ``least`` make a convolution cheaper than all that have as many bits and at least those.

    Args:
        costs: Costs of a shape by bits of weights and activations.
        least: Bit-width.
    """
    for (w, a), value in costs.items():
        others = [
            cost for (more_w, more_a), cost in costs.items() if more_w >= max(w, least) and more_a >= max(a, least)
        ]
        if min(w, a) < least and others and value < min(others) * (1 - SAME):
            return True
    return False


def note_on_bits(source: str, name: str, unit: str, costs: Mapping[Key, float], *, blocks: bool) -> str:
    """Remark for a search under a limit on a time that fewer bits do not reduce.

    Args:
        source: File of the table.
        name: Name of the metric.
        unit: Its unit.
        costs: Costs of convolutions by shape and bits (``CONV_KEY``).
        blocks: Whether the table is of whole blocks, whose costs do not depend on bits.

    Returns:
        The remark; empty if the metric is not a time, or fewer bits reduce it.
    """
    if unit not in TIMES:
        return ""
    least = FULL_BITS if blocks else useless_below(costs)
    if least is None:
        return ""
    return f"{source}: {name} is no smaller below {least} bits: on this runtime fewer bits save bytes, not time"
