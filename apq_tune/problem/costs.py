"""Costs of a search space by name, and named budgets.

A budget is a set of limits that follows from the search space alone, before anything is trained:

``memory``: Flash (``weight_bytes``) and RAM (``peak_activation_bytes``) together, as on a microcontroller. Each limit
is the median cost, over random architectures with random channels, at uniform 4 bits; so uniform 4 bits just fits the
median architecture.

``memory-tight``: 0.7 times both limits, so that uniform 4 bits does not quite fit the median architecture.

``latency``: The same median of ``latency_ms``, by the accelerator model or by a table that has this column.

``bit_ops``: 25% of the BitOps of the largest network at its highest bit-widths.

If a space does not offer 4 bits in all layers, the median of its uniform bit-widths (the lower of two) is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apq_tune.cost.additive_file import is_additive_table, load_additive_tables
from apq_tune.cost.bitfusion import bitfusion_energy_mj, bitfusion_latency_ms
from apq_tune.cost.formats import load_cost_table
from apq_tune.cost.models import cost_models
from apq_tune.cost.named_costs import named_cost, named_in
from apq_tune.errors import ProblemError
from apq_tune.problem.limits import at_largest, read_limits
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.space.gene_encoding import GeneEncoding

BUILT_IN = {
    "macs": "MACs",
    "bit_ops": "BitOps",
    "weight_bytes": "bytes",
    "peak_activation_bytes": "bytes",
    "latency_ms": "ms",
    "energy_mj": "mJ",
}
"""Names and units of the built-in cost models."""

BUDGETS = ("memory", "memory-tight", "latency", "bit_ops")
"""Names of budgets."""

BITS = 4
"""Uniform bit-width of the budgets."""

RANDOM = 2001
"""Number of random architectures; it is odd, so that the median is one of them."""

TIGHT, SHARE = 0.7, 0.25

MEDIANS = {
    "memory": (("weight_bytes", "peak_activation_bytes"), 1.0),
    "memory-tight": (("weight_bytes", "peak_activation_bytes"), TIGHT),
    "latency": (("latency_ms",), 1.0),
}


@dataclass(frozen=True)
class Costs:
    """Costs of a search space.

    Attributes:
        encoding: Encoding of the search space.
        metrics: Cost metrics by name: those of cost tables, then the built-in models that no table replaces, then the
            cost models of devices that were asked for.
    """

    encoding: GeneEncoding
    metrics: Mapping[str, Metric]

    @classmethod
    def of(
        cls, encoding: GeneEncoding, tables: Sequence[Path] = (), asked: Iterable[str] = (), *, strict: bool = True
    ) -> Costs:
        """Read cost tables and add the built-in cost models.

        Args:
            encoding: Encoding of the search space.
            tables: Files or folders with cost tables; see ``load_cost_table``.
            asked: Limits, or names of metrics; the cost models of devices that they name are added.
            strict: Whether such a model must cover the space; else networks that it does not cover have infinite
                costs. This is for a space of which a device runs a part that is searched.

        Raises:
            TableError: If a table cannot be read, or a table or a cost model does not cover the space.
            ProblemError: If two tables have a metric of the same name.
        """
        return cls(encoding, with_built_in(with_tables({}, encoding, tables), encoding, asked, strict=strict))

    def at_largest(self) -> dict[str, float]:
        """Costs of the largest network at its highest bit-widths, by name; percentages refer to them."""
        return at_largest(self.encoding, self.metrics)

    def limits(self, texts: Sequence[str]) -> tuple[Constraint, ...]:
        """Parse limits; see ``read_limits``."""
        return read_limits(self.encoding, self.metrics, texts)

    def budget(self, name: str) -> tuple[Constraint, ...]:
        """Limits of a budget.

        Args:
            name: Name of the budget, one of ``BUDGETS``.

        Raises:
            ProblemError: If the name is unknown, or no candidate of the space satisfies the budget.
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


def with_tables(metrics: Mapping[str, Metric], encoding: GeneEncoding, tables: Sequence[Path]) -> dict[str, Metric]:
    """Append the metrics of cost tables, and of tables of layers or genes (``load_additive_tables``).

    Raises:
        TableError: If a table cannot be read or does not cover the space.
        ProblemError: If a table has a metric whose name is already taken.
    """
    known = dict(metrics)
    for path in tables:
        additive = load_additive_tables(path) if is_additive_table(path) else ()
        models: list[Metric] = [table.metric(encoding) for table in additive]
        for model in models or load_cost_table(path).models(encoding):
            if model.name in known:
                raise ProblemError(f"{path}: {model.name} is in another table already; rename the column in one")
            known[model.name] = model
    return known


def with_built_in(
    metrics: Mapping[str, Metric], encoding: GeneEncoding, asked: Iterable[str] = (), *, strict: bool = True
) -> dict[str, Metric]:
    """Append the built-in cost models, except those whose name a metric from a file already has.

    Args:
        metrics: Metrics from files by name.
        encoding: Encoding of the search space.
        asked: Limits, or names of metrics; the cost models of devices that they name are appended, too.
        strict: Whether these must cover the space; see ``Costs.of``.

    Raises:
        TableError: If such a cost model does not cover the space.
    """
    built_in: dict[str, Metric] = {model.name: model for model in cost_models(encoding)}
    for name, make in (("latency_ms", bitfusion_latency_ms), ("energy_mj", bitfusion_energy_mj)):
        if name not in metrics:
            built_in[name] = make(encoding)
    for name in named_in(asked):
        if name not in metrics:
            built_in[name] = named_cost(name, encoding, strict=strict)
    return {**metrics, **{name: model for name, model in built_in.items() if name not in metrics}}
