"""Report of a finished run: tables, ``results.csv``, ``summary.json``, a picture, and the chosen network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from apq_tune.methods.rivals import RIVALS
from apq_tune.pipeline.choice import RECORD, WEIGHTS, described, keep
from apq_tune.pipeline.outcome import Outcome
from apq_tune.pipeline.upgrade import RAISED
from apq_tune.problem.front import Front
from apq_tune.problem.problem import Constraint
from apq_tune.report.answer import level_line, print_chosen
from apq_tune.report.limits import amount, cell, engineering, heading, print_fitting, share
from apq_tune.report.pictures import run_picture
from apq_tune.report.raised import raised_lines, raised_record
from apq_tune.report.tables import STYLE
from apq_tune.report.trust import OF_PREDICTORS, agreement_line, predictor_table, trust_lines
from apq_tune.store.files import to_json, write_atomically

OPTIONAL = ("stages", "blocks", "predicted")
"""What is left out on a narrow terminal, in this order: stages on lines of their own, then whole columns."""

TITLE = "Trained networks: those that joint search found, and baselines"
"""Title of the table of networks of a run."""

LARGEST = {"largest": "largest_Nbit: largest network with N bits"}
"""Description of the baselines."""

RAISED_MEANING = {RAISED: f"{RAISED}: the best of the others, with more bits where they cost nothing"}
"""Description of the network whose bits were raised."""

MEANINGS = {
    "best": "best: least predicted loss, found by joint search",
    "front": "front_N: from the front of predicted loss and cost",
    "uniform": "uniform: best network with one bit-width",
    "staged": "staged: best architecture, then best bit-widths for it",
    **RAISED_MEANING,
    **LARGEST,
}
"""Descriptions of networks by the first part of their names."""

BLOCKS = (
    "k5c64w84a42: kernel size 5, 64 middle channels, weights of 8 bits\n"
    "(pointwise) and 4 bits (depthwise), activations of 4 and 2 bits"
)
"""The notation of MBConv blocks."""

MBCONV = r"\bk\d+c\d+w\d\da\d\d\b"
"""Regular expression of MBConv blocks in that notation."""


def write_report(outcome: Outcome, path: Path, console: Console) -> None:
    """Write the files of a finished run and print its tables.

    Args:
        outcome: Results of the run.
        path: Directory of the run.
        console: Console to print on.
    """
    table, constraints, fronts = outcome.table, outcome.constraints, outcome.fronts
    hypervolumes = search_hypervolumes(fronts)
    row = outcome.chosen
    fidelity = f"QAT, {outcome.settings.final.epochs} epochs"
    record = None if row is None else described(row, constraints, fidelity)
    if record is not None and record["name"] == RAISED and outcome.upgrade is not None:
        record["raised"] = raised_record(outcome.upgrade)
    write_atomically(path / "results.csv", table.to_csv(index=False))
    write_atomically(path / "front.png", run_picture(outcome))
    for name in ("front", "random"):
        write_atomically(path / f"{name}.json", fronts[name].to_json())
    keep(path, record, None if outcome.weights is None else outcome.weights.read_bytes())
    write_atomically(path / "summary.json", to_json(summary(outcome, record, hypervolumes)))
    console.print()
    print_fitting(
        console,
        lambda without: predictor_table(outcome.predictors, without),
        OF_PREDICTORS,
        lambda: predictor_records(outcome),
    )
    print_networks(table, constraints, console)
    cost = fronts["front"].objectives[1].name
    console.print(
        f"Searches evaluated {fronts['front'].provenance['n_evaluations']:,} candidates each with the predictor. "
        f"Hypervolume of the front of predicted loss and {cost} within the limits: NSGA-II "
        f"{hypervolumes['front']:.3f}, random search {hypervolumes['random']:.3f}.",
        soft_wrap=True,
    )
    print_training(fidelity, console)
    console.print(agreement_line(table), soft_wrap=True, markup=False)
    n_pairs = outcome.predictors["n"]
    if constraints and outcome.pairs_kept < n_pairs / 4:
        console.print(
            f"Only {outcome.pairs_kept} of the {n_pairs} pairs that the predictor learned from keep the limits, so it "
            "knows little about the candidates that the search compared.",
            soft_wrap=True,
        )
    for line in trust_lines(outcome.predictors, outcome.settings, str(path)):
        console.print(line, soft_wrap=True, markup=False, style="bold")
    console.print()
    print_chosen(row, constraints, int(table["feasible"].sum()), len(table), console)
    if outcome.upgrade is not None:
        for line in raised_lines(outcome.upgrade, table):
            console.print(line, soft_wrap=True, markup=False)
    if (level := level_line(table)) is not None:
        console.print(level, soft_wrap=True, markup=False)
    files = ["results.csv", "front.png", "front.json", "summary.json", "9_finalists/*.pt"]
    chosen = [] if row is None else [f"{WEIGHTS} and {RECORD} (the chosen network)"]
    console.print(f"Files in {path}: " + ", ".join([*chosen, *files]), soft_wrap=True, markup=False)


def summary(outcome: Outcome, record: dict[str, Any] | None, hypervolumes: dict[str, float]) -> dict[str, Any]:
    """Content of ``summary.json``."""
    return {
        "chosen": record,
        "networks": networks_summary(outcome.table, outcome.constraints),
        "predictors": outcome.predictors,
        "pairs_kept": outcome.pairs_kept,
        "hypervolume": hypervolumes,
        "seconds": outcome.seconds,
    }


def networks_summary(table: pd.DataFrame, constraints: Sequence[Constraint]) -> list[dict[str, Any]]:
    """Trained networks with their accuracies and limited costs, as plain data."""
    columns = ["name", "feasible", "chosen", "search_accuracy", "test_accuracy"]
    columns += [c.metric.name for c in constraints]
    records: list[dict[str, Any]] = table[list(dict.fromkeys(columns))].to_dict(orient="records")
    return records


def print_networks(
    table: pd.DataFrame,
    constraints: tuple[Constraint, ...],
    console: Console,
    title: str = TITLE,
    meanings: Mapping[str, str] = MEANINGS,
) -> None:
    """Print the table of trained networks.

    Args:
        table: One row for each network, see ``Outcome.table``.
        constraints: Limits of the run.
        console: Console to print on.
        title: Title of the table.
        meanings: Descriptions of networks by the first part of their names.
    """
    optional = [name for name in OPTIONAL if name != "predicted" or "predicted_accuracy" in table]
    known = frozenset(OPTIONAL) - frozenset(optional)  # left out in any case
    print_fitting(
        console,
        lambda without: results_table(table, constraints, without | known, title, meanings),
        optional,
        lambda: network_records(table, constraints),
    )


def print_training(fidelity: str, console: Console) -> None:
    """Print what accuracies were measured after, and on what."""
    console.print(
        f"Accuracies are those after {fidelity}, the same training for all networks. Search images decide which "
        "network is chosen; test images decide nothing.",
        soft_wrap=True,
    )


def search_hypervolumes(fronts: dict[str, Front]) -> dict[str, float]:
    """Hypervolume of ``front`` and ``random`` as shares of the box from 0 to the worst values of both."""
    both = [front for front in (fronts["front"], fronts["random"]) if len(front)]
    names = [axis.name for axis in fronts["front"].objectives]
    reference = {name: max(float(front.metrics[name].max()) for front in both) for name in names}
    box = 1.0
    for value in reference.values():
        box *= value
    shares = {name: fronts[name].hypervolume(reference) / box for name in ("front", "random") if len(fronts[name])}
    return {name: shares.get(name, 0.0) for name in ("front", "random")}


def results_table(
    results: pd.DataFrame,
    constraints: tuple[Constraint, ...],
    without: frozenset[str] = frozenset(),
    title: str = TITLE,
    meanings: Mapping[str, str] = MEANINGS,
) -> Table:
    """Table of the trained networks: measured and predicted accuracies, and every limited cost with its limit.

    Args:
        results: One row for each network, see ``Outcome.table``.
        constraints: Limits of the run.
        without: Parts of ``OPTIONAL`` to leave out.
        title: Title of the table.
        meanings: Descriptions of networks by the first part of their names.
    """
    table = Table(title=title, **STYLE)
    table.caption = caption(results, constraints, meanings, blocks="blocks" not in without)
    table.caption_justify = "left"
    table.add_column("", no_wrap=True)
    for constraint in constraints:
        table.add_column(heading(constraint), justify="right", no_wrap=True)
    if not constraints:
        table.add_column("bit_ops", justify="right", no_wrap=True)
    for column in ("search\nacc. %", "test\nacc. %"):
        table.add_column(column, justify="right", no_wrap=True)
    if "predicted" not in without:
        table.add_column("predicted\nacc. %", justify="right", no_wrap=True)
    if "blocks" not in without:
        headings = ("blocks by stage", "blocks, each stage\non a new line")
        table.add_column(headings["stages" not in without], no_wrap=True)
    for row in results.to_dict(orient="records"):
        costs = [cell(c, row[c.metric.name]) for c in constraints] or [engineering(row["bit_ops"])]
        accuracies = [f"{100 * row[f'{split}_accuracy']:.1f}" for split in ("search", "test")]
        accuracies += [] if "predicted" in without else [f"{100 * row['predicted_accuracy']:.1f}"]
        stages = row["candidate"].replace(" | ", "\n")
        blocks = [] if "blocks" in without else [stages.replace(" ", "\n  ") if "stages" in without else stages]
        table.add_row(_marked(row), *costs, *accuracies, *blocks, style=_style(row))
    return table


def caption(
    results: pd.DataFrame, constraints: tuple[Constraint, ...], meanings: Mapping[str, str], *, blocks: bool
) -> str:
    """Legend of the table: what its marks and the names of networks mean, one line each."""
    names = set(results["name"])
    lines = ["* chosen" + ("; OVER: over the limit, cannot be chosen" if constraints else "")]
    lines += [meaning for name, meaning in meanings.items() if any(n.startswith(name) for n in names)]
    mobile = blocks and results["candidate"].str.contains(MBCONV).any()
    return "\n".join([*lines, *((BLOCKS,) if mobile else ())])


def _marked(row: dict[str, Any]) -> str:
    return ("* " if row["chosen"] else "  ") + str(row["name"])


def _style(row: dict[str, Any]) -> str:
    if row["chosen"]:
        return "bold"
    return "dim" if row["name"].startswith("largest") else "italic" if row["name"] in RIVALS else ""


def network_records(results: pd.DataFrame, constraints: tuple[Constraint, ...]) -> list[str]:
    """The table of networks as lines of text, for a terminal that is too narrow for it."""
    lines = []
    for row in results.to_dict(orient="records"):
        lines.append(_marked(row).strip() + (" (chosen)" if row["chosen"] else ""))
        for c in constraints:
            value = float(row[c.metric.name])
            lines.append(f"  {c.metric.name} {amount(value, c.metric.unit)}, {share(c, value)}")
        splits = [split for split in ("search", "test", "predicted") if f"{split}_accuracy" in row]
        scores = {split: row[f"{split}_accuracy"] for split in splits}
        lines.append("  " + ", ".join(f"{split} {100 * score:.1f}%" for split, score in scores.items()))
    return lines


def predictor_records(outcome: Outcome) -> list[str]:
    """The table of predictors as lines of text, for a terminal that is too narrow for it."""
    report = outcome.predictors
    lines = [f"Kendall tau on {report['n']} held-out pairs:"]
    lines += [
        f"  {name} {scores['kendall_tau']:.3f}{' (used)' if name == report['used'] else ''}"
        for name, scores in report["support"].items()
    ]
    return lines
