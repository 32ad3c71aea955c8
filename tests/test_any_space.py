"""Public objects do not care which kind of space they are given: networks, named choices, or a kind of one's own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
import pytest

import apq_tune
from apq_tune import Configuration, Front, FunctionMetric, Gene, Objective, Problem, SearchSpace
from apq_tune.methods.projections import everything, tied_bits, uniform_wa_bits
from apq_tune.methods.subspace import Subspace
from apq_tune.predict.files import predictor_bytes
from apq_tune.predict.forms import PlainForm
from apq_tune.space.encodings import encoding_of
from apq_tune.space.measured import measured_values, outside, within
from apq_tune.studies.sweep import Sweep, SweepTask, results_frame, run_task


class Layers(apq_tune.Space):
    """A kind of space of one's own, without a network: widths and bits of three layers."""

    name = "layers"

    @functools.cached_property
    def genes(self) -> tuple[Gene, ...]:
        kinds: dict[Any, tuple[int, ...]] = {"width": (4, 8, 16), "w_bits": (2, 4, 8), "a_bits": (4, 8)}
        return tuple(Gene(f"{n} {kind}", kind, values, str(n)) for n in (1, 2, 3) for kind, values in kinds.items())

    def candidate_of(self, values):
        return Configuration(tuple((name, values[name]) for name in self.parameters))

    def values_of(self, candidate):
        return dict(candidate.values)


SPACES = {
    "network": SearchSpace.load("digits"),
    "choices": SearchSpace.from_choices({"width": [8, 16, 32], "act": ["relu", "gelu"], "rate": [0.1, 0.01, 0.001]}),
    "own": Layers(),
}


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> Any:
    return SPACES[request.param]


def problem_of(space: Any) -> Problem:
    encoding = encoding_of(space)
    width = encoding.n_arch_features + encoding.n_bit_features
    gain = FunctionMetric("gain", "", lambda g: 1 + encoding.features(g) @ np.arange(width) / width**2)
    cost = FunctionMetric("cost", "", lambda g: 1.0 + g.sum(axis=1))
    return Problem(space, [Objective(gain, "maximize"), Objective(cost)])


@pytest.mark.parametrize("algorithm", ["Evolution", "NSGA2", "RandomSearch", "ModelBased", "LayerwiseDDPG"])
def test_every_search_gives_a_front_that_its_file_gives_again(space: Any, algorithm: str, tmp_path: Path) -> None:
    n = 20 if algorithm in ("ModelBased", "LayerwiseDDPG") else 200
    front = apq_tune.search(problem_of(space), getattr(apq_tune, algorithm)(), n_evaluations=n, seed=1)
    front.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json").candidates == front.candidates
    assert len(front.to_dataframe()) == len(front) > 0


@pytest.mark.parametrize("form", get_args(PlainForm))
def test_every_predictor_is_fitted_saved_and_loaded(space: Any, form: PlainForm, tmp_path: Path) -> None:
    encoding = encoding_of(space)
    genomes = encoding.sample(15, np.random.default_rng(0))
    pairs = apq_tune.Pairs(genomes, np.linspace(0.5, 0.9, 15))
    predictor = apq_tune.fit_predictor(encoding, pairs, form)
    (tmp_path / "p.npz").write_bytes(predictor_bytes(predictor, measured_values(encoding, genomes)))
    np.testing.assert_allclose(apq_tune.load_predictor(tmp_path / "p.npz", space)(genomes), predictor(genomes))


@pytest.mark.parametrize("sampler", ["EvolutionSampler", "NSGA2Sampler", "ModelSampler", "LayerwiseDDPGSampler"])
def test_every_sampler_suggests_candidates_of_the_space(space: Any, sampler: str) -> None:
    study = optuna.create_study(sampler=getattr(apq_tune, sampler)(space=space, seed=0))
    encoding, gain = encoding_of(space), problem_of(space).objectives[0].metric
    study.optimize(lambda trial: float(gain(encoding.encode([space.suggest(trial)]))[0]), n_trials=12)
    candidate = space.from_config(study.best_params)
    assert space.from_config(space.to_config(candidate)) == candidate


