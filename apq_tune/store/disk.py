"""Checks of free disk space before work begins."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import torch

from apq_tune.errors import RunError
from apq_tune.space.network_space import NetworkSpace
from apq_tune.supernet.kinds import supernet_of

RAY_BYTES = 50_000_000
"""Bytes of the logs and sockets of a Ray session; measured: 4 MB for a short run, 30 MB for a thousand trials."""

SMALL_BYTES = 20_000_000
"""Bytes of the tables, predictors, results and Tune's own files of one command."""

STATES = 4
"""Copies of the weights in a checkpoint: weights, two moments of AdamW, and the average of the weights."""


def supernet_bytes(space: NetworkSpace) -> int:
    """Size of the weights of a supernet in a file."""
    with torch.random.fork_rng(devices=[]):  # tensors without numbers (device "meta") take seconds of imports
        state = supernet_of(space).state_dict()
    return sum(value.numel() * value.element_size() for value in state.values())


def run_bytes(space: NetworkSpace, stages: Collection[str], finalists: int) -> int:
    """Maximum number of bytes that the remaining stages occupy at any time.

    Args:
        space: Search space of the supernet.
        stages: Names of the remaining stages.
        finalists: Number of networks that the last stage trains, each at most as large as the supernet.
    """
    weights, total = supernet_bytes(space), SMALL_BYTES
    if {"supernet", "quantized_supernet"} & set(stages):
        total += 2 * weights + 2 * STATES * weights  # both products; a checkpoint beside its successor
    return total + 2 * finalists * weights  # kept once, and once by Tune until the stage has ended


def check_space(folder: Path, needed: int, *, ray: bool) -> None:
    """Check that there is enough free space in a folder, and in that of Ray's sessions if Ray is used.

    Args:
        folder: Folder of the files, which need not exist.
        needed: Number of bytes that will be written.
        ray: Whether Ray is used.

    Raises:
        RunError: If there is not; the message names free and needed space.
    """
    places = [(folder, needed, "choose another --out")]
    if ray:
        session = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
        places.append((session, RAY_BYTES, "set RAY_TMPDIR to a folder with more"))
    for place, bytes_, remedy in places:
        free = _free(place)
        if free is not None and free < bytes_:
            raise RunError(
                f"{place}: has {free / 1e6:,.0f} MB free, about {bytes_ / 1e6:,.0f} MB will be written; make room, "
                f"or {remedy}"
            )


def _free(place: Path) -> int | None:
    """Free bytes in the file system of a path; ``None`` if unknown."""
    try:
        there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
        return shutil.disk_usage(there).free
    except (OSError, StopIteration):
        return None
