"""Limits on metrics as texts, such as ``latency_ms<=8``: all of them are read here."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

from apq_tune.cost.named_costs import NAMED
from apq_tune.errors import ProblemError
from apq_tune.inputs.quantities import read_quantity
from apq_tune.network.network import has_network
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.space.gene_encoding import GeneEncoding

ALIASES = {
    "flash": "weight_bytes",
    "ram": "peak_activation_bytes",
    "latency": "latency_ms",
    "energy": "energy_mj",
}
"""Common names of costs that are accepted in limits."""

EQUALS = re.compile(r"^(\s*\w+\s*)=(?!=)")
"""A limit with ``=`` instead of ``<=``."""


def parse_constraint(
    text: str,
    metrics: Sequence[Metric],
    reference: Mapping[str, float] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Constraint:
    """Parse a constraint such as ``"bit_ops <= 2e6"``, ``"weight_bytes <= 200kB"`` or ``"bit_ops <= 25%"``.

    Args:
        text: Metric, ``<=`` or ``>=``, and a number, possibly with a unit (see ``read_quantity``).
        metrics: Metrics that may be named.
        reference: Values that correspond to 100%, by metric name. Without a reference percentages are refused, except
            for metrics that are fractions.
        aliases: Names of metrics by alias.

    Raises:
        ProblemError: If the text is not a comparison with a number, its unit does not fit, or the metric is unknown
            (the message lists the known ones).
    """
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S.*?)\s*", text)
    if match is None:
        raise ProblemError(f"cannot read constraint {text!r}; write METRIC<=NUMBER or METRIC>=NUMBER")
    given, sense, number = match.groups()
    by_name, aliases = {metric.name: metric for metric in metrics}, aliases or {}
    metric = by_name.get(aliases.get(given, given))
    if metric is None:
        also = {name: alias for alias, name in aliases.items()}
        known = ", ".join(f"{name} (or {also[name]})" if name in also else name for name in by_name)
        devices = f"; of devices: {', '.join(NAMED)}" if "bit_ops" in by_name else ""
        raise ProblemError(f"unknown metric {given!r} in {text!r}; known: {known}{devices}")
    try:
        if number.endswith("%") and metric.unit != "fraction":
            if metric.name not in (reference or {}):
                raise ProblemError(f"what 100% of {metric.name} is, is not known here; give a plain number")
            bound = read_quantity(number.removesuffix("%"), "percent") * ((reference or {})[metric.name] / 100)
        else:
            bound = read_quantity(number, metric.unit)
    except ProblemError as error:
        raise ProblemError(f"cannot read {text!r}: {error}") from None
    return Constraint(metric, bound, "<=" if sense == "<=" else ">=")


def at_largest(encoding: GeneEncoding, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Costs of the largest network at its highest bit-widths, by name, without those that are infinite.

    Raises:
        ProblemError: If the space is one of named choices, which has no largest network.
    """
    if not has_network(encoding.space):
        raise ProblemError(f"{encoding.name}: has no largest network to take a share of; give a number")
    largest = encoding.ends()[1:]
    costs = {name: float(metric(largest)[0]) for name, metric in metrics.items()}
    return {name: cost for name, cost in costs.items() if math.isfinite(cost)}


def read_limit(metrics: Mapping[str, Metric], text: str, reference: Mapping[str, float] | None = None) -> Constraint:
    """Parse one limit, with ``=`` as an upper bound and the aliases that no metric has as its name.

    Args:
        metrics: Metrics that may be limited, by name.
        text: Limit in the syntax of ``parse_constraint``.
        reference: Values that correspond to 100%, by metric name.

    Raises:
        ProblemError: If the limit cannot be parsed or names an unknown metric.
    """
    aliases = {alias: name for alias, name in ALIASES.items() if alias not in metrics}
    return parse_constraint(EQUALS.sub(r"\1<=", text, count=1), list(metrics.values()), reference, aliases)


def read_limits(encoding: GeneEncoding, metrics: Mapping[str, Metric], texts: Sequence[str]) -> tuple[Constraint, ...]:
    """Parse limits such as ``flash<=200kB``, ``bit_ops<=25%`` or ``latency_ms=8.4`` (an upper bound).

    Percentages refer to the largest network at its highest bit-widths. Of several bounds on the same side of a metric
    the tightest one is kept.

    Args:
        encoding: Encoding of the search space.
        metrics: Metrics that may be limited, by name.
        texts: Limits in the syntax of ``parse_constraint``.

    Raises:
        ProblemError: If a limit cannot be parsed, names an unknown metric, is out of reach or contradicts another one.
    """
    reference = at_largest(encoding, metrics) if any("%" in text for text in texts) else {}
    kept: dict[tuple[str, str], Constraint] = {}
    for text in texts:
        limit = read_limit(metrics, text, reference)
        limit.check_reachable()
        key = limit.metric.name, limit.sense
        before = kept.get(key)
        if before is None or (limit.bound < before.bound) == (limit.sense == "<="):
            kept[key] = limit
    for (name, sense), limit in kept.items():
        other = kept.get((name, ">="))
        if sense == "<=" and other is not None and other.bound > limit.bound:
            raise ProblemError(f"no candidate keeps both {limit} and {other}; drop one of them")
    return tuple(kept.values())


def read_combinations(
    metrics: Mapping[str, Metric], texts: Sequence[str], reference: Mapping[str, float] | None = None
) -> list[tuple[Constraint, ...]]:
    """Parse lists of upper bounds such as ``latency_ms<=6,8,10``, each of another metric, into all their combinations.

    Whether bounds are in reach is not checked: metrics of the same names may have other ranges elsewhere.

    Args:
        metrics: Metrics that may be limited, by name.
        texts: Limits as of ``read_limits``, but without ``>=``.
        reference: Values that correspond to 100%, by metric name; without them percentages are refused.

    Returns:
        One bound of each metric per combination; without texts, the one combination without limits.

    Raises:
        ProblemError: If a limit cannot be parsed, names an unknown metric, or a metric or a bound comes twice.
    """
    choices: dict[str, list[Constraint]] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(\w+)\s*<?=\s*(.*)", text)
        if match is None:
            raise ProblemError(f"cannot read limits {text!r}; write METRIC<=NUMBER,NUMBER, such as latency_ms<=6,8,10")
        limits = [read_limit(metrics, f"{match[1]}<={part}", reference) for part in match[2].split(",")]
        name, bounds = limits[0].metric.name, {limit.bound for limit in limits}
        if name in choices or len(bounds) < len(limits):
            raise ProblemError(f"limits {text!r}: a metric or a bound comes twice; give each once")
        choices[name] = limits
    return list(itertools.product(*choices.values()))


def as_texts(limits: Sequence[Constraint]) -> list[str]:
    """Texts from which ``read_limits`` restores the same limits, to the last digit."""
    return [f"{limit.metric.name}{limit.sense}{limit.bound!r}" for limit in limits]
