"""What Tune's ``param_space`` asks for is done, or refused by name; and the part of a space that it leaves."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import optuna
import pytest
from ray import tune
from ray.tune.search import Searcher

from apq_tune import (
    ApqError,
    ApqSearch,
    CandidateError,
    EvolutionSampler,
    FunctionMetric,
    NetworkEncoding,
    NSGA2Sampler,
    Objective,
    Problem,
    SearchSpace,
)
from apq_tune.cost import bit_ops
from apq_tune.hosts.narrowed import NarrowedEncoding

SPACE = SearchSpace.from_choices({"a": [1, 2, 3], "b": [1, 2]})
TOY = Problem(SPACE, [Objective(FunctionMetric("m", "", lambda genomes: 1.0 * genomes.sum(axis=1)))])


def suggestions(problem: Problem, config: dict[str, Any], n: int = 20, sampler: Any = None) -> list[dict[str, Any]]:
    search = ApqSearch(problem, sampler, max_concurrent=1)
    search.set_search_properties(None, None, config)
    done: list[dict[str, Any]] = []
    for number in range(n):
        suggested = search.suggest(str(number))
        if suggested == Searcher.FINISHED:
            break
        assert suggested is not None
        done.append(suggested)
        search.on_trial_complete(str(number), {"m": 1.0 * number, "bit_ops": 1.0 * number, "config": suggested})
    return done


SAMPLERS = {
    "default": lambda _: None,
    "evolution": lambda encoding: EvolutionSampler(space=encoding, population=8, parents=8, seed=0),
    "nsga2": lambda encoding: NSGA2Sampler(space=encoding, population=8, parents=8, seed=0),
    "no space": lambda _: EvolutionSampler(population=8, parents=8, seed=0),
    "tpe": lambda _: optuna.samplers.TPESampler(n_startup_trials=5, seed=0),
    "random": lambda _: optuna.samplers.RandomSampler(seed=0),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_narrowed_gene_takes_only_the_values_that_are_left_with_any_sampler(tiny: NetworkEncoding, name: str) -> None:
    problem, genes = Problem(tiny, [Objective(bit_ops(tiny))]), tiny.space.parameters
    kernels = [gene for gene in genes if gene.endswith("kernel_size") and 5 in genes[gene]]
    given = {gene: tune.choice([5]) for gene in kernels} | {"1.1 dw_w_bits": 4, "1.2 expand_ratio": "mine"}
    done = suggestions(problem, tiny.space.to_tune() | given, 24, SAMPLERS[name](tiny))
    assert len(done) == 24
    candidates = [tiny.space.from_config(config) for config in done]
    assert len({candidate.to_json() for candidate in candidates}) == 24
    for candidate in candidates:  # as the trainable sees it: a rule may not bring back what was left out
        assert {block.kernel_size for block in candidate.stages[0]} == {5}
        assert candidate.stages[0][0].dw_w_bits == 4


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_narrowed_space_is_exhausted_when_all_that_is_left_was_tried(name: str) -> None:
    encoding = Problem(SPACE, TOY.objectives).encoding
    done = suggestions(TOY, SPACE.to_tune() | {"a": tune.choice([3, 1, 1])}, 20, SAMPLERS[name](encoding))
    assert sorted((config["a"], config["b"]) for config in done) == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert suggestions(TOY, {"a": 2.0, "b": tune.choice([np.int64(2)])}, 5, SAMPLERS[name](encoding)) == [
        {"a": 2, "b": 2}
    ]


def test_a_space_that_random_draws_would_hardly_empty_is_emptied() -> None:
    space = SearchSpace.from_choices({"a": list(range(20)), "b": list(range(30))})
    problem = Problem(space, TOY.objectives)
    done = suggestions(problem, {}, 700, optuna.samplers.RandomSampler(seed=0))
    assert len({tuple(config.values()) for config in done}) == len(done) == 600


def test_the_part_that_is_left_is_that_of_the_enumeration(tiny: NetworkEncoding, everything: np.ndarray) -> None:
    kept = {"1.1 kernel_size": (5,), "depth 1": (1,), "2.1 dw_w_bits": (8,)}
    narrowed = NarrowedEncoding(tiny, kept)
    expected = {
        candidate.to_json()
        for candidate in tiny.decode(everything)
        if len(candidate.stages[0]) == 1
        and candidate.stages[0][0].kernel_size == 5
        and candidate.stages[1][0].dw_w_bits == 8
    }
    rng = np.random.default_rng(0)
    drawn = {candidate.to_json() for candidate in narrowed.decode(narrowed.sample(3000, rng))}
    assert drawn == expected
    genomes = narrowed.sample(50, rng)
    np.testing.assert_array_equal(narrowed.encode(narrowed.decode(genomes)), genomes)
    np.testing.assert_array_equal(narrowed.canonicalise(narrowed.fill_inert(genomes, rng)), genomes)
    np.testing.assert_array_equal(narrowed.features(genomes), tiny.features(tiny.encode(narrowed.decode(genomes))))
    with pytest.raises(CandidateError, match=r"depth 1 is none of \[1\], the only values that may be tried"):
        narrowed.encode([next(c for c in tiny.decode(everything) if len(c.stages[0]) == 2)])
    small = NarrowedEncoding(
        tiny, {name: values[:1] for name, values in tiny.space.parameters.items() if name[0] == "2" or "bits" in name}
    )
    assert small.size() == len(small.enumerate()) == len(np.unique(small.sample(2000, rng), axis=0))
    forbidden = {"1.1 kernel_size": (5,), "1.1 dw_a_bits": (2,)}
    with pytest.raises(CandidateError, match=r"tiny forbids every candidate with 1.1 kernel_size \[5\], 1.1 dw_a_bits"):
        NarrowedEncoding(tiny, forbidden)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"a": tune.choice([1, 9])}, "a is 9; choose one of [1, 2, 3]"),
        ({"a": tune.choice([])}, "a has an empty tune.choice; choose among [1, 2, 3]"),
        ({"a": True}, "a is True; choose one of [1, 2, 3]"),
        ({"a": None}, "a is None; choose one of [1, 2, 3]"),
        ({"a": [1]}, "a is [1]; choose one of [1, 2, 3]"),
        ({"a": np.array([1, 2])}, "a is array([1, 2]); choose one of [1, 2, 3]"),
        ({"a": tune.uniform(1, 3)}, "a has a domain of kind float; a gene is searched by tune.choice([1, 2, 3])"),
        ({"a": tune.randint(1, 3)}, "a has a domain of kind integer"),
        ({"a": tune.sample_from(lambda _: 1)}, "a has a domain of kind function"),
        ({"a": ("__fn_ph", "as Tune hands it on")}, "a is tune.sample_from"),
        ({"a": tune.grid_search([1, 2])}, "a: a grid cannot be searched; give tune.choice"),
        ({"o": {"x": tune.grid_search([1, 2])}}, "o/x: a grid cannot be searched; give tune.choice"),
        ({"net": SPACE.to_tune()}, "net/a: 'a' is a gene, which stands at the top of param_space; move it there"),
        ({"net": [{"a": 1}]}, "net/0/a: 'a' is a gene"),
        ({"o": {"x": tune.randn(0, 1)}}, "o/x: cannot be searched"),
        ({"x": tune.qloguniform(1e-4, 1e-1, 1e-4)}, "x: steps on a logarithmic scale cannot be searched"),
        ({"x": tune.qlograndint(1, 100, 5)}, "x: steps on a logarithmic scale cannot be searched"),
        ({"x": tune.choice([])}, "x: an empty tune.choice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_searched_is_refused_by_its_path(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ApqError, match=re.escape(said)) as caught:
        suggestions(TOY, SPACE.to_tune() | config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("depht 1", "depth 1"),
        ("Depth 1", "depth 1"),
        ("depth_1", "depth 1"),
        ("depth 3", "depth 2"),
        ("1.1 chanels", "1.1 channels"),
        ("kernel_size 1.1", "1.1 kernel_size"),
    ],
)
def test_a_name_that_is_a_genes_but_for_a_slip_is_refused(tiny: NetworkEncoding, name: str, meant: str) -> None:
    problem = Problem(tiny, [Objective(bit_ops(tiny))])
    for value in (2, tune.choice([2])):
        with pytest.raises(CandidateError, match=rf"there is no '{name}', did you mean '{meant}'"):
            suggestions(problem, tiny.space.to_tune() | {name: value})
    with pytest.raises(CandidateError, match=f"did you mean '{meant}'"):  # without ApqSearch, in the trial
        tiny.space.from_config({gene: values[0] for gene, values in tiny.space.parameters.items()} | {name: 2})


def test_other_names_are_the_users_own(tiny: NetworkEncoding) -> None:
    own = {"note": "mine", "seed": 3, "learning_rate": 1e-3, "epochs": 2, "depth": 3, "wd": 0.0, "opt": {"name": "sgd"}}
    for config in suggestions(Problem(tiny, [Objective(bit_ops(tiny))]), own, 3):
        assert own.items() <= config.items()


def test_domains_are_searched_wherever_they_stand_and_keep_their_ranges() -> None:
    space = {
        "opt": {"lr": tune.loguniform(1e-4, 1e-1), "name": "sgd", "deep": {"n": tune.lograndint(1, 9)}},
        "list": [tune.choice(["x", "y"]), 7],
        "i": tune.randint(0, 3),
        "q": tune.qrandint(0, 6, 2),
        "u": tune.quniform(0, 1, 0.25),
        "f": tune.choice([np.float32(0.5), None]),
    }
    done = suggestions(TOY, SPACE.to_tune() | space, 60, optuna.samplers.RandomSampler(seed=0))
    assert len(done) == 60  # candidates may come twice beside parameters of the user's own
    assert all(1e-4 <= config["opt"]["lr"] <= 1e-1 and config["opt"]["name"] == "sgd" for config in done)
    assert {config["opt"]["deep"]["n"] for config in done} <= set(range(1, 9))
    assert {tuple(config["list"]) for config in done} == {("x", 7), ("y", 7)}
    assert {config["i"] for config in done} == {0, 1, 2}
    assert {config["q"] for config in done} == {0, 2, 4, 6}
    assert {config["u"] for config in done} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {config["f"] for config in done} == {0.5, None}
    for one, other in itertools.pairwise(done):
        assert one["opt"] is not other["opt"]
