"""Which trained network to take: the best after real training among those that keep every limit, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.problem.problem import Constraint
from apq_tune.space.candidate import Candidate
from apq_tune.store.files import to_json, write_atomically

WEIGHTS, RECORD = "best.pt", "best.json"
"""Files of the chosen network, in the folder of a run, of a refinement or of one method."""


def kept(table: pd.DataFrame, constraints: Sequence[Constraint]) -> NDArray[np.bool_]:
    """``(n,)``: which rows keep every limit.

    Args:
        table: A column for each limited metric.
        constraints: The limits.
    """
    keeps = np.ones(len(table), np.bool_)
    for constraint in constraints:
        keeps &= constraint.violation(table[constraint.metric.name].to_numpy(np.float64)) <= 0
    return keeps


def choose(table: pd.DataFrame) -> int | None:
    """Position of the row with the least loss on the search split among those that are ``feasible``.

    Real training decides, not the prediction; test images do not.

    Returns:
        The first of equals; ``None`` if no row keeps the limits and has a loss.
    """
    losses = table["search_loss"].where(table["feasible"]).to_numpy(np.float64)
    return None if np.isnan(losses).all() else int(np.nanargmin(losses))


def with_choice(table: pd.DataFrame, constraints: Sequence[Constraint]) -> pd.DataFrame:
    """The same rows with ``feasible`` and ``chosen``, before the first score.

    Args:
        table: ``name``, ``search_loss`` and the limited metrics; one row for each network.
        constraints: The limits.
    """
    table = table.copy()
    table.insert(1, "feasible", kept(table, constraints))
    best = choose(table)
    table.insert(2, "chosen", np.arange(len(table)) == (-1 if best is None else best))
    return table


def described(row: Mapping[str, Any], constraints: Sequence[Constraint], fidelity: str) -> dict[str, Any]:
    """What is to be known of a chosen network, as plain data.

    Args:
        row: Of a table of networks, or a mapping like one.
        constraints: The limits.
        fidelity: The training behind its scores, in words.
    """
    limits = [
        {"metric": c.metric.name, "unit": c.metric.unit, "sense": c.sense, "bound": c.bound}
        | {"value": float(row[c.metric.name])}
        for c in constraints
    ]
    return {
        "name": row["name"],
        "candidate": Candidate.from_json(row["candidate_json"]).to_dict(),
        "words": row["candidate"],
        "fidelity": fidelity,
        "scores": {s: {k: float(row[f"{s}_{k}"]) for k in ("loss", "accuracy")} for s in ("search", "test")},
        "limits": limits,
    }


def keep(path: Path, record: Mapping[str, Any] | None, weights: bytes | None) -> None:
    """Write the files of the chosen network, its record last; without one, drop those of an earlier choice.

    Args:
        path: Folder.
        record: See ``described``.
        weights: The state dict as ``torch.save`` writes it.
    """
    if record is None or weights is None:
        for name in (RECORD, WEIGHTS):
            (path / name).unlink(missing_ok=True)
        return
    write_atomically(path / WEIGHTS, weights)
    write_atomically(path / RECORD, to_json({**record, "weights": WEIGHTS}))
