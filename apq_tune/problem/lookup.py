"""A benchmark that was measured once and for all: every candidate is a row of a table."""

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
from apq_tune.problem.costs import read_limits
from apq_tune.problem.problem import Metric, Objective, Problem
from apq_tune.space.choices import ChoiceEncoding
from apq_tune.space.encoding import Genomes
from apq_tune.space.search_space import SearchSpace

Missing = Literal["nearest", "gp", "ridge"]
"""What may answer for combinations that have no row."""

MOST_FITTED = 3000
"""Rows that a surrogate is fitted to: a Gaussian process takes time with their cube."""

BATCH = 500
"""Candidates that are compared with all rows at once."""

_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)


@dataclass(frozen=True)
class Column:
    """A metric that is looked up.

    Attributes:
        name: of the column.
        unit: unknown, so empty.
        values: ``(n_candidates,)``, the last choice running fastest.
        strides: ``(n_choices,)``, how far apart the values of a choice are.
    """

    name: str
    unit: str
    values: NDArray[np.float64]
    strides: NDArray[np.int64]

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """``(n, n_choices) -> (n,)``."""
        return np.asarray(self.values[genomes.astype(np.int64) @ self.strides])


@dataclass(frozen=True)
class Partly:
    """A metric of which some candidates were measured, and something else answers for the others.

    Attributes:
        name: of the column.
        unit: unknown, so empty.
        known: ``(m, n_choices)`` that were measured.
        values: ``(m,)`` of these.
        steps: ``(n_choices,)``: what a step between neighbouring values of a choice counts; 0 for words, any two of
            which differ by 1.
        surrogate: that answers; ``None``: the nearest row does, of several the first.
    """

    name: str
    unit: str
    known: Genomes
    values: NDArray[np.float64]
    steps: NDArray[np.float64]
    surrogate: Predictor | None

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """``(n, n_choices) -> (n,)``."""
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
        """``(n, m)``: the sum over choices; from end to end of a choice of numbers, and between words, it is 1."""
        total = np.zeros((len(genomes), len(self.known)))
        for gene, step in enumerate(self.steps):
            between = np.abs(genomes[:, gene, None].astype(np.int32) - self.known[:, gene])
            total += between * step if step else between > 0
        return total


def load_lookup(
    path: Path,
    maximize: Sequence[str],
    minimize: Sequence[str],
    *,
    limits: Sequence[str] = (),
    choices: Sequence[str] = (),
    ignore: Sequence[str] = (),
    missing: Missing | None = None,
) -> Problem:
    """A problem whose candidates are the rows of a CSV; columns that are neither objectives nor limited are choices.

    Numbers are choices in their order, words in the order in which they first appear; ``None``, ``NA`` and ``nan`` are
    words as others are.

    Args:
        path: of the CSV.
        maximize: columns to maximise.
        minimize: columns to minimise.
        limits: of columns, see ``read_limits``.
        choices: the columns that are choices; others are passed over.
        ignore: columns to pass over.
        missing: what answers for combinations without a row; by default there may be none.

    Raises:
        TableError: if it cannot be read, an objective is no column or not a number somewhere, a column looks like a
            metric and not like a choice, or a combination of choices has no row, or two: names it.
        ProblemError: if a limit cannot be read or reached.
    """
    frame = read_sheet(path, TableError)
    limited = [re.split(r"[<>=]", text, maxsplit=1)[0].strip() for text in limits]
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
    encoding = ChoiceEncoding(space)
    columns = _columns(encoding, genomes, numbers, missing)
    objectives = [(name, "maximize") for name in maximize] + [(name, "minimize") for name in minimize]
    constraints = read_limits(encoding, columns, limits)  # type: ignore[arg-type]
    return Problem(space, [Objective(columns[n], d) for n, d in objectives], constraints)  # type: ignore[arg-type]


def told_of(problem: Problem) -> str:
    """In words, what answers for combinations that were not measured; empty if all were."""
    partly = [metric for metric in problem.metrics if isinstance(metric, Partly)]
    if not partly:
        return ""
    by = "the nearest measured one answers" if partly[0].surrogate is None else "a surrogate fitted to the rows answers"
    size = problem.encoding.size()
    names = ", ".join(problem.encoding.space.choices)
    known = f"{len(partly[0].known)} of {size} combinations of {names} are measured"
    return f"{known}; for the others {by}, which is no measurement"


def _columns(
    encoding: ChoiceEncoding, genomes: Genomes, numbers: Mapping[str, NDArray[np.float64]], missing: Missing | None
) -> dict[str, Metric]:
    """Name -> metric; of a whole table a look into it is all there is."""
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
    """The cells of a choice: all whole numbers, all numbers, all true or false, or words."""
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
    """Refuse a column of numbers that is none of the choices: the others tell all rows apart.

    Either it differs from row to row, as a metric does, or the table is whole without it.
    """
    for name, own in reversed(list(values.items())):  # metrics mostly stand behind the choices
        others = [codes[other] for other in codes if other != name]
        if not others or not _is_number(own):
            continue
        whole = math.prod(int(other.max()) + 1 for other in others) == len(own)
        if not whole and 2 * len(set(own)) <= len(own):
            continue
        if len(np.unique(np.stack(others, axis=1), axis=0)) == len(own):
            raise TableError(
                f"{path}: column {name!r} has {len(set(own))} values in {len(own)} rows, which the other columns tell "
                f"apart without it, as a metric has; give --ignore {name}, or --choices with those that are choices"
            )


def _check_rows(path: Path, choices: Mapping[str, tuple[Any, ...]], genomes: Genomes, *, told: bool) -> None:
    """Refuse a combination with two rows, or without any unless something answers for it."""
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
        "--ignore for a column that is no choice, or --missing nearest, gp or ridge to have it estimated"
    )
