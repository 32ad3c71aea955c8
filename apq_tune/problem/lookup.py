"""Tabular benchmarks: problems whose candidates are the rows of a CSV file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.errors import TableError
from apq_tune.inputs.sheets import number_in, numbers_in, read_sheet
from apq_tune.predict import Pairs, Predictor, fit_gp, fit_ridge
from apq_tune.problem.limits import read_limits
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Objective, Problem
from apq_tune.space.encoding import Genomes
from apq_tune.space.flat_encoding import FlatEncoding
from apq_tune.space.search_space import SearchSpace

Missing = Literal["nearest", "gp", "ridge"]
"""How metrics of combinations without a row are estimated."""

MOST_FITTED = 3000
"""Maximum number of rows that a surrogate is fitted to, as the time of a Gaussian process grows with their cube."""

BATCH = 500
"""Number of candidates whose distances to all rows are computed at once."""

_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)


@dataclass(frozen=True)
class Column:
    """Metric that is looked up in a complete table.

    Attributes:
        name: Name of the column.
        unit: Empty, since a table does not tell units.
        values: Values of all candidates in row-major order (the last choice varies fastest), shape ``(n_candidates,)``.
        strides: Distance in ``values`` between consecutive values of each choice, shape ``(n_choices,)``.
    """

    name: str
    unit: str
    values: NDArray[np.float64]
    strides: NDArray[np.int64]

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Values of genomes of shape ``(n, n_choices)``, shape ``(n,)``."""
        return np.asarray(self.values[genomes.astype(np.int64) @ self.strides])


