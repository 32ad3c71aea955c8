"""How much of each limit the chosen network uses."""

from __future__ import annotations

from typing import NamedTuple

from apq_tune.report.limits import amount, breaks, share
from apq_tune.report.page.facts import ReportFacts

WIDEST = 1.25
"""Share of a limit at the right end of a bar, so that the limit itself is drawn inside."""


class Bar(NamedTuple):
    """One limit.

    Attributes:
        name: Name of the cost.
        limit: The limit in words.
        value: Value of the network with its unit.
        share: Value as a share of the limit, marked if it breaks it.
        broken: Whether it breaks the limit.
        width: Length of the bar, in percent of the widest.
        mark: Position of the limit, in percent of the widest.
        label: Whether the value is an estimate or from a table.
        source: Where the value comes from.
    """

    name: str
    limit: str
    value: str
    share: str
    broken: bool
    width: float
    mark: float
    label: str
    source: str


def bars(facts: ReportFacts) -> tuple[str, tuple[Bar, ...]]:
    """Bars of all limits.

    Returns:
        Name of the network that they are about, the chosen one or else the first that was trained, and the bars.
    """
    row = facts.chosen or (facts.networks.iloc[0].to_dict() if len(facts.networks) else None)
    if row is None:
        return "", ()
    found = []
    for constraint in facts.constraints:
        metric, value = constraint.metric, float(row[constraint.metric.name])
        ratio = value / constraint.bound if constraint.bound else float(value > 0)
        widest = max(WIDEST, ratio)
        source = facts.source(metric.name)
        found.append(
            Bar(
                metric.name,
                f"{constraint.sense} {amount(constraint.bound, metric.unit)}",
                amount(value, metric.unit),
                share(constraint, value),
                breaks(constraint, value),
                round(100 * ratio / widest, 2),
                round(100 / widest, 2),
                source.label,
                source.text,
            )
        )
    return str(row["name"]), tuple(found)
