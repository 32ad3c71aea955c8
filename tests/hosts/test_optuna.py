"""The samplers on studies whose right answer is known: by enumeration, or because nothing mutates."""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from apq_tune import ApqError, NetworkEncoding, SearchSpace
from apq_tune.cost import bit_ops
from apq_tune.hosts.optuna import EvolutionSampler, NSGA2Sampler

SEEDS = range(10)
SAMPLERS: list[Callable[..., BaseSampler]] = [EvolutionSampler, NSGA2Sampler]
COPY: dict[str, Any] = {"population": 1, "parents": 1, "crossover": 0.0, "mutation": (1e-12, 1e-12), "seed": 0}
"""Every child is its only parent's twin, so that it shows who the parent is."""

both = pytest.mark.parametrize("sampler", SAMPLERS)


@pytest.fixture(autouse=True)
def _silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def suggest(trial: optuna.Trial, encoding: NetworkEncoding) -> np.ndarray:
    """One canonical genome, ``(1, n_genes)``."""
    values = [
        choices.index(trial.suggest_categorical(name, choices))
        for name, choices in zip(encoding.names, encoding.choices, strict=True)
    ]
    return encoding.canonicalise(np.array([values], np.int16))


def loss_of(encoding: NetworkEncoding) -> Callable[[np.ndarray], np.ndarray]:
    """Later choices are worth more, each by its own amount, and some choices depend on others."""
    rng = np.random.default_rng(7)
    worth = np.concatenate([np.sort(rng.random(n)) for n in encoding.n_choices[len(encoding.space.stages) :]])
    wave = rng.normal(size=worth.shape)

    def loss(genomes: np.ndarray) -> np.ndarray:
        features = encoding.features(genomes).astype(float)
        return np.exp(-0.2 * features @ worth + 0.3 * np.sin(features @ wave))

    return loss


def staircase(points: list[tuple[float, ...]], reference: tuple[float, float]) -> float:
    """Area that two minimised objectives dominate, step by step."""
    total, best = 0.0, reference[0]
    for value, at in sorted(points, key=lambda point: point[1]):
        if value < best and at < reference[1]:
            total += (best - value) * (reference[1] - at)
            best = value
    return total


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


def test_evolution_nearly_finds_the_constrained_optimum_of_the_enumeration(
    tiny: NetworkEncoding, everything: np.ndarray
) -> None:
    loss, cost = loss_of(tiny), bit_ops(tiny)
    bound = float(np.quantile(cost(everything), 0.4))
    feasible = np.sort(loss(everything)[cost(everything) <= bound])
    assert feasible[0] > loss(everything).min()

    def objective(trial: optuna.Trial) -> float:
        genome = suggest(trial, tiny)
        trial.set_constraint("bit_ops", cost(genome)[0] / bound - 1)
        return float(loss(genome)[0])

    ranks = []
    for seed in SEEDS:
        for sampler in (EvolutionSampler(space=tiny, seed=seed), EvolutionSampler(seed=seed), RandomSampler(seed)):
            study = optuna.create_study(sampler=sampler)
            study.optimize(objective, n_trials=200)
            ranks.append(int(np.searchsorted(feasible, study.best_value)))
    with_space, without, random = np.array(ranks).reshape(len(SEEDS), 3).T
    for own in (with_space, without):
        assert own.mean() < random.mean() / 2
        assert own.max() < 150  # of about 3,800 feasible ones


def test_nsga2_beats_random_sampling_by_hypervolume_and_optunas_directions_are_kept(
    tiny: NetworkEncoding, everything: np.ndarray
) -> None:
    loss, cost = loss_of(tiny), bit_ops(tiny)
    reference = float(loss(everything).max()), float(cost(everything).max())
    true = staircase(list(zip(loss(everything), cost(everything), strict=True)), reference)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        genome = suggest(trial, tiny)
        return -float(loss(genome)[0]), float(cost(genome)[0])

    areas: dict[str, list[float]] = {}
    for seed in SEEDS:
        for sampler in (NSGA2Sampler(space=tiny, seed=seed), RandomSampler(seed)):
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
            study.optimize(objective, n_trials=200)
            points = [(-trial.values[0], trial.values[1]) for trial in study.trials]
            areas.setdefault(str(sampler), []).append(staircase(points, reference) / true)
    own, random = 1 - np.array(areas["NSGA2Sampler"]), 1 - np.array(areas["RandomSampler"])
    assert (own < random).all()
    assert own.mean() < 0.75 * random.mean()


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


