"""A benchmark that was measured once and for all: every candidate is a row of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.errors import TableError
from apq_tune.genotype import Genomes
from apq_tune.problem import Objective, Problem
from apq_tune.space import SearchSpace


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


def load_lookup(path: Path, maximize: Sequence[str], minimize: Sequence[str]) -> Problem:
    """A problem whose candidates are the rows of a CSV; columns that are no objectives are choices.

    Numbers are choices in their order, words in the order in which they first appear.

    Args:
        path: of the CSV.
        maximize: columns to maximise.
        minimize: columns to minimise.

    Raises:
        TableError: if it cannot be read, an objective is no column or not a number somewhere, or a combination of
            choices has no row, or two: names it.
    """
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise TableError(
            f"{path}: is no readable CSV ({str(error).splitlines()[0]}); give one row a candidate"
        ) from None
    wanted = [*maximize, *minimize]
    for name in wanted:
        if name not in frame:
            raise TableError(f"{path}: has no column {name!r}; it has {', '.join(map(str, frame.columns))}")
        if wanted.count(name) > 1:
            raise TableError(f"{path}: {name!r} is named twice as an objective; name it once")
    names = [str(name) for name in frame.columns if name not in wanted]
    if not wanted or not names:
        raise TableError(f"{path}: needs objectives and choices; all its {len(frame.columns)} columns are one of them")
    choices, codes = {}, np.zeros(len(frame), np.int64)
    strides: list[int] = []
    for name in names:
        if (empty := frame[name].isna()).any():
            raise TableError(f"{path}: row {int(empty.argmax()) + 1}: {name} is empty; give every choice a value")
        order = frame[name].unique()
        order = np.sort(order) if frame[name].dtype.kind in "iufb" else order
        choices[name] = order.tolist()
        codes = codes * len(order) + pd.Index(order).get_indexer(frame[name])
        strides = [stride * len(order) for stride in strides] + [1]
    _check_complete(path, choices, codes)
    where = np.argsort(codes)
    columns = [Column(name, "", _numbers(path, frame, name)[where], np.array(strides)) for name in wanted]
    space = SearchSpace.from_choices(choices, path.stem)
    directions = ["maximize"] * len(maximize) + ["minimize"] * len(minimize)
    return Problem(space, [Objective(c, d) for c, d in zip(columns, directions, strict=True)])  # type: ignore[arg-type]


def _numbers(path: Path, frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
    if not (finite := np.isfinite(values)).all():
        row = int(np.argmin(finite))
        raise TableError(f"{path}: row {row + 1}: {name} is {frame[name][row]}; give a finite number")
    return np.asarray(values)


def _check_complete(path: Path, choices: dict[str, list[object]], codes: NDArray[np.int64]) -> None:
    """Refuse a combination without a row, or with two."""
    ordered = np.sort(codes)
    size = int(np.prod([len(values) for values in choices.values()], dtype=object))
    if len(doubled := ordered[:-1][np.diff(ordered) == 0]):
        one, other = np.flatnonzero(codes == doubled[0])[:2] + 1
        raise TableError(f"{path}: rows {one} and {other} are the same candidate; keep one")
    if len(ordered) < size:
        gaps = np.flatnonzero(ordered != np.arange(len(ordered)))
        code = int(gaps[0]) if len(gaps) else len(ordered)
        missing = []
        for name, values in reversed(choices.items()):
            code, place = divmod(code, len(values))
            missing.append(f"{name}={values[place]}")
        raise TableError(
            f"{path}: has no row for {', '.join(reversed(missing))} ({len(ordered)} of {size} combinations are there); "
            "add it"
        )
