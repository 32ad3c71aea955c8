"""Tables and files of searches, search spaces and cost tables."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from apq_tune.cost import CostTable
from apq_tune.cost.bits import pairs_that_shrink
from apq_tune.errors import RunError
from apq_tune.problem.front import Front
from apq_tune.problem.metric import Bounded, Metric
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.files import write_atomically

STYLE: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": SIMPLE_HEAD}
MAX_ROWS = 20


def print_front(front: Front, shown: Sequence[str], console: Console) -> None:
    """Print a front as a table and, if it has one candidate only, the blocks of that candidate.

    Args:
        front: Front to print.
        shown: Names of the metrics that get a column.
        console: Console to print on.
    """
    console.print(front_table(front, shown))
    if len(front) == 1:
        console.print(str(front.candidates[0]).replace(" | ", "\n"))


def front_table(front: Front, shown: Sequence[str]) -> Table:
    """Table of at most 20 candidates, evenly spread over the front."""
    metrics = list(shown)
    rows = np.unique(np.linspace(0, len(front) - 1, min(len(front), MAX_ROWS)).round().astype(int))
    n, evaluated = len(front), f"{front.provenance['n_evaluations']:,} evaluated"
    title = f"Best of {evaluated} candidates" if n == 1 else f"Front of {n} candidates, out of {evaluated}"
    table = Table(title=title + (f"; {len(rows)} of them are shown" if len(rows) < n else ""), **STYLE)
    for name in metrics:
        table.add_column(name, justify="right")
    table.add_column(front.candidates[0].short_name)
    for row in rows:
        values = [f"{value:.6g}" for value in front.metrics[metrics].iloc[row]]
        table.add_row(*values, front.candidates[row].short)
    return table


def save_front(front: Front | None, out: Path) -> None:
    """Write front.json, front.csv and, of several objectives, front.png.

    Args:
        front: Front to write; ``None`` only checks that the folder can be written.
        out: Output folder.

    Raises:
        RunError: If the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".write"
        probe.touch()
        probe.unlink()
        if front is None:
            return
        write_atomically(out / "front.json", front.to_json())
        write_atomically(out / "front.csv", front.to_dataframe().to_csv(index=False))
        if len(front.objectives) > 1:
            buffer = io.BytesIO()
            figure = Figure(layout="constrained")
            front.plot(figure.subplots())
            figure.savefig(buffer, format="png", dpi=120)
            write_atomically(out / "front.png", buffer.getvalue())
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}; fix it or choose another --out") from None


def write_bytes(content: bytes | str, out: Path) -> None:
    """Write a file completely or not at all.

    Raises:
        RunError: If it cannot be written.
    """
    try:
        write_atomically(out, content)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}; fix it or choose another --out") from None


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """Write a frame as CSV or as a JSON list, by the suffix of ``out``."""
    write_bytes(frame.to_csv(index=False) if out.suffix == ".csv" else frame.to_json(orient="records", indent=1), out)


def choices_table(space: NetworkSpace) -> Table:
    """What is open in a search space."""
    overview = space.overview()
    table = Table(title="Choices", caption=overview.caption, **STYLE)
    for column in overview.columns:
        table.add_column(column)
    for row in overview.rows:
        table.add_row(*map(escape, row))
    return table


def ranges_table(metrics: Mapping[str, Metric]) -> Table:
    """Table of the smallest and the largest reachable value of every metric that knows them."""
    table = Table(title="Range of each cost", **STYLE)
    for column in ("metric", "smallest", "largest", "unit"):
        table.add_column(column, justify="right" if column in ("smallest", "largest") else "left")
    for name, metric in metrics.items():
        if isinstance(metric, Bounded):
            low, high = metric.reachable()
            table.add_row(name, f"{low:.6g}", f"{high:.6g}", metric.unit)
    return table


def print_audit(table: CostTable, encoding: GeneEncoding, console: Console) -> None:
    """Print what a cost table lacks, where it falls with more bits, ranges, and shares of the cost by part."""
    console.print(
        f"{table.source}: {len(table.convs)} convolutions, {len(table.blocks)} blocks, {', '.join(table.metrics)}"
    )
    missing = table.missing(encoding.space)
    console.print(f"{len(missing)} ops of {encoding.space.name} are missing")
    for line in missing[:MAX_ROWS]:
        console.print(f"  {line}")
    for number, name in enumerate(table.metrics):
        wrong, total = pairs_that_shrink({key: values[number] for key, values in table.convs.items()})
        console.print(f"{name}: {wrong} of {total} pairs of equal shape cost less with more bits")
    if missing:
        return
    models = table.models(encoding)
    console.print(ranges_table({model.name: model for model in models}))
    genomes = encoding.sample(1000, np.random.default_rng(0))
    shares = Table(title="Share of the cost, mean of 1000 random candidates", **STYLE)
    shares.add_column("metric")
    parts = [table.share(encoding, number) for number in range(len(models))]
    for kind in parts[0]:
        shares.add_column(kind, justify="right")
    for model, own in zip(models, parts, strict=True):
        total_cost = model(genomes)
        shares.add_row(model.name, *(f"{100 * (part(genomes) / total_cost).mean():.1f}%" for part in own.values()))
    console.print(shares)
