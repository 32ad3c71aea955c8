"""Results in folders around a run: of its methods and refinements, and of runs with other seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from apq_tune.errors import RunError
from apq_tune.pipeline.choice import RECORD, kept
from apq_tune.problem.problem import Constraint
from apq_tune.report.page.facts import Beside, OtherSeed
from apq_tune.store.files import read_json

MOST_NEIGHBOURS = 200
"""Largest number of folders beside a run that are looked through for runs with other seeds."""


def other_seeds(path: Path, record: Mapping[str, Any]) -> tuple[OtherSeed, ...]:
    """Runs in folders beside a run that differ from it by their seeds alone and have chosen a network.

    Args:
        path: Directory of the run.
        record: Content of its ``run.json``.
    """
    own = path.resolve()
    found: dict[int, OtherSeed] = {}
    with contextlib.suppress(OSError):
        for other in sorted(own.parent.iterdir())[:MOST_NEIGHBOURS]:
            with contextlib.suppress(RunError, OSError, KeyError, TypeError, ValueError, AttributeError):
                if other == own or not (other / RECORD).exists() or not (other / "run.json").exists():
                    continue
                theirs = read_json(other / "run.json")
                seed = int(theirs["settings"]["seed"])
                if seed == record["settings"]["seed"] or _but_seed(theirs) != _but_seed(record):
                    continue
                accuracy = float(read_json(other / RECORD)["scores"]["test"]["accuracy"])
                found.setdefault(seed, OtherSeed(other.name, seed, accuracy))
    return tuple(found.values())


def _but_seed(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a run depend on besides its seed."""
    same = {name: record.get(name) for name in ("format", "space", "data", "digests", "images")}
    return same | {"settings": {name: value for name, value in record["settings"].items() if name != "seed"}}


def beside(run: Path, constraints: Sequence[Constraint], without: str = "") -> tuple[Beside, ...]:
    """Networks that methods and refinements have chosen in folders of a run."""
    found = []
    for record in sorted(run.glob(f"*/{RECORD}")):
        folder = record.parent
        is_method = (folder / "fleet.json").exists()
        if folder.name == without or not (is_method or (folder / "refine.json").exists()):
            continue
        try:
            chosen = read_json(record)
            costs = {limit["metric"]: float(limit["value"]) for limit in chosen["limits"]}
            if any(c.metric.name not in costs for c in constraints):
                continue
            row = pd.DataFrame([costs], index=[0])
            what = f"run --method {folder.name}" if is_method else "refinement"
            words = f"{what}, {chosen['fidelity']}"
            accuracy = float(chosen["scores"]["test"]["accuracy"])
            found.append(Beside(folder.name, words, accuracy, bool(kept(row, constraints)[0]), costs))
        except (RunError, KeyError, TypeError, ValueError):
            continue  # only a comparison
    return tuple(found)
