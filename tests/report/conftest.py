"""Facts of a made-up run, from which reports are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from apq_tune import Constraint, NetworkEncoding
from apq_tune.pipeline.choice import with_choice
from apq_tune.problem.costs import Costs
from apq_tune.report.page.facts import ReportFacts
from apq_tune.report.page.read import _evaluated, _priced, _trained

NAMES = ("largest_8bit", "best", "staged", "uniform", "front_1")
ROLES = ("largest", "joint", "staged", "uniform", "joint")

SCORES = {"kendall_tau": 0.6, "pairwise_accuracy": 0.8, "rmse_log": 0.2, "n": 32}
PREDICTORS: dict[str, Any] = {
    "held_out": {"mean": SCORES},
    "proxy alone": SCORES,
    "split_half": {"qat pairs": SCORES},
    "used": "mean",
    "useless": False,
    "why": "",
    "n": 32,
    "support": {"macs": {"kendall_tau": 0.1, "low": -0.2, "high": 0.4}},
}


@pytest.fixture(scope="module")
def facts(encoding: NetworkEncoding) -> ReportFacts:
    """A made-up run of the digits: the largest network is over the limit, joint search is behind the baselines."""
    costs = Costs.of(encoding)
    largest = encoding.ends()[1:]
    genomes = np.concatenate([largest, encoding.at_bits(encoding.sample(4, np.random.default_rng(1)), 4)])
    texts = [candidate.to_json() for candidate in encoding.decode(genomes)]
    scores = {
        "name": NAMES,
        "search_loss": [0.02, 0.04, 0.03, 0.01, 0.06],
        "search_accuracy": [0.99, 0.97, 0.98, 0.99, 0.96],
        "test_loss": [0.02, 0.04, 0.03, 0.01, 0.06],
        "test_accuracy": [0.99, 0.96, 0.98, 0.985, 0.95],
        "predicted_loss": [0.03, 0.03, 0.04, 0.02, 0.05],
        "predicted_accuracy": [0.985, 0.98, 0.975, 0.99, 0.97],
    }
    limit = Constraint(costs.metrics["bit_ops"], 0.5 * float(costs.metrics["bit_ops"](largest)[0]))
    networks = with_choice(_priced(pd.DataFrame(scores), texts, encoding, costs.metrics), (limit,))
    networks = networks.assign(role=ROLES)
    drawn = [candidate.to_json() for candidate in encoding.decode(encoding.sample(30, np.random.default_rng(2)))]
    pairs = pd.DataFrame({"name": [f"qat {i}" for i in range(30)], "loss": np.linspace(0.1, 1, 30), "accuracy": 0.9})
    front = pd.DataFrame({"predicted_loss": np.linspace(0.02, 0.3, 30), "name": [f"front {i}" for i in range(30)]})
    front["predicted_accuracy"] = 1 - front["predicted_loss"] / 4
    parts = [
        _trained(networks, "trained in full (QAT, 6 epochs)"),
        _priced(pairs.assign(stage="short QAT"), drawn, encoding, costs.metrics),
        _priced(front.assign(stage="predicted front"), drawn, encoding, costs.metrics),
    ]
    return ReportFacts(
        kind="run",
        path="runs/digits",
        run="runs/digits",
        command="apq-tune run digits",
        data="digits",
        versions={"apq-tune": "0.1.0"},
        space=encoding.space,
        costs=costs,
        tables={},
        constraints=(limit,),
        cost=costs.metrics["bit_ops"],
        networks=networks,
        evaluated=_evaluated(parts, costs, (limit,)),
        fidelity="QAT, 6 epochs",
        images={"train": 898, "search": 449, "test": 450},
        seeds={"run": 7},
        seconds={"supernet": 60.0, "search": 20.0},
        predictors=PREDICTORS,
        evaluations={"best": 100, "front": 100, "random": 100},
        rivals={"uniform": None, "staged": None},
        training={"epochs": 6, "batch_size": 32},
    )
