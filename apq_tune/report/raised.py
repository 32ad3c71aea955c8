"""Free upgrades in words: which bits were raised, and whether the raised network is better."""

from __future__ import annotations

from typing import Any

import pandas as pd

from apq_tune.pipeline.upgrade import RAISED, Upgrade

MOST = 6
"""Largest number of raised layers that are named."""


def raised_words(upgrade: Upgrade) -> str:
    """What was raised, such as ``weights of 1.2 pw from 4 to 8 bits``."""
    shown = [str(one) for one in upgrade.raises[:MOST]]
    more = len(upgrade.raises) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more else [])])


def raised_lines(upgrade: Upgrade, table: pd.DataFrame, name: str = RAISED) -> list[str]:
    """Lines on a free upgrade: what was raised, and what came of it.

    Args:
        upgrade: Free upgrade of a trained network.
        table: One row for each network that was trained in full, with ``name``, ``chosen`` and ``search_loss``.
        name: Name of the raised network.
    """
    what = f"{raised_words(upgrade)} (of {upgrade.of}; no limit is broken and no latency grows)"
    rows = table.set_index("name")
    if name not in rows.index:
        return [
            f"Not raised: {what}, since the loss in the quantized supernet would be worse "
            f"({upgrade.before:.4f}, {upgrade.after:.4f})"
        ]
    before, after = rows.loc[upgrade.of, "search_loss"], rows.loc[name, "search_loss"]
    kept = bool(rows.loc[name, "chosen"])
    return [
        f"{'Raised' if kept else 'Raised, but no better'}: {what}. Loss after the same training {before:.4f} before, "
        f"{after:.4f} raised"
    ]


def raised_record(upgrade: Upgrade) -> dict[str, Any]:
    """Free upgrade as plain data for ``best.json``."""
    return {"of": upgrade.of, "bits": [one._asdict() for one in upgrade.raises]}
