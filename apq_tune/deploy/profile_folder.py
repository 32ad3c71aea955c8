"""Folder of a profile: ONNX files, a manifest with their digests, the script that measures them, and its results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apq_tune.deploy import measure
from apq_tune.deploy.measure import FORMAT, MANIFEST, RESULTS, MeasureError
from apq_tune.deploy.profile_plan import ProfileItem, plan
from apq_tune.errors import ApqError, TableError
from apq_tune.inputs import ranges
from apq_tune.inputs.documents import load_yaml
from apq_tune.space.files import network_space_from
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.files import cannot_write, read_json, to_json, write_atomically

OPS = "ops"
"""Name of the folder of ONNX files."""

SCRIPT = "measure.py"

FAR_OUT = 3.0
"""Distance from the quartiles, in interquartile ranges, from which a timing is an outlier (Tukey 1977)."""

NUMBERS = {"threads": ranges.CPUS, "networks": ranges.NETWORKS, "seed": ranges.SEED}
"""Options of a folder, which may not change, and their ranges."""


class ProfileSpread(NamedTuple):
    """Timings of one item, in seconds per instance.

    Attributes:
        median: Median.
        iqr: Interquartile range.
        n: Number of timings.
        n_outliers: Number of timings far from the others.
        n_visits: Number of times that the item was measured, each with several timings.
    """

    median: float
    iqr: float
    n: int
    n_outliers: int
    n_visits: int


class Collected(NamedTuple):
    """Results of a folder.

    Attributes:
        space: Search space.
        options: Threads, number of networks and seed.
        items: All items in the order of the manifest.
        timings: Spread of the timings of each measured item by key.
        where: Runtime, processor and system.
        drift: Latency in the second half of the visits relative to the first half, the median over items.
        seconds: Time that all visits took.
        notes: Remarks for people.
    """

    space: NetworkSpace
    options: dict[str, Any]
    items: list[ProfileItem]
    timings: dict[str, ProfileSpread]
    where: dict[str, str]
    drift: float
    seconds: float
    notes: list[str]


def write_folder(folder: Path, space: NetworkSpace, *, threads: int, networks: int, seed: int) -> list[ProfileItem]:
    """Write everything that is to be measured; a folder that has it already is left as it is.

    Args:
        folder: The folder.
        space: Search space.
        threads: Number of threads of the runtime.
        networks: Number of random networks that are measured as a whole.
        seed: Seed of networks, and of the order of measurements.

    Raises:
        TableError: If the folder is of another space or of other options.
        RunError: If it cannot be written.
    """
    items = plan(space, networks, seed)
    options = {"name": space.name, "space": space.to_yaml(), "threads": threads, "networks": networks, "seed": seed}
    if (folder / MANIFEST).exists():
        _check_same(folder, options)
    files = {}
    for item in items:
        content, name = item.model(), f"{OPS}/{item.key}.onnx"
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            _write(path, content)
        files[item.key] = {"file": name, "sha256": measure.digest(path), "bytes": item.n_bytes}
    write_atomically(folder / SCRIPT, Path(measure.__file__).read_bytes())
    manifest = {"format": FORMAT, "apq_tune": metadata.version("apq-tune"), **options}
    listed = to_json({**manifest, "order": [item.key for item in items], "items": files})
    if not (folder / MANIFEST).exists() or (folder / MANIFEST).read_text("utf-8") != listed:
        if (folder / RESULTS).exists():
            raise TableError(f"{folder}: was made by another version of apq-tune; choose another folder")
        write_atomically(folder / MANIFEST, listed)
    return items


def _write(path: Path, content: bytes) -> None:
    """Write a file whose digest the manifest has, which is written after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise cannot_write(path, error) from None


def _check_same(folder: Path, options: dict[str, Any]) -> None:
    was = read_json(folder / MANIFEST, "delete the folder, or choose another one")
    for name in ("space", *NUMBERS):
        if was.get(name) != options[name]:
            other = f"with {name} {was.get(name)}, not {options[name]}"
            said = f"of another space than this {options['name']}" if name == "space" else other
            raise TableError(f"{folder}: is a profile {said}; choose another folder, or delete it")


def measure_folder(folder: Path, minutes: float | None, **replaced: Any) -> Iterator[tuple[int, int, float]]:
    """Measure a folder on this machine; see ``apq_tune.deploy.measure.measure``.

    Args:
        folder: The folder.
        minutes: Time that all visits may take; ``None`` for no limit.
        replaced: Other arguments of ``measure``.

    Raises:
        TableError: If the folder is damaged or was measured elsewhere.
    """
    try:
        yield from measure.measure(folder, minutes=minutes, **replaced)
    except MeasureError as error:
        raise TableError(str(error)) from None


