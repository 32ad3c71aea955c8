"""All evaluated candidates as Optuna studies, one for each kind of evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from apq_tune.hosts.evaluated import EvaluatedCandidate, EvaluatedStudy
from apq_tune.problem.problem import Objective, Problem
from apq_tune.report.page.facts import ReportFacts
from apq_tune.space.candidate import candidate_in

SCORES = ("accuracy", "test_accuracy", "predicted_loss", "predicted_accuracy")


def studies_of(facts: ReportFacts) -> list[EvaluatedStudy]:
    """One study for each kind of evaluation, since losses of different kinds are not comparable.

    Objectives are the loss, predicted where nothing was measured, and the cost of the front.
    """
    names = Problem(facts.costs.encoding, [Objective(facts.cost)], facts.constraints).constraint_names
    found = []
    for stage, rows in facts.evaluated.groupby("stage", sort=False):
        loss = "loss" if rows["loss"].notna().all() else "predicted_loss"
        trials = []
        for row in rows.to_dict(orient="records"):
            violations = {
                name: float(c.violation(np.array([float(row[c.metric.name])]))[0])
                for name, c in zip(names, facts.constraints, strict=True)
            }
            attributes: dict[str, Any] = {"name": str(row["name"]), "candidate": str(row["candidate"])}
            attributes |= {
                name: float(row[name]) for name in (*SCORES, *facts.costs.metrics) if not math.isnan(row[name])
            }
            values = float(row[loss]), float(row[facts.cost.name])
            trials.append(EvaluatedCandidate(candidate_in(row["candidate_json"]), values, violations, attributes))
        found.append(EvaluatedStudy(f"{facts.space.name}: {stage}", (loss, facts.cost.name), trials))
    return found
