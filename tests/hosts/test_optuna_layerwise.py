"""LayerwiseDDPGSampler on Optuna studies: the wall from the first trial on, and nothing but the study decides."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from ray import tune

from apq_tune import (
    AdditiveMetric,
    APQObjective,
    ApqSearch,
    Constraint,
    FunctionMetric,
    LayerwiseDDPGSampler,
    ModelSpace,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    SearchSpace,
)
from apq_tune.cost import bit_ops, macs, weight_bytes
from apq_tune.searchers.layerwise.settings import AMC, HAQ, AgentSettings
from apq_tune.space.encodings import encoding_of
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import example_of, network

AGENT = AgentSettings(hidden=8, batch=8)
QUICK: dict[str, Any] = {
    "channels": replace(AMC, warm_up=6, agent=AGENT),
    "bits": replace(HAQ, warm_up=6, agent=AGENT),
}


@pytest.fixture(autouse=True)
def _silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def limited(encoding: Any, part: float = 0.2) -> Problem:
    low, high = bit_ops(encoding).reachable()
    least, most = weight_bytes(encoding).reachable()
    limits = [
        Constraint(bit_ops(encoding), low + part * (high - low)),
        Constraint(weight_bytes(encoding), least + 2 * part * (most - least)),
    ]
    return Problem(encoding, [Objective(macs(encoding), "maximize")], limits)


@pytest.mark.parametrize("kind", ["blocks", "rules", "model"])
def test_every_trial_keeps_the_limits_and_none_comes_twice(
    kind: str, encoding: NetworkEncoding, tiny: NetworkEncoding
) -> None:
    if kind == "model":
        traced = ModelSpace.of_graph(trace(network("resnet14"), example_of("resnet14")), step=8)
        problem = limited(encoding_of(traced))
    else:
        problem = limited(encoding if kind == "blocks" else tiny)
    objective = APQObjective(problem)
    study = optuna.create_study(directions=objective.directions, sampler=LayerwiseDDPGSampler(problem=problem, **QUICK))
    study.optimize(objective, n_trials=10)
    space = problem.encoding.space
    genomes = problem.encoding.encode([space.from_config(trial.params) for trial in study.trials])
    assert problem.evaluate(genomes).feasible.all()
    assert len(np.unique(genomes, axis=0)) == 10


def path(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def test_a_new_sampler_on_a_resumed_study_goes_on_as_if_it_had_never_stopped(encoding: NetworkEncoding) -> None:
    problem = limited(encoding)
    objective = APQObjective(problem)

    def study() -> optuna.Study:
        return optuna.create_study(
            directions=objective.directions, sampler=LayerwiseDDPGSampler(problem=problem, seed=1, **QUICK)
        )

    whole, half = study(), study()
    whole.optimize(objective, n_trials=14)
    half.optimize(objective, n_trials=9)
    half.sampler = pickle.loads(pickle.dumps(LayerwiseDDPGSampler(problem=problem, seed=1, **QUICK)))
    half.optimize(objective, n_trials=5)
    assert path(half) == path(whole)


def test_limits_on_the_users_own_metric_and_parameters_beside_the_space() -> None:
    space = SearchSpace.from_choices({"a": range(5), "b": range(5), "op": ["x", "y", "z"]})
    own = FunctionMetric("own", "", lambda genomes: genomes.sum(axis=1).astype(float))
    sampler = LayerwiseDDPGSampler(space=space, constraints=[Constraint(own, 3.0)], **QUICK)
    study, sums = optuna.create_study(sampler=sampler), []

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", 1e-3, 1e-1, log=True)
        candidate = dict(space.suggest(trial).values)
        sums.append(candidate["a"] + candidate["b"] + "xyz".index(candidate["op"]))
        return float(rate - sums[-1])

    study.optimize(objective, n_trials=20)
    assert max(sums) == 3
    assert len({trial.params["rate"] for trial in study.trials}) > 5
    with pytest.raises(ProblemError, match=r"^constraints are own <= 3; give the space"):
        LayerwiseDDPGSampler(constraints=[Constraint(own, 3.0)])
    study = optuna.create_study(sampler=LayerwiseDDPGSampler(space=space, constraints=[Constraint(own, -1.0)]))
    with pytest.raises(ProblemError, match=r"^no policy with own <= -1 was found; the closest misses one by 100%"):
        study.ask({"a": optuna.distributions.CategoricalDistribution(range(5))})


def test_a_problem_of_sums_of_terms_has_a_wall() -> None:
    """An allocation of bits as an additive problem: the loss falls, the cost grows with each layer's choice."""
    space = SearchSpace.from_choices({f"layer {i}": [4, 8] for i in range(8)})
    rng = np.random.default_rng(0)
    cost = AdditiveMetric.of_genes("cost", "", space, {i: np.array([0.0, w]) for i, w in enumerate(rng.random(8))})
    loss = AdditiveMetric.of_genes("loss", "", space, {i: np.array([w, 0.0]) for i, w in enumerate(rng.random(8))})
    problem = Problem(space, [Objective(loss)], [Constraint(cost, 1.5)])
    objective = APQObjective(problem)
    study = optuna.create_study(directions=objective.directions, sampler=LayerwiseDDPGSampler(problem=problem, **QUICK))
    study.optimize(objective, n_trials=25)
    assert all(trial.user_attrs["cost"] <= 1.5 for trial in study.trials)


def test_the_wall_holds_in_a_part_of_a_space_that_tune_fixes(tiny: NetworkEncoding) -> None:
    problem = limited(tiny, 0.5)
    search = ApqSearch(problem, LayerwiseDDPGSampler(problem=problem, **QUICK), max_concurrent=1)
    given = tiny.space.to_tune() | {"depth 1": 2, "1.1 pw_w_bits": tune.choice([8])}
    search.set_search_properties(None, None, given)
    objective = APQObjective(problem)
    for number in range(10):
        config = search.suggest(str(number))
        assert (config["depth 1"], config["1.1 pw_w_bits"]) == (2, 8)
        result = objective(config)
        assert result["violation"] == 0
        search.on_trial_complete(str(number), result | {"config": config, "done": True})
