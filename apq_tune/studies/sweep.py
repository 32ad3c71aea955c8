"""A sweep: one inner search for every device, limit, sampler and seed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
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
"""Name of the device if no table describes one."""


class SweepTask(NamedTuple):
    """One search of a sweep."""

    device: str
    limits: tuple[tuple[str, float], ...]  # metric, upper bound
    sampler: str
    seed: int

    @property
    def key(self) -> str:
        """Readable, and good as a file name."""
        return "-".join([self.device, *(f"{n}={number(v)}" for n, v in self.limits), self.sampler, str(self.seed)])


def number(value: float) -> str:
    """Short if that is exact."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


class Sweep(NamedTuple):
    """What the searches share.

    Attributes:
        encoding: Of the space.
        metrics: Device -> name -> metric.
        objectives: Names; see ``problem_of``.
        n_evaluations: Of each search.
        checkpoints: Folder.
        seconds: Between two checkpoints of a search.
    """

    encoding: GeneEncoding
    metrics: Mapping[str, dict[str, Metric]]
    objectives: tuple[str, ...]
    n_evaluations: int
    checkpoints: Path
    seconds: float = CHECKPOINT_SECONDS

    def problem(self, device: str, limits: Sequence[tuple[str, float]]) -> Problem:
        """What is asked for on one device under one set of limits."""
        return problem_of(self.encoding, self.metrics[device], self.objectives, [f"{n}={v!r}" for n, v in limits])


def read_tables(texts: Sequence[str]) -> dict[str, list[Path]]:
    """``NAME=PATH`` -> name -> paths; a device whose name comes twice has both tables.

    Raises:
        ProblemError: If there is no name, or one that is not good as a file name.
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


def device_metrics(
    encoding: GeneEncoding, predictor: Path | None, tables: Mapping[str, Sequence[Path]]
) -> dict[str, dict[str, Metric]]:
    """Device -> name -> metric: the predictor, the device's tables, and models for what they lack.

    Raises:
        ApqError: If a file cannot be used.
    """
    learned = load_metrics(encoding, predictor, [])
    devices = {name: list(paths) for name, paths in tables.items()} or {ANALYTIC: []}
    return {
        name: all_metrics(encoding, learned | load_metrics(encoding, None, paths)) for name, paths in devices.items()
    }


def tasks_of(
    sweep: Sweep,
    targets: Sequence[tuple[tuple[str, float], ...]],
    samplers: Sequence[str],
    seeds: int,
    budgets: Sequence[str] = (),
) -> list[SweepTask]:
    """Every combination.

    Args:
        sweep: What the searches share.
        targets: Limits, the same on every device.
        samplers: Names.
        seeds: How many.
        budgets: Names of limits by a rule, beside the targets: each device has its own.

    Raises:
        ProblemError: If an objective or a limit is unknown, or a limit out of reach, on any device.
    """
    tasks = []
    for device, metrics in sweep.metrics.items():
        by_rule = [Costs(sweep.encoding, metrics).budget(name) for name in budgets]
        own = [*targets, *map(bounds_of, by_rule)]
        for limits in own:
            sweep.problem(device, limits)
        tasks += [SweepTask(device, *parts) for parts in itertools.product(own, samplers, range(seeds))]
    return tasks


def run_task(task: SweepTask, shared: Sweep) -> Result:
    """One whole inner search; a limit that nothing met is a result, too, with a note instead of candidates."""
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
    """One row for each candidate of each search's front, and one without a candidate where nothing met the limits.

    Returns:
        ``device``, ``limit METRIC`` for each limit, ``sampler``, ``seed``, ``n_evaluations``; for fronts
        ``hypervolume``, see ``shares``; every metric; ``candidate``, ``candidate_json``.
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
    """The columns of a results frame that name device and limits."""
    return ["device", *(column for column in frame.columns if column.startswith("limit "))]


def shares(frame: pd.DataFrame, signs: Mapping[str, float]) -> pd.Series:
    """Each search's hypervolume, as a share of that of all searches of its device and limits together.

    The reference point is a tenth of the range behind the worst values on any of their fronts. Nothing found is 0.

    Args:
        frame: Of results.
        signs: Objective -> 1 if it is minimised, -1 if it is maximised.
    """
    share = pd.Series(0.0, index=frame.index)
    missing = [name for name in signs if name not in frame]
    if missing:  # no search found anything
        return share
    for _, target in frame.groupby(target_columns(frame), sort=False):
        F = target[list(signs)].to_numpy(np.float64) * np.array(list(signs.values()))
        found = np.isfinite(F).all(axis=1)
        if not found.any():
            continue
        yardstick = Yardstick.of(F[found], margin=0.1)
        for _, rows in target.assign(row=np.arange(len(target)))[found].groupby(["sampler", "seed"]):
            share[rows.index] = yardstick.share(F[rows["row"]])
    return share
