"""Report on the forms of predictors by number of pairs: tables on the terminal, CSV files and a picture in the run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from apq_tune.pipeline.predictor_report import PredictorReport
from apq_tune.predict.trust import FEWEST_FOR_INTERVAL
from apq_tune.report.tables import STYLE
from apq_tune.store.files import write_atomically

TITLES = {
    "kendall_tau": "Kendall tau",
    "pairwise_accuracy": "pairwise accuracy",
    "rmse_log": "RMSE of log loss",
    "coverage": "share of losses inside 90% intervals,",
}

PLENTY = 100
"""Number of pairs beyond which forms hardly differ."""

LINES = ("-", "--", ":")
"""Line styles of the picture, as there are more forms than distinguishable colours."""


def write_predictor_report(report: PredictorReport, path: Path, console: Console) -> None:
    """Write the files into the run directory ``path`` and print a table for each score."""
    write_atomically(path / "predictor_report.csv", report.summary.to_csv(index=False))
    write_atomically(path / "predictor_splits.csv", report.splits.to_csv(index=False))
    write_atomically(path / "predictor_report.png", curve_picture(report.summary, report.split_half))
    most = report.n_pairs - report.n_test
    more = f" For more, repeat the run with --set n_pairs={4 * report.n_pairs}." if most < PLENTY else ""
    console.print(
        f"The run has {report.n_pairs} quantized pairs. In each of {report.n_splits} random splits {report.n_test} of "
        f"them are held out, so predictors are fitted to at most {most}.{more}",
        soft_wrap=True,
    )
    for score in TITLES:
        console.print(score_table(report, score))
    intervals = (
        "Means over splits, with 95% intervals that are corrected for pairs shared by splits (Nadeau and Bengio 2003)."
        if report.n_test >= FEWEST_FOR_INTERVAL
        else f"{report.n_test} held-out pairs are too few for intervals; repeat the run with --set "
        f"n_pairs={3 * FEWEST_FOR_INTERVAL}."
    )
    console.print(
        f"{intervals} Split-half agreement: losses on even images against losses on odd ones.",
        soft_wrap=True,
    )
    console.print(f"Files in {path}: predictor_report.csv, predictor_splits.csv, predictor_report.png", soft_wrap=True)


def score_table(report: PredictorReport, score: str) -> Table:
    """Table of one score: a row for each form, a column for each number of pairs."""
    summary = report.summary[report.summary[score].notna()]
    table = Table(title=f"{TITLES[score]} on held-out pairs", **STYLE)
    table.add_column("form", no_wrap=True)
    counts = sorted(summary["n"].unique())
    for number, n in enumerate(counts):
        table.add_column(str(n) if number else f"{n} pairs", justify="right", no_wrap=True)
    for form, rows in summary.groupby("form", sort=False):
        known = rows.set_index("n")
        cells = [_cell(known.loc[n], score) for n in counts]
        table.add_row(f"{form} (used)" if form == report.used else str(form), *cells)
    if score in report.split_half:
        table.add_row("split-half agreement", _short(report.split_half[score]), style="dim")
    return table


def _cell(row: pd.Series, score: str) -> str:
    """The mean, and on the next line its interval if there is one."""
    mean, low, high = (_short(row[name]) for name in (score, f"{score}_low", f"{score}_high"))
    return mean if np.isnan(row[f"{score}_low"]) else f"{mean}\n{low} to {high}"


def _short(number: float) -> str:
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.2f}"


def curve_picture(summary: pd.DataFrame, split_half: dict[str, float]) -> bytes:
    """Draw three scores against the number of pairs.

    Args:
        summary: Table with ``form``, ``n``, and each score with its ``..._low`` and ``..._high``, NaN for no interval.
        split_half: Agreement of losses on even images with those on odd ones, by score; drawn as a horizontal line.

    Returns:
        The picture as PNG.
    """
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 3))
    scores = list(TITLES)[:3]
    for ax, score in zip(axes, scores, strict=True):
        for number, (form, rows) in enumerate(summary.groupby("form", sort=False)):
            shift = 1.015 ** (number - 4)  # so that error bars do not overlap
            style: dict[str, Any] = {"color": f"C{number}", "linestyle": LINES[number % 3]}
            if form == "mean":
                style |= {"color": "black", "linestyle": "-", "linewidth": 2}
            ends = rows[[f"{score}_low", f"{score}_high"]].to_numpy(np.float64).T
            error = np.abs(np.nan_to_num(ends - rows[score].to_numpy(np.float64)))
            ax.errorbar(rows["n"] * shift, rows[score], error, marker=".", elinewidth=0.7, label=str(form), **style)
        low, high = min(summary[score].min(), split_half[score]), max(summary[score].max(), split_half[score])
        margin = 0.15 * (high - low)
        ax.set_ylim(low - margin, high + margin)  # bars may be longer
        ax.axhline(split_half[score], color="0.5", linewidth=0.8, label="split-half agreement")
        ax.set(xscale="log", xlabel="quantized pairs in the fit", title=TITLES[score])
        counts = sorted(summary["n"].unique())
        ax.set_xticks(counts, [str(n) for n in counts])
        ax.minorticks_off()
    axes[0].legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
