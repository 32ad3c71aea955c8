"""Conversion of reported results of trials, and the front of a search, or why there is none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from apq_tune.errors import ApqError, ProblemError
from apq_tune.hosts.asktell import Outcome
from apq_tune.problem.front import Axis, Front
from apq_tune.problem.metric import reported_name
from apq_tune.problem.pareto import is_non_dominated
from apq_tune.problem.problem import Problem
from apq_tune.space.candidate import candidate_in

CONFIG = "config"
"""Key of the configuration in results of Tune, where it is nested or flattened as in ``config/depth 1``."""


class Told(NamedTuple):
    """Arguments of ``AskTell.tell``."""

    outcome: Outcome
    values: list[float]
    violations: dict[str, float]
    said: dict[str, Any]


def config_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration in a result, with nested parameters by joined paths; empty if there is none."""
    flat: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        flat[path] = value
        entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for name, own in entries:
            add(f"{path}/{name}", own)

    for name, value in dict(result.get(CONFIG) or {}).items():
        add(str(name), value)
    for name, value in result.items():
        if name.startswith(f"{CONFIG}/"):
            add(name.removeprefix(f"{CONFIG}/"), value)
    return flat


def read_result(problem: Problem, result: Mapping[str, Any], config: Mapping[str, Any] | None) -> Told:
    """Convert the last result of a trial that ended without an error.

    Trainables may report only the objectives; inexpensive metrics and the candidate are then computed here.

    Args:
        problem: Problem with objectives, constraints and further metrics.
        result: Last result, flattened.
        config: Configuration with the genes of the candidate, if known.
    """
    try:
        computed = {} if config is None else _computed(problem, result, config)
    except ApqError as error:
        return Told("failed", [], {}, {"reason": str(error)})
    given, result = result, {**computed, **result}
    objectives = [reported_name(objective.metric) for objective in problem.objectives]
    values, wrong = _numbers(result, objectives)
    violations: dict[str, float] = {}
    missed = ""
    for name, constraint in zip(problem.constraint_names, problem.constraints, strict=True):
        metric = reported_name(constraint.metric)
        if name in result or metric not in result:
            own, reason = _numbers(result, [name])
        else:
            own, reason = _numbers(result, [metric])
            own = [float(constraint.violation(np.array([value]))[0]) for value in own]
        missed = missed or (reason and f"{reason}, which the limit {constraint} needs")
        if own and not math.isnan(own[0]):
            violations[name] = own[0]
    reported = [reported_name(metric) for metric in problem.metrics]
    kept = (*reported, "violation", "candidate", "fidelity", "seconds", "epoch")
    said = {name: result[name] for name in kept if name in result}
    said |= violations | {"violation": float(sum(max(value, 0.0) for value in violations.values()))}
    if wrong:
        said["detail"] = f"{wrong}; it reported {_metrics(given)}"  # complements the reason that the study gives
    elif missed:
        return Told("failed", values, violations, said | {"reason": missed})
    epoch, epochs = (_numbers(result, [name])[0] or [0.0] for name in ("epoch", "epochs"))
    is_stopped = 0 < epoch[0] < epochs[0]  # epoch 0 is that of an infeasible candidate, which is not trained
    return Told("pruned" if is_stopped else "complete", values, violations, said)


