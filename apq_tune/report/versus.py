"""Report of a comparison of search methods: CSV files, a picture, tables on the terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, StrMethodFormatter
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from apq_tune.problem.costs import Costs
from apq_tune.report.tables import STYLE
from apq_tune.store.files import write_atomically
from apq_tune.studies.rules import add_ratios, check_comparison
from apq_tune.studies.verdict import finalists_frame, means_frame, results_frame, seconds_frame, tests_frame
from apq_tune.studies.versus import VersusTask

SIGNIFICANT = 0.05
LINEAR = 0.5
"""Accuracy points up to which the axis of the picture is linear where some differences are more than twice as large, so
that distant methods do not hide close ones."""
TICKS = (-10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10)


def write_versus(
    tasks: Sequence[VersusTask],
    results: Mapping[str, Mapping[str, Any]],
    limits: Mapping[str, Sequence[str]],
    costs: Costs,
    path: Path,
    console: Console,
) -> None:
    """Write the files and print the tables, and the rules of fair comparisons that the results do not meet."""
    frame = add_ratios(results_frame(tasks, results), costs.at_largest())
    rules = check_comparison(frame, costs.encoding.space.classes)
    means, tests, seconds = means_frame(frame), tests_frame(frame), seconds_frame(tasks, results)
    files = {"results": frame, "finalists": finalists_frame(tasks, results), "means": means, "tests": tests}
    for name, content in (files | {"seconds": seconds}).items():
        if len(content):
            write_atomically(path / f"{name}.csv", content.to_csv(index=False))
    for budget in frame["budget"].unique() if len(tasks) > 1 else ():  # a single search is reported in words
        own = tests[tests["budget"] == budget] if len(tests) else tests
        console.print(budget_table(budget, limits[budget], means[means["budget"] == budget], own))
    if len(tests):
        write_atomically(path / "differences.png", picture(frame))
        write_atomically(path / "rules.csv", pd.DataFrame(rules).to_csv(index=False))
        for rule in (rule for rule in rules if not rule.met):
            console.print(f"Not met: {rule}", soft_wrap=True, markup=False)
    console.print(
        f"{len(tasks)} searches took {seconds['all'].sum():.0f} processor seconds. Search images decide which networks "
        f"are chosen; test images decide nothing. Files in {path}",
        soft_wrap=True,
    )


def budget_table(budget: str, limits: Sequence[str], means: pd.DataFrame, tests: pd.DataFrame) -> Table:
    """Table with a row for each method: mean and standard deviation, and the comparison of joint search with it."""
    seeds = int(means["seeds"].max())
    table = Table(title=f"{budget}: " + ", ".join(_short(limit) for limit in limits), **STYLE)
    words = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    table.caption = f"{words}; joint minus method: points of accuracy; w-t-l: wins, ties and losses of joint search; "
    table.caption += "p t, p W: paired t-test and Wilcoxon test"
    table.caption += f"; * p < {SIGNIFICANT} after Holm's correction" if seeds > 1 else ""
    table.caption += (
        "; bytes ÷, MACs ÷: compression and theoretical speed-up against the largest network at its most bits"
    )
    table.add_column("method")
    for name in ("test acc. %", "test loss", "bytes ÷", "MACs ÷", "joint minus", "w-t-l", "p t", "p W"):
        table.add_column(name, justify="right")
    accuracy = tests[tests["score"] == "test_accuracy"].set_index("rival") if len(tests) else tests
    for row in means.sort_values("test_accuracy_mean", ascending=False, kind="stable").itertuples():
        cells = [row.method, _mean(100 * row.test_accuracy_mean, 100 * row.test_accuracy_std, 2)]
        cells.append(_mean(row.test_loss_mean, row.test_loss_std, 4))
        cells += [f"{getattr(row, f'{name}_mean'):.2f}" for name in ("compression", "speed_up")]
        if row.method in accuracy.index:
            own = accuracy.loc[row.method]
            cells += [f"{100 * own['difference']:+.2f}", f"{own['wins']}-{own['ties']}-{own['losses']}"]
            cells += [_p(own["p_t"], own["p_t_holm"]), _p(own["p_wilcoxon"], own["p_wilcoxon_holm"])]
        table.add_row(*cells)
    return table


def _short(limit: str) -> str:
    name, sense, number = limit.partition("<=" if "<=" in limit else ">=")
    return f"{name} {sense} {float(number):.4g}"


def _mean(mean: float, sd: float, digits: int) -> str:
    return f"{mean:.{digits}f}" + ("" if np.isnan(sd) else f" ± {sd:.{digits}f}")


def _p(p: float, corrected: float) -> str:
    return f"{p:.3f}" + ("*" if corrected < SIGNIFICANT else "")


def picture(frame: pd.DataFrame) -> bytes:
    """Draw, for each budget, the test accuracy of joint search minus that of each method; the picture as PNG.

    Dots are seeds, bars are 95% intervals of the mean.
    """
    buffer = io.BytesIO()
    figure_of(frame).savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def figure_of(frame: pd.DataFrame) -> Figure:
    """The picture as a figure: a panel for each budget, accuracy in points on the axis that all of them share."""
    budgets = list(frame["budget"].unique())
    figure = Figure(figsize=(3.1 * len(budgets) + 0.8, 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(budgets), sharex=True, sharey=True))
    largest = 0.0
    for ax, budget in zip(axes, budgets, strict=True):
        table = frame[frame["budget"] == budget].pivot(index="seed", columns="method", values="test_accuracy")
        rivals = [m for m in frame["method"].unique() if m != "joint" and m in table]
        for place, rival in enumerate(rivals):
            gain = 100 * (table["joint"] - table[rival]).dropna().to_numpy()
            if not len(gain):
                continue
            ax.scatter(gain, np.full(len(gain), place), s=12, alpha=0.5, color="C0")
            half = 0.0
            if len(gain) > 1:
                half = float(student.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain)))
            ax.errorbar(gain.mean(), place, xerr=half, fmt="D", color="black", markersize=4, capsize=3)
            largest = max(largest, np.abs(gain).max(), abs(gain.mean()) + half)
        ax.axvline(0, color="0.6", linewidth=1, zorder=0)
        ax.set(title=budget, xlabel="joint minus method (points)", yticks=range(len(rivals)), yticklabels=rivals)
        ax.set_ylim(len(rivals) - 0.5, -0.5)
    if largest > 2 * LINEAR:
        for ax in axes:
            ax.set_xscale("symlog", linthresh=LINEAR)
            ax.xaxis.set_major_locator(FixedLocator(TICKS))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return figure
