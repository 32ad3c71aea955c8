"""Answers of a finished run to new limits: predicted networks, with what tells how far to trust the predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from apq_tune.pipeline.outcome import networks_table
from apq_tune.problem.costs import Costs
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.network_space import NetworkCandidate

SCORES = ("loss", "accuracy")


class Solution(NamedTuple):
    """Answer to one set of limits. Its loss and accuracy are predictions; only its costs are certain.

    Attributes:
        name: Name of the answer, such as ``"answer_1"``.
        constraints: Limits, all of which the candidate keeps.
        candidate: Candidate with the least predicted loss; ``None`` if no candidate keeps the limits.
        predicted_loss: Cross-entropy in nats after the short QAT of the run's pairs, as predicted.
        predicted_accuracy: The same as a fraction of right images, by the run's law of error and loss.
        costs: All costs by name.
        distance: Distance from the nearest pair that the predictor learned from (``predict.nearness``).
        pairs_kept: Number of pairs that keep the limits.
        outside: Whether the predictor is asked outside of what it learned: the distance is larger than that of any pair
            from the others, or no pair keeps the limits.
        trained: Name of the network with the least search loss among those that the run has trained and that keep the
            limits; empty if there is none.
        trained_scores: Its measured search loss and accuracy.
        why: Reason why there is no candidate; empty if there is one.
        scores: Measured scores by split after QAT; empty if the answer is not trained.
    """

    name: str
    constraints: tuple[Constraint, ...]
    candidate: NetworkCandidate | None = None
    predicted_loss: float = np.nan
    predicted_accuracy: float = np.nan
    costs: Mapping[str, float] = {}
    distance: float = np.nan
    pairs_kept: int = 0
    outside: bool = False
    trained: str = ""
    trained_scores: Mapping[str, float] = {}
    why: str = ""
    scores: Mapping[str, Mapping[str, float]] = {}


@dataclass(frozen=True)
class Solutions:
    """Answers of a finished run to new limits.

    Attributes:
        path: Directory of the run.
        encoding: Encoding of its search space.
        costs: Costs of its search space.
        swept: Costs of which several limits were asked for.
        answers: One for each set of limits, in the order in which these were given.
        predictors: Report on the run's predictors: the form in use, and scores on held-out pairs.
        n_pairs: Number of pairs that the predictor learned from.
        n_evaluations: Number of candidates that each search scored.
        seed: Random seed.
    """

    path: Path
    encoding: GeneEncoding
    costs: Costs
    swept: tuple[Metric, ...]
    answers: tuple[Solution, ...]
    predictors: Mapping[str, Any]
    n_pairs: int
    n_evaluations: int
    seed: int = 0

    @property
    def table(self) -> pd.DataFrame:
        """One row for each answer: limits, predictions with what tells how far to trust them, costs, candidate."""
        rows, measured = [], any(one.scores for one in self.answers)
        for one in self.answers:
            row: dict[str, Any] = {"name": one.name}
            row |= {f"limit {c.metric.name}" + ("" if c.sense == "<=" else " >="): c.bound for c in one.constraints}
            row |= {"predicted_loss": one.predicted_loss, "predicted_accuracy": one.predicted_accuracy}
            row |= {"outside": one.outside, "distance": one.distance, "pairs_kept": one.pairs_kept}
            if measured:
                row |= {
                    f"{split}_{kind}": one.scores[split][kind] if one.scores else np.nan
                    for split in ("search", "test")
                    for kind in SCORES
                }
            row |= {"trained": one.trained}
            row |= {f"trained_search_{kind}": one.trained_scores.get(kind, np.nan) for kind in SCORES}
            row |= {name: one.costs.get(name, np.nan) for name in self.costs.metrics}
            row |= {"why": one.why, "candidate": "" if one.candidate is None else str(one.candidate)}
            row |= {"candidate_json": "" if one.candidate is None else one.candidate.to_json()}
            rows.append(row)
        return pd.DataFrame(rows)


def best_trained(
    records: Mapping[str, Any], costs: Costs, limits: Sequence[Constraint]
) -> tuple[str, dict[str, float]]:
    """Name and search scores of the best trained network that keeps limits; nothing if there is none."""
    if not records:
        return "", {}
    table = networks_table(records, costs, limits)
    for row in table[table["chosen"]].to_dict(orient="records"):
        return str(row["name"]), {kind: float(row[f"search_{kind}"]) for kind in SCORES}
    return "", {}


def of_trained(
    solutions: Solutions, finalists: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]]
) -> Solutions:
    """Answers with their measured scores, and with the best network among them and the finalists for each.

    Args:
        solutions: Answers of a run.
        finalists: Records of the networks that the run has trained, at the same length, by name.
        scores: Measured scores of the answers, by name and split.
    """
    own = {one.name: one.candidate.to_dict() for one in solutions.answers if one.candidate}
    records = {**finalists, **{name: {"candidate": own[name], **measured} for name, measured in scores.items()}}
    answers = []
    for one in solutions.answers:
        if one.name in scores:
            name, best = best_trained(records, solutions.costs, one.constraints)
            one = one._replace(scores=scores[one.name], trained=name, trained_scores=best)
        answers.append(one)
    return dataclasses.replace(solutions, answers=tuple(answers))
