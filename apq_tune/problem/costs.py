"""Every cost of one search space by name, the same in all commands, and limits on them as people type them.

A budget is a set of limits by a rule, from the search space alone, before anything is trained:

``memory``: flash (``weight_bytes``) and RAM (``peak_activation_bytes``) at once, as on a microcontroller. Uniform 4
bits just fits the median random architecture: each limit is the median, over random architectures with random channels,
of its cost at 4 bits everywhere.

``memory-tight``: 0.7 of both, so that uniform 4 bits just does not fit the median architecture any more.

``latency``: ``latency_ms`` of the accelerator model, or of a table that has it; the same median.

``bit_ops``: 25% of the BitOps of the largest network at its most bits.

Where a space has no 4 bits that are open to all layers, its middle uniform width (the lower of two) takes their place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apq_tune.cost.bitfusion import bitfusion_energy_mj, bitfusion_latency_ms
from apq_tune.cost.formats import load_cost_table
from apq_tune.cost.models import cost_models
from apq_tune.errors import ProblemError
from apq_tune.problem.problem import Constraint, Metric, parse_constraint
from apq_tune.space.network_encoding import NetworkEncoding

BUILT_IN = {
    "macs": "MACs",
    "bit_ops": "BitOps",
    "weight_bytes": "bytes",
    "peak_activation_bytes": "bytes",
    "latency_ms": "ms",
    "energy_mj": "mJ",
}
"""Names and units of the costs that need no file."""

ALIASES = {
    "flash": "weight_bytes",
    "ram": "peak_activation_bytes",
    "latency": "latency_ms",
    "energy": "energy_mj",
}
"""What people call them."""

BUDGETS = ("memory", "memory-tight", "latency", "bit_ops")
"""Names of limits by a rule."""

BITS = 4
"""The width of the rule."""

RANDOM = 2001
"""Random architectures, an odd number: the median is one of them."""

TIGHT, SHARE = 0.7, 0.25

EQUALS = re.compile(r"^(\s*\w+\s*)=(?!=)")
"""The sign of a limit in its short form."""

MEDIANS = {
    "memory": (("weight_bytes", "peak_activation_bytes"), 1.0),
    "memory-tight": (("weight_bytes", "peak_activation_bytes"), TIGHT),
    "latency": (("latency_ms",), 1.0),
}


@dataclass(frozen=True)
class Costs:
    """The costs of one search space.

    Attributes:
        encoding: of the space.
        metrics: name -> cost: those of tables, then the built-in ones that no table has.
    """

    encoding: NetworkEncoding
    metrics: Mapping[str, Metric]

    @classmethod
    def of(cls, encoding: NetworkEncoding, tables: Sequence[Path] = ()) -> Costs:
        """Read tables, and add what needs none.

        Args:
            encoding: of the space.
            tables: files or folders, see ``load_cost_table``.

        Raises:
            TableError: if one cannot be read or does not cover the space.
            ProblemError: if two have a metric of the same name.
        """
        return cls(encoding, with_built_in(with_tables({}, encoding, tables), encoding))

    def at_largest(self) -> dict[str, float]:
        """Name -> value of the largest network at its most bits: what 100% is."""
        return at_largest(self.encoding, self.metrics)

    def limits(self, texts: Sequence[str]) -> tuple[Constraint, ...]:
        """Limits as people type them; see ``read_limits``."""
        return read_limits(self.encoding, self.metrics, texts)

    def budget(self, name: str) -> tuple[Constraint, ...]:
        """The limits of a budget.

        Args:
            name: one of ``BUDGETS``.

        Raises:
            ProblemError: if there is no such budget, or it is out of the space's reach.
        """
        encoding, metrics = self.encoding, self.metrics
        if name == "bit_ops":
            limits = [Constraint(metrics[name], SHARE * self.at_largest()[name])]
        elif name in MEDIANS:
            costs, share = MEDIANS[name]
            widths = encoding.uniform_bits()
            if not widths:
                raise ProblemError(f"{encoding.name}: no bit-width is open to all layers; give constraints instead")
            bits = BITS if BITS in widths else widths[(len(widths) - 1) // 2]
            drawn = encoding.at_bits(encoding.sample(RANDOM, np.random.default_rng(0)), bits)
            limits = [Constraint(metrics[cost], share * float(np.median(metrics[cost](drawn)))) for cost in costs]
        else:
            raise ProblemError(f"unknown budget {name!r}; known: {', '.join(BUDGETS)}")
        for limit in limits:
            limit.check_reachable()
        return tuple(limits)


def with_tables(metrics: Mapping[str, Metric], encoding: NetworkEncoding, tables: Sequence[Path]) -> dict[str, Metric]:
    """The same and, after them, the metrics of cost tables.

    Raises:
        TableError: if a table cannot be read or does not cover the space.
        ProblemError: if one has a metric of a name that is there already.
    """
    known = dict(metrics)
    for path in tables:
        for model in load_cost_table(path).models(encoding):
            if model.name in known:
                raise ProblemError(f"{path}: {model.name} is in another table already; rename the column in one")
            known[model.name] = model
    return known


def with_built_in(metrics: Mapping[str, Metric], encoding: NetworkEncoding) -> dict[str, Metric]:
    """The same and, after them, those that need no file; a metric from a file is preferred to a model of its name."""
    built_in: dict[str, Metric] = {model.name: model for model in cost_models(encoding)}
    for name, make in (("latency_ms", bitfusion_latency_ms), ("energy_mj", bitfusion_energy_mj)):
        if name not in metrics:
            built_in[name] = make(encoding)
    return {**metrics, **{name: model for name, model in built_in.items() if name not in metrics}}


def at_largest(encoding: NetworkEncoding | Any, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Name -> value of the largest network at its most bits.

    Raises:
        ProblemError: if the space has no networks.
    """
    if not isinstance(encoding, NetworkEncoding):
        name = getattr(encoding, "name", encoding)
        raise ProblemError(f"{name}: has no largest network to take a share of; give a number")
    largest = encoding.encode([encoding.extremes()[1]], check=False)
    return {name: float(metric(largest)[0]) for name, metric in metrics.items()}


def read_limits(
    encoding: NetworkEncoding, metrics: Mapping[str, Metric], texts: Sequence[str]
) -> tuple[Constraint, ...]:
    """Limits as people type them: ``flash<=200kB``, ``bit_ops<=25%``, ``latency_ms=8.4`` (an upper bound).

    A percentage is of the largest network at its most bits. Of two bounds on one side of a metric the tighter one is
    kept.

    Args:
        encoding: of the space.
        metrics: that may be limited, by name.
        texts: see ``parse_constraint``.

    Raises:
        ProblemError: if one cannot be read, names no metric, is out of reach, or contradicts another one.
    """
    reference = at_largest(encoding, metrics) if any("%" in text for text in texts) else {}
    aliases = {alias: name for alias, name in ALIASES.items() if alias not in metrics}
    kept: dict[tuple[str, str], Constraint] = {}
    for text in texts:
        limit = parse_constraint(EQUALS.sub(r"\1<=", text, count=1), list(metrics.values()), reference, aliases)
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


def as_texts(limits: Sequence[Constraint]) -> list[str]:
    """What ``read_limits`` makes the same limits of, to the last digit."""
    return [f"{limit.metric.name}{limit.sense}{limit.bound!r}" for limit in limits]
