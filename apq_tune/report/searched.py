"""Report of ``run --method``: the chosen network, its costs with their limits, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from apq_tune.pipeline.choice import RECORD, WEIGHTS, described, keep, kept
from apq_tune.problem.problem import Constraint
from apq_tune.report.answer import print_chosen
from apq_tune.studies.verdict import finalists_frame, results_frame
from apq_tune.studies.versus import Spend, VersusTask


def write_searched(
    task: VersusTask,
    results: Mapping[str, Mapping[str, Any]],
    constraints: tuple[Constraint, ...],
    weights: bytes,
    spend: Spend,
    path: Path,
    console: Console,
) -> None:
    """Write the files of the chosen network and describe it.

    Args:
        task: Task of the search.
        results: Results of ``run_task`` by key.
        constraints: Constraints on the metrics.
        weights: Weights of the winner's first training at full length, which decided.
        spend: Spend of the method.
        path: Output folder.
        console: Console to print on.
    """
    row = results_frame([task], results).assign(name=task.method).iloc[0]
    trained = finalists_frame([task], results)
    final = trained[(trained["steps"] == spend.final_steps) & (trained["repeat"] == 0)]
    feasible = bool(kept(row.to_frame().T, constraints)[0])
    fidelity = f"QAT, {spend.final_steps} steps"
    keep(path, described(row, constraints, fidelity) if feasible else None, weights if feasible else None)
    console.print()
    n_kept = int(kept(final, constraints).sum())
    print_chosen(row if feasible else None, constraints, n_kept, len(final), console)
    if feasible:
        times = f", test images the mean of {spend.repeats} trainings" if spend.repeats > 1 else ""
        console.print(f"  after {fidelity}{times}", soft_wrap=True)
        console.print(f"Files in {path}: {WEIGHTS} and {RECORD} (the chosen network)", soft_wrap=True, markup=False)
