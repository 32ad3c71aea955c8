"""The end of a run: tables on the terminal; ``results.csv``, ``summary.json``, pictures and the chosen network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from apq_tune.methods.rivals import RIVALS
from apq_tune.pipeline.choice import RECORD, WEIGHTS, described, keep
from apq_tune.pipeline.run import Outcome
from apq_tune.problem.front import Front
from apq_tune.problem.problem import Constraint
from apq_tune.report.answer import level_line, print_chosen
from apq_tune.report.limits import amount, cell, engineering, heading, print_fitting, share
from apq_tune.report.pictures import run_picture
from apq_tune.report.tables import STYLE
from apq_tune.report.trust import OF_PREDICTORS, agreement_line, predictor_table, trust_lines
from apq_tune.store.files import to_json, write_atomically

OPTIONAL = ("stages", "blocks", "predicted")
"""What a narrow terminal goes without, the first one first: a line for each stage, then whole columns."""


def write_report(outcome: Outcome, path: Path, console: Console) -> None:
    """Write the files and print the tables."""
    table, constraints, fronts = outcome.table, outcome.constraints, outcome.fronts
    hypervolumes = search_hypervolumes(fronts)
    row = outcome.chosen
    fidelity = f"QAT, {outcome.settings.final.epochs} epochs"
    record = None if row is None else described(row, constraints, fidelity)
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
    print_fitting(
        console,
        lambda without: results_table(table, constraints, without),
        OPTIONAL,
        lambda: network_records(table, constraints),
    )
    cost = fronts["front"].objectives[1].name
    console.print(
        f"{fronts['front'].provenance['n_evaluations']} candidates scored in each search; within the limits NSGA-II "
        f"covers {hypervolumes['front']:.3f} of the predicted loss x {cost} plane, random search "
        f"{hypervolumes['random']:.3f}.",
        soft_wrap=True,
    )
    console.print(
        f"train fits weights, search makes every choice, test only reports; accuracies are after {fidelity}, alike.",
        soft_wrap=True,
    )
    console.print(agreement_line(table), soft_wrap=True, markup=False)
    n_pairs = outcome.predictors["n"]
    if constraints and outcome.pairs_kept < n_pairs / 4:
        console.print(
            f"Only {outcome.pairs_kept} of the {n_pairs} pairs that the predictor learned from keep the limits: it "
            "knows little of where the search looked.",
            soft_wrap=True,
        )
    for line in trust_lines(outcome.predictors, outcome.settings, str(path)):
        console.print(line, soft_wrap=True, markup=False, style="bold")
    console.print()
    print_chosen(row, constraints, int(table["feasible"].sum()), len(table), console)
    if (level := level_line(table)) is not None:
        console.print(level, soft_wrap=True, markup=False)
    files = ["results.csv", "front.png", "front.json", "summary.json", "9_finalists/*.pt"]
    chosen = [] if row is None else [f"{WEIGHTS} and {RECORD} (the chosen network)"]
    console.print(f"Files in {path}: " + ", ".join([*chosen, *files]), soft_wrap=True, markup=False)


def summary(outcome: Outcome, record: dict[str, Any] | None, hypervolumes: dict[str, float]) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    columns = ["name", "feasible", "chosen", "search_accuracy", "test_accuracy"]
    columns += [c.metric.name for c in outcome.constraints]
    networks = outcome.table[list(dict.fromkeys(columns))].to_dict(orient="records")
    return {
        "chosen": record,
        "networks": networks,
        "predictors": outcome.predictors,
        "pairs_kept": outcome.pairs_kept,
        "hypervolume": hypervolumes,
        "seconds": outcome.seconds,
    }


def search_hypervolumes(fronts: dict[str, Front]) -> dict[str, float]:
    """Share of the box from 0 to the worst values of both fronts that each of ``front`` and ``random`` dominates."""
    both = [front for front in (fronts["front"], fronts["random"]) if len(front)]
    names = [axis.name for axis in fronts["front"].objectives]
    reference = {name: max(float(front.metrics[name].max()) for front in both) for name in names}
    box = 1.0
    for value in reference.values():
        box *= value
    shares = {name: fronts[name].hypervolume(reference) / box for name in ("front", "random") if len(fronts[name])}
    return {name: shares.get(name, 0.0) for name in ("front", "random")}


def results_table(
    results: pd.DataFrame, constraints: tuple[Constraint, ...], without: frozenset[str] = frozenset()
) -> Table:
    """The front and the baselines: real accuracies, predicted ones, and every limited cost beside its limit."""
    table = Table(
        title="Found together, beside separate searches with the same limits and the largest network", **STYLE
    )
    caption = "* chosen; OVER: breaks the limit, not to be chosen" if constraints else "* chosen"
    if "blocks" not in without:
        caption += "; k kernel, c channels, w weight bits pw/dw, a activation bits pw/dw"
    table.caption = caption
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
        headings = ("blocks,\nstage by stage", "blocks, each stage\non a new line")
        table.add_column(headings["stages" not in without], no_wrap=True)
    for row in results.to_dict(orient="records"):
        costs = [cell(c, row[c.metric.name]) for c in constraints] or [engineering(row["bit_ops"])]
        accuracies = [f"{100 * row[f'{split}_accuracy']:.1f}" for split in ("search", "test")]
        accuracies += [] if "predicted" in without else [f"{100 * row['predicted_accuracy']:.1f}"]
        stages = row["candidate"].replace(" | ", "\n")
        blocks = [] if "blocks" in without else [stages.replace(" ", "\n  ") if "stages" in without else stages]
        table.add_row(_marked(row), *costs, *accuracies, *blocks, style=_style(row))
    return table


def _marked(row: dict[str, Any]) -> str:
    return ("* " if row["chosen"] else "  ") + str(row["name"])


def _style(row: dict[str, Any]) -> str:
    if row["chosen"]:
        return "bold"
    return "dim" if row["name"].startswith("largest") else "italic" if row["name"] in RIVALS else ""


def network_records(results: pd.DataFrame, constraints: tuple[Constraint, ...]) -> list[str]:
    """The table in lines, for a terminal that has no room for it."""
    lines = []
    for row in results.to_dict(orient="records"):
        lines.append(_marked(row).strip() + (" (chosen)" if row["chosen"] else ""))
        for c in constraints:
            value = float(row[c.metric.name])
            lines.append(f"  {c.metric.name} {amount(value, c.metric.unit)}, {share(c, value)}")
        scores = {split: row[f"{split}_accuracy"] for split in ("search", "test", "predicted")}
        lines.append("  " + ", ".join(f"{split} {100 * score:.1f}%" for split, score in scores.items()))
    return lines


def predictor_records(outcome: Outcome) -> list[str]:
    """The table of predictors in lines."""
    report = outcome.predictors
    lines = [f"Kendall tau on {report['n']} held-out pairs:"]
    lines += [
        f"  {name} {scores['kendall_tau']:.3f}{' (used)' if name == report['used'] else ''}"
        for name, scores in report["support"].items()
    ]
    return lines