@pytest.mark.parametrize("host", ["optuna", "tune"])
def test_the_objective_is_evaluated_by_both_hosts(space: Any, host: str) -> None:
    problem = problem_of(space)
    objective = apq_tune.APQObjective(problem)
    if host == "optuna":
        study = optuna.create_study(directions=objective.directions)
        study.optimize(objective, n_trials=5)
        found = [(space.from_config(trial.params), trial.values) for trial in study.trials]
    else:
        search = apq_tune.ApqSearch(problem, max_concurrent=1)
        search.set_search_properties(None, None, space.to_tune())
        found = []
        for name in "abcde":
            config = search.suggest(name)
            result = objective(config)
            search.on_trial_complete(name, result | {"config": config, "done": True})
            found.append((space.from_config(config), [result["gain"], result["cost"]]))
        assert set(search.front().candidates) <= {candidate for candidate, _ in found}
    assert len(found) == 5
    for candidate, values in found:
        genomes = problem.encoding.encode([candidate])
        assert values == pytest.approx([float(metric(genomes)[0]) for metric in problem.metrics])


def test_a_sweep_finds_candidates_within_its_limits(space: Any, tmp_path: Path) -> None:
    problem = problem_of(space)
    metrics = {"device": {metric.name: metric for metric in problem.metrics}}
    sweep = Sweep(problem.encoding, metrics, ("gain",), 60, tmp_path)
    bound = float(np.median(problem.metrics[1](problem.encoding.sample(50, np.random.default_rng(0)))))
    tasks = [SweepTask("device", (("cost", bound),), sampler, 0) for sampler in ("evolution", "random")]
    frame = results_frame(sweep, tasks, {task.key: run_task(task, sweep).metrics for task in tasks})
    assert len(frame) == 2
    assert (frame["cost"] <= bound).all()
    assert (frame["gain"] > 0).all()


def test_parts_of_a_space_stay_in_it(space: Any) -> None:
    encoding, rng = encoding_of(space), np.random.default_rng(0)
    few = encoding.sample(2, rng)
    part = within(encoding, mask := measured_values(encoding, few))
    assert outside(encoding, measured_values(part, part.sample(50, rng))) or not outside(encoding, mask)
    assert part.size() == len(part.enumerate()) <= encoding.size()
    for policy in (lambda _: everything, uniform_wa_bits, tied_bits):
        subspace = Subspace(encoding, policy(encoding))
        genomes = subspace.sample(20, rng)
        np.testing.assert_array_equal(subspace.canonicalise(genomes), genomes)
        front = apq_tune.search(Problem(subspace, problem_of(space).objectives), n_evaluations=50, seed=0)
        assert encoding.encode(front.candidates).shape[1] == encoding.n_genes


def test_policies_go_by_kind() -> None:
    encoding = encoding_of(SPACES["own"])
    assert encoding.uniform_bits() == [4, 8]
    assert str(encoding.decode(encoding.uniform_policies())[0]).count("=4") == 9
    tied = Subspace(encoding, tied_bits(encoding)).sample(50, np.random.default_rng(0))
    for candidate in encoding.decode(tied):
        assert all(candidate[f"{n} a_bits"] == max(4, candidate[f"{n} w_bits"]) for n in (1, 2, 3))


def test_a_file_of_a_space_of_ones_own_asks_for_the_space(tmp_path: Path) -> None:
    encoding = encoding_of(SPACES["own"])
    genomes = encoding.sample(12, np.random.default_rng(0))
    predictor = apq_tune.fit_predictor(encoding, apq_tune.Pairs(genomes, np.linspace(0.5, 0.9, 12)), "ridge")
    (tmp_path / "p.npz").write_bytes(predictor_bytes(predictor))
    with pytest.raises(apq_tune.RunError, match="was fitted on layers, which no file describes; give the space"):
        apq_tune.load_predictor(tmp_path / "p.npz")