def collect(folder: Path, space: NetworkSpace | None = None) -> Collected:
    """Read the results of a folder.

    Args:
        folder: The folder.
        space: Search space that the folder must be of, if given.

    Raises:
        TableError: If the folder is damaged, or the results are of other operations; the message names what is wrong.
    """
    try:
        manifest = measure.read_manifest(folder)
        lines, rest = measure.read_lines(folder)
    except MeasureError as error:
        raise TableError(str(error)) from None
    own = _space_of(folder, manifest)
    if space is not None and space.to_yaml() != own.to_yaml():
        raise TableError(f"{folder}: is a profile of {own.name}, not of {space.name}; give the space that it is of")
    try:
        options = {name: allowed.check(manifest.get(name)) for name, allowed in NUMBERS.items()}
    except ValueError:
        raise TableError(f"{folder / MANIFEST}: is damaged; export the ops again") from None
    items = plan(own, options["networks"], options["seed"])
    known = {item.key: item for item in items}
    if list(known) != manifest["order"]:
        raise TableError(f"{folder / MANIFEST}: lists other ops than this version of apq-tune; export the ops again")
    where = _headers(folder, lines)
    visits: dict[str, list[list[float]]] = {}
    for number, line in enumerate(lines, start=1):
        if "manifest" not in line:
            key, seconds = _visit(folder / RESULTS, number, line, known)
            visits.setdefault(key, []).append([value / known[key].n_instances for value in seconds])
    if not visits:
        raise TableError(f"{folder}: has no results; run python {folder / SCRIPT} on the device first")
    timings = {key: _spread(own_visits) for key, own_visits in visits.items()}
    notes = [f"{folder / RESULTS}: its last line is not whole and was left out"] if rest else []
    took = sum(float(line.get("took", 0.0)) for line in lines if "item" in line)
    return Collected(own, options, items, timings, where, _drift(visits), took, notes)


def _space_of(folder: Path, manifest: dict[str, Any]) -> NetworkSpace:
    try:
        return network_space_from(load_yaml(manifest["space"], MANIFEST), MANIFEST)
    except (ApqError, KeyError, TypeError, AttributeError):
        raise TableError(f"{folder / MANIFEST}: holds no search space; export the ops again") from None


def _headers(folder: Path, lines: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Runtime, processor and system of the results, which must be the same throughout."""
    headers = [line for line in lines if "manifest" in line]
    path = folder / RESULTS
    if lines and (not headers or "manifest" not in lines[0]):
        raise TableError(f"{path}: does not begin with what was measured; measure again with {SCRIPT} of this folder")
    expected = measure.digest(folder / MANIFEST)
    if any(header["manifest"] != expected for header in headers):
        raise TableError(f"{path}: holds results of other ops than {folder / MANIFEST}; measure this folder")
    if any(header.get("format") != FORMAT for header in headers):
        raise TableError(f"{path}: is of another version of {SCRIPT}; measure again with that of this folder")
    if any(header != headers[0] for header in headers):
        raise TableError(f"{path}: holds results of two machines; measure again on one")
    return {name: str(value) for name, value in (headers[0] if headers else {}).items() if name != "manifest"}


def _visit(path: Path, number: int, line: dict[str, Any], known: dict[str, ProfileItem]) -> tuple[str, list[float]]:
    key, seconds = line.get("item"), line.get("seconds")
    if not isinstance(key, str) or key not in known:
        raise TableError(f"{path}: line {number} is of {str(key)[:80]!r}, which is not an op of this folder; delete it")
    times = [*seconds, line.get("took")] if isinstance(seconds, list) else []
    if len(times) < 2 or any(math.isnan(measure.seconds_in(value)) for value in times):
        raise TableError(
            f"{path}: line {number}: seconds of {key} are {str(seconds)[:60]}, not times; delete that line"
        )
    assert isinstance(seconds, list)
    return key, [float(value) for value in seconds]


def _spread(visits: Sequence[Sequence[float]]) -> ProfileSpread:
    values = np.array([value for visit in visits for value in visit])
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    reach = FAR_OUT * (high - low)
    outliers = int(((values < low - reach) | (values > high + reach)).sum())
    return ProfileSpread(float(median), float(high - low), len(values), outliers, len(visits))


def _drift(visits: dict[str, list[list[float]]]) -> float:
    """Latency in the second half of the visits relative to the first half, the median over items."""
    ratios = [
        np.median(own[-(len(own) // 2) :]) / np.median(own[: len(own) // 2]) for own in visits.values() if len(own) > 1
    ]
    return float(np.median(ratios)) if ratios else 1.0
