"""Profiles of search spaces: their latency on this machine as a cost table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from apq_tune.deploy import profile_folder
from apq_tune.deploy.measure import MANIFEST
from apq_tune.deploy.profile import write_table
from apq_tune.deploy.profile_plan import ProfileItem
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.folder import claim

OnVisit = Callable[[int, int, int, float], None]
"""Function of the number of visits, of files begun and of all files, and of the seconds used."""


def profile(
    space: NetworkSpace,
    out: str | Path,
    *,
    threads: int = 1,
    minutes: float | None = None,
    networks: int = 40,
    seed: int = 0,
    on_visit: OnVisit | None = None,
) -> tuple[str, ...]:
    """Measure the latency of a search space with onnxruntime on this machine, and write a cost table.

    Measurements are kept in a folder beside the table, from which the same call goes on after an interruption.

    Args:
        space: Search space.
        out: Path of the table, a CSV file with the columns ``latency_ms`` (8-bit integers) and ``fp32_latency_ms``.
        threads: Number of threads of onnxruntime.
        minutes: Time that all measurements may take; ``None`` to measure every operation. Operations that are not
            measured are predicted by a regression.
        networks: Number of random networks that are measured as a whole, to correct sums of operations.
        seed: Seed of the random networks and of the order of measurements.
        on_visit: Function that is called after every visit of a file.

    Returns:
        Lines about the table: what was measured, and the errors of the regression and of the sums.

    Raises:
        TableError: If too little was measured, or the folder is of another space, of other options, or damaged.
        RunError: If a file cannot be written, or another process measures into the folder.
    """
    out = Path(out)
    folder = out.with_suffix(".profile")
    lock = claim(folder, "profile", (MANIFEST,))
    try:
        items = profile_folder.write_folder(folder, space, threads=threads, networks=networks, seed=seed)
        for n_visits, n_begun, seconds in profile_folder.measure_folder(folder, minutes):
            if on_visit is not None:
                on_visit(n_visits, n_begun, len(items), seconds)
    finally:
        lock.release()
    return tuple(write_table(profile_folder.collect(folder, space), out))


def export_ops(
    space: NetworkSpace, folder: Path, *, threads: int = 1, networks: int = 40, seed: int = 0
) -> list[ProfileItem]:
    """Write a folder of ONNX files with a script that measures them on another device.

    Args:
        space: Search space.
        folder: The folder: a new one, or one that this function has written.
        threads: Number of threads of onnxruntime.
        networks: Number of random networks that are measured as a whole.
        seed: Seed of the random networks and of the order of measurements.

    Returns:
        What the folder holds.

    Raises:
        TableError: If the folder is of another space or of other options.
        RunError: If it holds something else, is in use, or cannot be written.
    """
    lock = claim(folder, "profile", (MANIFEST,))
    try:
        return profile_folder.write_folder(folder, space, threads=threads, networks=networks, seed=seed)
    finally:
        lock.release()
