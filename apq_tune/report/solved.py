"""Report of answers to new limits: a table on the terminal, CSV, a picture, and the network where one was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FormatStrFormatter
from rich.console import Console
from rich.table import Table

from apq_tune.pipeline.answers import Solution, Solutions
from apq_tune.pipeline.choice import described, keep
from apq_tune.pipeline.settings import RunSettings
from apq_tune.predict.trust import PROXY, short
from apq_tune.problem.problem import Constraint
from apq_tune.report.limits import amount, limit_lines, logarithmic, print_fitting, share
from apq_tune.report.pictures import grid, png
from apq_tune.report.tables import STYLE
from apq_tune.report.trust import trust_lines
from apq_tune.store.files import write_atomically

CSV, PICTURE = "answers.csv", "answers.png"
"""Files of the answers."""

OPTIONAL = ("trained", "pairs", "accuracy")
"""Columns that are left out on a narrow terminal, in this order."""

MARK = "? outside"
"""Mark of predictions where the predictor is asked outside of what it learned."""


def write_solved(
    solutions: Solutions, settings: RunSettings, path: Path, console: Console, weights: bytes | None = None
) -> None:
    """Write the files of answers into a folder and print them.

    Args:
        solutions: Answers of a run.
        settings: Settings of the run.
        path: Folder.
        console: Console to print on.
        weights: Weights of the answer, if it is the only one and trained.
    """
    table = solutions.table
    write_atomically(path / CSV, table.to_csv(index=False))
    write_atomically(path / PICTURE, solved_picture(solutions))
    console.print()
    print_fitting(
        console, lambda without: solved_table(solutions, without), OPTIONAL, lambda: solved_records(solutions)
    )
    for line in trust_words(solutions, settings):
        console.print(line, markup=False, soft_wrap=True)
    for one in solutions.answers:
        if one.why:
            console.print(f"{one.name}: {one.why}", markup=False, soft_wrap=True)
    files = [CSV, PICTURE]
    if len(solutions.answers) == 1:
        files += _write_only(solutions, settings, path, console, weights)
    elif any(one.scores for one in solutions.answers):
        console.print(f"Export one with: apq-tune export {path} --candidate NAME --out FILE", soft_wrap=True)
    console.print(f"Files in {path}: {', '.join(files)}", markup=False, soft_wrap=True)


def _write_only(
    solutions: Solutions, settings: RunSettings, path: Path, console: Console, weights: bytes | None
) -> list[str]:
    """Print the candidate of the only answer, and keep it if it is trained."""
    (one,), row = solutions.answers, solutions.table.iloc[0]
    for line in (*limit_lines(row, one.constraints), str(one.candidate)):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    record = described(row, one.constraints, f"QAT, {settings.final.epochs} epochs") if one.scores else None
    keep(path, record, weights)
    return [] if record is None else ["best.pt", "best.json"]


def limit_names(solutions: Solutions) -> list[Constraint]:
    """Limits by which answers differ, or all of them if there is one answer, as those of the first answer."""
    first, swept = solutions.answers[0].constraints, {metric.name for metric in solutions.swept}
    return [limit for limit in first if not swept or (limit.metric.name in swept and limit.sense == "<=")]


def solved_table(solutions: Solutions, without: frozenset[str] = frozenset()) -> Table:
    """Table of answers, in which predictions and measurements have columns of their own.

    Args:
        solutions: Answers of a run.
        without: Columns of ``OPTIONAL`` to leave out.
    """
    limits, measured = limit_names(solutions), any(one.scores for one in solutions.answers)
    without = without if any(one.trained for one in solutions.answers) else without | {"trained"}
    table = Table(title=f"Answers of {solutions.path} to new limits", **STYLE)
    table.caption = "\n".join(_legend(solutions, without))
    table.caption_justify = "left"
    table.add_column("", no_wrap=True)
    for limit in limits:
        table.add_column(f"{limit.metric.name}\n{limit.sense}", justify="right", no_wrap=True)
    table.add_column("predicted\nloss", justify="right", no_wrap=True)
    if "accuracy" not in without:
        table.add_column("predicted\nacc. %", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    if "pairs" not in without:
        table.add_column("pairs\nwithin", justify="right", no_wrap=True)
    if measured:
        for split in ("search", "test"):
            table.add_column(f"{split}\nacc. %", justify="right", no_wrap=True)
    if "trained" not in without:
        table.add_column("best trained\nwithin", no_wrap=True)
    for one in solutions.answers:
        bounds = [f"{amount(c.bound, c.metric.unit)}\n{_used(c, one)}" for c in _as_of(limits, one)]
        cells = [one.name, *bounds, f"{one.predicted_loss:.4f}" if one.candidate else "impossible"]
        cells += [] if "accuracy" in without else [_percent(one.predicted_accuracy) if one.candidate else ""]
        cells += [MARK if one.outside else ""]
        cells += [] if "pairs" in without else [str(one.pairs_kept) if one.candidate else ""]
        if measured:
            cells += [_percent(one.scores[s]["accuracy"]) if one.scores else "" for s in ("search", "test")]
        if "trained" not in without:
            cells.append(f"{one.trained}\nloss {one.trained_scores['loss']:.4f}" if one.trained else "")
        table.add_row(*cells, style="" if one.candidate else "dim")
    return table


def _as_of(limits: Sequence[Constraint], one: Solution) -> list[Constraint]:
    """The limits of an answer that the table shows."""
    own = {(c.metric.name, c.sense): c for c in one.constraints}
    return [own.get((c.metric.name, c.sense), c) for c in limits]


def _used(limit: Constraint, one: Solution) -> str:
    return share(limit, one.costs[limit.metric.name]) if one.candidate else ""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _legend(solutions: Solutions, without: frozenset[str]) -> list[str]:
    lines = ["predicted: after the short QAT of the run's pairs; not measured"]
    if any(one.outside for one in solutions.answers):
        lines.append(f"{MARK}: unlike all pairs that the predictor learned from, or none of them is within")
    if "pairs" not in without:
        lines.append(f"pairs within: how many of its {solutions.n_pairs} pairs keep the limits")
    if "trained" not in without and any(one.trained for one in solutions.answers):
        lines.append("best trained within: a network of the run or of these, measured after full QAT")
    return lines


def solved_records(solutions: Solutions) -> list[str]:
    """The table as lines of text, for a terminal that is too narrow for it."""
    lines = []
    for one in solutions.answers:
        said = [f"{c.metric.name} {c.sense} {amount(c.bound, c.metric.unit)}" for c in one.constraints]
        lines.append(f"{one.name}: {', '.join(said)}")
        if one.candidate:
            mark = f" {MARK}" if one.outside else ""
            lines.append(
                f"  predicted loss {one.predicted_loss:.4f}, accuracy {_percent(one.predicted_accuracy)}%{mark}"
            )
        for split, own in one.scores.items():
            lines.append(f"  measured on {split} images: {_percent(own['accuracy'])}%")
    return lines


def trust_words(solutions: Solutions, settings: RunSettings) -> list[str]:
    """Lines that say how far to trust the predictions."""
    report = solutions.predictors
    used, support = report["used"], report["support"].get(report["used"])
    scores = report["proxy alone"] if used == PROXY else report["held_out"].get(used)
    words = [f"agrees with them by a Kendall tau of {short(support['kendall_tau'])}"] if support else []
    words += [f"is off by {100 * scores['rmse_log']:.0f}% of the loss"] if scores else []
    said = f" On {report['n']} held-out pairs the predictor ({used}) {' and '.join(words)}." if words else ""
    lines = [f"These are predictions and rank networks; --finetune trains and measures them.{said}"]
    if any(one.scores for one in solutions.answers):
        lines = [
            f"Predictions rank networks only; search and test accuracies are measured after QAT of "
            f"{settings.final.epochs} epochs, as those of the run's finalists.{said}"
        ]
    if settings.kappa:
        lines.append(f"Predicted losses are {settings.kappa:g} standard deviations above the mean (setting kappa).")
    return lines + trust_lines(report, settings, str(solutions.path))


def solved_picture(solutions: Solutions) -> bytes:
    """Draw predicted losses against the limits and, where answers are trained, measured accuracies; as PNG.

    There is a line for each combination of the other limits that are swept.
    """
    frame = solutions.table
    axis = limit_names(solutions)[0] if limit_names(solutions) else None
    measured = "search_accuracy" in frame
    _, axes = figure_axes = grid(2 if measured else 1)
    others = [f"limit {metric.name}" for metric in solutions.swept[1:]]
    groups: list[tuple[Any, pd.DataFrame]] = list(frame.groupby(others, sort=True)) if others else [((), frame)]
    for number, (names, rows) in enumerate(groups):
        units = {f"limit {metric.name}": metric.unit for metric in solutions.swept}
        label = ", ".join(
            f"{name.removeprefix('limit ')} <= {amount(value, units[name])}"
            for name, value in zip(others, names, strict=True)
        )
        _draw_predictions(axes[0], rows, axis, f"C{number}", label)
        if measured:
            _draw_measured(axes[1], rows, axis, f"C{number}", label)
    for ax in axes:
        _finish(ax, axis)
    return png(figure_axes[0])


def _draw_predictions(ax: Axes, rows: pd.DataFrame, axis: Constraint | None, colour: str, label: str) -> None:
    x = rows[_column(axis)] if axis is not None else pd.Series(range(len(rows)), rows.index)
    ax.plot(x, rows["predicted_loss"], color=colour, linestyle=":", label=label or None)
    ax.scatter(x, rows["predicted_loss"], facecolors="none", edgecolors=colour)
    out = rows["outside"] & rows["predicted_loss"].notna()
    ax.scatter(
        x[out], rows.loc[out, "predicted_loss"], marker="x", color="C3", zorder=3, label=MARK if out.any() else None
    )
    ax.set(title="predicted, not measured", ylabel="predicted loss (nats)", yscale="log")
    for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        which(FormatStrFormatter("%.3g"))


def _draw_measured(ax: Axes, rows: pd.DataFrame, axis: Constraint | None, colour: str, label: str) -> None:
    x = rows[_column(axis)] if axis is not None else pd.Series(range(len(rows)), rows.index)
    ax.plot(
        x, 100 * rows["search_accuracy"], "o-", color=colour, markerfacecolor="none", label=label or "search images"
    )
    ax.plot(x, 100 * rows["test_accuracy"], "o", color=colour, label=None if label else "test images")
    ax.set(title="measured after QAT", ylabel="accuracy (%)")


def _column(axis: Constraint) -> str:
    return f"limit {axis.metric.name}" + ("" if axis.sense == "<=" else " >=")


def _finish(ax: Axes, axis: Constraint | None) -> None:
    if axis is not None:
        ax.set_xlabel(f"{axis.metric.name} {axis.sense} ({axis.metric.unit})")
        logarithmic(ax)
        ax.xaxis.set_major_formatter(EngFormatter())
    if ax.get_legend_handles_labels()[0]:
        handles, labels = ax.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        ax.legend(once.values(), once.keys(), fontsize=8)
