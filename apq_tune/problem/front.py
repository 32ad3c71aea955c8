"""What a search found: the non-dominated candidates with their raw metrics, saved, loaded, plotted."""

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
from apq_tune.space.candidate import Candidate, Configuration
from apq_tune.space.encoding import Genomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT: Literal[1] = 1


class Axis(NamedTuple):
    """An objective as a front remembers it."""

    name: str
    unit: str
    direction: str


@dataclass(frozen=True)
class Front:
    """Feasible candidates none of which is worse than another in every objective.

    Attributes:
        candidates: ``Candidate``s, or ``Configuration``s of a space of named choices, by the first objective, best
            first.
        metrics: one row for each candidate, one column for each metric, raw values.
        objectives: names, units and directions.
        provenance: where it came from: space, constraints, evaluations, seed and the like.
    """

    candidates: tuple[Any, ...]
    metrics: pd.DataFrame
    objectives: tuple[Axis, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_evaluation(
        cls, problem: Problem, genomes: Genomes, evaluation: Evaluation, provenance: Mapping[str, Any]
    ) -> Front:
        """Keep the feasible non-dominated rows.

        Args:
            problem: that was evaluated.
            genomes: ``(n, n_genes)`` canonical.
            evaluation: of these genomes.
            provenance: to remember.
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
        """One row for each candidate: metrics, ``candidate`` (compact) and ``candidate_json``."""
        described = {"candidate": map(str, self.candidates), "candidate_json": [c.to_json() for c in self.candidates]}
        return self.metrics.assign(**{name: list(values) for name, values in described.items()})

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """Volume dominated below a reference point, in raw units.

        Args:
            reference: a value for the name of each objective.

        Raises:
            KeyError: if an objective has no value.
        """
        signs = np.array([1.0 if axis.direction == "minimize" else -1.0 for axis in self.objectives])
        names = [axis.name for axis in self.objectives]
        return hypervolume(self.metrics[names].to_numpy() * signs, np.array([reference[n] for n in names]) * signs)

    def plot(self, ax: Axes | None = None, **style: Any) -> Axes:
        """Draw the first two objectives, the second along x.

        Args:
            ax: where to draw; a new figure if not given.
            style: for matplotlib's ``plot``.

        Raises:
            ValueError: if there is only one objective.
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
        """All of it as one JSON document."""
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
        """Write the front to one JSON file, in a folder that is made if there is none.

        Raises:
            RunError: if the file cannot be written.
        """
        path, content = Path(path), self.to_json()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}); give the path of a file") from None

    @classmethod
    def load(cls, path: str | Path) -> Front:
        """Inverse of ``save``.

        Raises:
            RunError: if the file cannot be read or is no front of this version.
        """
        try:
            file = _File.model_validate_json(Path(path).read_bytes())
            candidates = tuple(
                Configuration.from_dict(c) if "choices" in c else Candidate.from_dict(c) for c in file.candidates
            )
        except (OSError, CandidateError) as error:
            raise RunError(f"{path}: is no readable front ({error})") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise RunError(
                f"{path}: is no front of format {FORMAT} ({where}: {first['msg']}); make it with Front.save"
            ) from None
        if absent := [axis.name for axis in file.objectives if axis.name not in file.metrics]:
            raise RunError(f"{path}: is no whole front (no values of its objective {absent[0]!r}); make it anew")
        if {len(candidates)} != {len(column) for column in file.metrics.values()}:
            raise RunError(f"{path}: is no whole front ({len(candidates)} candidates, but not as many metrics)")
        objectives = tuple(Axis(**axis.model_dump()) for axis in file.objectives)
        return cls(candidates, pd.DataFrame(file.metrics), objectives, file.provenance)


def _plain(value: Any) -> Any:
    """What JSON does not know, as what it knows; paths and the like as text."""
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
