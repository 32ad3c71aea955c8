"""Search spaces: what is refused and how it is said, their size, and the way to YAML and back."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from apq_tune import NetworkEncoding, SearchSpace, SpaceError, known_spaces

GOOD = """
format: 1
name: mine
input: {channels: 1, size: 8}
classes: 10
stem: {channels: 16}
stages:
  - {channels: 16, depth: [1, 2], kernel_size: [3, 5]}
  - {channels: 32, stride: 2, depth: [1]}
head: {channels: 64}
choices:
  kernel_size: [3]
  expand_ratio: [2, 4]
  pw_w_bits: [2, 8]
  pw_a_bits: [8]
  dw_w_bits: [8]
  dw_a_bits: [8]
"""

REMOVE = object()

BAD = {
    "unknown key": (("depth_multiplier",), 2, ["depth_multiplier", "unknown key; remove it"]),
    "misspelt key": (("choices", "kernel_sizes"), [3], ["choices.kernel_sizes", "unknown key", "correct its spelling"]),
    "misspelt key in a list": (("stages", 1, "strides"), 2, ["stages[1].strides", "unknown key", "spelling"]),
    "missing key": (("head",), REMOVE, ["head", "is missing; add it"]),
    "missing key in a mapping": (("choices", "pw_a_bits"), REMOVE, ["choices.pw_a_bits", "is missing; add it"]),
    "empty choice": (("choices", "pw_w_bits"), [], ["choices.pw_w_bits", "has no values; give at least one"]),
    "unsorted choice": (("stages", 0, "depth"), [2, 1], ["stages[0].depth", "[2, 1]", "write [1, 2]"]),
    "choice with a duplicate": (("stages", 0, "depth"), [1, 2, 2], ["stages[0].depth", "write [1, 2]"]),
    "empty expand_ratio": (("choices", "expand_ratio"), [], ["choices.expand_ratio", "give at least one"]),
    "unsorted expand_ratio": (("choices", "expand_ratio"), [4, 2], ["choices.expand_ratio", "write [2.0, 4.0]"]),
    "infinite expand_ratio": (
        ("choices", "expand_ratio"),
        [math.inf],
        ["choices.expand_ratio[0]", "above 0 to 100, got inf"],
    ),
    "even kernel": (("choices", "kernel_size"), [4], ["choices.kernel_size[0]", "4 is even; kernels are odd"]),
    "kernel larger than the feature map": (
        ("stages", 1, "kernel_size"),
        [3, 9],
        ["stages[1]", "kernel_size 9", "8x8", "kernel_size: [3]", "lower the strides"],
    ),
    "stem kernel larger than the input": (("stem", "kernel_size"), 9, ["stem.kernel_size 9", "8 pixel input"]),
    "bits below 2": (("choices", "dw_a_bits"), [1, 8], ["choices.dw_a_bits[0]", "from 2 to 8", "got 1"]),
    "bits above 8": (("choices", "dw_a_bits"), [8, 16], ["choices.dw_a_bits[1]", "from 2 to 8", "got 16"]),
    "fixed bits above 8": (("fixed_bits",), 32, ["fixed_bits", "from 2 to 8", "got 32"]),
    "depth of 0": (("stages", 0, "depth"), [0, 1], ["stages[0].depth[0]", "from 1 to 100", "got 0"]),
    "no stages": (("stages",), [], ["stages", "at least 1"]),
    "text for a number": (("classes",), "ten", ["classes", "a whole number from 1", "got 'ten'"]),
    "truth for a kernel": (("choices", "kernel_size"), [True], ["choices.kernel_size[0]", "got True"]),
    "quoted number": (("classes",), "4", ["classes", "a whole number", "got '4'"]),
    "word that YAML 1.1 takes for truth": (("choices", "dw_w_bits"), ["on"], ["choices.dw_w_bits[0]", "got 'on'"]),
    "time that YAML 1.1 takes for a number": (("input", "size"), "1:30", ["input.size", "got '1:30'"]),
    "number for truth": (("stages", 0, "squeeze_excite"), 1, ["squeeze_excite", "boolean", "got 1"]),
    "endless number": (("stem", "channels"), 10**30, ["stem.channels", "from 1 to 100000"]),
    "part of a class": (("classes",), 4.5, ["classes", "got 4.5"]),
    "no stride": (("stem", "stride"), 0, ["stem.stride", "got 0"]),
    "name with a space": (("name",), "my space", ["name", "[a-z0-9_]", "got 'my space'"]),
    "format of another version": (("format",), 2, ["format", "should be 1", "got 2"]),
    "range of the wrong order": (
        ("choices", "expand_ratio"),
        {"min_ratio": 4, "max_ratio": 2},
        ["choices.expand_ratio", "min_ratio 4.0", "max_ratio 2.0", "swap them"],
    ),
    "forbidden value that is no choice": (
        ("forbidden",),
        [{"pw_w_bits": 8, "kernel_size": 5}, {"kernel_size": 7}],
        ["forbidden[1].kernel_size", "7 is not a choice", "[3, 5]"],
    ),
    "forbidden bits that are no choice": (
        ("forbidden",),
        [{"pw_w_bits": 4}],
        ["forbidden[0].pw_w_bits", "4 is not a choice", "[2, 8]"],
    ),
    "forbidden unknown field": (("forbidden",), [{"channels": 8}], ["forbidden[0].channels", "unknown key"]),
    "forbidden nothing": (("forbidden",), [{}], ["forbidden[0]", "is empty", "or drop the rule"]),
    "forbidden rules that leave nothing": (
        ("forbidden",),
        [{"pw_w_bits": 2}, {"pw_w_bits": 8}],
        ["stages[0], block 1", "leave no combination", "drop one of them"],
    ),
    "forbidden rules that leave nothing in one stage": (
        ("forbidden",),
        [{"kernel_size": 3}],
        ["stages[1], block 1", "leave no combination", "drop one of them"],
    ),
}


def with_change(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    data = yaml.safe_load(GOOD)
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is REMOVE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def test_the_space_that_the_bad_ones_are_made_from_is_good(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert SearchSpace.load(path).name == "mine"


@pytest.mark.parametrize(("path", "value", "parts"), BAD.values(), ids=BAD)
def test_a_bad_space_is_refused_naming_file_key_and_remedy(
    tmp_path: Path, path: tuple[Any, ...], value: Any, parts: list[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(with_change(path, value)))
    with pytest.raises(SpaceError) as error:
        SearchSpace.load(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("content", ["", "just text", "- 1\n- 2\n"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.yml"
    file.write_text(content)
    with pytest.raises(SpaceError, match=r"bad\.yml: .*not a mapping; see search_spaces/README.md"):
        SearchSpace.load(file)


@pytest.mark.parametrize("content", ["format: [1, 2\nname: x", "a: b: c", "\tformat: 1"])
def test_malformed_yaml_is_refused_in_one_line_that_says_where(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(SpaceError, match=r"bad\.yaml: is not valid YAML: .*line \d+") as error:
        SearchSpace.load(file)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceError, match=r"bad\.yaml: cannot be read"):
        SearchSpace.load(file)


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"absent\.yaml: cannot be read .*give a readable YAML or JSON file"):
        SearchSpace.load(tmp_path / "absent.yaml")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpaceError, match=r"unknown search space 'digit'; known: .*\bdigits\b.*\.yaml"):
        SearchSpace.load("digit")


def test_known_spaces_are_the_yaml_files_of_the_repository() -> None:
    shipped = Path(__file__).parents[2] / "search_spaces"
    assert "digits" in known_spaces()
    assert list(known_spaces()) == sorted(path.stem for path in shipped.glob("*.yaml"))


@pytest.mark.parametrize("name", known_spaces())
def test_a_space_equals_what_comes_back_from_its_yaml(name: str) -> None:
    space = SearchSpace.load(name)
    again = SearchSpace.from_dict(yaml.safe_load(space.to_yaml()))
    assert again == space
    assert again.slots == space.slots


def test_yaml_keeps_forbidden_rules_and_stage_choices(tiny_space: SearchSpace) -> None:
    data = yaml.safe_load(tiny_space.to_yaml())
    assert data["forbidden"] == [{"kernel_size": 5, "dw_a_bits": 2}]
    assert data["stages"][0]["kernel_size"] == [3, 5]
    assert SearchSpace.from_dict(data) == tiny_space


def test_different_spaces_are_not_equal(tiny_space: SearchSpace) -> None:
    data = copy.deepcopy(yaml.safe_load(tiny_space.to_yaml()))
    data["classes"] += 1
    assert SearchSpace.from_dict(data) != tiny_space


def test_size_with_bits_is_that_of_the_enumeration(tiny_space: SearchSpace, tiny: NetworkEncoding) -> None:
    assert len(tiny.enumerate()) == (24 + 24 * 24) * 16
    assert tiny_space.log10_size() == pytest.approx(math.log10((24 + 24 * 24) * 16), rel=1e-12)


def test_size_without_bits_counts_the_networks_of_the_enumeration(
    tiny_space: SearchSpace, tiny: NetworkEncoding
) -> None:
    networks = {candidate.with_bits(8) for candidate in tiny.decode(tiny.enumerate())}
    assert len(networks) == (4 + 4 * 4) * 2
    assert tiny_space.log10_size(bits=False) == pytest.approx(math.log10(len(networks)), rel=1e-12)


def test_size_of_digits_is_counted_by_hand(space: SearchSpace) -> None:
    seven, thirteen = 7, 13  # middle channels 16..64 and 32..128 in steps of 8
    narrow = [2 * seven * 81, 2 * seven * 81]
    wide = [seven * 81, thirteen * 81, thirteen * 81]
    total = (narrow[0] + math.prod(narrow)) * (wide[0] + wide[0] * wide[1] + math.prod(wide))
    assert space.log10_size() == pytest.approx(math.log10(total), rel=1e-12)
    assert space.log10_size(bits=False) < space.log10_size()


def test_slots_of_digits_follow_the_skeleton(space: SearchSpace) -> None:
    assert [slot.name for slot in space.slots] == ["1.1", "1.2", "2.1", "2.2", "2.3"]
    assert [slot.in_channels for slot in space.slots] == [16, 16, 16, 32, 32]
    assert [slot.in_size for slot in space.slots] == [8, 8, 8, 4, 4]
    assert [slot.has_shortcut for slot in space.slots] == [True, True, False, True, True]
    assert space.slots[2].channels == tuple(range(16, 65, 8))


@pytest.mark.parametrize(
    ("ratios", "divisor", "channels"),
    [([1, 3], 8, (16, 48)), ([0.1, 0.2], 8, (8,)), ([1.3], 8, (24,)), ([2.2, 2.3], 4, (36,))],
)
def test_ratios_are_rounded_to_the_divisor_never_below_90_percent_and_without_duplicates(
    ratios: list[float], divisor: int, channels: tuple[int, ...]
) -> None:
    data = with_change(("choices", "expand_ratio"), ratios)
    data["choices"]["divisor"] = divisor
    assert SearchSpace.from_dict(data).slots[0].channels == channels


def test_a_space_is_frozen(tiny_space: SearchSpace) -> None:
    with pytest.raises(ValueError, match=re.escape("frozen")):
        tiny_space.classes = 3  # type: ignore[misc]


def test_shipped_spaces_are_found_in_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from apq_tune.space import shipped as module

    installed = known_spaces()

    def missing(package: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}")

    monkeypatch.setattr(module.resources, "files", missing)
    assert known_spaces() == installed
    assert SearchSpace.load("digits").name == "digits"


def test_a_number_reads_as_people_write_it(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(with_change(("classes",), 4)).replace("classes: 4", "classes: 010"))
    assert SearchSpace.load(file).classes == 10


def test_more_widths_than_anyone_searches_are_refused_before_they_are_made(tmp_path: Path) -> None:
    data = with_change(("choices", "expand_ratio"), {"min_ratio": 0.1, "max_ratio": 100, "step": 1})
    data["stages"][0]["channels"] = 100_000
    with pytest.raises(SpaceError, match="in steps of 1 are more than 4096 widths"):
        SearchSpace.from_dict(data)
