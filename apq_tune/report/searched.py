"""Report of ``run --method``: files and tables as of a run, for the networks that one method trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from apq_tune.methods.searches import front_cost
from apq_tune.pipeline.choice import RECORD, WEIGHTS, described, keep
from apq_tune.pipeline.outcome import networks_table
from apq_tune.pipeline.upgrade import RAISED, Upgrade
from apq_tune.problem.costs import Costs
from apq_tune.problem.problem import Constraint
from apq_tune.refine.outcome import front_of_trainings
from apq_tune.report.answer import level_line, print_chosen
from apq_tune.report.pictures import networks_picture
from apq_tune.report.raised import raised_lines, raised_record
from apq_tune.report.results import LARGEST, RAISED_MEANING, networks_summary, print_networks, print_training
from apq_tune.store.files import to_json, write_atomically
from apq_tune.studies.versus import Spend, VersusTask


def write_searched(
    task: VersusTask,
    result: Mapping[str, Any],
    costs: Costs,
    constraints: tuple[Constraint, ...],
    weights: bytes,
    spend: Spend,
    path: Path,
    console: Console,
) -> None:
    """Write the files of a search with one method, and print its networks beside the baselines of a run.

    The front is that of search loss and the first limited cost among the networks that the method trained at full
    length.

    Args:
        task: Task of the search.
        result: Result of ``run_task``, which trained the baselines, too.
        costs: Costs of the search space.
        constraints: Constraints on the metrics.
        weights: Weights of the best network after the training that decided.
        spend: Spend of the method.
        path: Output folder.
        console: Console to print on.
    """
    method, fidelity = task.method, f"QAT, {spend.final_steps} steps"
    table = networks_table(result["networks"], costs, constraints)
    own = table[table["feasible"] & ~table["name"].str.startswith("largest")]
    about: dict[str, Any] = {
        "space": costs.encoding.name,
        "constraints": [str(c) for c in constraints],
        "fidelity": fidelity,
    }
    cost = front_cost(constraints, costs.metrics["bit_ops"])
    front = front_of_trainings(own, cost, costs.metrics, about | {"method": method, "seed": task.seed})
    row = next(iter(table[table["chosen"]].to_dict(orient="records")), None)
    record = None if row is None else described(row, constraints, fidelity)
    upgrade = Upgrade.from_dict(result["upgrade"]) if result.get("upgrade") else None
    if record is not None and record["name"] == RAISED and upgrade is not None:
        record["raised"] = raised_record(upgrade)
    write_atomically(path / "results.csv", table.to_csv(index=False))
    write_atomically(path / "front.json", front.to_json())
    picture = networks_picture(front, method, {}, "trained", table, constraints, method)
    write_atomically(path / "front.png", picture)
    keep(path, record, None if record is None else weights)
    summary: dict[str, Any] = {"chosen": record, "networks": networks_summary(table, constraints)}
    summary |= {"method": method, "counts": result["counts"], "seconds": result["seconds"]}
    write_atomically(path / "summary.json", to_json(summary))
    console.print()
    meanings = {method: f"{method}_N: networks that the method {method} found, best first"}
    title = f"Trained networks: those that the method {method} found, and baselines"
    print_networks(table, constraints, console, title, meanings | RAISED_MEANING | LARGEST)
    print_training(fidelity, console)
    console.print()
    print_chosen(row, constraints, int(table["feasible"].sum()), len(table), console)
    if upgrade is not None:
        for line in raised_lines(upgrade, table):
            console.print(line, soft_wrap=True, markup=False)
    if (level := level_line(table)) is not None:
        console.print(level, soft_wrap=True, markup=False)
    files = ["results.csv", "front.png", "front.json", "summary.json"]
    chosen = [] if row is None else [f"{WEIGHTS} and {RECORD} (the chosen network)"]
    console.print(f"Files in {path}: " + ", ".join([*chosen, *files]), soft_wrap=True, markup=False)
