"""YAML and JSON as people write them: right values stand here, written by hand; all else is refused with its place."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from apq_tune.errors import DocumentError
from apq_tune.inputs.documents import MAX_DEPTH, load_json, load_yaml
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.shipped import known_spaces

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A billion laughs: nine anchors of ten aliases each."""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("-07", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1e3", 1000.0),
        ("1e-3", 0.001),
        ("1.5E+2", 150.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+3", 3),
        ("1_000", "1_000"),
        ("1,000", "1,000"),
        ("0b11", "0b11"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("inf", "inf"),
        ("nan", "nan"),
        ("2026-01-01", "2026-01-01"),
        ("'010'", "010"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("~", None),
        ("", None),
        ("# nothing", None),
        ("[1, a, [2.0]]", [1, "a", [2.0]]),
        ("\ufeffa: 1", {"a": 1}),
        ("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
        ("a: &x [4, 8]\nb: *x", {"a": [4, 8], "b": [4, 8]}),
    ],
)
def test_yaml_means_what_people_read(text: str, value: object) -> None:
    read = load_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: key 'c' comes twice"),
        ("{a: 1, a: 2}", "line 1: key 'a' comes twice"),
        ("[1", "line 2, column 1"),
        ("a: b: c", "line 1, column 5"),
        ("- " * 100_000, "nested deeper"),
        ("[" * 100_000, "nest"),
        ("{a: " * 100_000, "nested deeper"),
        (BOMB, "aliases stand for more than"),
        ("&a [*a]", "*a stands for nothing"),
        ("--- 1\n--- 2", "line 2: a second document"),
        ("? [1]\n: 2", "cannot be a key"),
        ("!!python/object/apply:os.getcwd []", "the tag"),
        ("b: {<<: 3}", "<< takes mappings"),
        ("9" * 5000, "5000 digits"),
        ("\x00", "unacceptable character"),
        ("\ud800", "is not valid YAML"),
    ],
)
def test_yaml_that_could_mean_two_things_or_nothing(text: str, said: str) -> None:
    started = time.process_time()
    with pytest.raises(DocumentError, match=f"^here: .*{re.escape(said)}") as caught:
        load_yaml(text, "here")
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,\n "a": 2}', 'line 2: key "a" comes twice'),
        ('{"b": {"c": 1,\n "\\u0063": 2}}', 'line 2: key "c" comes twice'),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("1e999", "out of range"),
        ("9" * 5000, "thousands of digits"),
        ("", "line 1, column 1"),
        ("[1,]", "line 1, column 4"),
        ('{"a": 1} x', "Extra data"),
        ('"\\x"', "escape"),
        ('"abc', "Unterminated"),
    ],
)
def test_json_that_is_none(text: str, said: str) -> None:
    with pytest.raises(DocumentError, match=f"^here: .*{re.escape(said)}") as caught:
        load_json(text, "here")
    assert "\n" not in str(caught.value)


def test_brackets_in_text_do_not_nest() -> None:
    assert load_json('{"a": "}{[[\\"", "b": [{"a": 1}, {"a": 2}]}', "here") == {"a": '}{[["', "b": [{"a": 1}, {"a": 2}]}


def test_as_deep_as_said_and_no_deeper() -> None:
    for load in (load_yaml, load_json):
        load("[" * MAX_DEPTH + "]" * MAX_DEPTH, "here")
        with pytest.raises(DocumentError, match="nested deeper"):
            load("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "here")


def _plain(text: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
        lambda inner: st.lists(inner) | st.dictionaries(text, inner),
        max_leaves=20,
    )


@given(_plain(st.text()))
def test_what_is_written_is_read(data: object) -> None:
    assert load_json(json.dumps(data), "here") == data


@given(_plain(st.text(st.characters(max_codepoint=126))))
def test_json_reads_alike_as_yaml(data: object) -> None:
    assert load_yaml(json.dumps(data), "here") == data


@pytest.mark.parametrize("name", known_spaces())
def test_a_shipped_space_reads_as_before(name: str) -> None:
    text = SearchSpace.load(name).to_yaml()
    assert load_yaml(text, name) == yaml.safe_load(text)
