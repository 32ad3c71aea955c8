"""The samplers on a search space that they know: optima by enumeration, its rules, no candidate twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.cost import bit_ops
from apq_tune.hosts.optuna import EvolutionSampler, NSGA2Sampler

SEEDS = range(10)
both = pytest.mark.parametrize("sampler", [EvolutionSampler, NSGA2Sampler])


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