def noisy(trial: optuna.Trial) -> float:
    """An objective with conditions, whose trials also fail and get pruned."""
    x = trial.suggest_float("x", -1, 1)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    z = trial.suggest_int("a", 1, 50, log=True) if kind == "a" else trial.suggest_int("b", 0, 9)
    trial.set_constraint("x", x - 0.5)
    if trial.number % 7 == 5:
        raise optuna.TrialPruned
    return math.nan if trial.number % 11 == 8 else x * x + z


def path(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


@both
def test_the_same_seed_gives_the_same_path_and_another_seed_another(sampler: Callable[..., BaseSampler]) -> None:
    paths = []
    for seed in (0, 0, 1, None, None):
        study = optuna.create_study(sampler=sampler(population=4, parents=4, seed=seed))
        study.optimize(noisy, n_trials=30)
        paths.append(path(study))
    assert paths[0] == paths[1]
    assert all(paths[i] != paths[j] for i in range(1, 5) for j in range(i + 1, 5))


@both
@pytest.mark.parametrize("kind", ["memory", "journal", "sqlite"])
def test_a_new_sampler_on_a_resumed_study_goes_on_as_if_it_had_never_stopped(
    sampler: Callable[..., BaseSampler], kind: str, tmp_path: Path
) -> None:
    whole = optuna.create_study(sampler=sampler(population=4, parents=4, seed=0))
    whole.optimize(noisy, n_trials=30)
    memory = InMemoryStorage()

    def storage() -> Any:
        """Opened anew, as another process would."""
        if kind == "journal":
            return JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
        return memory if kind == "memory" else f"sqlite:///{tmp_path}/study.db"

    for n in (3, 14, 13):  # in the first generation, and in the middle of a later one
        study = optuna.create_study(
            study_name="one", storage=storage(), load_if_exists=True, sampler=sampler(population=4, parents=4, seed=0)
        )
        study.optimize(noisy, n_trials=n)
    assert path(study) == path(whole)


@both
def test_a_pickled_sampler_goes_on_and_carries_no_trials(
    sampler: Callable[..., BaseSampler], tiny: NetworkEncoding
) -> None:
    whole = optuna.create_study(sampler=sampler(population=4, parents=4, seed=0, space=tiny))
    whole.optimize(noisy, n_trials=30)
    study = optuna.create_study(sampler=sampler(population=4, parents=4, seed=0, space=tiny))
    fresh = len(pickle.dumps(study.sampler))
    study.optimize(noisy, n_trials=15)
    pickled = pickle.dumps(study.sampler)
    assert len(pickled) == fresh
    study.sampler = pickle.loads(pickled)
    study.optimize(noisy, n_trials=15)
    assert path(study) == path(whole)


@both
def test_what_a_sampler_remembers_never_changes_what_it_proposes(
    sampler: Callable[..., BaseSampler], rng: np.random.Generator
) -> None:
    """Trials end in any order, in two studies that share one sampler, while others run."""
    studies = [optuna.create_study(sampler=sampler(population=3, parents=2, seed=5)) for _ in range(2)]
    studies[1].sampler = studies[0].sampler
    running: list[list[optuna.Trial]] = [[], []]
    for _ in range(120):
        which = int(rng.integers(2))
        study, open_trials = studies[which], running[which]
        trial = study.ask()
        fresh = sampler(population=3, parents=2, seed=5)
        frozen = study.trials[-1]
        expected = fresh.sample_relative(study, frozen, fresh.infer_relative_search_space(study, frozen))
        assert trial.relative_params == expected
        trial.suggest_int("x", 0, int(rng.choice([10, 1000])))
        trial.suggest_float("y", 0, 1)
        open_trials.append(trial)
        while len(open_trials) > rng.integers(6):
            ended = open_trials.pop(int(rng.integers(len(open_trials))))
            if rng.random() < 0.2:
                study.tell(ended, state=TrialState.FAIL)
            else:
                study.tell(ended, float(rng.random()))
    assert any(trial.relative_params for trial in running[0] + running[1])


@both
@pytest.mark.parametrize("known", [True, False])
def test_no_candidate_comes_twice_if_the_space_is_known(
    sampler: Callable[..., BaseSampler], known: bool, tiny: NetworkEncoding
) -> None:
    settings = {"population": 10, "parents": 3, "mutation": (0.1, 0.5), "seed": 0, "space": tiny if known else None}
    study = optuna.create_study(sampler=sampler(**settings))
    loss, seen = loss_of(tiny), []

    def objective(trial: optuna.Trial) -> float:
        genome = suggest(trial, tiny)
        seen.append(genome.tobytes())
        if trial.number % 5 == 0:
            raise optuna.TrialPruned
        return float(loss(genome)[0])

    study.optimize(objective, n_trials=150)
    open_trials = [suggest(study.ask(), tiny).tobytes() for _ in range(20)]  # all running at once
    assert (len(set(seen + open_trials)) == 170) is known


def test_equal_networks_count_as_one_whether_or_not_inert_parameters_are_suggested(tiny: NetworkEncoding) -> None:
    sampler = EvolutionSampler(space=tiny, seed=0)
    names, genes = tiny.names, dict(zip(tiny.names, range(len(tiny.names)), strict=True))
    shallow = {name: choices[0] for name, choices in zip(names, tiny.choices, strict=True)}
    off = next(name for name in names if name.startswith("1.2 ") and len(tiny.choices[genes[name]]) > 1)
    other = shallow | {off: tiny.choices[genes[off]][1]}
    short = {name: value for name, value in shallow.items() if not name.startswith("1.2 ")}
    deep = shallow | {"depth 1": 2}
    assert sampler._key(shallow) == sampler._key(other) == sampler._key(short)
    assert sampler._key(deep) not in (None, sampler._key(shallow))
    assert sampler._key({name: value for name, value in deep.items() if name != off}) is None
    assert sampler._key(shallow | {"rate": 0.1}) != sampler._key(shallow | {"rate": 0.2})
    assert sampler._key(shallow | {"depth 1": 9}) is None


@both
def test_a_space_that_is_exhausted_comes_again_and_ends(sampler: Callable[..., BaseSampler]) -> None:
    space = SearchSpace.from_choices({"a": [1, 2], "b": [1, 2, 3]}, "six")
    study = optuna.create_study(sampler=sampler(space=space, population=2, parents=2, seed=0))
    distributions = {"a": CategoricalDistribution([1, 2]), "b": CategoricalDistribution([1, 2, 3])}
    for _ in range(9):
        trial = study.ask(distributions)
        study.tell(trial, trial.params["a"] * trial.params["b"])
    assert len({tuple(trial.params.values()) for trial in study.trials[:6]}) == 6


@both
def test_children_keep_the_rules_of_a_space_beside_a_parameter_of_the_users_own(
    sampler: Callable[..., BaseSampler], tiny: NetworkEncoding, tiny_space: SearchSpace
) -> None:
    study = optuna.create_study(sampler=sampler(space=tiny_space, population=8, parents=8, mutation=(3.0, 6.0), seed=0))
    rates = []

    def objective(trial: optuna.Trial) -> float:
        assert tiny.is_allowed(suggest(trial, tiny)).all()
        rates.append(trial.suggest_float("rate", 0, 1))
        return (rates[-1] - 0.3) ** 2

    study.optimize(objective, n_trials=160)
    assert np.abs(np.array(rates[-40:]) - 0.3).mean() < 0.5 * np.abs(np.array(rates[:8]) - 0.3).mean()


def test_the_first_generation_of_a_known_space_goes_from_small_to_large(encoding: NetworkEncoding) -> None:
    cost = bit_ops(encoding)
    low, high = cost.reachable()
    shares = {}
    for space in (encoding, None):
        study = optuna.create_study(sampler=EvolutionSampler(space=space, seed=0))
        study.optimize(lambda trial: float(cost(suggest(trial, encoding))[0]), n_trials=50)
        shares[space is not None] = (np.array([trial.value for trial in study.trials]) - low) / (high - low)
    assert shares[True].std() > 2 * shares[False].std()
    assert shares[True].min() < 0.02


@both
def test_a_fixed_parameter_stays_fixed_beside_a_known_space(
    sampler: Callable[..., BaseSampler], tiny: NetworkEncoding
) -> None:
    study = optuna.create_study(sampler=sampler(space=tiny, population=4, parents=4, seed=0))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.sampler = PartialFixedSampler({"depth 1": 2}, study.sampler)
    study.optimize(lambda trial: float(suggest(trial, tiny).sum()), n_trials=40)
    assert {trial.params["depth 1"] for trial in study.trials} == {2}
    values = [trial.value for trial in study.trials]
    assert np.mean(values[20:]) < 0.8 * np.mean(values[:4])


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
