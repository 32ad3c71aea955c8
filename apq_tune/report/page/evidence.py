"""How far the numbers can be trusted: predictors, repeatability, images, seeds, versions and times."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from apq_tune.pipeline.estimate import words as duration
from apq_tune.predict.trust import COSTS, FEWEST_FOR_INTERVAL, PROXY
from apq_tune.report.page.facts import ReportFacts
from apq_tune.report.progress import TITLES
from apq_tune.report.trust import agreement_line, interval


class Ranking(NamedTuple):
    """How well one form of predictor ranks networks that it was not fitted to."""

    name: str
    used: bool
    tau: str
    interval: str
    pairwise: str
    rmse: str


class Evidence(NamedTuple):
    """Section on trust.

    Attributes:
        agreement: Errors of predictions in one line; empty without predictions.
        rankings: Forms of predictor, and split-half agreement as the last row; empty without a report of predictors.
        n_pairs: Number of pairs that the rankings are based on.
        warning: Why the predictor is of no use; empty if it is of use.
        absent: What is not known, and why.
        images: Number of images by split and purpose.
        seeds: Seeds by what they determine.
        versions: Versions of packages by name.
        seconds: Stages, their time in words, and their share of the whole in percent.
        total: The whole time in words.
        spend: Measurements by kind.
    """

    agreement: str
    rankings: tuple[Ranking, ...]
    n_pairs: int
    warning: str
    absent: tuple[str, ...]
    images: tuple[tuple[str, str, str], ...]
    seeds: tuple[tuple[str, int], ...]
    versions: tuple[tuple[str, str], ...]
    seconds: tuple[tuple[str, str, float], ...]
    total: str
    spend: tuple[tuple[str, int], ...]


PURPOSES = {"train": "to train on", "search": "for every choice", "test": "to report on"}


def evidence_of(facts: ReportFacts) -> Evidence:
    """What supports the results."""
    whole = sum(facts.seconds.values())
    absent = []
    if facts.predictors is None:
        absent.append(
            "the predictors of the run: see the report of the run"
            if facts.kind == "refinement"
            else "predictors: this method's are not kept"
        )
    if not facts.images:
        absent.append("the numbers of images: the run was made by a version that did not record them")
    predicted = np.isfinite(facts.networks["predicted_accuracy"].to_numpy(np.float64)).all()
    usable = predicted and len(facts.networks) > 0
    report = facts.predictors or {}
    return Evidence(
        agreement_line(facts.networks) if usable else _loss_line(facts),
        () if facts.predictors is None else tuple(_rankings(facts.predictors)),
        int(report.get("n", 0)),
        f"The predictor is of no use here: it ranks networks {report['why']}." if report.get("useless") else "",
        tuple(absent),
        tuple((name, f"{int(n):,}", PURPOSES.get(name, "")) for name, n in facts.images.items()),
        tuple(facts.seeds.items()),
        tuple((str(name), str(version)) for name, version in facts.versions.items()),
        tuple(
            (TITLES.get(name, name), duration(own), round(100 * own / whole, 1) if whole else 0.0)
            for name, own in facts.seconds.items()
        ),
        duration(whole),
        tuple(facts.spend.items()),
    )


def _rankings(report: Any) -> list[Ranking]:
    n = int(report["n"])
    rows: dict[str, Any] = dict(report["held_out"])
    rows["quantized supernet alone"] = report["proxy alone"]
    used = {PROXY: "quantized supernet alone"}.get(report["used"], report["used"])
    found = [_ranking(name, scores, n, used) for name, scores in rows.items()]
    for cost in COSTS:
        if cost in report["support"]:
            tau = report["support"][cost]["kendall_tau"]
            found.append(
                _ranking(
                    f"{cost} alone",
                    {"kendall_tau": tau, "pairwise_accuracy": (1 + tau) / 2, "rmse_log": np.nan},
                    n,
                    f"{used} alone",
                )
            )
    halves = report.get("split_half", {}).get("qat pairs")
    if halves is not None:
        found.append(_ranking("split-half agreement of the losses", halves, n, ""))
    return found


def _ranking(name: str, scores: Any, n: int, used: str) -> Ranking:
    tau, rmse = float(scores["kendall_tau"]), float(scores["rmse_log"])
    return Ranking(
        name,
        name == used,
        f"{tau:.3f}",
        interval(tau, n) if n >= FEWEST_FOR_INTERVAL else "too few pairs",
        f"{float(scores['pairwise_accuracy']):.3f}",
        "" if np.isnan(rmse) else f"{rmse:.3f}",
    )


def _loss_line(facts: ReportFacts) -> str:
    """Errors of losses that were predicted before the first training, in words; empty without predictions."""
    table = facts.evaluated[facts.evaluated["predicted_loss"].notna() & facts.evaluated["loss"].notna()]
    if table.empty:
        return ""
    ratio = np.abs(np.log(table["predicted_loss"] / table["loss"]))
    return (
        f"Losses that were predicted before the first training are off by a factor of {math.exp(ratio.median()):.2f} "
        f"in the median of {len(table)} trainings, those that were longer than what was predicted included."
    )
