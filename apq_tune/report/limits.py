"""Costs and their limits in reports: cells of tables, lines of text, panels of pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from rich.console import Console
from rich.table import Table

from apq_tune.problem.problem import Constraint

MOST_PANELS = 3
"""Largest number of limits that get a panel of a picture."""

PREFIXES = ("", "k", "M", "G", "T")

WIDE = 10_000
"""Columns of a terminal that is wide enough for every table."""


def engineering(value: float) -> str:
    """A number with four digits; from a thousand up with a prefix, as ``14.66 M``."""
    if not math.isfinite(value):
        return f"{value:g}"
    for power in range(len(PREFIXES) - 1, 0, -1):
        if abs(value) >= 999.95 * 1000.0 ** (power - 1):  # 999.95 is 1000 in four digits
            return f"{value / 1000.0**power:.4g} {PREFIXES[power]}"
    return f"{value:.4g}"


def amount(value: float, unit: str) -> str:
    """A value with its unit, as ``20 kB``, ``14.66 M BitOps``, ``0.27 ms``."""
    number = engineering(value)
    if unit == "bytes":
        return f"{number}B" if " " in number else f"{number} B"
    return f"{number} {unit}".strip()


def broken(name: str, width: int = 12) -> str:
    """Break a long name into lines after underscores."""
    lines = [""]
    for part in re.findall(r"[^_]*_?", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def breaks(constraint: Constraint, value: float) -> bool:
    """Whether a value violates a limit."""
    excess = value - constraint.bound if constraint.sense == "<=" else constraint.bound - value
    return excess > 0


def share(constraint: Constraint, value: float) -> str:
    """A value as a share of its limit, marked if it violates it: ``67%``, ``400% OVER``."""
    mark = ("OVER" if constraint.sense == "<=" else "UNDER") if breaks(constraint, value) else ""
    percent = f"{100 * value / constraint.bound:.0f}%" if constraint.bound else ""
    return " ".join(filter(None, (percent, mark)))


def heading(constraint: Constraint) -> str:
    """Heading of a column: the metric, and its limit on the next line."""
    unit = "bytes" if constraint.metric.unit == "bytes" else ""
    return f"{broken(constraint.metric.name)}\n{constraint.sense} {amount(constraint.bound, unit)}"


def cell(constraint: Constraint, value: float) -> str:
    """Cell of a table: the value, and its share of the limit on the next line."""
    unit = "bytes" if constraint.metric.unit == "bytes" else ""
    return f"{amount(value, unit)}\n{share(constraint, value)}"


def limit_lines(row: Mapping[str, Any], constraints: Sequence[Constraint]) -> list[str]:
    """One line for each limit, as ``bit_ops 9.8 M BitOps: 67% of the limit <= 14.66 M BitOps``."""
    lines = []
    for constraint in constraints:
        value, unit = float(row[constraint.metric.name]), constraint.metric.unit
        of = f"{share(constraint, value)} of the limit".strip()
        limit = f"{constraint.sense} {amount(constraint.bound, unit)}"
        lines.append(f"{constraint.metric.name} {amount(value, unit)}: {of} {limit}")
    return lines


def print_fitting(
    console: Console,
    build: Callable[[frozenset[str]], Table],
    optional: Sequence[str],
    records: Callable[[], Iterable[str]],
) -> None:
    """Print a table with as many of its columns as fit on the terminal, so that no number is cut.

    Args:
        console: Console to print on.
        build: Function that makes the table without the given columns.
        optional: Columns that may be left out, in this order.
        records: Function that gives the table as lines, for a terminal that is too narrow for any table.
    """
    for n in range(len(optional) + 1):
        table = build(frozenset(optional[:n]))
        if console.measure(table, options=console.options.update(width=WIDE)).maximum <= console.width:
            console.print(table)
            return
    for line in records():
        console.print(line, markup=False, soft_wrap=True)


def draw_limit(ax: Axes, constraint: Constraint) -> None:
    """Draw a vertical line at the bound and shade the infeasible side."""
    ax.axvline(constraint.bound, color="C3", linewidth=1, linestyle="--", label="limit")
    low, high = ax.get_xlim()
    beyond = 0.1 * abs(constraint.bound)
    low, high = min(low, constraint.bound - beyond), max(high, constraint.bound + beyond)
    side = (constraint.bound, high) if constraint.sense == "<=" else (low, constraint.bound)
    ax.axvspan(*side, color="C3", alpha=0.06, linewidth=0)
    ax.set_xlim(low, high)


def logarithmic(ax: Axes) -> None:
    """Make the x axis logarithmic, with labels at 1, 2 and 5 times powers of ten; keep it linear if it reaches zero."""
    if ax.get_xlim()[0] <= 0 and ax.dataLim.x0 <= 0:
        return
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(EngFormatter())
