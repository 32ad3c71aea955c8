"""Rules of fair comparisons of compressed networks, checked against the tables of a comparison (Blalock 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

SEEDS, POINTS = 3, 5
"""Least number of seeds, and of limits under which methods are compared (Blalock 2020, appendix B)."""

MANY_CLASSES = 10
"""Number of classes from which the share of images whose class is among the five likeliest belongs in a table."""

CONTROLS = ("random", "magnitude")
"""Methods that any other one has to be better than."""


class ComparisonRule(NamedTuple):
    """A rule, whether the comparison meets it, and what shows it or is missing."""

    met: bool
    title: str
    facts: str

    def __str__(self) -> str:
        return f"{self.title}: {self.facts}"


def add_ratios(frame: pd.DataFrame, largest: Mapping[str, float]) -> pd.DataFrame:
    """Add the compression and the theoretical speed-up of each network.

    Args:
        frame: Table of ``results_frame``.
        largest: Costs by name of the network that all are compared with.

    Returns:
        The table with ``compression``, the bytes of weights of that network divided by those of each one, and
        ``speed_up``, the same of MACs, where both have these costs.
    """
    pairs = {"compression": "weight_bytes", "speed_up": "macs"}
    return frame.assign(
        **{name: largest[cost] / frame[cost] for name, cost in pairs.items() if cost in frame and cost in largest}
    )


def check_comparison(frame: pd.DataFrame, n_classes: int) -> tuple[ComparisonRule, ...]:
    """Check the results of a comparison of methods.

    Args:
        frame: Table of ``results_frame`` with the columns of ``add_ratios``.
        n_classes: Number of classes of the data.

    Returns:
        All rules, each with whether it is met.
    """
    checks = [_sizes(frame), _seeds(frame), _spend(frame), _points(frame)]
    checks += [_control(frame, name) for name in CONTROLS]
    return (*checks, *([_top5(frame)] if n_classes >= MANY_CLASSES else []))


def _sizes(frame: pd.DataFrame) -> ComparisonRule:
    wanted = ("weight_bytes", "macs", "compression", "speed_up")
    absent = [name for name in wanted if name not in frame or frame[name].isna().any()]
    said = f"no values of {', '.join(absent)}" if absent else "with the bytes and MACs that they are of"
    return ComparisonRule(not absent, "Compression and theoretical speed-up are both given", said)


def _seeds(frame: pd.DataFrame) -> ComparisonRule:
    counts = frame.groupby(["budget", "method"], sort=False)["seed"].nunique()
    least = int(counts.min())
    if least >= SEEDS:
        return ComparisonRule(True, "The spread over seeds is given", f"{least} seeds or more")
    budget, method = counts.idxmin()
    said = f"{method} has {least} under {budget}, {SEEDS} are needed; raise --seeds"
    return ComparisonRule(False, "The spread over seeds is given", said)


def _spend(frame: pd.DataFrame) -> ComparisonRule:
    """Trainings are those of short and later steps; evaluations may be charged in several kinds.

    Magnitude pruning is left out: it has few networks, and may have tried all of them.
    """
    title = "All methods spent the same"
    frame = frame[frame["method"] != "magnitude"]
    trainings = [name for name in frame if name.startswith("n ") and ("short" in name or name.endswith("steps"))]
    evaluations = [name for name in frame if name.startswith("n ") and name not in (*trainings, "n fine")]
    spent = frame[trainings].fillna(0).assign(evaluations=frame[evaluations].fillna(0).sum(axis=1))
    for budget, own in spent.groupby(frame["budget"], sort=False):
        for name in (name for name in own if own[name].nunique() > 1):
            least, most = own[name].idxmin(), own[name].idxmax()
            said = f"under {budget} {frame['method'][least]} has {own[name].min():g} {str(name).removeprefix('n ')}, "
            return ComparisonRule(False, title, said + f"{frame['method'][most]} {own[name].max():g}")
    said = "as many evaluations in the supernets, and as many trainings of each length"
    return ComparisonRule(True, title, said)


def _points(frame: pd.DataFrame) -> ComparisonRule:
    n = frame["budget"].nunique()
    said = f"{n} limit{'s' * (n > 1)}" + ("" if n >= POINTS else f", {POINTS} are needed; add --budget or --constraint")
    return ComparisonRule(n >= POINTS, "Methods are compared at several sizes", said)


def _control(frame: pd.DataFrame, name: str) -> ComparisonRule:
    absent = [str(budget) for budget, own in frame.groupby("budget", sort=False) if name not in set(own["method"])]
    said = f"is not under {', '.join(absent)}; add --method {name}" if absent else "is a row of every table"
    return ComparisonRule(not absent, f"The control {name} is compared, too", said)


def _top5(frame: pd.DataFrame) -> ComparisonRule:
    given = "test_top5" in frame and bool(frame["test_top5"].notna().all())
    title = "Accuracies are given of the likeliest class and of the five likeliest"
    return ComparisonRule(given, title, "test_top5" if given else "some results are older than test_top5")
