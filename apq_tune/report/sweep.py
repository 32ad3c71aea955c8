"""Report of a sweep: ``results.csv``, ``results.parquet``, ``fronts.png``, and a table on the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from apq_tune.problem.problem import Objective
from apq_tune.report.tables import STYLE
from apq_tune.store.files import write_atomically
from apq_tune.studies.sweep import Sweep, SweepTask, number, results_frame, target_columns, unlimited_as_infinite

Floats = NDArray[np.float64]

COLUMNS = 3
"""Largest number of panels in a row of a picture."""

QUARTILES = (0.25, 0.5, 0.75)


def write_sweep(
    sweep: Sweep, tasks: Sequence[SweepTask], results: dict[str, Any], path: Path, console: Console
) -> None:
    """Write the files of a sweep into ``path`` and print its table."""
    frame = results_frame(sweep, tasks, results)
    write_atomically(path / "results.csv", frame.to_csv(index=False))
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_atomically(path / "results.parquet", buffer.getvalue())
    objectives = sweep.problem(tasks[0].device, tasks[0].limits).objectives
    write_atomically(path / "fronts.png", picture(frame, objectives))
    console.print(summary_table(frame, objectives))
    unmet = [(task.key, results[task.key]["note"]) for task in tasks if results[task.key]["note"]]
    for key, note in unmet:
        console.print(f"{key}: {note}", markup=False, soft_wrap=True)
    console.print(f"Files in {path}: results.csv, results.parquet, fronts.png", soft_wrap=True)


def summary(frame: pd.DataFrame, objectives: Sequence[Objective]) -> pd.DataFrame:
    """Quartiles over seeds of the best value, or of the hypervolume if there are several objectives.

    Returns:
        One row for each device, limits and sampler: ``q25``, ``q50``, ``q75``, and ``found``, the share of seeds that
        found anything.
    """
    what = objectives[0].metric.name if len(objectives) == 1 else "hypervolume"
    by = [*target_columns(frame), "sampler"]
    if what not in frame:
        frame = frame.assign(**{what: np.nan})
    frame = unlimited_as_infinite(frame)
    runs = frame.groupby([*by, "seed"], sort=False).agg(value=(what, "first"), found=("candidate", "count"))
    groups = runs.groupby(by, sort=False)
    quartiles = groups["value"].quantile(list(QUARTILES)).unstack().set_axis(["q25", "q50", "q75"], axis=1)
    found = groups["found"].agg(lambda counts: float((counts > 0).mean()))
    return found.rename("found").to_frame().join(quartiles).reset_index()


def summary_table(frame: pd.DataFrame, objectives: Sequence[Objective]) -> Table:
    """The frame of ``summary`` as a table."""
    what = objectives[0].metric.name if len(objectives) == 1 else "share of the hypervolume"
    rows = summary(frame, objectives)
    seeds = frame["seed"].nunique()
    table = Table(title=f"{what}, median and quartiles of {seeds} seeds", **STYLE)
    known = [column for column in rows.columns if column not in ("found", "q25", "q50", "q75")]
    for column in known:
        table.add_column(column.replace("limit ", "limit\n"), justify="right" if column.startswith("limit") else "left")
    table.add_column(what.replace(" of ", "\nof "), justify="right")
    table.add_column("quartiles", justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        words = [_cell(column, row[column]) for column in known]
        if np.isfinite(row["q50"]) and row["found"]:
            values = [f"{row['q50']:.6g}", f"{row['q25']:.6g}-{row['q75']:.6g}"]
        else:
            values = ["nothing found", ""]
        if 0 < row["found"] < 1:
            values[1] += f" ({round(row['found'] * seeds)} of {seeds} seeds)"
        table.add_row(*words, *values)
    return table


def _cell(column: str, value: Any) -> str:
    """Text of a device, a sampler, or a limit, which is empty where the metric has none."""
    if not column.startswith("limit "):
        return str(value)
    return number(value) if np.isfinite(value) else ""


def picture(frame: pd.DataFrame, objectives: Sequence[Objective]) -> bytes:
    """Draw the best value against the limit with most bounds or, of several objectives, the fronts.

    There is a panel for each target and each combination of the other limits, and in it a line for each sampler with
    quartiles over seeds.

    Returns:
        The picture as PNG.
    """
    columns = target_columns(frame)
    axis = None
    if len(objectives) == 1 and len(columns) > 1:
        axis = max(columns[1:], key=lambda column: frame[column].nunique())
    by = [column for column in columns if column != axis]
    panels = list(unlimited_as_infinite(frame).groupby(by, sort=False))
    wide = min(COLUMNS, len(panels))
    high = -(-len(panels) // wide)
    figure = Figure(figsize=(1 + 4 * wide, 0.5 + 3.2 * high), layout="constrained")
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    colours = {sampler: f"C{place}" for place, sampler in enumerate(frame["sampler"].unique())}
    for ax, (names, panel) in zip(axes, panels, strict=False):
        words = [
            str(name) if column == "device" else f"{column.removeprefix('limit ')} <= {number(name)}"
            for column, name in zip(by, names, strict=True)
            if column == "device" or np.isfinite(name)
        ]
        ax.set_title(", ".join(words), fontsize=9)
        if len(objectives) == 1:
            _draw_best(ax, panel, objectives[0], axis, colours)
        else:
            _draw_fronts(ax, panel, objectives, colours)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    axes[0].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw_best(ax: Axes, panel: pd.DataFrame, objective: Objective, axis: str | None, colours: dict[str, str]) -> None:
    rows = summary(panel, [objective])
    for sampler, own in rows.groupby("sampler", sort=False):
        own = own if axis is None else own.sort_values(axis)
        x = own["sampler"] if axis is None else own[axis]
        bars = np.abs(own[["q25", "q75"]].to_numpy().T - own["q50"].to_numpy())
        ax.errorbar(x, own["q50"], bars, marker=".", capsize=3, color=colours[str(sampler)], label=sampler)
    ax.set_xlabel("sampler" if axis is None else f"{axis.removeprefix('limit ')} <=")
    ax.set_ylabel(f"{objective.metric.name} ({objective.metric.unit})")


def _draw_fronts(ax: Axes, panel: pd.DataFrame, objectives: Sequence[Objective], colours: dict[str, str]) -> None:
    """Draw the fronts, the second objective along x: the median and the quartiles over seeds of what was attained."""
    y, x = objectives[:2]
    ax.set_xlabel(f"{x.metric.name} ({x.metric.unit})")
    ax.set_ylabel(f"{y.metric.name} ({y.metric.unit})")
    if y.metric.name not in panel or not (whole := panel[x.metric.name].dropna()).size:
        return
    grid = np.linspace(whole.min(), whole.max(), 200)
    for sampler, runs in panel.groupby("sampler", sort=False):
        lines = np.stack([attained(run, x, y, grid) for run in _found(runs, x)] or [np.full(len(grid), np.nan)])
        worst = np.inf if y.direction == "minimize" else -np.inf
        low, middle, high = np.quantile(lines, QUARTILES, axis=0, method="nearest")
        low, middle, high = (np.where(line == worst, np.nan, line) for line in (low, middle, high))
        ax.step(grid, middle, where="post", color=colours[str(sampler)], label=sampler)
        ax.fill_between(grid, low, high, step="post", color=colours[str(sampler)], alpha=0.2, linewidth=0)


def _found(runs: pd.DataFrame, x: Objective) -> Iterator[pd.DataFrame]:
    """Candidates of each seed."""
    for _, run in runs.groupby("seed"):
        yield run.dropna(subset=[x.metric.name])


def attained(run: pd.DataFrame, x: Objective, y: Objective, grid: Floats) -> Floats:
    """Best y among the candidates of a search whose x is at least as good as each value of a grid.

    Returns:
        Values of y, shape ``(len(grid),)``; infinitely bad where no candidate is as good.
    """
    sign = 1.0 if y.direction == "minimize" else -1.0
    xs, ys = run[x.metric.name].to_numpy(float), sign * run[y.metric.name].to_numpy(float)
    reached = xs <= grid[:, None] if x.direction == "minimize" else xs >= grid[:, None]
    return np.asarray(sign * np.where(reached, ys, np.inf).min(axis=1, initial=np.inf))
