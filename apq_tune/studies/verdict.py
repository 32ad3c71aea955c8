"""Results of a comparison of methods: means over seeds, and significance tests of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel, wilcoxon

from apq_tune.space.candidate import read_candidate
from apq_tune.studies.compare import holm
from apq_tune.studies.versus import VersusTask

SCORES = ("test_accuracy", "test_loss")
SIZES = ("test_top5", "weight_bytes", "macs", "bit_ops", "compression", "speed_up")
"""Further columns of which means are given, where a table has them."""


def results_frame(tasks: Sequence[VersusTask], results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Scores and costs of the winner of each task, and the numbers of measurements and trainings behind it."""
    rows = []
    for task in tasks:
        found = results[task.key]
        row: dict[str, Any] = task._asdict()
        row |= {name: found[name] for name in ("test_accuracy", "test_loss", "search_accuracy", "search_loss")}
        row |= {"test_top5": found.get("test_top5", np.nan)}  # searches of older versions have none
        row |= found["costs"] | {f"n {name}": count for name, count in found["counts"].items()}
        candidate = read_candidate(found["candidate"])
        rows.append(row | {"candidate": str(candidate), "candidate_json": candidate.to_json()})
    return pd.DataFrame(rows)


def finalists_frame(tasks: Sequence[VersusTask], results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Scores of each training after the short ones."""
    rows = []
    for task in tasks:
        for found in results[task.key]["finalists"]:
            row: dict[str, Any] = task._asdict() | {"steps": found["steps"], "repeat": found["repeat"]}
            for split in ("search", "test"):
                scores = found["scores"].get(split, {"loss": np.nan, "accuracy": np.nan})
                row |= {f"{split}_{kind}": scores[kind] for kind in ("loss", "accuracy")}
            costs = {k: v for k, v in found.items() if k not in ("candidate", "steps", "repeat", "scores")}
            rows.append(row | costs | {"candidate_json": read_candidate(found["candidate"]).to_json()})
    return pd.DataFrame(rows)


def seconds_frame(tasks: Sequence[VersusTask], results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Processor seconds of each task; for interrupted ones, those of the last attempt."""
    return pd.DataFrame([task._asdict() | results[task.key]["seconds"] for task in tasks])


def means_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of the test scores and sizes, by budget and method."""
    grouped = frame.groupby(["budget", "method"], sort=False)[[*SCORES, *(name for name in SIZES if name in frame)]]
    table = grouped.agg(["mean", "std"])
    table.columns = [f"{score}_{kind}" for score, kind in table.columns]
    return table.assign(seeds=grouped.size()).reset_index()


def tests_frame(frame: pd.DataFrame, method: str = "joint") -> pd.DataFrame:
    """Paired tests of one method against each of the others.

    Args:
        frame: Table of ``results_frame``.
        method: Method that the others are compared with.

    Returns:
        For each budget, rival and test score: ``wins``, ``ties`` and ``losses`` over seeds; mean ``difference`` and its
        standard deviation ``sd`` (positive: better, that is more accuracy or less loss); two-sided p-values of the
        paired t-test and of Wilcoxon's signed-rank test, and both corrected for the number of rivals (Holm 1979).
        With a single seed p-values are 1.
    """
    parts = []
    for budget, own in frame.groupby("budget", sort=False):
        for score in SCORES:
            table = own.pivot(index="seed", columns="method", values=score)
            if method not in table:
                continue
            rivals = [m for m in own["method"].unique() if m != method]
            rows = []
            for rival in rivals:
                gain = (table[method] - table[rival]).to_numpy() * (1 if score == "test_accuracy" else -1)
                gain = np.where(np.isclose(gain, 0, atol=1e-12), 0.0, gain)
                rows.append((budget, score, rival, *_counts(gain), float(gain.mean()), _sd(gain), *_p_values(gain)))
            names = ["budget", "score", "rival", "wins", "ties", "losses", "difference", "sd", "p_t", "p_wilcoxon"]
            part = pd.DataFrame(rows, columns=names)
            for name in ("p_t", "p_wilcoxon"):
                part[f"{name}_holm"] = holm(part[name].to_numpy(np.float64))
            parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _counts(gain: Any) -> tuple[int, int, int]:
    return int((gain > 0).sum()), int((gain == 0).sum()), int((gain < 0).sum())


def _sd(gain: Any) -> float:
    return float(gain.std(ddof=1)) if len(gain) > 1 else float("nan")


def _p_values(gain: Any) -> tuple[float, float]:
    """P-values of the paired t-test and of Wilcoxon's signed-rank test; 1 with equal scores or a single seed."""
    if len(gain) < 2 or not gain.any():
        return 1.0, 1.0
    zero = np.zeros(len(gain))
    p_t = float(ttest_rel(gain, zero).pvalue) if np.ptp(gain) > 0 else 0.0
    return p_t, float(wilcoxon(gain).pvalue)
