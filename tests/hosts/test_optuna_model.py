"""ModelSampler on Optuna studies: nothing but the study decides; constraints, running trials, defaults of ApqSearch."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from apq_tune import Constraint, FunctionMetric, NetworkEncoding, Objective, Problem, SearchSpace, cost_models
from apq_tune.errors import ProblemError
from apq_tune.hosts.optuna_model import ModelSampler
from apq_tune.hosts.searcher import ApqSearch

QUICK = {"initial": 5, "pool": 100}


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace.from_choices({"a": (1, 2, 3, 4), "b": ("x", "y", "z"), "c": (0.1, 0.2, 0.4)}, "small")


def worth(space: SearchSpace, trial: optuna.Trial) -> tuple[float, float]:
    own = dict(space.suggest(trial).values)
    cost = own["a"] * (1 + "xyz".index(own["b"]))
    trial.set_constraint("odd", float(own["a"] == 3) - 0.5)
    return 1 / cost + own["c"], float(cost)


def path(study: optuna.Study) -> list[dict[str, object]]:
    return [trial.params for trial in study.trials]


def study_of(space: SearchSpace, n: int, seed: int = 0, **settings: int) -> optuna.Study:
    sampler = ModelSampler(space=space, seed=seed, **{**QUICK, **settings})
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(lambda trial: worth(space, trial), n_trials=n)
    return study


def test_no_candidate_comes_twice_and_an_exhausted_space_ends(space: SearchSpace) -> None:
    tried = [tuple(params.values()) for params in path(study_of(space, 38))]
    assert len(set(tried[:36])) == 36


def test_a_seed_repeats_and_another_does_not(space: SearchSpace) -> None:
    assert path(study_of(space, 12)) == path(study_of(space, 12))
    assert path(study_of(space, 12)) != path(study_of(space, 12, seed=1))


@pytest.mark.parametrize("modelled", [300, 10])
def test_a_new_sampler_on_a_resumed_study_goes_on_as_if_it_had_never_stopped(space: SearchSpace, modelled: int) -> None:
    whole = study_of(space, 16, modelled=modelled)
    half = study_of(space, 8, modelled=modelled)
    half.sampler = pickle.loads(pickle.dumps(ModelSampler(space=space, seed=0, modelled=modelled, **QUICK)))
    half.optimize(lambda trial: worth(space, trial), n_trials=8)
    assert path(half) == path(whole)


def test_what_runs_is_not_asked_for_again_and_failures_are_remembered(space: SearchSpace) -> None:
    study = optuna.create_study(sampler=ModelSampler(space=space, seed=0, **QUICK))
    tried = set()
    for number in range(20):
        trial = study.ask()
        candidate = space.suggest(trial)
        assert candidate not in tried
        tried.add(candidate)
        if number % 3 == 0:
            study.tell(trial, float(number))
        elif number % 3 == 1:
            study.tell(trial, state=TrialState.FAIL)


def test_constraints_are_learned(space: SearchSpace) -> None:
    numbers = [trial.constraints["odd"] > 0 for trial in study_of(space, 24).trials]
    assert np.mean(numbers[12:]) < 0.25 < np.mean([own == 3 for own in (1, 2, 3, 4)]) + 0.01


def test_known_costs_keep_trials_within_their_limits_from_the_first_on(tiny: NetworkEncoding) -> None:
    costs = {model.name: model for model in cost_models(tiny)}
    low, high = costs["bit_ops"].reachable()
    loss = FunctionMetric("loss", "", lambda genomes: 1 / costs["macs"](genomes))
    problem = Problem(tiny, [Objective(loss)], [Constraint(costs["bit_ops"], low + 0.2 * (high - low))])
    study = optuna.create_study(sampler=ModelSampler(problem=problem, seed=0, **QUICK))

    def objective(trial: optuna.Trial) -> float:
        genomes = tiny.encode([tiny.space.suggest(trial)])
        value = float(problem.constraints[0].violation(costs["bit_ops"](genomes))[0])
        trial.set_constraint(str(problem.constraints[0]), value)
        return float(loss(genomes)[0])

    study.optimize(objective, n_trials=14)
    assert all(value <= 0 for trial in study.trials for value in trial.constraints.values())


def test_it_is_the_default_of_a_search_whose_trials_are_expensive(tiny: NetworkEncoding) -> None:
    class Costly(FunctionMetric):
        costly = True

    cheap = FunctionMetric("loss", "", lambda genomes: genomes.sum(axis=1).astype(float))
    dear = Costly("loss", "", lambda genomes: genomes.sum(axis=1).astype(float))
    names = {}
    for metric in (cheap, dear):
        search = ApqSearch(Problem(tiny, [Objective(metric)]), max_concurrent=2)
        first, second = search.suggest("1"), search.suggest("2")
        assert first != second
        names[metric is dear] = type(search.study.sampler).__name__
    assert names == {False: "EvolutionSampler", True: "ModelSampler"}


@pytest.mark.parametrize(("name", "value"), [("initial", 0), ("modelled", 0), ("pool", 1), ("seed", -1)])
def test_settings_without_sense_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ProblemError, match=f"^{name} is {value}; give"):
        ModelSampler(**{name: value})
