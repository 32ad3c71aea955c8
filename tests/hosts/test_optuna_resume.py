"""The samplers on studies that are repeated, stopped and resumed: the same trials, whatever a sampler remembers."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from apq_tune import NetworkEncoding
from apq_tune.hosts.optuna import EvolutionSampler, NSGA2Sampler

both = pytest.mark.parametrize("sampler", [EvolutionSampler, NSGA2Sampler])


@pytest.fixture(autouse=True)
def _silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


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
