"""Check of the MACs that a file states for its candidates, to detect candidates of another search space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apq_tune.cost.macs import macs
from apq_tune.errors import ApqError, CandidateError
from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.notation import candidate_from
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.shipped import known_spaces

TOLERANCE = 0.05
"""Relative tolerance, as some counts include biases and normalisation; the next width multiplier differs by a third."""


def check_macs(
    path: Path, frame: pd.DataFrame, encoding: NetworkEncoding, entries: Sequence[Any], genomes: Genomes
) -> None:
    """Refuse candidates for which a file states other MACs than they have in the search space.

    Args:
        path: Path of the file.
        frame: Columns of the file; a column ``MACs``, in any case, is checked if there is one.
        encoding: Encoding of the search space.
        entries: Candidates as given in the file.
        genomes: Genomes of the candidates, shape ``(n, n_genes)``.

    Raises:
        CandidateError: If the MACs of a candidate differ; the message names it and the shipped spaces with the stated
            MACs.
    """
    column = next((str(name) for name in frame.columns if str(name).strip().lower() == "macs"), None)
    if column is None or not len(genomes):
        return
    stated = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64)
    ratio = stated / macs(encoding)(genomes)
    if not np.isfinite(ratio).all() or abs(np.median(ratio) - 1) <= TOLERANCE:
        return
    entry, wanted = entries[0], stated[0]
    names = [name for name in known_spaces() if name != encoding.name and _agrees(entry, wanted, name)]
    remedy = f"give {names[0]} as the space" if names else "give the space that they are of, or leave the column out"
    raise CandidateError(
        f"{path}: its first candidate has {wanted:.4g} {column}, in {encoding.name} it would have "
        f"{wanted / ratio[0]:.4g}: these are networks of another space; {remedy}"
    )


def _agrees(entry: Any, wanted: float, name: str) -> bool:
    """Whether a candidate is in a shipped search space and has the stated MACs there."""
    space = SearchSpace.load(name)
    encoding = NetworkEncoding(space)
    try:
        genomes = encoding.encode([candidate_from(entry, space)])
    except ApqError:
        return False
    return bool(abs(wanted / macs(encoding)(genomes)[0] - 1) <= TOLERANCE)
