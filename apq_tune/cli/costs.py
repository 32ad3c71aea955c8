"""Options for cost tables, constraints and budgets, which are the same in every command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from apq_tune.cli.values import Place

if TYPE_CHECKING:
    from apq_tune.problem.costs import Costs
    from apq_tune.problem.metric import Metric

BUDGET_NAMES = ("memory", "memory-tight", "latency", "bit_ops")
"""The names in ``apq_tune.problem.costs``, whose import would slow ``--help``."""

METRICS = (
    "macs (MACs), bit_ops (BitOps), flash or weight_bytes, ram or peak_activation_bytes (bytes), latency or latency_ms "
    "(ms), energy or energy_mj (mJ)"
)

CONSTRAINTS = click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="METRIC<=NUMBER",
    help="Limit on a cost, such as 'flash<=200kB', 'bit_ops<=25%' (of the largest network at its most bits) or "
    f"latency_ms=8.4 (short for <=). METRIC is one of {METRICS}, the"
    " cost of a device such as ne16_cycles, or a column of a cost table. Repeatable.",
)

BUDGETS = click.option(
    "--budget",
    "budgets",
    multiple=True,
    type=click.Choice(BUDGET_NAMES),
    help="Limits by a rule. memory: flash and RAM that the median architecture just fits at 4 bits; memory-tight: 0.7 "
    "of both; latency: the latency of the median architecture at 4 bits; bit_ops: 25% of the largest network. "
    "Repeatable.",
)

TABLES = click.option(
    "--table",
    "tables",
    multiple=True,
    type=Place(),
    help="Cost table: a CSV file, BitFusion JSON, or a folder of once-for-all YAML files; or a CSV file of values by "
    "layer and bits, or by gene. Repeatable.",
)


DEVICE_COSTS = click.option(
    "--cost",
    "device_costs",
    multiple=True,
    metavar="NAME",
    help="Cost of a device to show beside the others, such as ne16_cycles; docs/reference/metrics.md lists them. "
    "Repeatable.",
)


def checked_costs(names: tuple[str, ...]) -> tuple[str, ...]:
    """The costs of devices that a user names.

    Raises:
        click.UsageError: If there is none of that name; the message lists them.
    """
    from apq_tune.cost.named_costs import NAMED

    for name in names:
        if name not in NAMED:
            raise click.UsageError(f"--cost {name}: is no cost of a device; known: {', '.join(NAMED)}")
    return names


def tell_notes(metrics: Iterable[Metric]) -> None:
    """Print the remarks of cost tables on the metrics that are limited, each once."""
    for note in dict.fromkeys(getattr(metric, "note", "") for metric in metrics):
        if note:
            click.echo(note)


def all_constraints(costs: Costs, constraints: tuple[str, ...], budgets: tuple[str, ...]) -> tuple[str, ...]:
    """The user's limits and those of budgets, all of which must hold, as texts; remarks on them are printed.

    Raises:
        ProblemError: If one cannot be read or is out of reach.
    """
    from apq_tune.problem.limits import as_texts

    limits, by_rule = costs.limits(constraints), [costs.budget(budget) for budget in budgets]
    tell_notes(limit.metric for own in (limits, *by_rule) for limit in own)
    return constraints + tuple(text for own in by_rule for text in as_texts(own))
