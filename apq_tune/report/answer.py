"""The chosen network in words, at the end of a run, of a run with another method or of a refinement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from apq_tune.problem.problem import Constraint
from apq_tune.report.limits import amount, limit_lines

LEVEL = 0.02
"""Relative difference of losses up to which two networks count as equally good; a convention, not a test."""


def scores_in_words(row: Mapping[str, Any]) -> str:
    """Loss and accuracy on search images, accuracy on test images."""
    return (
        f"loss {row['search_loss']:.4f}, accuracy {100 * row['search_accuracy']:.1f}% on search images, "
        f"{100 * row['test_accuracy']:.1f}% on test images"
    )


def print_chosen(
    row: Mapping[str, Any] | None, constraints: Sequence[Constraint], n_kept: int, n: int, console: Console
) -> None:
    """Print which network is chosen and why, its scores, its costs with the limits, and its blocks.

    Args:
        row: Row of the table of networks; ``None`` if no network keeps the limits.
        constraints: Limits of the run.
        n_kept: Number of trained networks that keep the limits.
        n: Number of networks that were trained in full.
        console: Console to print on.
    """
    limits = " and ".join(f"{c.metric.name} {c.sense} {amount(c.bound, c.metric.unit)}" for c in constraints)
    if row is None:
        console.print(
            f"None of the {n} trained networks keeps {limits}, so none is chosen; relax a limit.", soft_wrap=True
        )
        return
    among = f"{n_kept} of {n} trained networks that keep {limits}" if limits else f"{n} trained networks"
    console.print(f"Chosen: {row['name']}, with the least loss on search images of the {among}", soft_wrap=True)
    for line in (scores_in_words(row), *limit_lines(row, constraints), row["candidate"]):
        console.print(f"  {line}", soft_wrap=True, markup=False)


def level_line(table: pd.DataFrame) -> str | None:
    """One line on the networks that keep the limits with nearly the loss of the chosen one; ``None`` without any.

    A cheaper one of them may be as good a choice.

    Args:
        table: One row for each network, with ``name``, ``feasible``, ``chosen``, ``search_loss``, ``search_accuracy``.
    """
    if not table["chosen"].any():
        return None
    least = float(table.loc[table["chosen"], "search_loss"].iloc[0])
    level = table[table["feasible"] & ~table["chosen"] & (table["search_loss"] <= least * (1 + LEVEL))]
    if level.empty:
        return None
    words = (
        f"{row.name_} ({row.search_loss:.4f}, {100 * row.search_accuracy:.1f}%)"
        for row in level.rename(columns={"name": "name_"}).sort_values("search_loss").itertuples()
    )
    return (
        f"About as good, with a loss within {100 * LEVEL:.0f}% of it: {', '.join(words)}. If one of these is cheaper "
        "in a cost that matters to you, take it instead."
    )


def words_of_limits(constraints: Sequence[Constraint]) -> str:
    """All limits as text for a title; ``no limits`` without any."""
    return ", ".join(map(str, constraints)) or "no limits"


def n_feasible(table: pd.DataFrame) -> int:
    """Number of networks that keep every limit."""
    return int(table["feasible"].sum())
