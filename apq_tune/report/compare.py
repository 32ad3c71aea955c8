"""Report of a comparison of samplers: ``curves.csv``, ``medians.csv``, ``tests.csv``, ``curves.png``, and tables."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from apq_tune.report.tables import STYLE
from apq_tune.store.files import write_atomically
from apq_tune.studies.compare import (
    CompareTask,
    Contest,
    curves_frame,
    medians_frame,
    pairwise_tests,
    recommended,
    yardstick_of,
)

SIGNIFICANT = 0.05


def write_comparison(
    contest: Contest,
    entries: Sequence[CompareTask],
    results: Mapping[str, Mapping[str, Any]],
    at: Sequence[int],
    path: Path,
    console: Console,
) -> None:
    """Write the files and print the tables.

    Args:
        contest: Problem and budgets that the samplers shared.
        entries: Sampler and seed of each search.
        results: Results of the searches by key.
        at: Numbers of distinct candidates at which samplers are compared.
        path: Directory for the files.
        console: Console to print on.
    """
    yardstick, exact = yardstick_of(contest.problem, list(results.values()))
    curves = curves_frame(entries, results, yardstick, at, contest.caps)
    medians, tests = medians_frame(curves, at), pairwise_tests(curves, at)
    advice = recommended(medians, tests, SIGNIFICANT)
    for name, frame in (("curves", curves), ("medians", medians), ("tests", tests), ("recommended", advice)):
        write_atomically(path / f"{name}.csv", frame.to_csv(index=False))
    against = "exact front" if exact else "front of all searches together"
    write_atomically(path / "curves.png", picture(curves, against))
    console.print(medians_table(medians, against, curves["seed"].nunique()))
    for n in at:
        console.print(wins_table(tests[tests["evaluations"] == n], n))
    for sampler in dict.fromkeys(entry.sampler for entry in entries):
        if (cap := contest.budget(sampler)) < at[-1]:
            console.print(f"{sampler} stops after {cap:,} candidates (--cap) and is compared up to that number.")
    for entry in entries:
        most = min(contest.budget(entry.sampler), contest.problem.encoding.size())
        if (found := results[entry.key]["n_evaluations"]) < most:
            trials = results[entry.key]["trials"]
            console.print(
                f"{entry.key}: {trials} trials had only {found} distinct candidates; its curve is flat from there."
            )
    console.print(advice_table(advice))
    console.print(f"Files in {path}: curves.csv, medians.csv, tests.csv, recommended.csv, curves.png", soft_wrap=True)


def advice_table(advice: pd.DataFrame) -> Table:
    """Table of the best samplers by number of evaluations."""
    table = Table(title="Recommended sampler by number of evaluations", **STYLE)
    table.caption = f"best: by median; significantly worse: Mann-Whitney p < {SIGNIFICANT}, Holm-corrected"
    table.add_column("evaluations", justify="right")
    table.add_column("best")
    table.add_column("not significantly worse", overflow="fold")
    for row in advice.itertuples():
        table.add_row(f"{row.evaluations:,}", row.best, row.level_with_it or "none")
    return table


def medians_table(medians: pd.DataFrame, against: str, seeds: int) -> Table:
    """Table with a row for each sampler, sorted by the last number of evaluations."""
    counts = medians["evaluations"].unique()
    table = Table(title=f"Hypervolume as a share of the {against}", **STYLE)
    table.caption = f"by number of distinct candidates; median (quartiles) of {seeds} seeds"
    table.add_column("sampler")
    for n in counts:
        table.add_column(f"{n:,}", justify="right")
    ends = medians.groupby("sampler", sort=False).tail(1)
    for sampler in ends.sort_values(["evaluations", "q50"], ascending=False, kind="stable")["sampler"]:
        own = medians[medians["sampler"] == sampler].set_index("evaluations")
        words = (f"{own.q50[n]:.4f} ({own.q25[n]:.4f}-{own.q75[n]:.4f})" if n in own.index else "-" for n in counts)
        table.add_row(sampler, *words)
    return table


def wins_table(tests: pd.DataFrame, n: int) -> Table:
    """Table of wins, ties and losses over seeds of each row's sampler against each column's."""
    samplers = list(dict.fromkeys([*tests["sampler"], *tests["other"]]))
    if not samplers:
        return Table(title=f"Only one sampler has {n:,} candidates", **STYLE)
    cells: dict[tuple[str, str], str] = {}
    for row in tests.itertuples():
        star = "*" if row.p_holm < SIGNIFICANT else ""
        cells[row.sampler, row.other] = f"{row.wins}-{row.ties}-{row.losses}{star}"
    table = Table(title=f"Wins, ties and losses at {n:,} candidates", **STYLE)
    table.caption = f"of the row's sampler, seed by seed; * Mann-Whitney p < {SIGNIFICANT}, Holm-corrected"
    table.add_column("")
    for sampler in samplers[1:]:
        table.add_column(sampler.replace("optuna-", "optuna-\n"), justify="right")
    for place, sampler in enumerate(samplers[:-1]):
        table.add_row(sampler, *(cells[sampler, o] if i > place else "" for i, o in enumerate(samplers[1:], start=1)))
    return table


def picture(curves: pd.DataFrame, against: str) -> bytes:
    """Draw the median over seeds for each sampler with shaded quartiles; the picture as PNG."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.subplots()
    for sampler, own in curves.groupby("sampler", sort=False):
        quartiles = own.groupby("evaluations")["share"].quantile([0.25, 0.5, 0.75]).unstack()
        (line,) = ax.plot(quartiles.index, quartiles[0.5], label=sampler)
        ax.fill_between(
            quartiles.index, quartiles[0.25], quartiles[0.75], color=line.get_color(), alpha=0.2, linewidth=0
        )
    ax.set(xscale="log", xlabel="distinct candidates", ylabel=f"hypervolume / that of the {against}")
    ax.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
