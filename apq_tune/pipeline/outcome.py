"""What a run found, read from the directories of its stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from apq_tune.methods.searches import front_cost
from apq_tune.pipeline.choice import kept, with_choice
from apq_tune.pipeline.learning import PREDICTOR, REPORT, read_losses
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.upgrade import FILE, RAISED, Upgrade, read_upgrade
from apq_tune.predict.files import load_predictor
from apq_tune.problem.costs import Costs
from apq_tune.problem.front import Front
from apq_tune.problem.problem import Constraint
from apq_tune.space.candidate import read_candidate
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.store.files import read_json
from apq_tune.store.items import FOLDER
from apq_tune.store.stage import StageFiles


class Products(Protocol):
    """Run whose stages are done; neither its images nor its supernets are needed."""

    @property
    def encoding(self) -> GeneEncoding:
        """Encoding of the search space."""
        ...

    @property
    def costs(self) -> Costs:
        """Costs of the search space, those of the run's tables included."""
        ...

    @property
    def settings(self) -> RunSettings:
        """Settings of the run."""
        ...

    def directory(self, stage: str) -> StageFiles:
        """Files of a stage."""
        ...


class Outcome(NamedTuple):
    """Results of a run.

    Attributes:
        table: One row for each finalist and baseline, with its accuracies after training; ``chosen`` is the best of
            those that are ``feasible``.
        constraints: Constraints on candidates.
        fronts: Fronts of the searches ``best``, ``front`` and ``random``.
        predictors: Scores of the predictors, the form that the search used, and the split-half agreement of the labels.
        pairs_kept: Number of the training pairs of the predictor that satisfy the constraints.
        settings: Settings of the run.
        weights: File with the weights of the chosen network.
        seconds: Wall time of each stage in seconds.
        upgrade: Bits of a finalist that could be raised at no cost; ``None`` if none could.
    """

    table: pd.DataFrame
    constraints: tuple[Constraint, ...]
    fronts: dict[str, Front]
    predictors: dict[str, Any]
    pairs_kept: int
    settings: RunSettings
    weights: Path | None
    seconds: dict[str, float]
    upgrade: Upgrade | None = None

    @property
    def chosen(self) -> pd.Series | None:
        """Row of the chosen network; ``None`` if no trained network is feasible."""
        rows = self.table[self.table["chosen"]]
        return rows.iloc[0] if len(rows) else None


def read_outcome(run: Products, seconds: Mapping[str, float]) -> Outcome:
    """Read the results of a run whose stages are all done.

    Args:
        run: Finished run.
        seconds: Wall time of each stage in seconds.

    Raises:
        RunError: If a file of a stage is missing or damaged.
    """
    report = read_json(run.directory("predictors").checked(REPORT))
    report["fp32"] = read_json(run.directory("fp32_predictor").checked(REPORT))
    search = run.directory("search")
    fronts = {name: Front.load(search.checked(f"{name}.json")) for name in ("best", "front", "random")}
    constraints = tuple(run.costs.limits(run.settings.constraints))
    pairs, _ = read_losses(run.directory("qat_pairs"), run.encoding)
    limited = {c.metric.name: c.metric(pairs.genomes) for c in constraints}
    table = _table(run, report["error_law"], constraints)
    (chosen,) = table.loc[table["chosen"], "name"].tolist() or [None]
    return Outcome(
        table,
        constraints,
        fronts,
        report,
        int(kept(pd.DataFrame(limited, index=range(len(pairs.target))), constraints).sum()),
        run.settings,
        None if chosen is None else run.directory(RAISED if chosen == RAISED else "finalists").checked(f"{chosen}.pt"),
        dict(seconds),
        read_upgrade(run.directory(RAISED).checked(FILE))
        if is_of(run.directory(RAISED), run.directory("finalists"))
        else None,
    )


def _table(run: Products, error_law: Sequence[float], constraints: Sequence[Constraint]) -> pd.DataFrame:
    """Table of the finalists, the most expensive first."""
    items = read_trained(run.directory("finalists"), run.directory(RAISED))
    candidates = [read_candidate(item["candidate"]) for item in items.values()]
    genomes = run.encoding.encode(candidates, check=False)
    loss = load_predictor(run.directory("predictors").checked(PREDICTOR), run.encoding)(genomes)
    slope, intercept = error_law
    columns = {
        "predicted_loss": loss,
        "predicted_accuracy": np.clip(1 - np.exp(intercept) * loss**slope, 0, 1),
    }
    return networks_table(items, run.costs, constraints, columns)


def networks_table(
    items: Mapping[str, Mapping[str, Any]],
    costs: Costs,
    constraints: Sequence[Constraint],
    columns: Mapping[str, Any] = MappingProxyType({}),
) -> pd.DataFrame:
    """Table of trained networks, the most expensive first, the best of those that keep the constraints ``chosen``.

    Args:
        items: Record of each network by name: its ``candidate``, and its scores on each split.
        costs: Costs of the search space, each of which is a column.
        constraints: Constraints on candidates.
        columns: Further columns, which come after the names.
    """
    candidates = [read_candidate(item["candidate"]) for item in items.values()]
    genomes = costs.encoding.encode(candidates)
    content: dict[str, Any] = {"name": list(items), **columns, **score_columns(items.values())}
    content |= {name: metric(genomes) for name, metric in costs.metrics.items()}
    content |= {"candidate": list(map(str, candidates)), "candidate_json": [c.to_json() for c in candidates]}
    order = front_cost(constraints, costs.metrics["bit_ops"]).name
    table = pd.DataFrame(content).sort_values(order, ascending=False, kind="stable", ignore_index=True)
    return with_choice(table, constraints)


def read_items(stage: StageFiles) -> dict[str, Any]:
    """Results of the items of a stage that is done, by key.

    Raises:
        RunError: If one is missing or damaged.
    """
    names = [name for name in stage.record()["products"] if name.startswith(f"{FOLDER}/") and name.endswith(".json")]
    return {Path(name).stem: read_json(stage.checked(name)) for name in sorted(names)}


def read_trained(finalists: StageFiles, raised: StageFiles) -> dict[str, Any]:
    """Records of all networks that a run has trained in full, by name; of equal losses the first is chosen.

    Args:
        finalists: Stage of the finalists.
        raised: Stage that raises the bits of one of them; it counts if it was done for these finalists.

    Raises:
        RunError: If a result is missing or damaged.
    """
    return (read_items(raised) if is_of(raised, finalists) else {}) | read_items(finalists)


def is_of(raised: StageFiles, finalists: StageFiles) -> bool:
    """Whether the stage that raises bits is done, and was done for these finalists."""
    if not raised.begun or not raised.done:
        return False
    return bool(raised.record()["basis"]["needs"].get("finalists") == finalists.fingerprint)


def score_columns(items: Collection[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Columns ``search_accuracy`` to ``test_loss`` of trained networks, and ``test_top5`` if all records have it."""
    top5 = [item["test"].get("top5") for item in items]
    return {
        f"{split}_{kind}": [item[split][kind] for item in items]
        for split in ("search", "test")
        for kind in ("accuracy", "loss")
    } | ({} if None in top5 else {"test_top5": top5})
