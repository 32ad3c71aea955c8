"""What hosts hand to ``ApqSearch`` and read of it: wrappers, odd results, warm starts, storages, studies."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import ray.tune.search
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.schedulers import (
    ASHAScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
)
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.repeater import Repeater

from apq_tune import (
    ApqError,
    APQObjective,
    ApqSearch,
    CandidateError,
    Constraint,
    EvolutionSampler,
    FunctionMetric,
    NetworkEncoding,
    NSGA2Sampler,
    Objective,
    Problem,
    ProblemError,
    SearchSpace,
)
from apq_tune.errors import StudyError
from apq_tune.hosts.export import check_place
from apq_tune.hosts.host import check_mutations, check_scheduler, check_waiting

SPACE = SearchSpace.from_choices({"a": [1, 2, 3], "b": [1, 2]})


def total(genomes: np.ndarray) -> np.ndarray:
    return 1.0 * genomes.sum(axis=1)


M, K = FunctionMetric("m", "", total), FunctionMetric("k", "", total)
SIZE = FunctionMetric("size", "", lambda genomes: genomes[:, 0] + 1.0)
TOY = Problem(SPACE, [Objective(M)])
TWO = Problem(SPACE, [Objective(M), Objective(K, "maximize")])
LIMITED = Problem(SPACE, [Objective(M)], [Constraint(SIZE, 2)])


def flat(config: dict[str, Any], **metrics: Any) -> dict[str, Any]:
    """A last result as Tune hands it to searchers."""
    return metrics | {f"config/{name}": value for name, value in config.items()} | {"done": True}


def started(search: Searcher, key: str) -> dict[str, Any]:
    config = search.suggest(key)
    assert isinstance(config, dict)
    return config


def rows(search: ApqSearch) -> list[tuple[Any, ...]]:
    return list(search.to_dataframe()[["state", "a", "b"]].itertuples(index=False, name=None))


# What Tune was asked for


@pytest.mark.parametrize(
    ("problem", "metric", "mode", "said"),
    [
        (TOY, "m", "max", "mode is 'max', the problem minimizes m; give 'min', or leave it out"),
        (TOY, None, "max", "mode is 'max', the problem minimizes m"),
        (TOY, "loss", "min", "metric is 'loss', the problem improves ['m']"),
        (Problem(SPACE, [Objective(M, "maximize")]), None, "min", "the problem maximizes m; give 'max'"),
        (
            Problem(SPACE, [Objective(M), Objective(K, "maximize")]),
            None,
            "min",
            "the problem maximizes k; leave metric",
        ),
        (Problem(SPACE, [Objective(M), Objective(K, "maximize")]), "m", "min", "improves ['m', 'k']; leave metric"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda search: search, lambda search: ConcurrencyLimiter(search, 1)])
def test_a_metric_or_mode_that_contradicts_the_problem_is_refused(
    problem: Problem, metric: Any, mode: Any, said: str, wrap: Any
) -> None:
    with pytest.raises(ProblemError, match=re.escape(said)):
        wrap(ApqSearch(problem, max_concurrent=1)).set_search_properties(metric, mode, {})
    own = {"minimize": "min", "maximize": "max"}[problem.objectives[0].direction]
    names = [objective.metric.name for objective in problem.objectives]
    assert ApqSearch(problem, max_concurrent=1).set_search_properties(names[0] if names == ["m"] else None, None, {})
    if len(names) == 1:
        assert ApqSearch(problem, max_concurrent=1).set_search_properties("m", own, {})


def test_schedulers_that_cannot_serve_are_refused_and_the_others_not() -> None:
    goals, more = {"loss_nats": "min"}, {"metric": "loss_nats", "mode": "min"}
    mutated = {"hyperparam_mutations": {"a": [1, 2]}}
    for scheduler in (ASHAScheduler, HyperBandScheduler, MedianStoppingRule, HyperBandForBOHB):
        check_scheduler(scheduler(**more), goals, ())
        check_scheduler(scheduler(metric="accuracy", mode="max"), goals, ())
        with pytest.raises(ProblemError, match=r": mode is 'max', the problem minimizes loss_nats; give 'min'"):
            check_scheduler(scheduler(metric="loss_nats", mode="max"), goals, ())
    with pytest.raises(ProblemError, match=r"PopulationBasedTraining puts another candidate .* take ASHAScheduler"):
        check_scheduler(PopulationBasedTraining(**more, **mutated), goals, ())
    with pytest.raises(ProblemError, match="HyperBandForBOHB pauses trials, of which Repeater knows nothing"):
        check_scheduler(HyperBandForBOHB(**more), goals, (Repeater(ApqSearch(TOY)),))
    for scheduler in (HyperBandForBOHB, ASHAScheduler, MedianStoppingRule):
        check_waiting(scheduler(**more))
    with pytest.raises(ProblemError, match=r"HyperBandScheduler can wait for ever .*; take ASHAScheduler or Hyp"):
        check_waiting(HyperBandScheduler(**more))
    with pytest.raises(ProblemError, match="PopulationBasedTraining changes 'a', which is a gene"):
        check_mutations(PopulationBasedTraining(**more, **mutated), SPACE.parameters)
    check_mutations(PopulationBasedTraining(**more, hyperparam_mutations={"learning_rate": [1, 2]}), SPACE.parameters)


# Searchers around ours


def test_every_wrapper_that_tune_ships_is_known_here() -> None:
    shipped = [value for value in vars(ray.tune.search).values() if inspect.isclass(value)] + [Repeater]
    wrappers = {
        kind.__name__
        for kind in shipped
        if issubclass(kind, Searcher) and "searcher" in inspect.signature(kind.__init__).parameters
    }
    assert wrappers == {"ConcurrencyLimiter", "Repeater"}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda search: Repeater(search, repeat=2),
        lambda search: Repeater(ConcurrencyLimiter(search, max_concurrent=2), repeat=2),
        lambda search: ConcurrencyLimiter(Repeater(search, repeat=2), max_concurrent=4),
    ],
)
def test_a_repeater_tells_the_mean_and_limits_are_kept(wrap: Any) -> None:
    search = ApqSearch(LIMITED, max_concurrent=2)
    outer = wrap(search)
    configs = {key: started(outer, key) for key in "abcd"}
    assert configs["a"] | {"__trial_index__": 1} == configs["b"]
    for key, value in zip("abcd", (1.0, 3.0, 10.0, math.nan), strict=True):
        outer.on_trial_complete(key, flat(configs[key], m=value), error=math.isnan(value))
    trials = search._asked.trials()
    assert [(trial.state.name, trial.values) for trial in trials] == [("COMPLETE", [2.0]), ("COMPLETE", [10.0])]
    for trial, key in zip(trials, "ac", strict=True):
        assert trial.constraints == {"violation_size_max": (configs[key]["a"] - 2) / 2}
        assert json.loads(trial.user_attrs["candidate"])["choices"] == {name: configs[key][name] for name in "ab"}


def test_a_repeater_of_several_objectives_is_refused_at_once() -> None:
    outer = Repeater(ApqSearch(Problem(SPACE, [Objective(M), Objective(K)]), max_concurrent=1), repeat=2)
    for ask in (lambda: outer.set_search_properties(None, None, {}), lambda: outer.suggest("a")):
        with pytest.raises(ProblemError, match=r"Repeater hands on the mean of one metric, .* leave Repeater out"):
            ask()


def test_paused_trials_leave_room_for_others() -> None:
    search = ApqSearch(TOY, max_concurrent=1)
    limited = ConcurrencyLimiter(search, max_concurrent=1)
    started(limited, "a")
    assert limited.suggest("b") is None
    limited.on_pause("a")
    started(limited, "b")
    limited.on_unpause("a")
    search.on_trial_complete("b", {"m": 1.0})
    assert limited.suggest("c") is None
    search.on_trial_complete("a", {"m": 1.0})
    started(limited, "c")


# Results


@pytest.mark.parametrize("key", ["same", "another"])
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_a_trial_that_failed_and_was_tried_again_counts_as_it_ended(key: str, form: str, tmp_path: Path) -> None:
    search = ApqSearch(TOY, max_concurrent=2)
    config, other = started(search, "same"), started(search, "other")
    search.on_trial_complete("same", error=True)
    search.on_trial_complete("other", flat(other, m=5.0))
    search.save(str(tmp_path / "state"))
    again = ApqSearch(TOY)
    again.restore(str(tmp_path / "state"))
    result = flat(config, m=1.0) if form == "flat" else {"m": 1.0, "config": config}
    again.on_trial_complete(key, result)
    assert sorted(rows(again)) == sorted(("COMPLETE", c["a"], c["b"]) for c in (config, other))
    assert again.front().metrics["m"].tolist() == [1.0]
    again.on_trial_complete(key, error=True)  # as when it is restored once more
    again.on_trial_complete("lost", error=True)
    assert [row[0] for row in rows(again)] == ["COMPLETE", "COMPLETE"]


def test_nested_parameters_and_objects_of_the_users_own_come_back_too() -> None:
    search = ApqSearch(TOY, max_concurrent=1)
    space = {"opt": {"lr": ray.tune.loguniform(1e-3, 1), "on": True}, "note": ("__ref_ph", "hash"), "l": [1, 2]}
    search.set_search_properties(None, None, SPACE.to_tune() | space)
    config = started(search, "t")
    search.on_trial_complete("t", error=True)
    told = {"config/opt/lr": config["opt"]["lr"], "config/opt/on": True, "config/note": object(), "config/l": [1, 2]}
    search.on_trial_complete("t", flat({name: config[name] for name in "ab"}, m=1.0) | told)
    frame = search.to_dataframe()
    assert frame["state"].tolist() == ["COMPLETE"]
    assert frame["opt/lr"].tolist() == [config["opt"]["lr"]]


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"other": 1.0}, "it reported no 'm'; it reported ['other']"),
        ({"m": "abc"}, "m is 'abc', not a number; it reported ['m']"),
        ({"m": None}, "m is None, not a number; it reported ['m']"),
        ({"m": math.nan}, "m is nan; it reported ['m']"),
        ({"m": 1.0, "violation_size_max": math.nan}, "violation_size_max is nan, which the limit size <= 2 needs"),
    ],
)
def test_a_result_without_the_numbers_fails_its_trial_and_the_front_says_why(
    metrics: dict[str, Any], reason: str
) -> None:
    search = ApqSearch(LIMITED, max_concurrent=2)
    with pytest.raises(ProblemError, match="no trial has ended yet; run some first"):
        search.front()
    for key in "xy":
        config = started(search, key)
        search.on_trial_result(key, flat(config, epoch=1, **metrics))
        search.on_trial_complete(key, flat(config, **metrics))
    with pytest.raises(ProblemError, match=re.escape(f"of 2 2 failed (2 of them: {reason}); fix the trainable")):
        search.front()


def test_the_front_says_how_far_a_limit_is_missed_and_what_was_stopped() -> None:
    search = ApqSearch(Problem(SPACE, [Objective(M)], [Constraint(SIZE, 1)]), max_concurrent=6)
    for key in "abcdef":
        config = started(search, key)
        if config["a"] > 1:
            search.on_trial_complete(key, flat(config, m=1.0))
        else:
            search.on_trial_complete(key, flat(config, m=1.0, epoch=1, epochs=3))
    said = (
        r"of 6 2 were stopped by a scheduler, 4 break a limit, the closest misses size <= 1 by 100%; let trials train"
    )
    with pytest.raises(ProblemError, match=said):
        search.front()


def test_a_trainable_that_reports_only_the_objective_is_held_to_limits_that_cost_nothing() -> None:
    search = ApqSearch(LIMITED, max_concurrent=6)
    for key in "abcdef":
        config = started(search, key)
        search.on_trial_complete(key, flat(config, m=np.float32(config["a"] + config["b"] / 10)))
    front = search.front()
    assert [candidate["a"] for candidate in front.candidates] == [1]
    assert front.metrics["m"].tolist() == [float(np.float32(1.1))]


def test_two_limits_on_one_metric_are_told_apart_by_their_bounds(tmp_path: Path) -> None:
    problem = Problem(SPACE, [Objective(M)], [Constraint(SIZE, 2), Constraint(SIZE, 2.5), Constraint(SIZE, 1, ">=")])
    names = ("violation_size_max_2", "violation_size_max_2.5", "violation_size_min")
    assert problem.constraint_names == names
    objective = APQObjective(problem)
    study = optuna.create_study()
    study.optimize(objective, n_trials=5)
    search = ApqSearch(problem, max_concurrent=1)
    for key in "abc":
        config = started(search, key)
        search.on_trial_complete(key, flat(config, **objective.evaluate(SPACE.from_config(config))))
    for trial in (*study.trials, *search.study.trials):
        assert tuple(trial.constraints) == names
        assert all(trial.user_attrs[name] == violation for name, violation in trial.constraints.items())
    exported = search.export(tmp_path / "study.db", "mine")
    assert all(set(names) < set(trial.constraints) for trial in exported.trials)


# Warm starts


def table(**columns: Any) -> pd.DataFrame:
    candidates = [{"choices": {"a": a, "b": b}} for a in (1, 2, 3) for b in (1, 2)]
    return pd.DataFrame({"candidate_json": [json.dumps(c) for c in candidates], "m": range(6), "size": 1.0} | columns)


def test_what_a_warm_start_lacks_or_contradicts_is_counted() -> None:
    search = ApqSearch(TOY, warm_start=table(), max_concurrent=1)
    with pytest.warns(UserWarning, match="4 of 6 candidates of the warm start contradict param_space"):
        search.set_search_properties(None, None, {"a": 2})
    assert rows(search) == [("COMPLETE", 2, 1), ("COMPLETE", 2, 2)]
    search = ApqSearch(TOY, warm_start=table().head(2), max_concurrent=1)
    with pytest.raises(ProblemError, match="2 of 2 candidates of the warm start contradict param_space; leave"):
        search.set_search_properties(None, None, {"a": ray.tune.choice([2, 3])})
    with pytest.warns(UserWarning, match=r"2 of 6 candidates of the warm start lack one of \['m'\]"):
        search = ApqSearch(TOY, warm_start=table(m=[1, math.nan, 2, math.nan, 3, 4]))
    assert len(search.to_dataframe()) == 4
    with pytest.raises(ProblemError, match=r"6 of 6 candidates of the warm start lack one of \['m'\]; give numbers"):
        ApqSearch(TOY, warm_start=table(m=math.nan))


def test_an_infeasible_row_needs_no_objective() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = ApqSearch(LIMITED, warm_start=table(m=[1, 2, 3, math.nan, 5, 6], size=[1, 1, 1, 9, 1, 1]))
    frame = search.to_dataframe()
    assert frame["value_0"].tolist() == [1, 2, 3, math.inf, 5, 6]
    assert search.front().metrics["m"].tolist() == [1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("f.csv", r"warm_start is 'f.csv' \(str\); give a front"),
        ([1, 2], r"warm_start is '\[1, 2\]' \(list\)"),
        (table(m="many"), "warm start: column 'm' has values that are not numbers"),
        (table(candidate_json=""), "warm start, row 1: a candidate is one JSON object, got ''"),
        (table(candidate_json=7), "warm start, row 1: a candidate is one JSON object, got '7'"),
        (table(candidate_json='{"choices": {"a": 9, "b": 1}}'), "warm start, row 1: config: a is 9; choose one of"),
    ],
)
def test_a_warm_start_of_a_wrong_kind_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ApqError, match=said):
        ApqSearch(TOY, warm_start=given)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": "3"}, "seed is '3'"),
        ({"sampler": "tpe"}, "sampler is 'tpe'; give one of optuna.samplers, or of ours"),
        ({"max_concurrent": "2"}, "max_concurrent is '2'; give at least 1, or leave it out"),
        ({"max_concurrent": 1.5}, "max_concurrent is 1.5"),
        ({"problem": SPACE}, "give a Problem"),
    ],
)
def test_arguments_without_sense_are_refused_by_name(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ProblemError, match=re.escape(said)):
        ApqSearch(**{"problem": TOY} | arguments)
    assert started(ApqSearch(TOY, seed=2**70, max_concurrent=1), "a")  # numpy takes any size


# Storages


@pytest.fixture
def searched() -> ApqSearch:
    search, objective = ApqSearch(LIMITED, max_concurrent=1), APQObjective(LIMITED)
    for key in "abcdef":
        config = started(search, key)
        metrics = objective.evaluate(SPACE.from_config(config)) | {"m": np.float32(10 - config["a"]), "seconds": 1}
        search.on_trial_complete(key, flat(config, **metrics))
    return search


@pytest.mark.parametrize("name", ["study.db", "study.sqlite", "STUDY.SQLITE3", "study.log", "study.journal", "study"])
def test_the_name_says_which_storage_it_is_and_both_readers_agree(
    name: str, searched: ApqSearch, tmp_path: Path
) -> None:
    path = tmp_path / name
    ApqSearch.check_export(path, "mine")
    searched.export(path, "mine")
    is_sqlite = ("." in name and "l" in name.lower() and not name.endswith((".log", "journal"))) or name.endswith(".db")
    assert path.read_bytes().startswith(b"SQLite format 3") == is_sqlite
    storage: Any = f"sqlite:///{path}" if is_sqlite else JournalStorage(JournalFileBackend(str(path)))
    study = optuna.load_study(study_name="mine", storage=storage)
    for trial, own in zip(study.trials, searched._asked.trials(), strict=True):
        assert trial.params == own.params
        assert trial.constraints.items() >= own.constraints.items()
        assert trial.system_attrs["constraints"] == list(own.constraints.values())
        assert isinstance(trial.user_attrs["m"], float)
    assert {trial.params["a"] for trial in study.best_trials} == {2}  # 3 would be better and breaks the limit
    with pytest.raises(StudyError, match="has a study 'mine' already; choose another name"):
        ApqSearch.check_export(path, "mine")
    ApqSearch.check_export(str(path), "another")


def test_optuna_dashboard_shows_no_best_trial_that_breaks_a_limit(searched: ApqSearch, tmp_path: Path) -> None:
    serializer = pytest.importorskip("optuna_dashboard._serializer")
    study = searched.export(tmp_path / "study.log", "mine")
    shown = [
        serializer.serialize_frozen_trial(study._study_id, trial, trial.system_attrs) for trial in study.get_trials()
    ]
    assert [trial["constraints"] for trial in shown] == [list(t.constraints.values()) for t in searched._asked.trials()]


def test_a_place_that_cannot_hold_a_study_is_refused_before_any_work(tmp_path: Path, searched: ApqSearch) -> None:
    (tmp_path / "notes.log").write_text("my notes\n")
    (tmp_path / "notes.db").write_text("my notes\n")
    searched.export(tmp_path / "real.db", "mine")
    (tmp_path / "real.db").rename(tmp_path / "real.log")
    (tmp_path / "empty.log").touch()
    check_place(tmp_path / "empty.log", "mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for place, said in {
        tmp_path / "notes.log": "is not an Optuna journal; choose another name",
        tmp_path / "notes.db": "is not an SQLite database, although its name says so; choose another name",
        f"sqlite:///{tmp_path}/notes.db": "is not an SQLite database",
        tmp_path / "real.log": f"is an SQLite database; give sqlite:///{tmp_path}/real.log",
        tmp_path: "is a folder; give the path of a file",
        "": "is a folder; give the path of a file",
        tmp_path / "absent" / "study.db": "there is no folder",
        f"sqlite:///{tmp_path}/absent/study.db": "there is no folder",
        tmp_path / ("long" * 100): "cannot be used (File name too long)",
        "mysql://nobody@nowhere/study": "cannot be used",
        "foo://bar": "cannot be used",
    }.items():
        with pytest.raises(StudyError, match=re.escape(said)) as caught:
            ApqSearch.check_export(place, "mine")
        assert "\n" not in str(caught.value)
        with pytest.raises(StudyError):
            searched.export(place, "mine")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# Studies


@pytest.mark.parametrize("sampler", [EvolutionSampler, NSGA2Sampler])
def test_a_study_of_another_space_is_refused_in_our_words(sampler: Any, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="mine", storage=storage, sampler=sampler(space=SPACE, seed=0))
    study.optimize(APQObjective(TOY), n_trials=3)
    other = SearchSpace.from_choices({"a": [1, 2, 3, 4], "b": [1, 2]})
    objective = APQObjective(Problem(other, TOY.objectives))
    for own, said in (
        (sampler(space=other, seed=0), r"trial 0 of the study was made with another space: a is one of \[1, 2, 3\]"),
        (sampler(seed=0), r"the study cannot take a from \[1, 2, 3, 4\] .* it was made with another space"),
        (optuna.samplers.RandomSampler(), r"the study cannot take a from \[1, 2, 3, 4\]"),
    ):
        study = optuna.load_study(study_name="mine", storage=storage, sampler=own)
        with pytest.raises(ApqError, match=said):
            study.optimize(objective, n_trials=1)


def test_a_study_with_another_number_of_objectives_is_refused_and_threads_may_share_one() -> None:
    for directions in (["minimize", "minimize"], ["maximize"]):
        with pytest.raises(ProblemError, match=r"the problem's \['minimize'\]; use optuna.create_study"):
            optuna.create_study(directions=directions).optimize(APQObjective(TOY), n_trials=1)
    study = optuna.create_study(sampler=EvolutionSampler(space=SPACE, seed=0))
    study.optimize(APQObjective(LIMITED), n_trials=12, n_jobs=2)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert study.best_trial.params == {"a": 1, "b": 1}


def test_constants_of_a_training_are_known_by_name(tiny: NetworkEncoding) -> None:
    @dataclasses.dataclass
    class Training:
        learning_rate: float = 0.1

    class Trains(FunctionMetric):
        training = Training()
        epochs, fidelity = 1, "none"

        def adjusted(self, _: Any) -> Any:
            return self

        def train(self, *_: Any) -> None:
            """Nothing."""

    search = ApqSearch(Problem(tiny, [Objective(Trains("loss", "nats", total))]), max_concurrent=1)
    with pytest.raises(CandidateError, match="there is no 'learning_rte', did you mean 'learning_rate'"):
        search.set_search_properties(None, None, {"learning_rte": 1e-3})
    search.set_search_properties(None, None, {"learning_rate": 1e-3, "lr": 3})
