"""Genomes, features and candidates are three forms of one thing."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from apq_tune import Candidate, CandidateError, NetworkEncoding, SearchSpace, SpaceError
from apq_tune.space.gene import Kind
from apq_tune.space.mbconv import Block
from apq_tune.space.skeleton import BIT_NAMES

seeds = st.integers(0, 2**32 - 1)


def any_genome(encoding: NetworkEncoding, n: int, rng: np.random.Generator) -> np.ndarray:
    """Every gene uniform, inert ones too: neither canonical nor allowed."""
    return rng.integers(0, encoding.n_choices, (n, encoding.n_genes), dtype=np.int16)


def inert_by_names(encoding: NetworkEncoding, candidate: Candidate) -> np.ndarray:
    """Which genes a candidate does not have, read off their names."""
    inert = []
    for name in encoding.names:
        place = name.split(" ")[0]
        stage, _, position = place.partition(".")
        inert.append(bool(position) and int(position) > candidate.depths[int(stage) - 1])
    return np.array(inert)


@given(seed=seeds)
def test_candidates_genomes_features_and_json_are_exact_round_trips(either: NetworkEncoding, seed: int) -> None:
    genomes = either.sample(8, np.random.default_rng(seed))
    candidates = either.decode(genomes)
    np.testing.assert_array_equal(either.encode(candidates), genomes)
    np.testing.assert_array_equal(either.from_features(either.features(genomes)), genomes)
    assert [Candidate.from_json(candidate.to_json()) for candidate in candidates] == candidates


@given(seed=seeds)
def test_canonicalise_zeroes_exactly_the_genes_that_the_candidate_does_not_have(
    either: NetworkEncoding, seed: int
) -> None:
    genomes = any_genome(either, 8, np.random.default_rng(seed))
    canonical = either.canonicalise(genomes)
    for genome, row, candidate in zip(genomes, canonical, either.decode(genomes), strict=True):
        np.testing.assert_array_equal(row, np.where(inert_by_names(either, candidate), 0, genome))
    np.testing.assert_array_equal(either.canonicalise(canonical), canonical)


@given(seed=seeds)
def test_inert_genes_change_neither_candidate_nor_features(either: NetworkEncoding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    genomes = either.sample(8, rng)
    candidates = either.decode(genomes)
    inert = np.array([inert_by_names(either, candidate) for candidate in candidates])
    other = np.where(inert, any_genome(either, 8, rng), genomes)
    assert either.decode(other) == candidates
    np.testing.assert_array_equal(either.features(other), either.features(genomes))
    np.testing.assert_array_equal(either.canonicalise(other), genomes)


def test_fill_inert_draws_every_choice_of_inert_genes_and_never_touches_the_candidate(
    either: NetworkEncoding, rng: np.random.Generator
) -> None:
    genomes = np.repeat(either.encode([either.extremes()[0]], check=False), 500, axis=0)
    filled = either.fill_inert(genomes, rng)
    assert either.decode(filled) == either.decode(genomes)
    inert = inert_by_names(either, either.extremes()[0])
    assert inert.any()
    for gene in np.flatnonzero(inert):
        assert set(filled[:, gene]) == set(range(either.n_choices[gene]))


def breaks_the_rule(candidate: Candidate) -> bool:
    """The one rule of the tiny space."""
    return any(block.kernel_size == 5 and block.dw_a_bits == 2 for block in candidate.blocks)


def test_enumerate_gives_each_allowed_canonical_genome_once(tiny: NetworkEncoding) -> None:
    genomes = tiny.enumerate()
    candidates = tiny.decode(genomes)
    assert len(set(candidates)) == len(candidates) == (24 + 24 * 24) * 16
    assert not any(map(breaks_the_rule, candidates))
    np.testing.assert_array_equal(tiny.canonicalise(genomes), genomes)


def test_enumerate_refuses_a_space_that_is_too_large_and_says_how_large(
    encoding: NetworkEncoding, tiny: NetworkEncoding
) -> None:
    with pytest.raises(SpaceError, match=r"digits: 8\.1e\+14 candidates are too many .*1000000"):
        encoding.enumerate()
    with pytest.raises(SpaceError, match="limit 100"):
        tiny.enumerate(limit=100)


def test_enumerate_refuses_a_space_larger_than_a_float_can_count(space: SearchSpace) -> None:
    data = yaml.safe_load(space.to_yaml())
    data["stages"][0]["depth"] = list(range(1, 101))
    with pytest.raises(SpaceError, match="too many to enumerate"):
        NetworkEncoding(SearchSpace.from_dict(data)).enumerate()


def test_is_allowed_knows_the_rule_and_ignores_blocks_that_are_switched_off(
    tiny: NetworkEncoding, rng: np.random.Generator
) -> None:
    genomes = any_genome(tiny, 2000, rng)
    broken = np.array([breaks_the_rule(candidate) for candidate in tiny.decode(genomes)])
    assert 0.1 < broken.mean() < 0.9
    np.testing.assert_array_equal(tiny.is_allowed(genomes), ~broken)


def test_sample_obeys_the_rules_is_canonical_and_covers_the_whole_space(
    tiny: NetworkEncoding, everything: np.ndarray, rng: np.random.Generator
) -> None:
    as_number = 2 ** np.arange(tiny.n_genes)  # no gene of the tiny space has more than two choices
    np.testing.assert_array_equal(np.unique(tiny.sample(300_000, rng) @ as_number), np.unique(everything @ as_number))


def test_sample_draws_every_gene_uniformly_where_nothing_is_forbidden(
    encoding: NetworkEncoding, rng: np.random.Generator
) -> None:
    genomes = encoding.sample(20_000, rng)
    on = encoding.active_genes(genomes)
    for gene, n_choices in enumerate(encoding.n_choices):
        counts = np.bincount(genomes[on[:, gene], gene], minlength=n_choices)
        assert chisquare(counts).pvalue > 1e-6 if n_choices > 1 else len(counts) == 1, encoding.names[gene]


def test_repair_leaves_allowed_genomes_alone_and_mends_only_the_offending_block(
    tiny: NetworkEncoding, rng: np.random.Generator
) -> None:
    genomes = any_genome(tiny, 500, rng)
    allowed = tiny.is_allowed(genomes)
    repaired = tiny.repair(genomes, rng)
    assert not any(map(breaks_the_rule, tiny.decode(repaired)))
    np.testing.assert_array_equal(repaired[allowed], genomes[allowed])
    for before, after in zip(tiny.decode(genomes[~allowed]), tiny.decode(repaired[~allowed]), strict=True):
        assert before.depths == after.depths
        for old, new in zip(before.blocks, after.blocks, strict=True):
            assert old.channels == new.channels
            assert old == new or (old.kernel_size == 5 and old.dw_a_bits == 2)


def test_repair_that_cannot_succeed_says_so(tiny_space: SearchSpace, rng: np.random.Generator) -> None:
    data = yaml.safe_load(tiny_space.to_yaml())
    all_bits = [2, 3, 4, 5, 6, 7, 8]
    data["choices"] |= dict.fromkeys(["pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits"], all_bits)
    data["forbidden"] = [
        {field: bits} for field in ("pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits") for bits in all_bits[:-1]
    ]
    nearly_nothing = NetworkEncoding(SearchSpace.from_dict(data))
    with pytest.raises(SpaceError, match=r"tiny: forbidden combinations remain .*relax the rules"):
        nearly_nothing.sample(100, rng)


def test_names_and_numbers_of_genes_are_those_of_the_space(tiny: NetworkEncoding) -> None:
    assert tiny.names[:8] == (
        "depth 1",
        "depth 2",
        "1.1 kernel_size",
        "1.2 kernel_size",
        "2.1 kernel_size",
        "1.1 channels",
        "1.2 channels",
        "2.1 channels",
    )
    assert tiny.names[-1] == "2.1 dw_a_bits"
    assert tiny.n_choices.tolist() == [2, 1] + [2, 2, 1] + [2, 2, 2] + [2] * 3 + [1] * 3 + [2] * 3 + [2] * 3
    assert (tiny.n_arch_features, tiny.n_bit_features) == (5 + 6, 6 + 3 + 6 + 6)


def test_features_are_kernels_then_channels_then_bits_with_zeros_for_blocks_that_are_off(tiny: NetworkEncoding) -> None:
    one = Candidate(((Block(5, 24, 8, 8, 4, 8),), (Block(3, 8, 2, 8, 8, 2),)))
    kernels = [0, 1, 0, 0, 1]
    channels = [0, 1, 0, 0, 1, 0]
    bits = [[0, 1, 0, 0, 1, 0], [1, 0, 1], [1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0]]
    np.testing.assert_array_equal(tiny.features(tiny.encode([one]))[0], sum(bits, kernels + channels))


def test_from_features_refuses_rows_that_no_depth_makes(encoding: NetworkEncoding) -> None:
    features = encoding.features(encoding.encode([encoding.extremes()[0]]))
    features[:, : encoding.n_arch_features] = 0
    with pytest.raises(CandidateError, match="depth 1 is 0; choose one of \\[1, 2\\]"):
        encoding.from_features(features)


def test_from_features_refuses_a_stage_whose_first_block_is_off(encoding: NetworkEncoding) -> None:
    largest = encoding.features(encoding.encode([encoding.extremes()[1]]))
    first_block = np.zeros(largest.shape[1], bool)
    first_column = 0
    for name, n in zip(encoding.names[2:], encoding.n_choices[2:], strict=True):
        first_block[first_column : first_column + n] = name.startswith("1.1 ")
        first_column += n
    with pytest.raises(CandidateError):
        encoding.from_features(np.where(first_block, np.float32(0), largest))


def replaced(candidate: Candidate, stage: int, position: int, **changes: int) -> Candidate:
    stages = [list(blocks) for blocks in candidate.stages]
    stages[stage][position] = stages[stage][position]._replace(**changes)
    return Candidate(tuple(map(tuple, stages)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kernel_size": 7}, r"1\.2 kernel_size is 7; choose one of \[3, 5\]"),
        ({"channels": 16}, r"1\.2 channels is 16; choose one of \[8, 24\]"),
        ({"pw_a_bits": 2}, r"1\.2 pw_a_bits is 2; choose one of \[8\]"),
        ({"dw_w_bits": 6}, r"1\.2 dw_w_bits is 6; choose one of \[4, 8\]"),
    ],
)
def test_encode_refuses_a_value_that_is_no_choice_naming_position_and_gene(
    tiny: NetworkEncoding, changes: dict[str, int], complaint: str
) -> None:
    largest = tiny.extremes()[1]
    with pytest.raises(CandidateError, match=f"candidate 1: {complaint}"):
        tiny.encode([largest, replaced(largest, 0, 1, **changes)])


def test_encode_refuses_a_depth_or_a_number_of_stages_that_the_space_has_not(tiny: NetworkEncoding) -> None:
    largest = tiny.extremes()[1]
    first, second = largest.stages
    with pytest.raises(CandidateError, match=r"candidate 0: depth 2 is 2; choose one of \[1\]"):
        tiny.encode([Candidate((first, second * 2))])
    with pytest.raises(CandidateError, match="candidate 2: 1 stages; tiny has 2"):
        tiny.encode([largest, largest, Candidate((first,))])


def test_encode_refuses_a_forbidden_combination_unless_told_not_to_check(tiny: NetworkEncoding) -> None:
    largest = tiny.extremes()[1]
    forbidden = replaced(largest, 0, 0, dw_a_bits=2)
    with pytest.raises(CandidateError, match=r"candidate 1: k5.* has a combination that the space forbids"):
        tiny.encode([largest, forbidden])
    assert tiny.decode(tiny.encode([forbidden], check=False)) == [forbidden]


def test_extremes_are_the_smallest_and_the_largest_network_at_the_most_bits(tiny: NetworkEncoding) -> None:
    assert tiny.extremes() == (
        Candidate(((Block(3, 8, 8, 8, 8, 8),), (Block(3, 8, 8, 8, 8, 8),))),
        Candidate(((Block(5, 24, 8, 8, 8, 8),) * 2, (Block(3, 24, 8, 8, 8, 8),))),
    )


KINDS = {
    "depth": [],
    "kernel": ["kernel_size"],
    "width": ["channels"],
    "w_bits": ["pw_w_bits", "dw_w_bits"],
    "a_bits": ["pw_a_bits", "dw_a_bits"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_at_largest_sets_the_genes_of_that_kind_and_no_others(
    encoding: NetworkEncoding, rng: np.random.Generator, kind: Kind
) -> None:
    genomes = encoding.sample(50, rng)
    before = copy.deepcopy(genomes)
    largest = encoding.decode(encoding.at_largest(genomes, [kind]))
    best = {"kernel": [5, 5, 3, 3, 3], "width": [64, 64, 64, 128, 128]}.get(kind, [8] * 5)
    slots = {(slot.stage, slot.position): n for n, slot in enumerate(encoding.space.slots)}
    np.testing.assert_array_equal(genomes, before)
    for candidate, changed in zip(encoding.decode(genomes), largest, strict=True):
        if kind == "depth":
            assert changed.depths == (2, 3)
            shared = [new[: len(old)] for old, new in zip(candidate.stages, changed.stages, strict=True)]
            assert Candidate(tuple(shared)) == candidate
        else:
            expected = tuple(
                tuple(b._replace(**dict.fromkeys(KINDS[kind], best[slots[s, p]])) for p, b in enumerate(stage))
                for s, stage in enumerate(candidate.stages)
            )
            assert changed == Candidate(expected)


def test_uniform_policies_are_both_extremes_at_every_common_bit_width(encoding: NetworkEncoding) -> None:
    found = set(encoding.decode(encoding.uniform_policies()))
    assert found == {network.with_bits(bits) for network in encoding.extremes() for bits in (2, 4, 8)}


def test_uniform_policies_are_allowed_and_take_only_bits_that_all_fields_have(tiny: NetworkEncoding) -> None:
    policies = tiny.uniform_policies()
    assert tiny.is_allowed(policies).all()
    assert set(tiny.decode(policies)) == set(tiny.extremes())


def test_uniform_policies_leave_out_what_the_rules_forbid(tiny_space: SearchSpace) -> None:
    data = yaml.safe_load(tiny_space.to_yaml())
    data["choices"] |= {"pw_a_bits": [2, 8], "dw_w_bits": [2, 8]}
    encoding = NetworkEncoding(SearchSpace.from_dict(data))
    smallest, largest = encoding.extremes()
    assert set(encoding.decode(encoding.uniform_policies())) == {smallest, largest, smallest.with_bits(2)}


@pytest.mark.parametrize("name", ["digits", "apq_mobilenet", "ofa_mobilenetv3_w12"])
def test_the_sparse_architecture_is_the_first_columns_of_the_features(name: str, rng: np.random.Generator) -> None:
    encoding = NetworkEncoding(SearchSpace.load(name))
    genomes = encoding.fill_inert(encoding.sample(50, rng), rng)
    expected = encoding.features(genomes)[:, : encoding.n_arch_features]
    np.testing.assert_array_equal(encoding.arch_matrix(genomes).toarray(), expected)


def test_policies_range_from_one_width_to_all_mixed_and_prefer_none(either: NetworkEncoding) -> None:
    n = 6000
    genomes = either.sample_policies(n, np.random.default_rng(0))
    np.testing.assert_array_equal(either.canonicalise(genomes), genomes)
    assert either.is_allowed(genomes).all()
    bits = genomes[:, [either.names.index(f"1.1 {field}") for field in BIT_NAMES[:4]]]  # of a block that is always on
    if not either.space.forbidden:
        for gene, choices in enumerate(list(either.space.fields(either.space.slots[0]).values())[2:]):
            shares = np.bincount(bits[:, gene], minlength=len(choices)) / n
            np.testing.assert_allclose(shares, 1 / len(choices), atol=0.03)

    def alike(genomes: np.ndarray) -> tuple[float, float]:
        """How often two convolutions of a network have weights of one width; weights and activations of one."""
        b = [candidate.blocks[0] for candidate in either.decode(genomes)]
        return (
            float(np.mean([x.pw_w_bits == x.dw_w_bits for x in b])),
            float(np.mean([x.pw_w_bits == x.pw_a_bits for x in b])),
        )

    plain = alike(either.sample(n, np.random.default_rng(0)))
    weights, across = alike(genomes)
    assert weights > plain[0] + 0.03
    if not either.space.forbidden:
        assert across == pytest.approx(plain[1], abs=0.03)


@pytest.mark.parametrize(
    ("name", "sample", "policies", "features"),
    [
        ("digits", "799b4a455f87", "ac5f3ee4ba73", "b34294d64023"),
        ("mcu_color", "994b317695ce", "8e0c2a4213bc", "93b9cb23503b"),
        ("apq_mobilenet", "2fffe5a6c0d8", "6af86d61dccc", "a653c19624f5"),
    ],
)
def test_seeds_give_what_they_gave_before_genes_had_kinds(name: str, sample: str, policies: str, features: str) -> None:
    """Digests of version 0.1.0 before its spaces knew types of blocks: runs and predictor files depend on them."""

    def digest(array: np.ndarray) -> str:
        described = np.ascontiguousarray(array).tobytes() + f"{array.dtype}{array.shape}".encode()
        return hashlib.sha1(described, usedforsecurity=False).hexdigest()[:12]

    encoding, rng = NetworkEncoding(SearchSpace.load(name)), np.random.default_rng(5)
    genomes = encoding.sample(300, rng)
    assert digest(genomes) == sample
    assert digest(encoding.sample_policies(300, rng)) == policies
    assert digest(encoding.features(genomes)) == features
