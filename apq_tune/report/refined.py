"""The end of a refinement: a table on the terminal; CSV, front, picture and the best network's weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rich.console import Console
from rich.table import Table

from apq_tune.pipeline.files import write_atomically
from apq_tune.pipeline.refine import Refined
from apq_tune.report.tables import STYLE


def write_refined(refined: Refined, path: Path, console: Console) -> None:
    """Write the files and print the table."""
    table, cost = refined.table, refined.front.objectives[1].name
    write_atomically(path / "results.csv", table.to_csv(index=False))
    write_atomically(path / "front.json", refined.front.to_json())
    write_atomically(path / "front.png", refined_picture(refined))
    write_atomically(path / "best.pt", refined.weights.read_bytes())
    console.print()
    console.print(refined_table(table, cost, refined.best))
    best = table.loc[refined.best]
    console.print(f"best, {best['name']}: {_words(best)}", soft_wrap=True)
    if refined.uniform is not None and refined.uniform != refined.best:
        uniform = table.loc[refined.uniform]
        console.print(f"best with uniform bits, {uniform['name']}: {_words(uniform)}", soft_wrap=True)
    console.print(
        f"{len(table)} trainings of {table['candidate_json'].nunique()} candidates, {table['epochs'].sum()} epochs of "
        "QAT in all. The search split chose; test images only report.",
        soft_wrap=True,
    )
    console.print(f"Files in {path}: results.csv, front.json, front.png, best.pt", soft_wrap=True)


def _words(row: pd.Series) -> str:
    return (
        f"loss {row['search_loss']:.4f}, accuracy {100 * row['search_accuracy']:.1f}% on the search split, "
        f"{100 * row['test_accuracy']:.1f}% on test images after {row['fidelity']}"
    )


def refined_table(results: pd.DataFrame, cost: str, best: int) -> Table:
    """Every training: what was predicted of the first one, what came out, and after how many epochs."""
    table = Table(title="Real QAT, round by round", **STYLE)
    table.caption = "predicted: loss after the QAT of the rounds, before it was run; * the best at full length"
    for column in ("stage", "name", "epochs", "predicted", "loss", "acc. %", "test\nacc. %", cost):
        table.add_column(column, justify="left" if column in ("stage", "name") else "right")
    for index, row in results.iterrows():
        marks = {" uniform": row["uniform"], " staged": row["found"] == "staged", " *": index == best}
        own = row["name"] + "".join(mark for mark, on in marks.items() if on)
        test = "" if pd.isna(row["test_accuracy"]) else f"{100 * row['test_accuracy']:.1f}"
        table.add_row(
            row["stage"],
            own,
            str(row["epochs"]),
            f"{row['predicted_loss']:.4f}",
            f"{row['search_loss']:.4f}",
            f"{100 * row['search_accuracy']:.1f}",
            test,
            EngFormatter(places=2)(row[cost]),
        )
    return table


def refined_picture(refined: Refined) -> bytes:
    """PNG: loss on the search split against the constrained cost, each length of training in its own colour."""
    table, axis = refined.table, refined.front.objectives[1]
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.subplots()
    for number, (epochs, rows) in enumerate(table.groupby("epochs")):
        for uniform, own in rows.groupby("uniform"):
            style: dict[str, Any] = {"marker": "s" if uniform else "o", "color": f"C{number}"}
            label = f"QAT, {epochs} epochs" + (", uniform bits" if uniform else "")
            ax.scatter(own[axis.name], own["search_loss"], label=label, **style)
    front = refined.front.metrics.sort_values(axis.name)
    ax.plot(front[axis.name], front["search_loss"], color="0.5", zorder=0, label="front at full length")
    ax.set(xlabel=f"{axis.name} ({axis.unit})", ylabel="cross-entropy on the search split (nats)", yscale="log")
    ax.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
