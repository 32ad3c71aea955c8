"""Report on the predictor of a run: how well it ranks, whether it is of use, and how large its errors were."""

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
"""Number of pairs that is recommended where too few are the likely cause."""


OF_PREDICTORS = ("pairwise", "rmse", "interval")
"""Columns of the table of predictors that are left out on a narrow terminal, in this order."""


def predictor_table(report: Mapping[str, Any], without: frozenset[str] = frozenset()) -> Table:
    """Table of how well each form of predictor ranks QAT losses that it was not fitted to.

    Args:
        report: Content of ``report.json`` of the stage ``predictors``.
        without: Columns to leave out; intervals are left out as well if there are too few pairs for them.
    """
    n = report["n"]
    table = Table(title=f"Predictors of the loss after QAT, cross-validated on {n} pairs", **STYLE)
    table.caption = (
        "Kendall tau: 1 same order, 0 chance; used: by the search\n"
        "split-half agreement: losses on even images against losses on odd ones"
    )
    table.caption_justify = "left"
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
        rows["quantized supernet alone (used)"] = report["proxy alone"]
    rows["split-half agreement"] = report["split_half"]["qat pairs"]
    for name, scores in rows.items():
        add(name, scores["kendall_tau"], scores["pairwise_accuracy"], f"{scores['rmse_log']:.3f}")
    for cost in COSTS:
        tau, used = report["support"][cost]["kendall_tau"], cost == report["used"]
        add(f"{cost} alone{' (used)' if used else ''}", tau, (1 + tau) / 2, "-", "" if used else "dim")
    return table


def interval(tau: float, n: int) -> str:
    """The 95% interval of a Kendall tau from ``n`` pairs, as ``.31 to .80``."""
    low, high = tau_interval(0.0 if np.isnan(tau) else tau, n)
    return f"{short(low)} to {short(high)}"


def trust_lines(report: Mapping[str, Any], settings: RunSettings, run: str) -> list[str]:
    """Lines that say that a predictor is of no use, what the search did about it, and what helps; none if it is of use.

    Args:
        report: Content of ``report.json`` of the stage ``predictors``.
        settings: Settings of the run.
        run: Directory of the run, for the command that the remedy names.
    """
    if not report["useless"]:
        return []
    form, used = report["chosen"], report["used"]
    lines = [f"The predictor ({form}) is of no use here: it ranks networks that it was not fitted to {report['why']}."]
    if used == form:
        kept = "nothing else ranks them better" if settings.fallback else "fallback=false is set"
        lines.append(f"The search used it nevertheless, since {kept}.")
    else:
        tau = report["support"][used]["kendall_tau"]
        lines.append(
            f"The search ranked by {_in_words(used)} instead, which agrees best with these pairs (Kendall tau "
            f"{short(tau)}{'' if report['support'][used]['low'] > 0 else ', which is no better than chance either'})."
        )
    more = max(ENOUGH, 4 * settings.n_pairs)
    trainings = {"supernet": settings.supernet.epochs, "quantized": settings.quantized.epochs}
    longer = " ".join(f"--set {name}.epochs={2 * epochs}" for name, epochs in trainings.items() if epochs)
    lines.append(
        f"More pairs (--set n_pairs={more}) or longer training of the supernets ({longer}) give a better predictor; "
        f"apq-tune refine {shlex.quote(run)} corrects it with real training."
    )
    return lines


def _in_words(used: str) -> str:
    if used == PROXY:
        return "the quantized supernet's predictor alone"
    return f"{used} (more is better)" if used in COSTS else f"the form {used}"


def agreement_line(table: pd.DataFrame) -> str:
    """One line on the errors of predictions for the networks that were trained in full.

    Args:
        table: One row for each network, with ``name``, ``chosen``, ``predicted_accuracy`` and ``search_accuracy``.
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
    order = f"; {int((right > 0).sum())} of {int(differ.sum())} pairs are in the right order" if differ.any() else ""
    off = 100 * np.abs(predicted - real).mean()
    return (
        f"Predicted and measured accuracy on search images: {cases}. "
        f"Mean absolute error of {len(table)} networks: {off:.1f} points{order}."
    )
