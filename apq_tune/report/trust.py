"""What is said of a run's predictor: how well it ranks, whether it is of use, how far off it was in the end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from apq_tune.pipeline.settings import RunSettings
from apq_tune.predict.trust import COSTS, FEWEST_FOR_INTERVAL, PROXY, short, tau_interval
from apq_tune.report.tables import STYLE

ENOUGH = 128
"""Pairs that a run is told to take where too few are the likely cause."""


OF_PREDICTORS = ("pairwise", "rmse", "interval")
"""Columns of their table that a narrow terminal goes without, the first one first."""


def predictor_table(report: Mapping[str, Any], without: frozenset[str] = frozenset()) -> Table:
    """How well the forms predict QAT losses they have not seen.

    Args:
        report: ``report.json`` of the stage ``predictors``.
        without: columns to leave out; intervals are also where there are too few pairs for one.
    """
    n = report["n"]
    table = Table(title=f"Predictors of QAT loss on {n} held-out pairs (cross-validated)", **STYLE)
    table.add_column("form", no_wrap=True)
    headings = {
        "tau": "Kendall\ntau",
        "interval": "95%\ninterval",
        "pairwise": "pairwise\naccuracy",
        "rmse": "RMSE of\nlog loss",
    }
    hidden = without | ({"interval"} if n < FEWEST_FOR_INTERVAL else set())
    shown = [column for column in headings if column not in hidden]
    for column in shown:
        table.add_column(headings[column], justify="right", no_wrap=True)

    def add(name: str, tau: float, pairwise: float, rmse: str, style: str = "") -> None:
        cells = {"tau": f"{tau:.3f}", "interval": interval(tau, n), "pairwise": f"{pairwise:.3f}", "rmse": rmse}
        table.add_row(name, *(cells[column] for column in shown), style=style)

    rows = {name + (" (used)" if name == report["used"] else ""): s for name, s in report["held_out"].items()}
    if report["used"] == PROXY:
        rows["supernet alone (used)"] = report["proxy alone"]
    rows["split-half agreement"] = report["split_half"]["qat pairs"]
    for name, scores in rows.items():
        add(name, scores["kendall_tau"], scores["pairwise_accuracy"], f"{scores['rmse_log']:.3f}")
    for cost in COSTS:
        tau, used = report["support"][cost]["kendall_tau"], cost == report["used"]
        add(f"more {cost}{' (used)' if used else ''}", tau, (1 + tau) / 2, "-", "" if used else "dim")
    return table


def interval(tau: float, n: int) -> str:
    """Of Kendall's tau, as ``.31 to .80``."""
    low, high = tau_interval(0.0 if np.isnan(tau) else tau, n)
    return f"{short(low)} to {short(high)}"


def trust_lines(report: Mapping[str, Any], settings: RunSettings, run: str) -> list[str]:
    """Nothing if the predictor is of use; else that it is not, what the search did, and what helps.

    Args:
        report: ``report.json`` of the stage ``predictors``.
        settings: of the run.
        run: its directory, as the remedy names it.
    """
    if not report["useless"]:
        return []
    form, used = report["chosen"], report["used"]
    lines = [f"The predictor ({form}) is of no use here: it ranks networks that it has not seen {report['why']}."]
    if used == form:
        kept = "nothing else ranks them better" if settings.fallback else "fallback=false keeps it"
        lines.append(f"The search used it all the same, since {kept}.")
    else:
        tau = report["support"][used]["kendall_tau"]
        lines.append(
            f"The search ranked by {_in_words(used)} instead, which these pairs support best (Kendall tau {short(tau)}"
            f"{'' if report['support'][used]['low'] > 0 else ', no better than chance either'})."
        )
    more = max(ENOUGH, 4 * settings.n_pairs)
    trainings = {"supernet": settings.supernet.epochs, "quantized": settings.quantized.epochs}
    longer = " ".join(f"--set {name}.epochs={2 * epochs}" for name, epochs in trainings.items() if epochs)
    lines.append(
        f"For a better one: more pairs (--set n_pairs={more}), longer training of the supernets ({longer}); or go on "
        f"with real training: apq-tune refine {shlex.quote(run)}"
    )
    return lines


def _in_words(used: str) -> str:
    if used == PROXY:
        return "the quantized supernet's predictor alone"
    return f"{used} (more is better)" if used in COSTS else f"the form {used}"


def agreement_line(table: pd.DataFrame) -> str:
    """How far predictions were off for the networks that were trained in full, in one line.

    Args:
        table: ``name``, ``chosen``, ``predicted_accuracy`` and ``search_accuracy``; a row for each network.
    """
    predicted, real = (table[c].to_numpy(np.float64) for c in ("predicted_accuracy", "search_accuracy"))
    named = table[table["name"].eq("best") | table["chosen"]]
    cases = ", ".join(
        f"{name} {100 * p:.1f}% and {100 * r:.1f}%"
        for name, p, r in zip(named["name"], named["predicted_accuracy"], named["search_accuracy"], strict=True)
    )
    i, j = np.triu_indices(len(table), 1)
    right = np.sign(predicted[i] - predicted[j]) * np.sign(real[i] - real[j])
    differ = right != 0
    order = f", {int((right > 0).sum())} of {int(differ.sum())} pairs in the right order" if differ.any() else ""
    off = 100 * np.abs(predicted - real).mean()
    return (
        f"Predicted and real accuracy on the search split: {cases}; "
        f"{len(table)} networks are off by {off:.1f} points on average{order}."
    )
