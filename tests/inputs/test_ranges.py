"""Every setting against odd values: accepted exactly where its range says so, else refused in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from apq_tune.cli.setting_list import all_settings, markdown
from apq_tune.errors import RunError
from apq_tune.inputs.ranges import EPOCHS, LEARNING_RATE, SEED, SHARE, Range, validated
from apq_tune.pipeline.settings import RunSettings
from apq_tune.refine.settings import RefineSettings
from apq_tune.studies.versus import Spend
from apq_tune.supernet.train import Training

ODD = [
    ".nan", ".inf", "-.inf", "-1", "0", "1", "2", "0.5", "1e3", "10", "1e300", "-1e-300", "on", "yes", "true", "010",
    "1:30", "[]", "{}", "null", "", " ", "1" + "0" * 30, "9" * 5000, "[1", "'5'", "nan", "1_000", "0x10", "&a [*a]",
    "\x00", "🙂", "x" * 300, "[" * 2000, "{a: 1, a: 2}", "!!python/name:os.system", "none", "crop", "mean",
    "4294967295", "4294967296",
]  # fmt: skip

MEANT = {"010": 10, "0x10": 16, "1e3": 1000, "1e300": 1e300, "4294967295": 2**32 - 1, "1" + "0" * 30: 10**30}
"""Text that people read as a number, where Python's own ``float`` would not tell us."""


def number_of(text: str) -> float | None:
    """What a person reads, by hand: no words, no quotes."""
    if text in MEANT:
        return MEANT[text]
    try:
        return float(text) if text.strip("-.").replace(".", "").replace("e-", "").isdigit() and len(text) < 40 else None
    except ValueError:
        return None


def is_allowed(allowed: str, text: str) -> bool:
    """By the words of ``apq-tune settings`` alone."""
    if allowed.endswith(" or null"):
        return text.strip() in ("null", "") or is_allowed(allowed.removesuffix(" or null"), text)
    if allowed == "true or false":
        return text == "true"
    if allowed == "a list of text":
        return text == "[]"
    words = allowed.replace(" or ", ", ").split(", ")
    if not allowed.startswith("a "):
        return text in words
    number = number_of(text)
    if number is None or not math.isfinite(number):
        return False
    if allowed.startswith("a whole number from "):
        low, high = map(int, allowed.removeprefix("a whole number from ").split(" to "))
        return number == int(number) and low <= number <= high
    bounds = [float(word) for word in allowed.split() if word[0].isdigit()]
    above, below = "above" in allowed, "below" in allowed
    return (number > bounds[0] if above else number >= bounds[0]) and (
        number < bounds[1] if below else number <= bounds[1]
    )


RUN = {setting.name: setting for setting in all_settings()[0].settings}


@pytest.mark.parametrize("name", RUN)
def test_a_setting_takes_what_its_words_say_and_nothing_else(name: str) -> None:
    for text in ODD:
        try:
            RunSettings().updated({name: text})
        except RunError as error:
            assert "\n" not in str(error)
            assert str(error).startswith("setting ")
            assert len(str(error)) < 400
            accepted = False
        else:
            accepted = True
        expected = is_allowed(RUN[name].allowed, text)
        if name == "quantized.epochs" and text in ("0",):
            expected = False  # only together with the rest of the paper's protocol
        assert accepted == expected, (name, text)


@pytest.mark.parametrize("model", [RefineSettings, Spend])
def test_the_options_of_other_commands_are_checked_alike(model: type[BaseModel]) -> None:
    for group in all_settings():
        for setting in group.settings:
            if setting.name in model.model_fields and "number" in setting.allowed:
                for value in (math.nan, math.inf, -1, 10**30, True, "5", [], {}, 1e300, 2.5):
                    with pytest.raises(RunError, match=rf"setting {setting.name}"):
                        validated(model, {setting.name: value})


def test_every_number_has_a_range_and_a_meaning() -> None:
    for model in (RunSettings, RefineSettings, Spend, Training):
        for name, hint in get_type_hints(model, include_extras=True).items():
            bare = (int, float, bool)
            assert hint not in bare, (model, name)
            assert not any(part in bare for part in get_args(hint) if not hasattr(hint, "__metadata__")), (model, name)
    assert all(setting.meaning for group in all_settings() for setting in group.settings)


def test_defaults_are_what_the_listing_says() -> None:
    for setting in RUN.values():
        assert (
            RunSettings().updated({setting.name: setting.default.replace("[bit_ops<=25%]", "['bit_ops<=25%']")})
            == RunSettings()
        )


def test_the_docs_list_the_settings() -> None:
    assert Path("docs/reference/settings.md").read_text("utf-8") == markdown(), (
        "run: apq-tune settings --markdown > docs/reference/settings.md"
    )


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (
            SEED,
            [0, 2**32 - 1, 1e3, np.int64(5), np.float32(8)],
            [-1, 2**32, 0.5, True, np.True_, "5", None, math.nan, 1j],
        ),
        (EPOCHS, [1, 10_000], [0, 10_001, 10**400, -(10**400)]),
        (LEARNING_RATE, [1e-12, 10, np.float32(0.5)], [0, -1e-9, 10.1, math.inf, math.nan, 10**400, "0.1", False]),
        (SHARE, [0, 0.999], [1, 1.0, -0.1]),
    ],
)
def test_ranges_by_their_ends(bounds: Range, inside: list[object], outside: list[object]) -> None:
    for value in inside:
        number = bounds.check(value)
        assert number == value
        assert type(number) in (int, float)
    for value in outside:
        with pytest.raises(ValueError, match=r"^give a (whole )?number .* got "):
            bounds.check(value)


def test_a_training_made_by_hand_is_checked_and_plain() -> None:
    assert Training(epochs=np.int64(3), learning_rate=1).epochs == 3
    assert type(Training(epochs=np.int64(3)).epochs) is int
    for wrong in (
        {"epochs": -1},
        {"epochs": 1, "ema": 1.0},
        {"epochs": 1, "bf16": 1},
        {"epochs": 1, "augment": "flip"},
    ):
        with pytest.raises(RunError, match=r"^setting "):
            Training(**wrong)


def test_no_epochs_only_in_the_papers_protocol() -> None:
    paper = {"quantized.epochs": 0, "predictor": "transferred", "pair_bits": "alike"}
    assert RunSettings().updated(paper).quantized.epochs == 0
    with pytest.raises(RunError, match=r"quantized.epochs.*only --protocol paper"):
        RunSettings().updated({"quantized.epochs": 0})


def test_settings_survive_their_own_file() -> None:
    own = RunSettings().updated({"final.epochs": "1e1", "n_search": "null", "constraints": "['weight_bytes<=2e4']"})
    assert RunSettings().updated(yaml.safe_load(yaml.safe_dump(own.model_dump(mode="json")))) == own
    assert own.final.epochs == 10
    assert type(own.final.epochs) is int
