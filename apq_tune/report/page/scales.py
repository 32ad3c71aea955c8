"""Axes of drawings: from values to pixels, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator

from apq_tune.report.limits import engineering

LOGARITHMIC = 4.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


class Tick(NamedTuple):
    """Tick of an axis: its position in pixels and its label."""

    at: float
    label: str


class PixelScale(NamedTuple):
    """Axis.

    Attributes:
        low: Value at the beginning.
        high: Value at the end.
        start: Pixel at the beginning.
        stop: Pixel at the end.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value, within the axis."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, max(value, 0) or self.low))
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start), 1)

    def ticks(self, most: int, label: Callable[[float], str] = engineering) -> tuple[Tick, ...]:
        """Ticks at round numbers within the axis.

        Args:
            most: Largest number of ticks.
            label: Function from a value to its label.
        """
        if self.log:
            for subs in ((1, 2, 5), (1, 3), (1,)):
                values = [
                    v for v in LogLocator(subs=subs).tick_values(self.low, self.high) if self.low <= v <= self.high
                ]
                if len(values) <= most:
                    break
        else:
            values = [v for v in MaxNLocator(most).tick_values(self.low, self.high) if self.low <= v <= self.high]
        return tuple(Tick(self(float(value)), label(float(value))) for value in values)


def scale_of(
    values: Iterable[float], start: float, stop: float, *, log: bool = True, margin: float = 0.06
) -> PixelScale:
    """Axis that holds all values.

    Args:
        values: Values that must be visible.
        start: Pixel at the beginning.
        stop: Pixel at the end.
        log: Whether it may be logarithmic; it is if the values are positive and far apart.
        margin: Share of the axis that is added at each end.
    """
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if low > 0 and log and high / low >= LOGARITHMIC:
        factor = (high / low) ** margin
        return PixelScale(low / factor, high * factor, start, stop, log=True)
    beyond = margin * (high - low) or margin * abs(high) or margin
    return PixelScale(low - beyond if low < beyond or low - beyond > 0 else 0.0, high + beyond, start, stop)
