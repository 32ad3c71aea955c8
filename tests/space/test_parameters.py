"""Search spaces as parameters of Optuna and Ray Tune, and candidates as their values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import optuna
import pytest

from apq_tune import Candidate, CandidateError, NetworkEncoding, SearchSpace
from apq_tune.space.encodings import encoding_of

NAMES = ["digits", "apq_mobilenet", "ofa_mobilenetv3_w12"]


@pytest.mark.parametrize("name", NAMES)
def test_candidates_come_back_from_their_configs_which_always_have_every_gene(
    name: str, rng: np.random.Generator
) -> None:
    space = SearchSpace.load(name)
    encoding = NetworkEncoding(space)
    for candidate in encoding.decode(encoding.sample(30, rng)):
        config = space.to_config(candidate)
        assert tuple(config) == encoding.names
        assert space.from_config(config) == candidate


def test_any_config_is_the_candidate_of_its_genome(tiny: NetworkEncoding, rng: np.random.Generator) -> None:
    genes = list(tiny.space.parameters.items())
    genomes = (rng.random((300, len(genes))) * tiny.n_choices).astype(np.int16)
    allowed = tiny.is_allowed(genomes)
    assert 0 < allowed.sum() < 300
    for genome, ok in zip(genomes, allowed, strict=True):
        config = {name: values[i] for (name, values), i in zip(genes, genome, strict=True)}
        candidate = tiny.space.from_config(config)
        tiny.encode([candidate])  # is in the space in any case
        assert (candidate == tiny.decode(genome[None])[0]) == ok


def test_a_forbidden_combination_gives_way_to_a_nearest_allowed_one() -> None:
    """The space forbids kernel 7 with 4-bit depthwise activations: one step in either is enough."""
    space = SearchSpace.load("apq_mobilenet")
    config = {name: values[-1] for name, values in space.parameters.items()} | {"1.1 dw_a_bits": 4}
    given = space.from_config(config).stages[0][0]
    assert config["1.1 kernel_size"] == 7
    assert (given.kernel_size, given.dw_a_bits) in {(5, 4), (7, 6)}
    others = given._replace(kernel_size=7, dw_a_bits=8)
    assert others == space.from_config(config | {"1.1 dw_a_bits": 8}).stages[0][0]


@pytest.mark.parametrize("name", NAMES)
def test_to_tune_offers_exactly_the_values_of_each_gene(name: str) -> None:
    space = SearchSpace.load(name)
    domains = space.to_tune()
    assert {gene: tuple(domain.categories) for gene, domain in domains.items()} == dict(space.parameters)
    config = {gene: domain.sample() for gene, domain in domains.items()}
    NetworkEncoding(space).encode([space.from_config(config | {"learning_rate": 0.1})])


def test_optuna_suggests_a_candidate_and_does_not_ask_for_fixed_genes(space: SearchSpace) -> None:
    candidate = NetworkEncoding(space).extremes()[1]
    params = space.to_config(candidate)
    assert space.suggest(optuna.trial.FixedTrial(params)) == candidate
    trial = optuna.create_study().ask()
    suggested = space.suggest(trial, fixed={"depth 1": 2})
    assert suggested.depths[0] == 2
    assert set(trial.params) == set(space.parameters) - {"depth 1"}
    NetworkEncoding(space).encode([suggested])


def test_spaces_of_named_choices_have_parameters_too() -> None:
    space = SearchSpace.from_choices({"width": [8, 16], "activation": ["relu", "gelu"]})
    for candidate in encoding_of(space).decode(encoding_of(space).enumerate()):
        assert space.from_config(space.to_config(candidate)) == candidate
    assert set(space.to_tune()) == {"width", "activation"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth 1": 9}, "config: depth 1 is 9; choose one of [1, 2]"),
        ({"depth 1": None}, "config: 'depth 1' is missing; start from to_tune()"),
    ],
)
def test_a_config_that_is_no_candidate_is_refused(space: SearchSpace, change: dict[str, Any], said: str) -> None:
    config = space.to_config(NetworkEncoding(space).extremes()[0]) | change
    config = {name: value for name, value in config.items() if value is not None}
    with pytest.raises(CandidateError, match=re.escape(said)):
        space.from_config(config)


def test_fixing_what_is_no_gene_is_refused(space: SearchSpace) -> None:
    with pytest.raises(CandidateError, match=r"fixed: 'depht 1' is not a gene; known: 'depth 1'"):
        space.suggest(optuna.create_study().ask(), fixed={"depht 1": 2})


def test_a_candidate_that_is_not_in_the_space_has_no_config(tiny: NetworkEncoding, space: SearchSpace) -> None:
    largest = tiny.extremes()[1]
    bad = [block._replace(kernel_size=5, dw_a_bits=2) for block in largest.stages[0]]
    forbidden = Candidate((tuple(bad), *largest.stages[1:]))
    with pytest.raises(CandidateError, match="candidate has 5 stages; digits has 2"):
        space.to_config(NetworkEncoding(SearchSpace.load("ofa_mobilenetv3_w12")).extremes()[1])
    with pytest.raises(CandidateError, match="not in the space"):
        tiny.space.to_config(forbidden)
