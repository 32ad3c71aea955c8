"""Which network to take, in words: the end of a run, of a refinement, of a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from apq_tune.problem.problem import Constraint
from apq_tune.report.limits import limit_lines

LEVEL = 0.02
"""Share of the least loss by which another one may exceed it and is still called level: a convention, and no test."""


def scores_in_words(row: Mapping[str, Any]) -> str:
    """Loss and accuracy on the search split, accuracy on test images."""
    return (
        f"loss {row['search_loss']:.4f}, accuracy {100 * row['search_accuracy']:.1f}% on the search split, "
        f"{100 * row['test_accuracy']:.1f}% on test images"
    )


def print_chosen(
    row: Mapping[str, Any] | None, constraints: Sequence[Constraint], n_kept: int, n: int, console: Console
) -> None:
    """The chosen network: why it, its scores, its costs beside the limits, its blocks.

    Args:
        row: of the table of networks; ``None`` if no network keeps the limits.
        constraints: the limits.
        n_kept: networks that keep them, of ...
        n: that were trained in full.
        console: where to print.
    """
    limits = " and ".join(map(str, constraints))
    if row is None:
        console.print(
            f"None of the {n} trained networks keeps {limits}: none is chosen. Relax a limit.", soft_wrap=True
        )
        return
    among = f"among the {n_kept} of {n} trained networks that keep {limits}" if limits else f"of {n} trained networks"
    console.print(f"Chosen: {row['name']}, the least loss on the search split {among}", soft_wrap=True, markup=False)
    for line in (scores_in_words(row), *limit_lines(row, constraints), row["candidate"]):
        console.print(f"  {line}", soft_wrap=True, markup=False)


def level_line(table: pd.DataFrame) -> str | None:
    """Other networks that keep the limits and whose loss is all but that of the chosen one; ``None`` if there are none.

    A cheaper one of them may be as good a choice.

    Args:
        table: ``name``, ``feasible``, ``chosen``, ``search_loss``, ``search_accuracy``.
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
        f"Level with it, losses within {100 * LEVEL:.0f}%: {', '.join(words)}. Take one of these instead if it is "
        "cheaper where it matters to you; more training and more search images tell them apart."
    )


def words_of_limits(constraints: Sequence[Constraint]) -> str:
    """Of a title: all limits, or that there is none."""
    return ", ".join(map(str, constraints)) or "no limits"


def n_feasible(table: pd.DataFrame) -> int:
    """Networks that keep every limit."""
    return int(table["feasible"].sum())