@dataclass(frozen=True)
class Partly:
    """Metric of an incomplete table: looked up for measured candidates, estimated for all others.

    Attributes:
        name: Name of the column.
        unit: Empty, since a table does not tell units.
        known: Genomes of the measured candidates, shape ``(m, n_choices)``.
        values: Their values, shape ``(m,)``.
        steps: Distance between neighbouring values of each choice, shape ``(n_choices,)``; 0 for a categorical choice,
            any two values of which are at distance 1.
        surrogate: Predictor that estimates missing values; ``None`` to use the (first) nearest measured candidate.
    """

    name: str
    unit: str
    known: Genomes
    values: NDArray[np.float64]
    steps: NDArray[np.float64]
    surrogate: Predictor | None

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Values of genomes of shape ``(n, n_choices)``, shape ``(n,)``."""
        nearest, distance = np.zeros(len(genomes), np.intp), np.zeros(len(genomes))
        for first in range(0, len(genomes), BATCH):
            apart = self._apart(genomes[first : first + BATCH])
            nearest[first : first + BATCH] = apart.argmin(axis=1)
            distance[first : first + BATCH] = apart.min(axis=1)
        found = self.values[nearest]
        if self.surrogate is not None and (distance > 0).any():
            found[distance > 0] = self.surrogate(genomes[distance > 0])
        return np.asarray(found)

    def _apart(self, genomes: Genomes) -> NDArray[np.float64]:
        """Distances to the measured candidates, shape ``(n, m)``: the sum over choices of distances from 0 to 1."""
        total = np.zeros((len(genomes), len(self.known)))
        for gene, step in enumerate(self.steps):
            between = np.abs(genomes[:, gene, None].astype(np.int32) - self.known[:, gene])
            total += between * step if step else between > 0
        return total


def load_lookup(
    path: str | Path,
    maximize: Sequence[str] = (),
    minimize: Sequence[str] = (),
    *,
    constraints: Sequence[str] = (),
    choices: Sequence[str] = (),
    ignore: Sequence[str] = (),
    missing: Missing | None = None,
) -> Problem:
    """Read a problem whose candidates are the rows of a CSV file.

    Columns that are neither objectives nor limited are choices. Numeric values of a choice are sorted, others are
    categories in the order of their first appearance; ``None``, ``NA`` and ``nan`` are ordinary categories.

    Args:
        path: Path of the CSV file.
        maximize: Columns to maximise.
        minimize: Columns to minimise.
        constraints: Limits on columns, as texts; see ``read_limits``.
        choices: Columns that are choices; all others are ignored. By default all remaining columns.
        ignore: Columns to ignore.
        missing: How combinations without a row are estimated; by default every combination needs a row.

    Raises:
        TableError: If the file cannot be read, an objective is not a numeric column, a column looks like a metric
            rather than a choice, or a combination has two rows or none; the message names it.
        ProblemError: If a limit cannot be parsed or reached.
    """
    path = Path(path)
    frame = read_sheet(path, TableError)
    limited = [re.split(r"[<>=]", text, maxsplit=1)[0].strip() for text in constraints]
    wanted = [*maximize, *minimize]
    for name in [*wanted, *limited, *choices, *ignore]:
        if name not in frame:
            raise TableError(f"{path}: has no column {name!r}; it has {', '.join(map(str, frame.columns))}")
        if wanted.count(name) > 1:
            raise TableError(f"{path}: {name!r} is named twice as an objective; name it once")
        if name in wanted and name in (*choices, *ignore):
            raise TableError(f"{path}: {name!r} is an objective; do not name it as a choice or to be ignored")
    metrics = list(dict.fromkeys([*wanted, *limited]))
    names = list(choices) or [str(name) for name in frame.columns if name not in (*metrics, *ignore)]
    if not wanted or not names:
        raise TableError(f"{path}: needs objectives and choices; all its {len(frame.columns)} columns are one of them")
    values = {name: _values(path, frame, name) for name in names}
    codes = {
        name: pd.Index(_order(own), dtype=object).get_indexer(pd.Index(own, dtype=object))
        for name, own in values.items()
    }
    if not choices:
        _check_metrics(path, values, codes)
    space = SearchSpace.from_choices({name: _order(own) for name, own in values.items()}, path.stem)
    genomes = np.stack(list(codes.values()), axis=1).astype(np.int16)
    _check_rows(path, space.choices, genomes, told=missing is not None)
    numbers = {name: numbers_in(frame, name, path, TableError) for name in metrics}
    encoding = FlatEncoding(space)
    columns = _columns(encoding, genomes, numbers, missing)
    objectives = [(name, "maximize") for name in maximize] + [(name, "minimize") for name in minimize]
    limits = read_limits(encoding, columns, constraints)
    return Problem(space, [Objective(columns[n], d) for n, d in objectives], limits)  # type: ignore[arg-type]


def describe_estimates(problem: Problem) -> str:
    """Describe how combinations that were not measured are estimated; empty if all were measured."""
    partly = [metric for metric in problem.metrics if isinstance(metric, Partly)]
    if not partly:
        return ""
    by = "the nearest measured one" if partly[0].surrogate is None else "a surrogate fitted to the rows"
    size = problem.encoding.size()
    names = ", ".join(problem.encoding.space.choices)
    known = f"{len(partly[0].known)} of {size} combinations of {names} are measured"
    return f"{known}; the others are estimated by {by}"


def _columns(
    encoding: FlatEncoding, genomes: Genomes, numbers: Mapping[str, NDArray[np.float64]], missing: Missing | None
) -> dict[str, Metric]:
    """Metrics by column name: plain look-ups if the table is complete, otherwise with estimates."""
    n_choices = encoding.n_choices.astype(np.int64)
    strides = np.concatenate([np.cumprod(n_choices[:0:-1])[::-1], [1]]).astype(np.int64)
    if len(genomes) == encoding.size():
        where = np.argsort(genomes.astype(np.int64) @ strides)
        return {name: Column(name, "", own[where], strides) for name, own in numbers.items()}
    steps = np.array([1 / (len(v) - 1) if len(v) > 1 and _is_number(v) else 0.0 for v in encoding.choices])
    metrics: dict[str, Metric] = {}
    for name, own in numbers.items():
        surrogate: Predictor | None = None
        if missing != "nearest":
            rows = np.sort(np.random.default_rng(0).permutation(len(own))[:MOST_FITTED])
            fit: Any = fit_gp if missing == "gp" else fit_ridge
            surrogate = fit(encoding, Pairs(genomes[rows], own[rows]), 0, log=False)
        metrics[name] = Partly(name, "", genomes, own, steps, surrogate)
    return metrics


def _is_number(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _values(path: Path, frame: pd.DataFrame, name: str) -> list[Any]:
    """Cells of a choice, converted if all of them are integers, floats or booleans; otherwise text."""
    texts = list(frame[name])
    if "" in texts:
        raise TableError(f"{path}: row {texts.index('') + 1}: {name} is empty; give every choice a value")
    if all(_INTEGER.fullmatch(text) for text in texts):
        return [int(text) for text in texts]
    numbers = [number_in(text) for text in texts]
    if None not in numbers:
        return numbers
    return [text == "True" for text in texts] if set(texts) <= {"True", "False"} else texts


def _order(values: Sequence[Any]) -> list[Any]:
    once = list(dict.fromkeys(values))
    return once if isinstance(once[0], str) else sorted(once)


def _check_metrics(path: Path, values: Mapping[str, list[Any]], codes: Mapping[str, NDArray[np.intp]]) -> None:
    """Refuse a numeric column that looks like a metric: without it the other columns still identify all rows.

    In addition, the column must differ between most rows, or the table must be complete without it.
    """
    for name, own in reversed(list(values.items())):  # metrics usually follow the choices
        others = [codes[other] for other in codes if other != name]
        if not others or not _is_number(own):
            continue
        whole = math.prod(int(other.max()) + 1 for other in others) == len(own)
        if not whole and 2 * len(set(own)) <= len(own):
            continue
        if len(np.unique(np.stack(others, axis=1), axis=0)) == len(own):
            raise TableError(
                f"{path}: column {name!r} has {len(set(own))} values in {len(own)} rows, which the other columns tell "
                f"apart without it, as a metric has; give --ignore {name}, or --choice for each column that is one"
            )


def _check_rows(path: Path, choices: Mapping[str, tuple[Any, ...]], genomes: Genomes, *, told: bool) -> None:
    """Refuse combinations with two rows, and combinations without a row unless they can be estimated."""
    _, first, inverse = np.unique(genomes, axis=0, return_index=True, return_inverse=True)
    doubled = np.flatnonzero(first[inverse.reshape(-1)] != np.arange(len(genomes)))
    if len(doubled):
        one, other = first[inverse.reshape(-1)[doubled[0]]] + 1, doubled[0] + 1
        raise TableError(f"{path}: rows {one} and {other} are the same candidate; keep one, or name all choices")
    size = int(np.prod([len(values) for values in choices.values()], dtype=object))
    if told or len(genomes) == size:
        return
    known = {tuple(genome) for genome in genomes.tolist()}
    absent = next(key for key in np.ndindex(*(len(values) for values in choices.values())) if key not in known)
    words = ", ".join(f"{name}={values[i]}" for (name, values), i in zip(choices.items(), absent, strict=True))
    raise TableError(
        f"{path}: has no row for {words} ({len(genomes)} of {size} combinations are there); add it, give "
        "--ignore for a column that is not a choice, or --missing nearest, gp or ridge to have it estimated"
    )
