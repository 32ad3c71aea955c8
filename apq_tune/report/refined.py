"""Report of a refinement: a table on the terminal, CSV, front, picture and the weights of the best network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FormatStrFormatter
from rich.console import Console
from rich.table import Table

from apq_tune.pipeline.choice import RECORD, WEIGHTS, described, keep
from apq_tune.pipeline.upgrade import RAISED
from apq_tune.problem.problem import Constraint
from apq_tune.refine.outcome import Refined
from apq_tune.report.answer import print_chosen, scores_in_words
from apq_tune.report.limits import amount, draw_limit, engineering, heading, print_fitting, share
from apq_tune.report.pictures import grid, panels, png
from apq_tune.report.raised import raised_lines, raised_record
from apq_tune.report.tables import STYLE
from apq_tune.store.files import write_atomically

OPTIONAL = ("predicted", "acc. %", "stage")
"""Columns that are left out on a narrow terminal, in this order."""


def write_refined(refined: Refined, path: Path, console: Console) -> None:
    """Write the files of a refinement into ``path`` and print its table."""
    table, constraints, best = refined.table, refined.constraints, refined.table.loc[refined.best]
    write_atomically(path / "results.csv", table.to_csv(index=False))
    write_atomically(path / "front.json", refined.front.to_json())
    write_atomically(path / "front.png", refined_picture(refined))
    record = described(best, constraints, best["fidelity"])
    if refined.upgrade is not None and best["found"] == RAISED:
        record["raised"] = raised_record(refined.upgrade)
    keep(path, record, refined.weights.read_bytes())
    console.print()
    print_fitting(
        console, lambda without: refined_table(refined, without), OPTIONAL, lambda: refined_records(table, constraints)
    )
    if refined.uniform is not None and refined.uniform != refined.best:
        uniform = table.loc[refined.uniform]
        console.print(
            f"Best network with uniform bits, {uniform['name']}: {scores_in_words(uniform)} after "
            f"{uniform['fidelity']}.",
            soft_wrap=True,
        )
    console.print(
        f"{len(table)} trainings of {table['candidate_json'].nunique()} candidates took {table['epochs'].sum()} epochs "
        "of QAT in all. Search images decide which network is chosen; test images decide nothing.",
        soft_wrap=True,
    )
    final = table[table["epochs"] == best["epochs"]]
    console.print()
    print_chosen(best, constraints, int(final["feasible"].sum()), len(final), console)
    if (upgrade := refined.upgrade) is not None:
        for line in raised_lines(upgrade, final, f"{upgrade.of}-{RAISED}"):
            console.print(f"  {line}", soft_wrap=True, markup=False)
    if refined.of_run is not None:
        console.print(f"  {against_run(best, refined.of_run)}", soft_wrap=True, markup=False)
    console.print(
        f"Files in {path}: {WEIGHTS} and {RECORD} (the chosen network), results.csv, front.json, front.png",
        soft_wrap=True,
        markup=False,
    )


def against_run(best: pd.Series, of_run: pd.Series) -> str:
    """Describe the improvement over the network that the run chooses within the same limits."""
    loss = 100 * (best["search_loss"] / of_run["search_loss"] - 1)
    gains = {split: 100 * (best[f"{split}_accuracy"] - of_run[f"{split}_accuracy"]) for split in ("search", "test")}
    verdict = "better than" if loss < 0 else "no better than"
    kept = "" if loss < 0 else "; keep the network of the run"
    return (
        f"{verdict} the run's own choice within these limits ({of_run['name']}, loss {of_run['search_loss']:.4f} after "
        f"{of_run['fidelity']}): loss {loss:+.1f}%, accuracy {gains['search']:+.1f} points on search images, "
        f"{gains['test']:+.1f} on test images{kept}"
    )


def refined_table(refined: Refined, without: frozenset[str] = frozenset()) -> Table:
    """Table of all trainings: epochs, predicted and measured losses, accuracies, and costs with their limits."""
    constraints, cost = refined.constraints, refined.front.objectives[1].name
    table = Table(title="Networks after real QAT, by round", **STYLE)
    table.caption = "* chosen: the best after the longest QAT"
    if "predicted" not in without:
        table.caption += "; predicted: loss that was predicted before the first training"
    headings = ["stage", "name", "epochs", "predicted", "loss", "acc. %", "test\nacc. %"]
    headings = [name for name in headings if name not in without]
    for column in headings:
        table.add_column(column, justify="left" if column in ("stage", "name") else "right", no_wrap=True)
    for limit in constraints:
        table.add_column(heading(limit), justify="right", no_wrap=True)
    if not constraints:
        table.add_column(cost, justify="right", no_wrap=True)
    for index, row in refined.table.iterrows():
        cells = {
            "stage": row["stage"],
            "name": _named(row),
            "epochs": str(row["epochs"]),
            "predicted": "" if pd.isna(row["predicted_loss"]) else f"{row['predicted_loss']:.4f}",
            "loss": f"{row['search_loss']:.4f}",
            "acc. %": f"{100 * row['search_accuracy']:.1f}",
            "test\nacc. %": "" if pd.isna(row["test_accuracy"]) else f"{100 * row['test_accuracy']:.1f}",
        }
        costs = [_cost(limit, row) for limit in constraints] or [engineering(row[cost])]
        table.add_row(*(cells[name] for name in headings), *costs, style="bold" if index == refined.best else "")
    return table


def _named(row: pd.Series) -> str:
    marks = {" uniform": row["uniform"], " staged": row["found"] == "staged", " *": row["chosen"]}
    return str(row["name"]) + "".join(mark for mark, on in marks.items() if on)


def _cost(limit: Constraint, row: pd.Series) -> str:
    value, unit = float(row[limit.metric.name]), limit.metric.unit
    return f"{amount(value, unit if unit == 'bytes' else '')} {share(limit, value)}".strip()


def refined_records(table: pd.DataFrame, constraints: tuple[Constraint, ...]) -> list[str]:
    """The table as lines of text, for a terminal that is too narrow for it."""
    lines = []
    for _, row in table.iterrows():
        lines.append(f"{row['stage']}, {_named(row)}, {row['epochs']} epochs")
        lines.append(f"  loss {row['search_loss']:.4f}, accuracy {100 * row['search_accuracy']:.1f}%")
        if not pd.isna(row["test_accuracy"]):
            lines.append(f"  test accuracy {100 * row['test_accuracy']:.1f}%")
        lines += [f"  {limit.metric.name} {_cost(limit, row)}" for limit in constraints]
    return lines


def refined_picture(refined: Refined) -> bytes:
    """Draw losses on search images against every limited cost, coloured by epochs of QAT; the picture as PNG."""
    axis = refined.front.objectives[1]
    costs = panels(refined.constraints) or [(axis.name, axis.unit, None)]
    figure, axes = grid(len(costs))
    for ax, (name, unit, limit) in zip(axes, costs, strict=True):
        _losses(ax, refined, name)
        ax.set(xlabel=f"{name} ({unit})" if unit else name, yscale="log")
        ax.margins(x=0.1, y=0.1)
        ax.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
        ax.yaxis.set_minor_formatter(FormatStrFormatter("%.3g"))
        ax.xaxis.set_major_formatter(EngFormatter())
        if limit is not None:
            draw_limit(ax, limit)
            ax.set_title(f"limit {limit.sense} {amount(limit.bound, unit)}", fontsize=10)
    axes[0].set(ylabel="cross-entropy on search images (nats)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return png(figure)


def _losses(ax: Axes, refined: Refined, name: str) -> None:
    """Draw one panel: all trainings, a ring around the chosen one, a cross for the choice of the run."""
    table, front = refined.table, refined.front.metrics.sort_values(name)
    for number, (epochs, rows) in enumerate(table.groupby("epochs")):
        for uniform, own in rows.groupby("uniform"):
            style: dict[str, Any] = {"marker": "s" if uniform else "o", "color": f"C{number}"}
            label = f"QAT, {epochs} epochs" + (", uniform bits" if uniform else "")
            ax.scatter(own[name], own["search_loss"], label=label, **style)
    if name == refined.front.objectives[1].name:
        ax.plot(front[name], front["search_loss"], color="0.5", zorder=0, label="front after the longest QAT")
    best = table.loc[refined.best]
    ax.scatter([best[name]], [best["search_loss"]], s=160, facecolors="none", edgecolors="C3", label="chosen")
    ax.annotate(f"{best['name']} (chosen)", (best[name], best["search_loss"]), (6, -10), textcoords="offset points")
    if refined.of_run is not None:
        own_choice = refined.of_run
        ax.scatter([own_choice[name]], [own_choice["search_loss"]], marker="x", color="black", label="the run's choice")
