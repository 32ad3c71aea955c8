"""The script that tries wrong inputs: it runs, counts, and tells a wrong outcome from a right one."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    place = importlib.util.spec_from_file_location("fuzzing_harness", BENCHMARKS / "fuzzing" / "harness.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module  # its tuples look their own module up
    place.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("status", "out", "err", "said"),
    [
        (0, "done", "", ""),
        (1, "", "error: x is 5; give 3\n", ""),
        (2, "", "Usage: apq-tune run\nTry -h\n\nError: no such option\n", ""),
        (1, "", "Traceback (most recent call last):\nKeyError: 'epoch'\n", "traceback: KeyError: 'epoch'"),
        (1, "", "error: x is 5\ngive 3\n", "2 lines for a refusal"),
        (1, "", "", "0 lines for a refusal"),
        (-9, "", "", "exit status -9"),
        (0, "", "x.py:3: RankWarning: badly conditioned\n", "a library's warning"),
        (1, "", "error: unforeseen KeyError; please report it with log.txt\n", "the last resort"),
    ],
)
def test_what_is_neither_right_nor_refused_in_one_line_is_told(harness, status, out, err, said) -> None:
    found = harness.violation(harness.Said(status, out, err, 0.1))
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert "hangs" in harness.violation(harness.Said(-9, out, err, 20.0, hangs=True))


@pytest.mark.slow
def test_a_case_of_each_kind_is_tried_and_written(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "fuzz_inputs.py", "--out", tmp_path, "--limit", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    with (tmp_path / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["files", "images", "layouts", "options"]
    wrong = [row["case"] for row in rows if row["violation"]]
    assert done.stdout.count("\nVIOLATION ") >= len(wrong)
    assert bool(done.returncode) == ("VIOLATION" in done.stdout)
