"""The script that measures: its schedule, its timings, what it keeps, and what it refuses."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apq_tune import SearchSpace
from apq_tune.deploy import measure
from apq_tune.deploy.measure import LEAST_SECONDS, REPEATS, RESULTS, TIMINGS, MeasureError
from apq_tune.deploy.profile_folder import write_folder

Device = Any
"""``FakeDevice`` of conftest.py."""

ORDER = [f"op{number}" for number in range(10)]


def simulate(order: list[str], seconds: dict[str, float], budget: float | None) -> tuple[list[str], float]:
    """Visits in order, and the seconds that they take, if every visit of an item takes its time."""
    visits: Counter[str] = Counter()
    used, found = 0.0, []
    while (name := measure.next_item(order, visits, used, budget, seed=3)) is not None:
        visits[name] += 1
        used += seconds[name]
        found.append(name)
    return found, used


def test_without_a_budget_everything_is_visited_equally_often_the_most_informative_first() -> None:
    found, _ = simulate(ORDER, dict.fromkeys(ORDER, 1.0), None)
    assert found[: len(ORDER)] == ORDER
    assert Counter(found) == dict.fromkeys(ORDER, REPEATS)


def test_visits_are_interleaved_in_random_order() -> None:
    found, _ = simulate(ORDER, dict.fromkeys(ORDER, 1.0), None)
    rounds = [found[first : first + len(ORDER)] for first in range(0, len(found), len(ORDER))]
    assert all(sorted(own) == ORDER for own in rounds)  # what slows the machine down concerns all
    assert len({tuple(own) for own in rounds}) == len(rounds)


@pytest.mark.parametrize("budget", [3.0, 17.0, 30.0, 49.0, 1000.0])
def test_a_budget_is_kept_and_spent_on_the_first_items(budget: float) -> None:
    found, used = simulate(ORDER, dict.fromkeys(ORDER, 1.0), budget)
    begun = len(set(found))
    assert used <= budget
    assert set(found) == set(ORDER[:begun])
    assert begun == min(len(ORDER), max(1, int(budget // REPEATS)))
    assert min(Counter(found).values()) >= min(REPEATS, int(budget))


def test_items_that_turn_out_slow_leave_fewer_to_begin() -> None:
    seconds = {name: 1.0 if number < 3 else 20.0 for number, name in enumerate(ORDER)}
    found, used = simulate(ORDER, seconds, 100.0)
    assert used < 100.0 + 20.0  # at most the last visit exceeds it
    assert set(found) == set(ORDER[: len(set(found))])
    assert min(Counter(found).values()) >= REPEATS - 2


def test_timings_last_long_enough_for_the_clock_and_leave_the_warm_up_out() -> None:
    now, calls = [0.0], [0]

    def run() -> None:
        calls[0] += 1
        now[0] += 1.0 if calls[0] < measure.WARM_UP else 2e-5

    found = measure.timings(run, lambda: now[0])
    assert len(found) == TIMINGS
    assert found == pytest.approx([2e-5] * TIMINGS)
    assert (calls[0] - measure.WARM_UP) * 2e-5 / TIMINGS >= LEAST_SECONDS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_space: SearchSpace) -> Path:
    path = tmp_path_factory.mktemp("made") / "ops"
    write_folder(path, tiny_space, threads=1, networks=2, seed=0)
    return path


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ops"))


def run_on(device: Device, folder: Path, n_visits: int | None = None, minutes: float | None = None) -> None:
    """Measure, and stop after a number of visits as an interruption would."""
    visits = measure.measure(folder, minutes=minutes, load=device.load, clock=device.clock, runtime="1.0")
    for number, _ in enumerate(visits, start=1):
        if number == n_visits:
            visits.close()
            return


def test_resumed_is_as_never_stopped(
    folder: Path, tiny_space: SearchSpace, fake_device: Device, tmp_path: Path
) -> None:
    whole = shutil.copytree(folder, tmp_path / "whole")
    run_on(fake_device(tiny_space, 2), whole)
    for n_visits in (1, 40, 7, None):
        run_on(fake_device(tiny_space, 2), folder, n_visits)
    lines = [[json.loads(line) for line in (own / RESULTS).read_text().splitlines()] for own in (folder, whole)]
    assert [line.get("item") for line in lines[0]] == [line.get("item") for line in lines[1]]
    assert lines[0][0] == lines[1][0]
    for mine, other in zip(lines[0][1:], lines[1][1:], strict=True):
        assert mine["seconds"] == pytest.approx(other["seconds"])


def test_a_budget_counts_what_was_used_before(folder: Path, tiny_space: SearchSpace, fake_device: Device) -> None:
    run_on(fake_device(tiny_space, 2), folder, minutes=0.005)
    before = (folder / RESULTS).read_text()
    run_on(fake_device(tiny_space, 2), folder, minutes=0.005)
    assert (folder / RESULTS).read_text() == before
    run_on(fake_device(tiny_space, 2), folder, minutes=0.01)
    assert (folder / RESULTS).read_text().startswith(before)
    assert len((folder / RESULTS).read_text()) > len(before)


def test_half_a_line_is_dropped_and_measured_again(folder: Path, tiny_space: SearchSpace, fake_device: Device) -> None:
    run_on(fake_device(tiny_space, 2), folder, 5)
    path = folder / RESULTS
    whole = path.read_text()
    path.write_text(whole + '{"item": "int8-')
    run_on(fake_device(tiny_space, 2), folder, 1)
    assert path.read_text().startswith(whole)
    assert len(path.read_text().splitlines()) == len(whole.splitlines()) + 1
    assert all("item" in json.loads(line) for line in path.read_text().splitlines()[1:])


def test_files_stay_open_between_visits(
    folder: Path, tiny_space: SearchSpace, fake_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = fake_device(tiny_space, 2)
    run_on(device, folder)
    assert len(device.loaded) == len(device.items)
    monkeypatch.setattr(measure, "MOST_OPEN", 3)
    device = fake_device(tiny_space, 2)
    (folder / RESULTS).unlink()
    run_on(device, folder)
    assert len(device.loaded) > len(device.items)


def spoil_file(folder: Path) -> None:
    path = next((folder / "ops").glob("int8-run*.onnx"))
    path.write_bytes(path.read_bytes()[:-3])


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:-20])


def took(value: object) -> Callable[[Path], object]:
    """A result with another time of its visit."""

    def spoil(folder: Path) -> None:
        header = {"manifest": measure.digest(folder / "manifest.json"), "format": 1, "runtime": "1.0"}
        lines = [header | measure.machine(), {"item": "a", "seconds": [1.0], "took": value}]
        (folder / RESULTS).write_text("".join(json.dumps(line) + "\n" for line in lines))

    return spoil


def other_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_file, r"run.*\.onnx: is missing or damaged; export the ops again"),
        (lambda folder: next((folder / "ops").glob("int8-run*.onnx")).unlink(), "is missing or damaged"),
        (spoil_manifest, r"manifest\.json: is missing or damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[1]"), r"manifest\.json: is missing or damaged"),
        (other_format, "has format 99, this version reads 1"),
        (lambda folder: (folder / RESULTS).write_text("x\n{}\n"), r"results\.jsonl: line 1 is damaged"),
        (took("long"), r"results\.jsonl: is damaged; delete it to measure again"),
        (took(float("nan")), r"results\.jsonl: is damaged; delete it to measure again"),
        (lambda folder: (folder / RESULTS).write_bytes(b"\xff\n"), r"results\.jsonl: cannot be read"),
        (lambda folder: (folder / RESULTS).write_text('{"manifest": "0"}\n'), "was measured with manifest '0'"),
    ],
)
def test_a_damaged_folder_is_refused(
    folder: Path, tiny_space: SearchSpace, fake_device: Device, spoil: object, said: str
) -> None:
    spoil(folder)
    with pytest.raises(MeasureError, match=said):
        run_on(fake_device(tiny_space, 2), folder)


def test_a_file_that_changed_after_its_first_visit_is_refused(
    folder: Path, tiny_space: SearchSpace, fake_device: Device
) -> None:
    device = fake_device(tiny_space, 2)
    n_files = len(device.items)
    run_on(device, folder, n_files)
    spoil_file(folder)
    with pytest.raises(MeasureError, match=r"run.*\.onnx: is missing or damaged; export the ops again"):
        run_on(fake_device(tiny_space, 2), folder)


def test_another_runtime_does_not_go_on(folder: Path, tiny_space: SearchSpace, fake_device: Device) -> None:
    device = fake_device(tiny_space, 2)
    run_on(device, folder, 3)
    with pytest.raises(MeasureError, match=r"was measured with runtime '1\.0', not '2\.0'"):
        next(measure.measure(folder, load=device.load, clock=device.clock, runtime="2.0"))


def test_the_script_needs_nothing_but_onnxruntime() -> None:
    tree = ast.parse(Path(measure.__file__).read_text("utf-8"))
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert others == {"numpy", "onnxruntime"}  # of which the second requires the first


def test_the_script_measures_its_folder_by_itself(folder: Path, tmp_path: Path) -> None:
    """In another process, in another folder, without this package, for as long as a few files take."""
    script = folder / "measure.py"
    command = [sys.executable, "-I", str(script), "--minutes", "0.004"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout
    header, *lines = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    assert header["processor"]
    assert lines and all(seconds > 0 for line in lines for seconds in line["seconds"])
    done = subprocess.run([*command[:-1], "nan"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "nan is not a positive number of minutes" in done.stderr
    (folder / "manifest.json").write_text("{}")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
