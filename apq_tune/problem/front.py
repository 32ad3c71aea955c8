"""Pareto front of a search: the non-dominated candidates with their raw metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from apq_tune.errors import CandidateError, RunError
from apq_tune.problem.pareto import hypervolume, is_non_dominated
from apq_tune.problem.problem import Evaluation, Problem
from apq_tune.space.candidate import read_candidate
from apq_tune.space.encoding import Genomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT: Literal[1] = 1


class Axis(NamedTuple):
    """Objective of a front: name, unit, and ``"minimize"`` or ``"maximize"``."""

    name: str
    unit: str
    direction: str


@dataclass(frozen=True)
class Front:
    """Feasible candidates that do not dominate each other.

    Attributes:
        candidates: Candidates (``Candidate``, or ``Configuration`` for a space of named choices), the best by the
            first objective first.
        metrics: Raw metric values, one row per candidate and one column per metric.
        objectives: Names, units and directions of the objectives.
        provenance: Origin of the front, such as search space, constraints, number of evaluations and seed.
    """

    candidates: tuple[Any, ...]
    metrics: pd.DataFrame
    objectives: tuple[Axis, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_evaluation(
        cls, problem: Problem, genomes: Genomes, evaluation: Evaluation, provenance: Mapping[str, Any]
    ) -> Front:
        """Keep the feasible non-dominated candidates of an evaluation.

        Args:
            problem: Problem that was evaluated.
            genomes: Canonical genomes, shape ``(n, n_genes)``.
            evaluation: Evaluation of the genomes.
            provenance: Origin of the front.
        """
        feasible = np.flatnonzero(evaluation.feasible)
        best = feasible[is_non_dominated(evaluation.F[feasible])]
        _, first = np.unique(genomes[best], axis=0, return_index=True)
        best = best[np.sort(first)]
        best = best[np.lexsort(evaluation.F[best].T[::-1])]
        return cls(
            tuple(problem.encoding.decode(genomes[best])),
            pd.DataFrame(evaluation.metrics[best], columns=[m.name for m in problem.metrics]),
            tuple(Axis(o.metric.name, o.metric.unit, o.direction) for o in problem.objectives),
            dict(provenance),
        )

    def __len__(self) -> int:
        return len(self.candidates)

    def to_dataframe(self) -> pd.DataFrame:
        """Table with one row per candidate: metrics, ``candidate`` (compact notation) and ``candidate_json``."""
        described = {"candidate": map(str, self.candidates), "candidate_json": [c.to_json() for c in self.candidates]}
        return self.metrics.assign(**{name: list(values) for name, values in described.items()})

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """Hypervolume of the front with respect to a reference point, in raw units.

        Args:
            reference: Reference value of each objective, by name.

        Raises:
            KeyError: If the value of an objective is missing.
        """
        signs = np.array([1.0 if axis.direction == "minimize" else -1.0 for axis in self.objectives])
        names = [axis.name for axis in self.objectives]
        return hypervolume(self.metrics[names].to_numpy() * signs, np.array([reference[n] for n in names]) * signs)

    def plot(self, ax: Axes | None = None, **style: Any) -> Axes:
        """Plot the first objective against the second one, which is on the x axis.

        Args:
            ax: Axes to draw on; by default those of a new figure.
            style: Keyword arguments of matplotlib's ``plot``.

        Raises:
            ValueError: If there is only one objective.
        """
        if len(self.objectives) < 2:
            raise ValueError(f"a plot needs two objectives, this front has only {self.objectives[0].name}")
        from matplotlib.figure import Figure

        y, x = self.objectives[:2]
        ax = Figure().subplots() if ax is None else ax
        rows = self.metrics.sort_values(x.name)
        ax.plot(rows[x.name], rows[y.name], **({"marker": "o", "linestyle": "-"} | style))
        ax.set_xlabel(f"{x.name} ({x.unit})")
        ax.set_ylabel(f"{y.name} ({y.unit})")
        return ax

    def to_json(self) -> str:
        """Serialize the front to a JSON document."""
        return json.dumps(
            {
                "format": FORMAT,
                "objectives": [axis._asdict() for axis in self.objectives],
                "provenance": dict(self.provenance),
                "metrics": self.metrics.to_dict(orient="list"),
                "candidates": [candidate.to_dict() for candidate in self.candidates],
            },
            indent=1,
            default=_plain,
        )

    def save(self, path: str | Path) -> None:
        """Write the front to a JSON file; missing parent folders are created.

        Raises:
            RunError: If the file cannot be written.
        """
        path, content = Path(path), self.to_json()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}); give the path of a file") from None

    @classmethod
    def load(cls, path: str | Path) -> Front:
        """Read a front that ``save`` wrote.

        Raises:
            RunError: If the file cannot be read, is incomplete, or is not a front in this format.
        """
        try:
            file = _File.model_validate_json(Path(path).read_bytes())
            candidates = tuple(map(read_candidate, file.candidates))
        except (OSError, CandidateError) as error:
            raise RunError(f"{path}: is not a readable front ({error})") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise RunError(
                f"{path}: is not a front of format {FORMAT} ({where}: {first['msg']}); make it with Front.save"
            ) from None
        if absent := [axis.name for axis in file.objectives if axis.name not in file.metrics]:
            raise RunError(f"{path}: is an incomplete front (objective {absent[0]!r} has no values); create it again")
        if {len(candidates)} != {len(column) for column in file.metrics.values()}:
            raise RunError(f"{path}: is an incomplete front ({len(candidates)} candidates, but not as many metrics)")
        objectives = tuple(Axis(**axis.model_dump()) for axis in file.objectives)
        return cls(candidates, pd.DataFrame(file.metrics), objectives, file.provenance)


def _plain(value: Any) -> Any:
    """Convert a value that JSON does not support: arrays and sets to lists, other objects to text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return dict(value) if isinstance(value, Mapping) else str(value)


class _AxisEntry(BaseModel):
    name: str
    unit: str
    direction: Literal["minimize", "maximize"]


class _File(BaseModel):
    format: Literal[1]
    objectives: list[_AxisEntry]
    provenance: dict[str, Any]
    metrics: dict[str, list[int | float]]
    candidates: list[dict[str, Any]]
