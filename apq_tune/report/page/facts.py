"""Everything that a report says is derived from this: results of a run, of a refinement or of one method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pandas as pd

from apq_tune.cost import CostTable
from apq_tune.problem.costs import Costs
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.space.network_space import NetworkSpace

Role = Literal["joint", "uniform", "staged", "largest", "raised", "other"]
"""How a network was found: by joint search, by one of its baselines, as the largest network, by raising the bits of
another one, or in another way."""

FORMULAS = {
    "macs": "counted from the layers",
    "sparse_macs": "counted from the layers without pruned weights, in theory: dense kernels multiply zeros, too",
    "bit_ops": "counted from the layers: multiply-accumulates times the bits of weight and input",
    "weight_bytes": "formula: weights packed at their bits (of sparse layers what is kept, and where), and 8 bytes for "
    "each output channel",
    "peak_activation_bytes": "formula: activations that are alive at the same time, packed at their bits",
    "latency_ms": "analytic model of the BitFusion accelerator, not a measurement of your device",
    "energy_mj": "analytic model of the BitFusion accelerator, not a measurement of your device",
}
"""Sources of the built-in costs."""


MEASURED = re.compile(r"\bmeasured\b")
"""Word by which a table says that its rows were measured."""


class CostSource(NamedTuple):
    """Where the values of a cost come from.

    Attributes:
        label: ``"estimate"`` of a formula, ``"measured op by op"`` if a table says so, or ``"from a table"``.
        text: Formula or table in words.
    """

    label: str
    text: str


class OtherSeed(NamedTuple):
    """Run in a folder beside that differs from this one by its seed alone.

    Attributes:
        name: Name of the folder.
        seed: Its seed.
        accuracy: Accuracy of its chosen network on test images as a fraction.
    """

    name: str
    seed: int
    accuracy: float


class Beside(NamedTuple):
    """Network that another command has chosen in a folder beside.

    Attributes:
        name: Name of the folder.
        what: What the command was.
        accuracy: Accuracy on test images as a fraction.
        feasible: Whether it keeps the limits of this report.
        costs: Value of each limited cost by name.
    """

    name: str
    what: str
    accuracy: float
    feasible: bool
    costs: Mapping[str, float]


@dataclass(frozen=True)
class ReportFacts:
    """Facts of one report.

    Attributes:
        kind: Which command made the results.
        path: Directory of the results, as it was given.
        run: Directory of the run, for commands; the same for a run.
        command: Command line that made the results.
        data: Name of the data set, or its folder.
        versions: Versions of packages by name.
        space: Search space.
        costs: Costs of the search space.
        tables: Cost tables by name of the file.
        table_sources: What tables say of the sources of their rows, by name of the file.
        constraints: Constraints on candidates.
        cost: Cost that the front trades off against loss.
        networks: Networks that were trained in full and scored on test images, one row for each, with ``name``,
            ``role``, ``feasible``, ``chosen``, ``search_loss``, ``search_accuracy``, ``test_loss``, ``test_accuracy``,
            all costs, ``candidate`` and ``candidate_json``; ``predicted_loss`` and ``predicted_accuracy`` may be NaN.
        evaluated: All candidates that were evaluated, one row for each evaluation, with ``stage``, ``name``, ``loss``,
            ``accuracy``, ``test_accuracy``, ``predicted_loss``, ``feasible``, all costs, ``candidate`` and
            ``candidate_json``; scores that an evaluation does not have are NaN.
        fidelity: Training of ``networks`` in words.
        images: Number of images of each split; empty if the run has not recorded them.
        seeds: Seeds by what they determine.
        seconds: Wall time of each stage by name.
        predictors: Report of the stage that fits predictors; ``None`` if there is none.
        evaluations: Number of candidates that each search scored, by name of the search.
        rivals: Candidate of each baseline as JSON, ``None`` if no candidate of its kind keeps the limits.
        beside: Networks that other commands have chosen.
        other_seeds: Runs beside that differ by their seeds alone.
        spend: Measurements that a method made, by kind.
        budget: Measurements that every method may make, by kind; supernets are ``proxy`` together.
        training: Settings of the training of ``networks``.
        lines: Lines about the images, as the run recorded them.
        upgrades: Lines about bits that were raised at no cost, or could have been.
        remark: How the result compares with that of the run that it refines; empty for other kinds.
        limits_of_run: Whether the constraints are those of the run.
    """

    kind: Literal["run", "refinement", "method"]
    path: str
    run: str
    command: str
    data: str
    versions: Mapping[str, str]
    space: NetworkSpace
    costs: Costs
    tables: Mapping[str, CostTable]
    constraints: tuple[Constraint, ...]
    cost: Metric
    networks: pd.DataFrame
    evaluated: pd.DataFrame
    fidelity: str
    images: Mapping[str, int] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    predictors: Mapping[str, Any] | None = None
    evaluations: Mapping[str, int] = field(default_factory=dict)
    rivals: Mapping[str, str | None] = field(default_factory=dict)
    beside: tuple[Beside, ...] = ()
    other_seeds: tuple[OtherSeed, ...] = ()
    spend: Mapping[str, int] = field(default_factory=dict)
    budget: Mapping[str, int] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    upgrades: tuple[str, ...] = ()
    table_sources: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    limits_of_run: bool = True

    @property
    def n_test(self) -> int:
        """Number of test images; 0 if it is not known."""
        return int(self.images.get("test", 0))

    @property
    def chosen(self) -> dict[str, Any] | None:
        """Row of the chosen network; ``None`` if no network keeps all limits."""
        rows = self.networks[self.networks["chosen"]].to_dict(orient="records")
        return dict(rows[0]) if rows else None

    def source(self, metric: str) -> CostSource:
        """Where the values of a cost come from."""
        for name, table in self.tables.items():
            if metric in table.metrics:
                says = self.table_sources.get(name, "")
                label = "measured op by op" if MEASURED.search(says) else "from a table"
                rows = f" ({says})" if says else ""
                return CostSource(label, f"table {name}{rows}: values of single ops or blocks, added up")
        return CostSource("estimate", FORMULAS.get(metric, "formula"))
