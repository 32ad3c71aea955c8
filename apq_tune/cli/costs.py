"""Options that name costs, the same in every command: limits, budgets by a rule, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from apq_tune.cli.values import Place

if TYPE_CHECKING:
    from apq_tune.problem.costs import Costs

BUDGETS = ("memory", "memory-tight", "latency", "bit_ops")
"""As of ``apq_tune.problem.costs``, whose import would slow ``--help``."""

METRICS = (
    "macs (MACs), bit_ops (BitOps), flash or weight_bytes, ram or peak_activation_bytes (bytes), latency or latency_ms "
    "(ms), energy or energy_mj (mJ)"
)

LIMITS = click.option(
    "--constraint",
    "--limit",
    "limits",
    multiple=True,
    metavar="METRIC<=NUMBER",
    help="Such as 'flash<=200kB', 'bit_ops<=25%' (of the largest network at its most bits) or latency_ms=8.4, which is "
    f"short for <=; repeatable. METRIC is one of {METRICS}, or a column of --table.",
)

BUDGET = click.option(
    "--budget",
    type=click.Choice(BUDGETS),
    help="Limits by a rule, beside those of --constraint. memory: flash and RAM at which 4 bits just fit the median "
    "architecture; memory-tight: 0.7 of both; latency: the same median; bit_ops: 25% of the largest network.",
)

TABLES = click.option(
    "--table",
    "tables",
    multiple=True,
    type=Place(),
    help="Cost table: .csv, BitFusion JSON, or a folder of once-for-all YAML; repeatable.",
)


def all_limits(costs: Costs, limits: tuple[str, ...], budget: str | None) -> tuple[str, ...]:
    """Texts of the user's limits and of those by a rule.

    Raises:
        ProblemError: if one cannot be read or is out of reach.
    """
    from apq_tune.problem.costs import as_texts

    costs.limits(limits)
    return limits + (tuple(as_texts(costs.budget(budget))) if budget else ())
