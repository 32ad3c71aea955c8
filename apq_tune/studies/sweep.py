"""Sweeps: one inner search for each combination of device, limits, sampler and seed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from apq_tune.errors import ProblemError
from apq_tune.hosts.work import Result
from apq_tune.problem.costs import Costs
from apq_tune.problem.metric import Metric
from apq_tune.problem.metrics import all_metrics, load_metrics, problem_of
from apq_tune.problem.pareto import Yardstick
from apq_tune.problem.problem import Constraint, Problem
from apq_tune.searchers import ALGORITHMS, Searching
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.studies.fleet import CHECKPOINT_SECONDS, finish

ANALYTIC = "analytic"
"""Name of the device if no cost table is given."""


class SweepTask(NamedTuple):
    """One search of a sweep."""

    device: str
    limits: tuple[tuple[str, float], ...]  # metric, upper bound
    sampler: str
    seed: int

    @property
    def key(self) -> str:
        """Readable key, valid as a file name."""
        return "-".join([self.device, *(f"{n}={number(v)}" for n, v in self.limits), self.sampler, str(self.seed)])


def number(value: float) -> str:
    """Format a number, briefly where that is exact."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


class Sweep(NamedTuple):
    """Arguments shared by the searches of a sweep.

    Attributes:
        encoding: Encoding of the search space.
        metrics: Metrics by name, for each device.
        objectives: Names of the objectives; see ``problem_of``.
        n_evaluations: Number of distinct candidates that each search evaluates.
        checkpoints: Folder of checkpoints.
        seconds: Seconds between checkpoints of a search.
    """

    encoding: GeneEncoding
    metrics: Mapping[str, dict[str, Metric]]
    objectives: tuple[str, ...]
    n_evaluations: int
    checkpoints: Path
    seconds: float = CHECKPOINT_SECONDS

    def problem(self, device: str, limits: Sequence[tuple[str, float]]) -> Problem:
        """Problem on one device under one set of limits."""
        return problem_of(self.encoding, self.metrics[device], self.objectives, [f"{n}={v!r}" for n, v in limits])


def read_tables(texts: Sequence[str]) -> dict[str, list[Path]]:
    """Parse targets ``NAME=PATH``; a device whose name is repeated has several tables.

    Raises:
        ProblemError: If a name is missing or not valid as a file name.
    """
    tables: dict[str, list[Path]] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path or not re.fullmatch(r"\w[\w.]*", name):
            raise ProblemError(
                f"cannot read target {text!r}; write NAME=PATH, the name in letters and digits, as in note10=note10.csv"
            )
        tables.setdefault(name, []).append(Path(path))
    return tables


def bounds_of(limits: Sequence[Constraint]) -> tuple[tuple[str, float], ...]:
    """Names of the limited metrics and their upper bounds."""
    return tuple((limit.metric.name, limit.bound) for limit in limits)


def within(bounds: Sequence[tuple[str, float]], memory: Mapping[str, int]) -> tuple[tuple[str, float], ...]:
    """Bounds with those of the memory of a device; of two on a metric the tighter one.

    Args:
        bounds: Names of metrics and their upper bounds.
        memory: Bounds of the device by the name of the metric.
    """
    own = dict(bounds)
    return tuple((own | {name: min(own.get(name, math.inf), n_bytes) for name, n_bytes in memory.items()}).items())


def device_metrics(
    encoding: GeneEncoding,
    predictor: Path | None,
    tables: Mapping[str, Sequence[Path]],
    asked: Sequence[str] = (),
) -> dict[str, dict[str, Metric]]:
    """Metrics by name for each device: the predictor, the device's tables, and cost models for other metrics.

    Args:
        encoding: Encoding of the search space.
        predictor: File of a predictor.
        tables: Files of cost tables by device.
        asked: Limits, or names of metrics; the cost models of devices that they name are added.

    Raises:
        ApqError: If a file cannot be used.
    """
    learned = load_metrics(encoding, predictor, [])
    devices = {name: list(paths) for name, paths in tables.items()} or {ANALYTIC: []}
    return {
        name: all_metrics(encoding, learned | load_metrics(encoding, None, paths), asked)
        for name, paths in devices.items()
    }


