"""Results of a refinement: its trainings as a table, their front, and the network that the run would have chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from apq_tune.methods.searches import front_cost
from apq_tune.pipeline.choice import kept, with_choice
from apq_tune.pipeline.finished import read_finalists
from apq_tune.pipeline.outcome import score_columns
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.upgrade import Upgrade
from apq_tune.problem.costs import Costs
from apq_tune.problem.front import Axis, Front
from apq_tune.problem.metric import Metric
from apq_tune.problem.pareto import is_non_dominated
from apq_tune.problem.problem import Constraint
from apq_tune.refine.batch import is_uniform
from apq_tune.refine.settings import RefineSettings
from apq_tune.space.candidate import candidate_in, read_candidate
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.network_space import NetworkCandidate


class Chosen(NamedTuple):
    """Candidate proposed by a round."""

    name: str  # round and number, such as "2-05", or "2-05-raised"
    candidate: NetworkCandidate
    found: str  # search that found it: uniform, staged or joint; or raised
    predicted_loss: float  # after the QAT of the rounds, as predicted when it was proposed, nats


class RefinedCandidate(NamedTuple):
    """Result of training a candidate."""

    chosen: Chosen
    stage: str  # "round 2", "rung 4" or "raised"
    epochs: int
    scores: dict[str, dict[str, float]]  # by split; on the test split at full length only

    @property
    def loss(self) -> float:
        """Cross-entropy on the search split, nats."""
        return self.scores["search"]["loss"]


class Refined(NamedTuple):
    """Results of a refinement.

    Attributes:
        table: One row for each training, in the order of rounds and rungs.
        constraints: Constraints, which every candidate satisfies.
        front: Front of search loss and constrained cost among the trainings at full length.
        best: Row of ``table`` with the lowest search loss at full length, which is ``chosen`` there.
        uniform: Row with the lowest search loss among uniform policies; ``None`` if none is feasible.
        of_run: Network that the run chooses under these constraints; ``None`` if it trained no feasible one.
        weights: File with the weights of the best network.
        upgrade: Bits that could be raised at no cost; ``None`` if none could.
    """

    table: pd.DataFrame
    constraints: tuple[Constraint, ...]
    front: Front
    best: int
    uniform: int | None
    of_run: pd.Series | None
    weights: Path
    upgrade: Upgrade | None = None


def assembled(
    results: Sequence[RefinedCandidate],
    settings: RefineSettings,
    costs: Costs,
    constraints: Sequence[Constraint],
    path: Path,
    run: Path,
    of_run: RunSettings,
    upgrade: Upgrade | None = None,
) -> Refined:
    """Results of a refinement from those of its trainings.

    Args:
        results: Results of the trainings, in the order of rounds and rungs.
        settings: Settings of the refinement.
        costs: Costs of the search space.
        constraints: Constraints on candidates.
        path: Directory of the refinement.
        run: Directory of the run that it refines.
        of_run: Settings of that run.
        upgrade: Bits that could be raised at no cost.
    """
    encoding, fidelity = costs.encoding, f"QAT, {settings.final_epochs} epochs"
    assert isinstance(encoding, GeneEncoding)
    table = trainings_table(results, encoding, costs.metrics)
    final = table[table["epochs"] == settings.final_epochs]
    uniform = final[final["uniform"]]
    best = int(final["search_loss"].idxmin())
    table.insert(1, "feasible", kept(table, constraints))
    table.insert(2, "chosen", table.index == best)
    folder = str(final.loc[best, "stage"]).replace(" ", "_")
    about = {
        "space": encoding.name,
        "constraints": [str(c) for c in constraints],
        "fidelity": fidelity,
        "seed": settings.seed,
    }
    return Refined(
        table,
        tuple(constraints),
        front_of_trainings(final, front_cost(constraints, costs.metrics["bit_ops"]), costs.metrics, about),
        best,
        int(uniform["search_loss"].idxmin()) if len(uniform) else None,
        best_finalist(read_finalists(run), encoding, costs.metrics, constraints, f"QAT, {of_run.final.epochs} epochs"),
        path / folder / f"{table.loc[best, 'name']}.pt",
        upgrade,
    )


def trainings_table(
    results: Sequence[RefinedCandidate], encoding: GeneEncoding, metrics: Mapping[str, Metric]
) -> pd.DataFrame:
    """Table with one row for each training; scores that a training does not have are NaN.

    Args:
        results: Results of the trainings.
        encoding: Encoding of the search space.
        metrics: Cost metrics by name, each of which is a column.
    """
    genomes = encoding.encode([result.chosen.candidate for result in results], check=False)
    nothing = {"loss": np.nan, "accuracy": np.nan}
    columns: dict[str, Any] = {
        "name": [r.chosen.name for r in results],
        "stage": [r.stage for r in results],
        "fidelity": [f"QAT, {r.epochs} epochs" for r in results],
        "epochs": [r.epochs for r in results],
        "round": [int(r.chosen.name.split("-")[0]) for r in results],
        "found": [r.chosen.found for r in results],
        "uniform": is_uniform(encoding, genomes),
        "predicted_loss": [r.chosen.predicted_loss for r in results],
    }
    columns |= {
        f"{split}_{kind}": [r.scores.get(split, nothing)[kind] for r in results]
        for split in ("search", "test")
        for kind in ("loss", "accuracy")
    }
    columns |= {name: metric(genomes) for name, metric in metrics.items()}
    columns |= {"candidate": [str(r.chosen.candidate) for r in results]}
    columns |= {"candidate_json": [r.chosen.candidate.to_json() for r in results]}
    return pd.DataFrame(columns)


def front_of_trainings(
    table: pd.DataFrame, cost: Metric, metrics: Mapping[str, Metric], about: Mapping[str, Any]
) -> Front:
    """Front of search loss and a cost.

    Args:
        table: Trainings of one length, see ``trainings_table``.
        cost: Cost to trade off against the loss.
        metrics: Cost metrics by name, which the front shows beside the scores.
        about: Description of the search, see ``Front``.
    """
    rows = table[is_non_dominated(table[["search_loss", cost.name]].to_numpy(np.float64))]
    rows = rows.sort_values("search_loss")
    names = ["search_loss", "search_accuracy", "test_loss", "test_accuracy", *metrics]
    return Front(
        tuple(map(candidate_in, rows["candidate_json"])),
        rows[names].reset_index(drop=True),
        (Axis("search_loss", "nats", "minimize"), Axis(cost.name, cost.unit, "minimize")),
        dict(about),
    )


def best_finalist(
    items: Mapping[str, Mapping[str, Any]],
    encoding: GeneEncoding,
    metrics: Mapping[str, Metric],
    constraints: Sequence[Constraint],
    fidelity: str,
) -> pd.Series | None:
    """Best finalist of a run under given constraints; ``None`` if no finalist satisfies them.

    Args:
        items: Records of the finalists by name.
        encoding: Encoding of the search space.
        metrics: Cost metrics by name.
        constraints: Constraints on the metrics.
        fidelity: Description of the finalists' training, the last column.
    """
    if not items:
        return None
    candidates = [read_candidate(item["candidate"]) for item in items.values()]
    genomes = encoding.encode(candidates, check=False)
    columns = {"name": list(items), **score_columns(items.values())}
    columns |= {name: metric(genomes) for name, metric in metrics.items()}
    table = with_choice(pd.DataFrame(columns | {"fidelity": fidelity}), constraints)
    return table[table["chosen"]].iloc[0] if table["chosen"].any() else None
