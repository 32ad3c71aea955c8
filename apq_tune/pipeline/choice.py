"""Choice of the best trained network that satisfies all constraints, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.problem.problem import Constraint
from apq_tune.space.candidate import candidate_in
from apq_tune.store.files import to_json, write_atomically

WEIGHTS, RECORD = "best.pt", "best.json"
"""Files of the chosen network, in the folder of a run, of a refinement or of one method."""


def kept(table: pd.DataFrame, constraints: Sequence[Constraint]) -> NDArray[np.bool_]:
    """Whether rows satisfy all constraints, shape ``(n,)``.

    Args:
        table: Table of networks with a column for each constrained metric.
        constraints: Constraints on the metrics.
    """
    keeps = np.ones(len(table), np.bool_)
    for constraint in constraints:
        keeps &= constraint.violation(table[constraint.metric.name].to_numpy(np.float64)) <= 0
    return keeps


def choose(table: pd.DataFrame) -> int | None:
    """Position of the row with the least loss on the search split among those that are ``feasible``.

    Losses after training decide, neither predictions nor test images.

    Returns:
        Position of the first of equal rows; ``None`` if no row is feasible and has a loss.
    """
    losses = table["search_loss"].where(table["feasible"]).to_numpy(np.float64)
    return None if np.isnan(losses).all() else int(np.nanargmin(losses))


def with_choice(table: pd.DataFrame, constraints: Sequence[Constraint]) -> pd.DataFrame:
    """Add the columns ``feasible`` and ``chosen`` to a table of networks.

    Args:
        table: One row for each network, with ``name``, ``search_loss`` and the constrained metrics.
        constraints: Constraints on the metrics.
    """
    table = table.copy()
    table.insert(1, "feasible", kept(table, constraints))
    best = choose(table)
    table.insert(2, "chosen", np.arange(len(table)) == (-1 if best is None else best))
    return table


def described(row: Mapping[str, Any], constraints: Sequence[Constraint], fidelity: str) -> dict[str, Any]:
    """Describe a chosen network as plain data.

    Args:
        row: Row of a table of networks, or a mapping with the same keys.
        constraints: Constraints on the metrics.
        fidelity: Description of the training that its scores result from.
    """
    limits = [
        {"metric": c.metric.name, "unit": c.metric.unit, "sense": c.sense, "bound": c.bound}
        | {"value": float(row[c.metric.name])}
        for c in constraints
    ]
    return {
        "name": row["name"],
        "candidate": candidate_in(row["candidate_json"]).to_dict(),
        "words": row["candidate"],
        "fidelity": fidelity,
        "scores": {s: {k: float(row[f"{s}_{k}"]) for k in ("loss", "accuracy")} for s in ("search", "test")},
        "limits": limits,
    }


def keep(path: Path, record: Mapping[str, Any] | None, weights: bytes | None) -> None:
    """Write the files of the chosen network, or remove those of an earlier choice if there is none now.

    Args:
        path: Folder of the files.
        record: Description of the network; see ``described``.
        weights: State dict as serialized by ``torch.save``.
    """
    if record is None or weights is None:
        for name in (RECORD, WEIGHTS):
            (path / name).unlink(missing_ok=True)
        return
    write_atomically(path / WEIGHTS, weights)
    write_atomically(path / RECORD, to_json({**record, "weights": WEIGHTS}))