def tasks_of(
    sweep: Sweep,
    targets: Sequence[tuple[tuple[str, float], ...]],
    samplers: Sequence[str],
    seeds: int,
    budgets: Sequence[str] = (),
    memory: Mapping[str, int] = MappingProxyType({}),
) -> list[SweepTask]:
    """Tasks for all combinations.

    Args:
        sweep: Arguments shared by the searches.
        targets: Sets of limits, the same on every device.
        samplers: Names of the samplers.
        seeds: Number of seeds.
        budgets: Names of budgets, beside the targets; their limits depend on the device.
        memory: Limits of the memory of the device that all searches are for, by metric.

    Raises:
        ProblemError: If an objective or a limit is unknown, or a limit is out of reach, on any device.
    """
    tasks = []
    for device, metrics in sweep.metrics.items():
        by_rule = [Costs(sweep.encoding, metrics).budget(name) for name in budgets]
        own = [*targets, *(within(bounds_of(limits), memory) for limits in by_rule)]
        for limits in own:
            sweep.problem(device, limits)
        tasks += [SweepTask(device, *parts) for parts in itertools.product(own, samplers, range(seeds))]
    return tasks


def run_task(task: SweepTask, shared: Sweep) -> Result:
    """Run one inner search; if no candidate is feasible the result has a note instead of a front."""
    searching = Searching(
        shared.problem(task.device, task.limits),
        ALGORITHMS[task.sampler](),
        n_evaluations=shared.n_evaluations,
        seed=task.seed,
    )
    finish(searching, shared.checkpoints / f"{task.key}.npz", shared.seconds)
    try:
        rows, note = searching.front().to_dataframe().to_dict("list"), ""
    except ProblemError as error:
        rows, note = {}, str(error)
    return Result({"n_evaluations": searching.n_evaluations, "note": note, "front": rows})


def results_frame(sweep: Sweep, tasks: Sequence[SweepTask], results: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each candidate of each front, and one without a candidate for a search that found none.

    Returns:
        Table with the columns ``device``, ``limit METRIC`` for each limit, ``sampler``, ``seed`` and ``n_evaluations``;
        for several objectives ``hypervolume``, see ``shares``; all metrics; ``candidate`` and ``candidate_json``.
    """
    parts = []
    for task in tasks:
        found = results[task.key]
        front = pd.DataFrame(found["front"] or {"candidate": [None]})
        known = {"device": task.device} | {f"limit {name}": bound for name, bound in task.limits}
        known |= {"sampler": task.sampler, "seed": task.seed, "n_evaluations": found["n_evaluations"]}
        for place, (name, value) in enumerate(known.items()):
            front.insert(place, name, value)
        parts.append(front)
    frame = pd.concat(parts, ignore_index=True)
    last = ["candidate", "candidate_json"]
    frame = frame.reindex(columns=[*(c for c in frame.columns if c not in last), *last])
    if len(objectives := sweep.problem(tasks[0].device, tasks[0].limits).objectives) > 1:
        signs = {o.metric.name: 1.0 if o.direction == "minimize" else -1.0 for o in objectives}
        frame.insert(frame.columns.get_loc("n_evaluations") + 1, "hypervolume", shares(frame, signs))
    return frame


def target_columns(frame: pd.DataFrame) -> list[str]:
    """Columns of a table of results that name the device and the limits."""
    return ["device", *(column for column in frame.columns if column.startswith("limit "))]


def unlimited_as_infinite(frame: pd.DataFrame) -> pd.DataFrame:
    """Table with an infinite limit on each metric that only other targets limit, as groups leave missing values out."""
    return frame.fillna(dict.fromkeys(target_columns(frame)[1:], np.inf))


def shares(frame: pd.DataFrame, signs: Mapping[str, float]) -> pd.Series:
    """Hypervolume of each search relative to that of all searches with the same device and limits.

    The reference point exceeds the worst values on their fronts by a tenth of the range. The share of a search without
    a feasible candidate is 0.

    Args:
        frame: Table of results.
        signs: Sign of each objective: 1 if it is minimised, -1 if it is maximised.
    """
    share = pd.Series(0.0, index=frame.index)
    missing = [name for name in signs if name not in frame]
    if missing:  # no search found anything
        return share
    for _, target in unlimited_as_infinite(frame).groupby(target_columns(frame), sort=False):
        F = target[list(signs)].to_numpy(np.float64) * np.array(list(signs.values()))
        found = np.isfinite(F).all(axis=1)
        if not found.any():
            continue
        yardstick = Yardstick.of(F[found], margin=0.1)
        for _, rows in target.assign(row=np.arange(len(target)))[found].groupby(["sampler", "seed"]):
            share[rows.index] = yardstick.share(F[rows["row"]])
    return share
