"""Files of device presets: what they say is read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apq_tune import DeviceError, DevicePreset, load_preset


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ops": {}}, "mine.yaml: ops.conv: is missing; add it"),
        ({"ops": {"conv": "no"}}, "mine.yaml: ops.conv: Input should be 'unsupported', got 'no'"),
        ({"ops": {"conv": {"w_bits": 8}}}, "mine.yaml: ops.conv: needs w_bits and a_bits, or pairs such as"),
        (
            {"ops": {"conv": {"w_bits": [8, 4], "a_bits": 8}}},
            r"ops.conv.w_bits: \[8, 4\] is not strictly ascending; write",
        ),
        (
            {"ops": {"conv": {"w_bits": 1, "a_bits": 8}}},
            "ops.conv: weights of 1, inputs of 8 bits are none that networks",
        ),
        ({"ops": {"conv": {"pairs": [[8, 8]], "w_bits": 8}}}, "ops.conv: has pairs and w_bits or a_bits; give either"),
        ({"ops": {"conv": {"pairs": [[8, 8]], "kernel": 3}}}, "ops.conv.kernel: unknown key; remove it or correct its"),
        ({"flash": {"bytes": "2mB"}}, "mine.yaml: flash.bytes: 'mB' in '2mB' is not a unit of bytes"),
        ({"flash": {"bytes": True}}, "mine.yaml: flash.bytes: give a whole number from 1 to .*, got True"),
        ({"format": 2}, "mine.yaml: format: Input should be 1, got 2"),
        ({"name": "My device"}, "mine.yaml: name: "),
        ({"functions": ["swish"]}, r"mine.yaml: functions\[0\]: 'swish' is no activation .*; known: relu6, "),
        ({"files": ["engine"]}, r"mine.yaml: files\[0\]: "),
        ({"speed": 3}, "mine.yaml: speed: unknown key; remove it or correct its spelling"),
    ],
)
def test_what_is_wrong_in_a_preset_is_said_with_its_key_and_a_remedy(change: Any, said: str) -> None:
    good = {"format": 1, "name": "mine", "title": "My device", "ops": {"conv": {"w_bits": 8, "a_bits": 8}}}
    with pytest.raises(DeviceError, match=said):
        DevicePreset.from_dict(good | change, "mine.yaml")


def test_files_that_are_no_presets_are_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("empty.yaml", "", "holds NoneType, not a mapping"),
        ("list.yaml", "[1]", "holds list, not a mapping"),
        ("twice.yaml", "a: 1\na: 2", "line 2: key 'a' comes twice"),
    ):
        (tmp_path / name).write_text(content, "utf-8")
        with pytest.raises(DeviceError, match=said):
            load_preset(tmp_path / name)
    with pytest.raises(DeviceError, match=r"gone.yaml: cannot be read"):
        load_preset(tmp_path / "gone.yaml")
    with pytest.raises(
        DeviceError, match=r"unknown device preset 'max'; known: bitfusion, .*; or give the path of a .yaml"
    ):
        load_preset("max")
