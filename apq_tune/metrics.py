"""Metrics by name: what a predictor, cost tables and the built-in cost models say of one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apq_tune.cost import load_cost_table
from apq_tune.cost.given import check_macs
from apq_tune.cost.registry import read_limits
from apq_tune.encoding import Encoding
from apq_tune.errors import CandidateError, ProblemError, RunError
from apq_tune.notation import candidate_from, read_candidates
from apq_tune.predict import MLPPredictor, Pairs
from apq_tune.predict.files import load_predictor
from apq_tune.problem import Metric, Objective, Problem
from apq_tune.space import SearchSpace

MAXIMISED = ("accuracy",)


def load_metrics(encoding: Encoding, predictor: Path | None, tables: Sequence[Path]) -> dict[str, Metric]:
    """Name -> metric, from files: the predictor's first, then the tables'.

    Raises:
        ApqError: if a file cannot be used, or two tables have a metric of the same name.
    """
    metrics: dict[str, Metric] = {}
    if predictor is not None:
        learned = load_predictor(predictor, encoding)
        metrics[learned.name] = learned
    for path in tables:
        for model in load_cost_table(path).models(encoding):
            if model.name in metrics:
                raise ProblemError(f"{path}: {model.name} is in another table already; rename the column in one")
            metrics[model.name] = model
    return metrics


def problem_of(
    encoding: Encoding, metrics: dict[str, Metric], objectives: Sequence[str], limits: Sequence[str]
) -> Problem:
    """A problem from names: ``accuracy`` is maximised, everything else minimised.

    Args:
        encoding: of the space.
        metrics: that may be named; those of tables and predictors are reported with the front.
        objectives: names; by default the first metric.
        limits: see ``read_limits``.

    Raises:
        ProblemError: for an unknown metric or a bound out of reach.
    """
    names = [name.strip() for name in objectives] or [next(iter(metrics))]
    for name in names:
        if name not in metrics:
            raise ProblemError(f"unknown metric {name!r}; known: {', '.join(metrics)}")
    wanted = [Objective(metrics[name], "maximize" if name in MAXIMISED else "minimize") for name in names]
    constraints = read_limits(encoding, metrics, limits)
    return Problem(encoding, wanted, constraints, also=list(metrics.values()))


def score_candidates(
    encoding: Encoding, metrics: dict[str, Metric], entries: Sequence[Any], *, skip_invalid: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Every metric of every candidate, in the order given.

    Args:
        encoding: of the space.
        metrics: by name.
        entries: plain data, see ``candidate_from``.
        skip_invalid: leave out candidates that are not in the space.

    Returns:
        ``position`` (from 0), ``candidate_json`` and one column for each metric; and the reasons for what was left out.

    Raises:
        CandidateError: naming the position of the first invalid candidate and the reason, unless they are skipped.
    """
    if not entries:
        raise CandidateError("there is no candidate to score; the file holds an empty list")
    genomes, positions, refused = [], [], []
    for position, entry in enumerate(entries):
        try:
            genomes.append(encoding.encode([candidate_from(entry, encoding.space)])[0])
            positions.append(position)
        except CandidateError as error:  # noqa: PERF203
            reason = f"candidate {position}: {str(error).removeprefix('candidate 0: ')}"
            if not skip_invalid:
                raise CandidateError(f"{reason}; --skip-invalid goes on without it") from None
            refused.append(reason)
    found = np.array(genomes, np.int16).reshape(len(genomes), encoding.n_genes)
    columns = {"position": positions, "candidate_json": [c.to_json() for c in encoding.decode(found)]}
    return pd.DataFrame(columns | {name: metric(found) for name, metric in metrics.items()}), refused


def load_start(path: Path, space: SearchSpace | None) -> MLPPredictor:
    """A predictor that transfer can begin with.

    Raises:
        RunError: if it is none.
    """
    predictor = load_predictor(path, space)
    if not isinstance(predictor, MLPPredictor):
        raise RunError(f"{path}: is a {type(predictor).__name__}; transfer needs an MLP: APQ's, once-for-all's or ours")
    return predictor


def read_pairs(path: Path, space: SearchSpace) -> tuple[Pairs, bool]:
    """Candidates with a column ``accuracy`` or ``loss``.

    Returns:
        The pairs, and whether their target is a loss.

    Raises:
        RunError: if the column is missing or its values make no sense.
        CandidateError: for a candidate that is not in the space.
    """
    entries = read_candidates(path)
    frame = pd.read_csv(path)
    names = [name for name in ("accuracy", "loss") if name in frame]
    if len(names) != 1:
        raise RunError(f"{path}: needs one column 'accuracy' or 'loss', has {list(frame.columns)}")
    target = pd.to_numeric(frame[names[0]], errors="coerce").to_numpy(np.float64)
    good = (target > 0) & (target <= 1 if names[0] == "accuracy" else np.isfinite(target))
    if not good.all():
        row = int(np.argmin(good))
        raise RunError(f"{path}: row {row + 1}: {names[0]} is {frame[names[0]][row]}; accuracy is a fraction, loss > 0")
    if len(target) < 10:
        raise RunError(f"{path}: has {len(target)} pairs; give at least 10")
    encoding = Encoding(space)
    genomes = encoding.encode([candidate_from(entry, space) for entry in entries])
    check_macs(path, frame, encoding, entries, genomes)
    return Pairs(genomes, target), names[0] == "loss"
