"""Searches, samplers and predictors on the space of a traced model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from apq_tune import (
    Evolution,
    EvolutionSampler,
    Front,
    ModelBased,
    ModelSpace,
    NSGA2Sampler,
    Objective,
    Pairs,
    Problem,
    RandomSearch,
    fit_predictor,
    load_predictor,
    search,
)
from apq_tune.cost import bit_ops, macs, weight_bytes
from apq_tune.predict.files import predictor_bytes
from apq_tune.searchers import NSGA2
from apq_tune.space.encodings import encoding_of
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import example_of, network


@pytest.fixture(scope="module")
def space() -> ModelSpace:
    return ModelSpace.of_graph(trace(network("mobilenet_v2"), example_of("mobilenet_v2")), step=4, sizes=[24, 32])


@pytest.mark.parametrize("algorithm", [RandomSearch(), NSGA2(), Evolution(), ModelBased()])
def test_searches_find_better_than_the_first_draws(space: ModelSpace, algorithm: object, tmp_path: Path) -> None:
    encoding = encoding_of(space)
    cost = bit_ops(encoding)
    problem = Problem(encoding, [Objective(cost)])
    n = 40 if isinstance(algorithm, ModelBased) else 400
    front = search(problem, algorithm=algorithm, n_evaluations=n, seed=0)
    assert cost(encoding.encode(front.candidates[:1]))[0] < np.median(
        cost(encoding.sample(100, np.random.default_rng(1)))
    )
    front.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json").candidates == front.candidates


@pytest.mark.parametrize("make", [NSGA2Sampler, EvolutionSampler])
def test_samplers_of_optuna_search_it(space: ModelSpace, make: type[NSGA2Sampler]) -> None:
    encoding, n = encoding_of(space), 2 if make is NSGA2Sampler else 1
    costs = (bit_ops(encoding), weight_bytes(encoding))[:n]
    study = optuna.create_study(sampler=make(space=space, seed=0), directions=["minimize"] * n)

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        genome = encoding.encode([space.suggest(trial)])
        return tuple(float(cost(genome)[0]) for cost in costs)

    study.optimize(objective, n_trials=25)
    assert set(study.trials[0].params) == {gene.name for gene in space.genes}
    assert study.best_trials


@pytest.mark.parametrize("form", ["ridge", "ordinal", "gp", "mean"])
def test_predictors_learn_it_and_come_back_from_files(space: ModelSpace, form: str, tmp_path: Path) -> None:
    encoding, rng = encoding_of(space), np.random.default_rng(0)
    genomes, others = encoding.sample(80, rng), encoding.sample(100, rng)
    losses = 0.1 - np.log(macs(encoding)(genomes) / 1e6) / 10
    fitted = fit_predictor(encoding, Pairs(genomes, losses), form)
    assert np.corrcoef(fitted(others), -np.log(macs(encoding)(others)))[0, 1] > 0.7
    (tmp_path / "p.npz").write_bytes(predictor_bytes(fitted))
    again = load_predictor(tmp_path / "p.npz")
    assert again.encoding.space == space
    np.testing.assert_allclose(again(others), fitted(others))
