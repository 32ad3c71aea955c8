"""``ApqSearch`` and the study behind it, driven as Tune drives it but without Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.tune.search import Searcher

from apq_tune import (
    ApqError,
    APQObjective,
    ApqSearch,
    Constraint,
    Front,
    FunctionMetric,
    NetworkEncoding,
    NSGA2Sampler,
    Objective,
    Problem,
    ProblemError,
    SearchSpace,
)
from apq_tune.cost import bit_ops, weight_bytes

SAMPLERS = {
    "ours": None,
    "random": optuna.samplers.RandomSampler(seed=0),
    "tpe": optuna.samplers.TPESampler(seed=0, n_startup_trials=5),
    "nsga2": optuna.samplers.NSGAIISampler(seed=0, population_size=10),
    "nsga3": optuna.samplers.NSGAIIISampler(seed=0, population_size=10),
}


def costs(encoding: NetworkEncoding) -> Problem:
    ops = bit_ops(encoding)
    bound = sum(ops.reachable()) / 2
    return Problem(encoding, [Objective(weight_bytes(encoding), "maximize"), Objective(ops)], [Constraint(ops, bound)])


def drive(search: ApqSearch, objective: APQObjective, n: int, first: int = 0) -> list[dict[str, Any]]:
    """Run trials one after the other."""
    done = []
    for number in range(first, first + n):
        config = search.suggest(str(number))
        if config == Searcher.FINISHED:
            break
        assert config is not None
        result = objective.evaluate(objective.problem.encoding.space.from_config(config), config)
        search.on_trial_complete(str(number), result | {"config": config, "done": True})
        done.append(result)
    return done


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_candidate_comes_twice_with_any_sampler_and_the_front_is_that_of_all_results(
    tiny: NetworkEncoding, name: str
) -> None:
    problem = costs(tiny)
    search = ApqSearch(problem, SAMPLERS[name], max_concurrent=1)
    n = 40 if name == "tpe" else 150
    done = drive(search, APQObjective(problem), n)
    assert len({row["candidate"] for row in done}) == n
    feasible = [(-row["weight_bytes"], row["bit_ops"]) for row in done if row["violation"] == 0]
    best = {(f, g) for f, g in feasible if not any(a <= f and b <= g and (a, b) != (f, g) for a, b in feasible)}
    front = search.front()
    assert {(-row.weight_bytes, row.bit_ops) for row in front.metrics.itertuples()} == best
    assert {c.to_json() for c in front.candidates} <= {row["candidate"] for row in done}
    frame = search.to_dataframe()
    assert len(frame) == n
    assert set(frame["state"]) == {"COMPLETE"}
    assert frame["candidate"].tolist() == [row["candidate"] for row in done]
    assert frame["1.1 channels"].isin(tiny.space.parameters["1.1 channels"]).all()  # real values, not indices


def test_a_small_space_is_exhausted_and_then_the_search_is_finished() -> None:
    space = SearchSpace.from_choices({"a": [1, 2, 3], "b": ["x", "y"]})
    cost = FunctionMetric("cost", "", lambda genomes: genomes.sum(axis=1).astype(float))
    problem = Problem(space, [Objective(cost)])
    search = ApqSearch(problem, optuna.samplers.RandomSampler(seed=0), max_concurrent=1)
    assert len(drive(search, APQObjective(problem), 20)) == 6
    assert search.suggest("more") == Searcher.FINISHED


def test_constraints_are_told_to_the_sampler(tiny: NetworkEncoding) -> None:
    problem = costs(tiny)
    search = ApqSearch(problem, optuna.samplers.NSGAIISampler(seed=1, population_size=10), max_concurrent=1)
    done = drive(search, APQObjective(problem), 100)
    trials = [t for t in search.study.trials if not t.user_attrs.get("duplicate")]
    told = [trial.constraints["violation_bit_ops_max"] for trial in trials]
    assert told == [row["violation_bit_ops_max"] for row in done]
    late = [row["violation"] > 0 for row in done[50:]]
    assert np.mean(late) < np.mean([row["violation"] > 0 for row in done[:10]])


def test_every_trial_gets_the_state_that_it_deserves(tiny: NetworkEncoding) -> None:
    problem = Problem(tiny, [Objective(bit_ops(tiny))])
    search = ApqSearch(problem, max_concurrent=10)
    for number in range(7):
        search.suggest(str(number))
    search.on_trial_complete("0", {"bit_ops": 5.0, "done": True})
    search.on_trial_complete("1", {"bit_ops": 5.0}, error=True)  # has a result, and failed all the same
    search.on_trial_complete("2", {"bit_ops": math.nan})
    search.on_trial_complete("3", {"something": 1.0})
    search.on_trial_complete("4")
    search.on_trial_result("5", {"bit_ops": 7.0, "epoch": 1, "epochs": 3})
    search.on_trial_complete("5", {"bit_ops": 7.0, "epoch": 1, "epochs": 3})
    search._asked.give_up("the cluster is gone")
    states = [trial.state.name for trial in search.study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL", "PRUNED", "FAIL"]
    reasons = [trial.user_attrs.get("reason", "") for trial in search.study.trials]
    assert "raised" in reasons[1]
    assert reasons[2] == "objectives are [nan]"
    assert reasons[3] == "objectives are []"
    assert reasons[6] == "the cluster is gone"
    assert search.study.trials[5].intermediate_values == {1: 7.0}


def test_concurrency_is_limited(tiny: NetworkEncoding) -> None:
    search = ApqSearch(Problem(tiny, [Objective(bit_ops(tiny))]), max_concurrent=2)
    assert [search.suggest(name) is None for name in "abc"] == [False, False, True]
    search.on_trial_complete("a", {"bit_ops": 1.0})
    assert search.suggest("c") is not None
    with pytest.raises(ProblemError, match="max_concurrent is 0; give at least 1"):
        ApqSearch(Problem(tiny, [Objective(bit_ops(tiny))]), max_concurrent=0)


def test_a_search_saved_and_restored_goes_on_as_if_it_had_never_stopped(tiny: NetworkEncoding, tmp_path: Path) -> None:
    problem = costs(tiny)
    objective = APQObjective(problem)
    whole = ApqSearch(problem, max_concurrent=1, seed=3)
    expected = drive(whole, objective, 80)
    first = ApqSearch(problem, max_concurrent=1, seed=3)
    drive(first, objective, 37)
    first.suggest("running")
    first.save(str(tmp_path / "state.pkl"))
    second = ApqSearch(problem)
    second.restore(str(tmp_path / "state.pkl"))
    assert second._asked.is_running("running")
    second.on_trial_complete("running", expected[37])
    again = drive(second, objective, 42, first=38)
    assert [row["candidate"] for row in again] == [row["candidate"] for row in expected[38:]]


def test_a_sampler_with_a_lambda_is_saved(tiny: NetworkEncoding, tmp_path: Path) -> None:
    sampler = optuna.samplers.TPESampler(gamma=lambda n: min(n, 5), seed=0)
    search = ApqSearch(Problem(tiny, [Objective(bit_ops(tiny))]), sampler, max_concurrent=1)
    drive(search, APQObjective(Problem(tiny, [Objective(bit_ops(tiny))])), 3)
    search.save(str(tmp_path / "state.pkl"))


def test_a_result_that_the_restored_search_does_not_know_is_taken_over(
    tiny: NetworkEncoding, rng: np.random.Generator
) -> None:
    problem = costs(tiny)
    search = ApqSearch(problem, max_concurrent=1)
    (candidate,) = tiny.decode(tiny.sample(1, rng))
    config = tiny.space.to_config(candidate)
    search.on_trial_complete("unknown", APQObjective(problem).evaluate(candidate) | {"config": config})
    assert search.to_dataframe()["candidate"].tolist() == [candidate.to_json()]
    search.on_trial_complete("lost", None, error=True)
    assert len(search.to_dataframe()) == 1


@pytest.mark.parametrize("kind", ["front", "frame"])
def test_a_warm_start_of_several_objectives_is_known_and_not_tried_again(tiny: NetworkEncoding, kind: str) -> None:
    problem = costs(tiny)
    genomes = tiny.sample(60, np.random.default_rng(5))
    evaluation = problem.evaluate(genomes)
    known: Any = Front.from_evaluation(problem, genomes, evaluation, {})
    if kind == "frame":
        known = pd.DataFrame(problem.measure(problem.metrics, genomes)).assign(
            candidate_json=[c.to_json() for c in tiny.decode(genomes)]
        )
    search = ApqSearch(problem, NSGA2Sampler(space=tiny, seed=0), warm_start=known, max_concurrent=1)
    before = search.front()
    expected = Front.from_evaluation(problem, genomes, evaluation, {})
    assert before.candidates == expected.candidates
    np.testing.assert_array_equal(before.metrics, expected.metrics)
    tried = {row["candidate"] for row in drive(search, APQObjective(problem), 100)}
    assert not tried & {c.to_json() for c in (known.candidates if kind == "front" else tiny.decode(genomes))}


def test_a_warm_start_without_a_needed_column_is_refused(tiny: NetworkEncoding) -> None:
    frame = pd.DataFrame({"candidate_json": [], "bit_ops": []})
    with pytest.raises(ProblemError, match=r"warm start lacks \['weight_bytes'\]"):
        ApqSearch(costs(tiny), warm_start=frame)


def test_what_is_known_and_contradicts_a_fixed_gene_is_passed_over(tiny: NetworkEncoding) -> None:
    problem = costs(tiny)
    genomes = tiny.sample(60, np.random.default_rng(5))
    known = Front.from_evaluation(problem, genomes, problem.evaluate(genomes), {})
    search = ApqSearch(problem, warm_start=known, max_concurrent=1)
    search.set_search_properties(None, None, {"depth 1": 2})
    kept = {c.to_json() for c in known.candidates if c.depths[0] == 2}
    assert 0 < len(kept) < len(known)
    assert set(search.to_dataframe()["candidate"]) == kept


def test_tunes_space_may_fix_genes_and_add_parameters(tiny: NetworkEncoding) -> None:
    problem = Problem(tiny, [Objective(bit_ops(tiny))])
    search = ApqSearch(problem, max_concurrent=10)
    config = tiny.space.to_tune() | {"depth 1": 2, "learning_rate": tune.loguniform(1e-4, 1e-1), "note": "mine"}
    assert search.set_search_properties(None, None, config)
    for number in range(8):
        suggested = search.suggest(str(number))
        assert suggested is not None
        assert suggested["depth 1"] == 2
        assert suggested["note"] == "mine"
        assert 1e-4 <= suggested["learning_rate"] <= 1e-1
        assert tiny.space.from_config(suggested).depths[0] == 2
    assert set(search.to_dataframe()["depth 1"]) == {2}
    with pytest.raises(ApqError, match=r"config: depth 1 is 9; choose one of \[1, 2\]"):
        ApqSearch(problem).set_search_properties(None, None, {"depth 1": 9})
    with pytest.raises(ProblemError, match=r"metric is 'accuracy', the problem improves \['bit_ops'\]"):
        ApqSearch(problem).set_search_properties("accuracy", "max", {})


@pytest.mark.parametrize("url", ["", "sqlite:///"])
def test_the_archive_is_exported_to_a_study_with_constraints_and_real_values(
    tiny: NetworkEncoding, tmp_path: Path, url: str
) -> None:
    problem = costs(tiny)
    search = ApqSearch(problem, SAMPLERS["nsga3"], max_concurrent=1)
    done = drive(search, APQObjective(problem), 30)
    storage = f"{url}{tmp_path / 'runs'}"
    search.export(storage, "mine")
    study = optuna.load_study(
        study_name="mine", storage=storage if url else JournalStorage(JournalFileBackend(storage))
    )
    assert [trial.values for trial in study.trials] == [[row["weight_bytes"], row["bit_ops"]] for row in done]
    assert [tiny.space.from_config(trial.params).to_json() for trial in study.trials] == [
        row["candidate"] for row in done
    ]
    assert all(trial.constraints["violation_bit_ops_max"] <= 0 for trial in study.best_trials)
    with pytest.raises(ApqError, match="has a study 'mine' already; choose another name"):
        search.export(storage, "mine")
    with pytest.raises(ApqError, match="cannot be used"):
        search.export(f"{url}{tmp_path / 'absent' / 'runs'}", "mine")


def test_cma_es_searches_numbers(tiny: NetworkEncoding) -> None:
    pytest.importorskip("cmaes")
    problem = Problem(tiny, [Objective(bit_ops(tiny))])
    search = ApqSearch(problem, optuna.samplers.CmaEsSampler(seed=0), max_concurrent=1)
    assert len(drive(search, APQObjective(problem), 40)) == 40
