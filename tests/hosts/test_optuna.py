"""The samplers on studies where nothing mutates: who becomes a parent, and what a child inherits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from apq_tune import ApqError
from apq_tune.hosts.optuna import EvolutionSampler, NSGA2Sampler

SAMPLERS: list[Callable[..., BaseSampler]] = [EvolutionSampler, NSGA2Sampler]
COPY: dict[str, Any] = {"population": 1, "parents": 1, "crossover": 0.0, "mutation": (1e-12, 1e-12), "seed": 0}
"""Every child is its only parent's twin, so that it shows who the parent is."""

both = pytest.mark.parametrize("sampler", SAMPLERS)


@pytest.fixture(autouse=True)
def _silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


DISTRIBUTION = IntDistribution(0, 1000)


def tried(x: int, *values: float, state: TrialState = TrialState.COMPLETE, **limits: float) -> optuna.trial.FrozenTrial:
    """A finished trial of one parameter."""
    return create_trial(
        params={"x": x},
        distributions={"x": DISTRIBUTION},
        values=list(values) or None,
        constraints=limits,
        state=state,
    )


def child(study: optuna.Study) -> int:
    return int(study.ask({"x": DISTRIBUTION}).params["x"])


@both
@pytest.mark.parametrize(("direction", "best"), [("minimize", 3), ("maximize", 5)])
def test_the_best_trial_is_the_parent_in_either_direction(
    sampler: Callable[..., BaseSampler], direction: str, best: int
) -> None:
    study = optuna.create_study(direction=direction, sampler=sampler(**COPY))
    study.add_trials([tried(3, -1.0), tried(4, 0.0), tried(5, 1.0)])
    assert [child(study) for _ in range(5)] == [best] * 5


@both
def test_failed_pruned_running_and_nan_trials_never_become_parents(sampler: Callable[..., BaseSampler]) -> None:
    study = optuna.create_study(sampler=sampler(**COPY))
    study.add_trial(tried(3, 7.0))
    study.add_trials([tried(4, state=TrialState.FAIL), tried(5, -9.0, state=TrialState.PRUNED)])
    study.enqueue_trial({"x": 6})
    assert child(study) == 6  # which goes on running
    study.enqueue_trial({"x": 8})
    study.optimize(lambda trial: trial.suggest_int("x", 0, 1000) * math.nan, n_trials=1)
    assert [child(study) for _ in range(5)] == [3] * 5


class _Careless(InMemoryStorage):
    """A storage in which NaN stands for a value, as another program may have written it."""

    def get_all_trials(self, *args: Any, **more: Any) -> list[optuna.trial.FrozenTrial]:
        trials = super().get_all_trials(*args, **more)
        for trial in trials:
            if trial.values == [-1.0]:
                trial.values = [math.nan]
        return trials


@both
def test_not_even_a_nan_that_is_stored_as_a_value(sampler: Callable[..., BaseSampler]) -> None:
    study = optuna.create_study(sampler=sampler(**COPY | {"parents": 3}), storage=_Careless())
    study.add_trials([tried(4, -1.0), tried(3, 7.0)])
    assert {child(study) for _ in range(20)} == {3}


@both
def test_feasible_precedes_infeasible_and_less_violation_more(sampler: Callable[..., BaseSampler]) -> None:
    study = optuna.create_study(sampler=sampler(**COPY))
    study.add_trials([tried(1, 0.0, size=2.0, time=-5.0), tried(2, 1.0, size=0.5, time=1.0)])
    assert child(study) == 2  # 1.5 in all: what one limit leaves over does not make good for another
    study.add_trial(tried(3, 9.0, size=-1.0, time=0.0))
    assert child(study) == 3
    study.add_trial(tried(4, 8.0, size=-0.1, time=0.1))
    assert child(study) == 3


def test_infinite_objectives_are_the_worst_or_the_best_and_no_accident() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=NSGA2Sampler(**COPY))
    study.add_trials([tried(1, math.inf, 0.0), tried(2, 5.0, 0.0), tried(3, math.inf, -math.inf)])
    with np.errstate(all="raise"):
        assert child(study) == 2


def test_parents_of_a_study_with_two_objectives_are_its_front() -> None:
    settings = COPY | {"population": 4, "parents": 4}
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=NSGA2Sampler(**settings))
    study.add_trials([tried(1, 0.0, 0.0), tried(2, 5.0, 5.0), tried(3, 9.0, 9.0), tried(4, 10.0, -1.0)])
    study.add_trials([tried(5, 11.0, -1.0), tried(6, 2.0, 2.0), tried(7, 20.0, 1.0), tried(8, 20.0, 0.5)])
    assert {child(study) for _ in range(200)} == {1, 2, 3, 6}


def test_even_the_best_is_a_parent_no_more_at_its_age() -> None:
    for max_age, expected in ((1, 7), (2, 3), (None, 3)):
        study = optuna.create_study(sampler=EvolutionSampler(**COPY, max_age=max_age))
        study.add_trials([tried(3, 0.0), tried(6, 9.0), tried(7, 8.0)])
        assert child(study) == expected


def test_age_counts_from_when_a_trial_ended() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(**COPY, max_age=1))
    for x in (3, 6, 7):
        study.enqueue_trial({"x": x})
    trials = [study.ask({"x": DISTRIBUTION}) for _ in range(3)]
    for which, value in ((1, 9.0), (2, 8.0), (0, 0.0)):
        study.tell(trials[which], value)
    assert child(study) == 3  # by its number it would be the oldest


