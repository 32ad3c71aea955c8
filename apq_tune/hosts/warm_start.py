"""Warm starts: conversion of known candidates to trials of a study."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from apq_tune.errors import ApqError, CandidateError, ProblemError
from apq_tune.problem.front import Front
from apq_tune.problem.metric import reported_name
from apq_tune.problem.problem import Problem
from apq_tune.space.candidate import candidate_in

COLUMNS = ("candidate_json", "candidate")
"""Columns that may hold candidates; the first one present is used."""


class KnownTrial(NamedTuple):
    """Arguments of ``AskTell.add``."""

    config: dict[str, Any]
    values: list[float]
    violations: dict[str, float]
    said: dict[str, Any]


def read_warm_start(problem: Problem, given: Front | pd.DataFrame | None) -> list[KnownTrial]:
    """Convert a warm start to known candidates with objective values and violations.

    Rows that lack a needed number are skipped with a warning; infeasible candidates need no objective values.

    Args:
        problem: Problem with the objectives and constraints.
        given: Front or table of known candidates, if any.

    Raises:
        ProblemError: If the warm start is of another type, lacks a column, has a non-numeric one, or has no complete
            row.
        CandidateError: If a candidate is not in the search space; the message names the row.
    """
    if given is None:
        return []
    if not isinstance(given, Front | pd.DataFrame):
        raise ProblemError(
            f"warm_start is {str(given)[:60]!r} ({type(given).__name__}); give a front (Front.load(FILE)) or a table "
            "(pandas.read_csv(FILE))"
        )
    frame = given.to_dataframe() if isinstance(given, Front) else given
    column = next((name for name in COLUMNS if name in frame), None)
    needed = [o.metric for o in problem.objectives] + [c.metric for c in problem.constraints]
    names = {metric.name: reported_name(metric) for metric in needed}
    missing = [] if column else ["candidate_json"]
    missing += [new for old, new in names.items() if old not in frame and new not in frame]
    if missing:
        raise ProblemError(f"warm start lacks {missing}; it has {list(frame.columns)}")
    columns = {old: _numbers(frame, new if new in frame else old) for old, new in names.items()}
    read = [
        _known(problem, row, text, {old: float(own[row]) for old, own in columns.items()})
        for row, text in enumerate(frame[column].tolist())
    ]
    known = [one for one in read if one is not None]
    if len(known) < len(read):
        said = (
            f"{len(read) - len(known)} of {len(read)} candidates of the warm start lack one of {list(names.values())}"
        )
        if not known:
            raise ProblemError(f"{said}; give numbers, or leave warm_start out")
        warnings.warn(f"{said}, and are left out", stacklevel=3)
    return known


def _numbers(frame: pd.DataFrame, name: str) -> Any:
    try:
        return frame[name].to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(
            f"warm start: column {name!r} has values that are not numbers ({error}); fix the table"
        ) from None


def _known(problem: Problem, row: int, text: Any, own: dict[str, float]) -> KnownTrial | None:
    """Convert one row; ``None`` if it lacks a needed number."""
    try:
        candidate = candidate_in(text)
        config = problem.encoding.space.to_config(candidate)
    except ApqError as error:
        raise CandidateError(f"warm start, row {row + 1}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError):  # from a space of another kind
        raise CandidateError(f"warm start, row {row + 1}: {text[:60]} is not in {problem.encoding.name}") from None
    violations = {
        name: float(constraint.violation(np.array([own[constraint.metric.name]]))[0])
        for name, constraint in zip(problem.constraint_names, problem.constraints, strict=True)
    }
    if any(np.isnan(list(violations.values()))):
        return None
    values = {objective: own[objective.metric.name] for objective in problem.objectives}
    if any(violation > 0 for violation in violations.values()):  # missing objectives are set to the worst value
        worst = {o: np.inf if o.direction == "minimize" else -np.inf for o in values}
        values = {o: worst[o] if np.isnan(value) else value for o, value in values.items()}
    if any(np.isnan(list(values.values()))):
        return None
    reported = {reported_name(objective.metric): value for objective, value in values.items()}
    limited = {reported_name(c.metric): own[c.metric.name] for c in problem.constraints}
    said = limited | reported | violations | {"candidate": candidate.to_json(), "fidelity": "warm start"}
    return KnownTrial(config, list(values.values()), violations, said)