def _computed(problem: Problem, result: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Compute the candidate and inexpensive metrics that a result lacks."""
    space, out = problem.encoding.space, dict[str, Any]()
    objectives = {objective.metric.name for objective in problem.objectives}
    cheap = [
        metric
        for metric in problem.metrics
        if reported_name(metric) not in result
        and metric.name not in objectives
        and not getattr(metric, "costly", False)
    ]
    if "candidate" in result and not cheap:
        return out
    candidate = space.from_config({name: config[name] for name in space.parameters if name in config})
    values = problem.measure(cheap, problem.encoding.encode([candidate]))
    out = {reported_name(metric): float(values[metric.name][0]) for metric in cheap}
    return out | {"candidate": candidate.to_json()}


def _numbers(result: Mapping[str, Any], names: Sequence[str]) -> tuple[list[float], str]:
    """Numbers with the given names, and a message about the first that is missing or not a number."""
    values, wrong = [], ""
    for name in names:
        try:
            value = float(result[name])
        except KeyError:
            wrong = wrong or f"it reported no {name!r}"
            continue
        except (TypeError, ValueError):
            wrong = wrong or f"{name} is {result[name]!r}, not a number"
            continue
        if math.isnan(value):
            wrong = wrong or f"{name} is nan"
        values.append(value)
    return values, wrong


def _metrics(result: Mapping[str, Any]) -> list[str]:
    """Names in a result that were presumably reported by the trainable rather than added by Tune."""
    tunes = ("config", "time_", "timestamp", "trial_id", "date", "done", "pid", "hostname", "node_ip", "experiment_")
    own = [name for name in result if not name.startswith(tunes) and not name.endswith(("_iteration", "_restore"))]
    return [name for name in own if name not in ("checkpoint_dir_name", "should_checkpoint", "candidate", "violation")]


def why_none(problem: Problem, trials: Sequence[FrozenTrial]) -> str:
    """Message that explains why a study has no feasible candidate, with remedies."""
    if not trials:
        return "no trial has ended yet; run some first"
    said, remedy = [], []
    counts = Counter(trial.state for trial in trials)
    if counts[TrialState.FAIL]:
        failed = [trial.user_attrs for trial in trials if trial.state == TrialState.FAIL]
        reasons = Counter(str(own.get("detail", own.get("reason", "no reason is known"))) for own in failed)
        reason, n = reasons.most_common(1)[0]
        said.append(f"{counts[TrialState.FAIL]} failed ({n} of them: {reason})")
        remedy.append("fix the trainable")
    if counts[TrialState.PRUNED]:
        said.append(f"{counts[TrialState.PRUNED]} were stopped by a scheduler")
        remedy.append("let trials train to their end")
    if counts[TrialState.RUNNING] + counts[TrialState.WAITING]:
        said.append(f"{counts[TrialState.RUNNING] + counts[TrialState.WAITING]} have not ended")
        remedy.append("run on")
    if complete := [trial for trial in trials if trial.state == TrialState.COMPLETE]:
        misses = {
            name: min(trial.constraints.get(name, math.inf) for trial in complete) for name in problem.constraint_names
        }
        limits = dict(zip(problem.constraint_names, problem.constraints, strict=True))
        hard = [f"{limits[name]} by {100 * miss:.3g}%" for name, miss in misses.items() if miss > 0]
        closest = f", the closest misses {' and '.join(hard)}" if hard else ""
        said.append(f"{len(complete)} break a limit{closest}")
        remedy.append("run more, or relax a bound")
    return f"no trial was completed that keeps the constraints: of {len(trials)} {', '.join(said)}; {', '.join(remedy)}"


def front_of_trials(problem: Problem, trials: Sequence[FrozenTrial], algorithm: str, seed: int) -> Front:
    """Front of the feasible candidates of all completed trials.

    Args:
        problem: Problem that the trials evaluated.
        trials: All trials, with the actual values of their parameters.
        algorithm: Description of the sampler.
        seed: Seed of the search.

    Raises:
        ProblemError: If there is no feasible candidate; the message says why.
    """
    names = [reported_name(metric) for metric in problem.metrics]
    feasible = [t for t in trials if t.state == TrialState.COMPLETE and all(v <= 0 for v in t.constraints.values())]
    rows = [trial.user_attrs for trial in feasible if all(name in trial.user_attrs for name in names)]
    if not rows:
        raise ProblemError(why_none(problem, trials))
    metrics = pd.DataFrame(rows)[names]
    axes = [Axis(reported_name(o.metric), o.metric.unit, o.direction) for o in problem.objectives]
    signs = [1.0 if axis.direction == "minimize" else -1.0 for axis in axes]
    F = metrics[[axis.name for axis in axes]].to_numpy(np.float64) * signs
    best = np.flatnonzero(is_non_dominated(F))
    best = best[np.lexsort(F[best].T[::-1])]
    return Front(
        tuple(candidate_in(rows[i]["candidate"]) for i in best),
        metrics.iloc[best].reset_index(drop=True),
        tuple(axes),
        {
            "space": problem.encoding.name,
            "constraints": [str(constraint) for constraint in problem.constraints],
            "algorithm": algorithm,
            "n_evaluations": len(trials),
            "seed": seed,
        },
    )
