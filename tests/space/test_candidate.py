"""Candidates: equality, JSON there and back, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apq_tune import Candidate, CandidateError
from apq_tune.space.mbconv import Block

SMALL = Candidate(((Block(5, 24, 2, 4, 8, 6),), (Block(3, 48, 8, 8, 4, 2), Block(3, 16, 4, 4, 4, 4))))
SMALL_DICT = {
    "depths": [1, 2],
    "kernel_size": [5, 3, 3],
    "channels": [24, 48, 16],
    "pw_w_bits": [2, 8, 4],
    "pw_a_bits": [4, 8, 4],
    "dw_w_bits": [8, 4, 4],
    "dw_a_bits": [6, 2, 4],
}

bits = st.integers(2, 8)
blocks = st.builds(Block, st.sampled_from([1, 3, 5, 7]), st.integers(1, 512), bits, bits, bits, bits)
candidates = st.lists(st.lists(blocks, min_size=1, max_size=4).map(tuple), min_size=1, max_size=4).map(
    lambda stages: Candidate(tuple(stages))
)


def test_to_dict_has_the_depths_and_one_list_for_each_field() -> None:
    assert SMALL.to_dict() == SMALL_DICT
    assert Candidate.from_dict(SMALL_DICT) == SMALL


@given(candidates)
def test_json_round_trip_gives_an_equal_candidate(candidate: Candidate) -> None:
    text = candidate.to_json()
    assert "\n" not in text
    assert Candidate.from_json(text) == candidate


def test_from_json_makes_blocks_of_plain_integers() -> None:
    candidate = Candidate.from_json(json.dumps(SMALL_DICT))
    assert all(isinstance(block, Block) and all(type(v) is int for v in block) for block in candidate.blocks)


@given(candidates, candidates)
def test_equality_and_hash_follow_the_json(first: Candidate, second: Candidate) -> None:
    assert (first == second) == (first.to_json() == second.to_json())
    assert hash(first) == hash(Candidate.from_json(first.to_json()))


def test_the_same_blocks_in_other_stages_are_another_candidate() -> None:
    one, two, three = SMALL.blocks
    assert Candidate(((one, two), (three,))) != SMALL
    assert len({SMALL, Candidate(((one, two), (three,))), Candidate(SMALL.stages)}) == 2


def test_a_candidate_is_frozen() -> None:
    with pytest.raises(AttributeError):
        SMALL.stages = ()  # type: ignore[misc]


def test_depths_and_blocks_read_off_the_stages() -> None:
    assert SMALL.depths == (1, 2)
    assert [block.channels for block in SMALL.blocks] == [24, 48, 16]


def test_with_bits_sets_all_four_fields_of_all_blocks_and_nothing_else() -> None:
    changed = SMALL.with_bits(3)
    assert changed.to_dict() == SMALL_DICT | {
        field: [3, 3, 3] for field in ("pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits")
    }


def test_str_is_compact_and_orders_bits_pointwise_then_depthwise() -> None:
    assert str(SMALL) == "k5c24w28a46 | k3c48w84a82 k3c16w44a44"


@pytest.mark.parametrize("key", SMALL_DICT)
def test_a_missing_key_is_refused_with_the_right_keys(key: str) -> None:
    with pytest.raises(CandidateError, match=f"has the keys .*{key}"):
        Candidate.from_dict({k: v for k, v in SMALL_DICT.items() if k != key})


def test_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(CandidateError, match=r"got .*w_bits"):
        Candidate.from_dict(SMALL_DICT | {"w_bits": [8]})


@pytest.mark.parametrize("field", Block._fields)
def test_a_list_of_the_wrong_length_is_refused_by_field_and_right_length(field: str) -> None:
    with pytest.raises(CandidateError, match=rf"{field}: 2 values for depths \[1, 2\]; give 3"):
        Candidate.from_dict(SMALL_DICT | {field: [3, 3]})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("depths", 3),
        ("depths", [-1, 4]),
        ("depths", [1, "2"]),
        ("channels", 24),
        ("channels", [24, 48, "wide"]),
        ("channels", [24, 48, None]),
        ("channels", [24, 48, 16.5]),
    ],
    ids=str,
)
def test_values_of_the_wrong_type_are_refused(key: str, value: Any) -> None:
    with pytest.raises(CandidateError, match=key):
        Candidate.from_dict(SMALL_DICT | {key: value})


@pytest.mark.parametrize("text", ["", "{", "k3c48w42a84", '{"depths": [1'])
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(CandidateError, match="one JSON object"):
        Candidate.from_json(text)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"digits"'])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(CandidateError, match="a candidate has the keys"):
        Candidate.from_json(text)
