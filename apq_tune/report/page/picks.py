"""Three networks to take, with the commands that export them and go on from them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from apq_tune.problem.limits import as_texts
from apq_tune.problem.pareto import is_non_dominated
from apq_tune.report.limits import limit_lines
from apq_tune.report.page.facts import ReportFacts
from apq_tune.report.page.verdict import with_interval

MOST_ACCURATE, BALANCED, SMALLEST = "most accurate that fits", "balanced", "smallest"


class Pick(NamedTuple):
    """Network to take.

    Attributes:
        titles: Why it is one of the three; several reasons may hold for one network.
        why: The rule in words.
        name: Name of the network.
        accuracy: Accuracy on test images with its interval.
        costs: Constrained costs with their limits.
        export: Command that writes it as an ONNX file; empty if its weights are not kept.
        refine: Command that searches on from it: under limits that it just keeps, with real training.
    """

    titles: tuple[str, ...]
    why: tuple[str, ...]
    name: str
    accuracy: str
    costs: tuple[str, ...]
    export: str
    refine: str


def picks(facts: ReportFacts) -> tuple[tuple[Pick, ...], str]:
    """Networks to take, and a note on those that there are not.

    The most accurate has the least loss on search images, the smallest the least constrained cost among the networks
    that no other one beats in both, and the balanced one is the knee of these.
    """
    table = facts.networks[facts.networks["feasible"]].reset_index(drop=True)
    if table.empty:
        return (), "No trained network keeps the limits, so there is none to take."
    cost = facts.cost.name
    front = table[is_non_dominated(table[["search_loss", cost]].to_numpy(np.float64))].sort_values(cost)
    found: dict[str, tuple[str, str]] = {
        MOST_ACCURATE: (str(table.loc[table["search_loss"].idxmin(), "name"]), "the least loss on search images")
    }
    middle = knee(front[cost].to_numpy(np.float64), front["search_loss"].to_numpy(np.float64))
    note = ""
    if middle is None:
        note = (
            f"No balanced network: the trained networks that fit and that no other beats in loss and {cost} are only "
            f"{len(front)}, which have no knee."
        )
    else:
        why = f"the knee of the front of loss on search images and {cost}"
        found[BALANCED] = str(front.iloc[middle]["name"]), why
    found[SMALLEST] = str(front.iloc[0]["name"]), f"the least {cost} on that front"
    names = dict.fromkeys(name for name, _ in found.values())
    rows = {str(row["name"]): row for row in table.to_dict(orient="records")}
    return tuple(_pick(facts, rows[name], found) for name in names), note


def knee(costs: Sequence[float] | Any, losses: Sequence[float] | Any) -> int | None:
    """Position of the point of a front that is farthest below the line between its ends, on logarithmic axes.

    Args:
        costs: Costs, ascending.
        losses: Losses, descending.

    Returns:
        Its position; ``None`` for fewer than three points, or if none is below the line.
    """
    if len(costs) < 3:
        return None
    x, y = (_from_0_to_1(values) for values in (costs, losses))
    below = 1 - x - y
    best = int(np.argmax(below))
    return best if 0 < best < len(x) - 1 and below[best] > 0 else None


def _from_0_to_1(values: Any) -> Any:
    given = np.asarray(values, np.float64)
    logs = np.log(given) if (given > 0).all() else given
    return (logs - logs.min()) / (np.ptp(logs) or 1.0)


def _pick(facts: ReportFacts, row: dict[Any, Any], found: dict[str, tuple[str, str]]) -> Pick:
    name = str(row["name"])
    own = {title: why for title, (which, why) in found.items() if which == name}
    limits = [] if facts.limits_of_run else as_texts(facts.constraints)
    if MOST_ACCURATE not in own:
        cost = facts.cost.name
        others = [text for text in as_texts(facts.constraints) if not text.startswith(f"{cost}<=")]
        limits = [*others, f"{cost}<={float(row[cost])!r}"]
    kept = [part for text in limits for part in ("--constraint", text.removesuffix(".0"))]
    folder = f"{facts.run}/refine_{_plain(name)}"
    words = ["apq-tune", "refine", facts.run, *kept, "--out", folder]
    file = f"{_plain(facts.space.name)}_{_plain(name)}.onnx"
    export = ["apq-tune", "export", facts.path, "--candidate", name, "--format", "onnx", "--out", file]
    return Pick(
        tuple(own),
        tuple(own.values()),
        name,
        with_interval(float(row["test_accuracy"]), facts.n_test),
        tuple(limit_lines(row, facts.constraints)),
        shlex.join(export) if facts.kind != "method" or row["chosen"] else "",
        shlex.join(words),
    )


def _plain(text: str) -> str:
    """Text as part of the name of a file."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", PurePath(text).name)[:60] or "network"
