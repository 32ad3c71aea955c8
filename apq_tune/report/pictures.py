"""Pictures of trained networks: accuracy against every limited cost, with the limits."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from apq_tune.methods.rivals import RIVALS
from apq_tune.pipeline.outcome import Outcome
from apq_tune.problem.front import Front
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.report.limits import MOST_PANELS, amount, draw_limit, logarithmic


def run_picture(outcome: Outcome) -> bytes:
    """Draw the predicted front and, against each limited cost, the networks after real QAT; the picture as PNG."""
    front = outcome.fronts["front"]
    random = {"random search": outcome.fronts["random"]}
    return networks_picture(front, "NSGA-II", random, "predicted", outcome.table, outcome.constraints)


def networks_picture(
    front: Front,
    label: str,
    others: Mapping[str, Front],
    title: str,
    table: pd.DataFrame,
    constraints: Sequence[Constraint],
    found: str = "joint search",
) -> bytes:
    """Draw a front and, against each limited cost, the trained networks; the picture as PNG.

    Args:
        front: Front of a loss and a cost.
        label: Name of the search that found it.
        others: Fronts to compare it with, by name.
        title: Kind of losses of the fronts.
        table: One row for each trained network, see ``Outcome.table``.
        constraints: Limits of the search.
        found: Name of the search that found the networks.
    """
    costs = panels(constraints) or [(front.objectives[1].name, front.objectives[1].unit, None)]
    figure, axes = grid(1 + len(costs))
    for name, other in others.items():
        other.plot(axes[0], marker=".", linestyle="", color="0.7", label=name)
    front.plot(axes[0], marker=".", color="C0", label=label)
    axes[0].set(title=f"{title}, within all limits", yscale="log")
    for which in (axes[0].yaxis.set_major_formatter, axes[0].yaxis.set_minor_formatter):
        which(FormatStrFormatter("%.3g"))
    own = next((c for c in constraints if c.metric.name == front.objectives[1].name), None)
    logarithmic(axes[0])
    if own is not None:
        draw_limit(axes[0], own)
    axes[0].legend(fontsize=8)
    for ax, (name, unit, constraint) in zip(axes[1:], costs, strict=True):
        networks_panel(ax, table, name, unit, constraint, found)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return png(figure)


def panels(constraints: Sequence[Constraint]) -> list[tuple[str, str, Constraint | None]]:
    """Name, unit and limit of the first limited metrics, each metric once."""
    found: dict[str, tuple[str, str, Constraint | None]] = {}
    for constraint in constraints:
        metric: Metric = constraint.metric
        found.setdefault(metric.name, (metric.name, metric.unit, constraint))
    return list(found.values())[:MOST_PANELS]


def grid(n: int) -> tuple[Figure, list[Axes]]:
    """A figure with ``n`` panels, up to three in a row."""
    columns = n if n <= 3 else 2
    rows = -(-n // columns)
    figure = Figure(figsize=(5.2 * columns, 4.4 * rows), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(rows, columns)).ravel()[:n])


def networks_panel(
    ax: Axes, table: pd.DataFrame, name: str, unit: str, constraint: Constraint | None, found: str = "joint search"
) -> None:
    """Draw accuracies of the trained networks against one cost: on search images hollow, on test images filled.

    Args:
        ax: Axes to draw on.
        table: One row for each network, see ``Outcome.table``.
        name: Name of the cost.
        unit: Unit of the cost.
        constraint: Limit on the cost, if there is one.
        found: Name of the search that found the networks.
    """
    largest, rival = table["name"].str.startswith("largest"), table["name"].isin(RIVALS)
    ax.vlines(table[name], 100 * table["search_accuracy"], 100 * table["test_accuracy"], color="0.8", zorder=0)
    for rows, marker, colour, label in (
        (table[~largest & ~rival], "o", "C0", found),
        (table[rival], "^", "C1", "staged, uniform; same limits"),
        (table[largest], "s", "C2", "largest network, uniform bits"),
    ):
        if rows.empty:
            continue
        style: dict[str, Any] = {"marker": marker, "edgecolors": colour}
        ax.scatter(rows[name], 100 * rows["search_accuracy"], facecolors="none", **style)
        ax.scatter(rows[name], 100 * rows["test_accuracy"], facecolors=colour, label=f"{label} (test)", **style)
        for row in rows.to_dict(orient="records"):
            weight = "bold" if row["chosen"] else "normal"
            text = f"{row['name']} (chosen)" if row["chosen"] else row["name"]
            at = (row[name], 100 * row["test_accuracy"])
            ax.annotate(text, at, (4, 4), textcoords="offset points", size=7, weight=weight)
    chosen = table[table["chosen"]]
    ax.scatter(chosen[name], 100 * chosen["search_accuracy"], s=160, facecolors="none", edgecolors="C3", label="chosen")
    ax.scatter([], [], facecolors="none", edgecolors="0.4", label="hollow: on search images")
    ax.set(title="after real QAT", xlabel=f"{name} ({unit})" if unit else name, ylabel="accuracy (%)")
    logarithmic(ax)
    ax.margins(x=0.2, y=0.12)
    if constraint is not None:
        draw_limit(ax, constraint)
        ax.set_title(f"after real QAT; limit {constraint.sense} {amount(constraint.bound, unit)}")


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