def test_a_generation_counts_when_it_is_whole() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(**COPY | {"population": 2}))
    study.add_trials([tried(3, 5.0), tried(4, 6.0), tried(7, 1.0)])
    assert child(study) == 3
    study.add_trial(tried(8, 2.0))
    assert child(study) == 7


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (FloatDistribution(-3.0, 5.0), [-3.0, -1.0, 1.0, 4.0, 5.0]),
        (FloatDistribution(1e-7, 10.0, log=True), [1e-7, 1e-3, 10.0]),
        (FloatDistribution(-10.2, 10.2, step=0.1), [-10.2, -0.1, 0.0, 3.3, 10.2]),
        (IntDistribution(-10, 11, step=3), list(range(-10, 12, 3))),
        (IntDistribution(1, 100, log=True), list(range(1, 101))),
        (IntDistribution(0, 2**40), [0, 2**39, 2**40]),
        (CategoricalDistribution((None, "b", 0.5, True)), [None, "b", 0.5, True]),
    ],
    ids=str,
)
@both
def test_a_child_inherits_its_parents_value(
    sampler: Callable[..., BaseSampler], distribution: Any, values: list[Any]
) -> None:
    for value in values:
        study = optuna.create_study(sampler=sampler(**COPY))
        study.add_trial(create_trial(params={"p": value}, distributions={"p": distribution}, value=0.0))
        inherited = study.ask({"p": distribution}).params["p"]
        if isinstance(distribution, FloatDistribution):
            assert inherited == pytest.approx(value, rel=1e-3, abs=1e-12)  # half a step of the grid, in log
        else:
            assert inherited == value
            assert type(inherited) is type(value)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("high", [4, 100, 10**6])
@pytest.mark.parametrize("kind", [FloatDistribution, IntDistribution])
def test_first_values_are_spread_as_those_of_optunas_random_sampler(kind: Any, high: int, log: bool) -> None:
    distribution = kind(1, high, log=log)
    samples = []
    for sampler in (NSGA2Sampler(seed=0), RandomSampler(0)):
        study = optuna.create_study(sampler=sampler)
        samples.append(np.sort([study.ask({"p": distribution}).params["p"] for _ in range(400)]))
    grid = np.unique(np.concatenate(samples))
    ours, theirs = (np.searchsorted(sample, grid, side="right") / 400 for sample in samples)
    assert np.abs(ours - theirs).max() < 0.115  # Kolmogorov-Smirnov at 1%


def test_categorical_parameters_move_to_neighbours_in_the_order_of_their_choices() -> None:
    distribution = CategoricalDistribution(["c", "a", "b"])
    study = optuna.create_study(sampler=EvolutionSampler(**COPY | {"mutation": (0.3, 0.3)}))
    study.add_trial(create_trial(params={"p": "c"}, distributions={"p": distribution}, value=0.0))
    moved = Counter(study.ask({"p": distribution}).params["p"] for _ in range(500))
    assert moved["a"] > 2 * moved["b"] > 0


@both
def test_what_a_parent_lacks_or_has_out_of_range_is_drawn_at_random(sampler: Callable[..., BaseSampler]) -> None:
    settings = COPY | {"population": 2, "parents": 2}
    study = optuna.create_study(sampler=sampler(**settings))
    sized = {"x": DISTRIBUTION, "y": IntDistribution(0, 3)}
    study.add_trial(create_trial(params={"x": 3, "y": 0}, distributions=sized, value=0.0))
    study.add_trial(create_trial(params={"x": 4}, distributions={"x": DISTRIBUTION}, value=0.0))
    children = [study.ask(sized).params for _ in range(150)]
    by_parent = {x: Counter(child["y"] for child in children if child["x"] == x) for x in (3, 4)}
    assert set(by_parent[3]) == {0}
    assert set(by_parent[4]) == {0, 1, 2, 3}
    wide = optuna.create_study(sampler=sampler(**settings))
    wide.add_trial(create_trial(params={"x": 900}, distributions={"x": DISTRIBUTION}, value=0.0))
    wide.add_trial(create_trial(params={"x": 7}, distributions={"x": IntDistribution(0, 10)}, value=0.0))
    last = wide.ask()
    assert wide.sampler.infer_relative_search_space(wide, wide.trials[last.number])["x"].high == 10
    assert set(range(11)) == {wide.ask({"x": IntDistribution(0, 10)}).params["x"] for _ in range(300)}


def test_evolution_refuses_two_objectives_in_one_line_that_names_the_remedy() -> None:
    study = optuna.create_study(study_name="mine", directions=["minimize"] * 2, sampler=EvolutionSampler())
    with pytest.raises(ApqError, match=r"^EvolutionSampler has one objective, 'mine' has 2; take NSGA2Sampler$"):
        study.optimize(lambda trial: (trial.suggest_int("x", 0, 1), 0), n_trials=1)


@both
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"population": 0}, "population is 0; give at least 1"),
        ({"parents": -1}, "parents is -1; give at least 1"),
        ({"max_age": 0}, "max_age is 0; give at least 1"),
        ({"crossover": 1.5}, "crossover is 1.5; give a share between 0 and 1"),
        ({"mutation": (3, 2)}, "mutation is (3, 2); give two positive numbers"),
        ({"seed": -1}, "seed is -1; give a whole number from 0, or None"),
        ({"seed": 0.5}, "seed is 0.5; give a whole number from 0, or None"),
        ({"space": "digits"}, "space is 'digits'; give a search space, such as a SearchSpace, or an encoding of one"),
    ],
)
def test_settings_without_sense_are_refused_by_name(
    sampler: Callable[..., BaseSampler], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ApqError, match=re.escape(said)):
        sampler(**settings)
