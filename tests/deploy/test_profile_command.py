"""``apq-tune profile``: measured here or on a board, interrupted, and refused."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from apq_tune import SearchSpace, profile
from apq_tune.cli import cli
from apq_tune.deploy import measure, profile_folder
from apq_tune.deploy.measure import RESULTS
from apq_tune.deploy.profile_folder import measure_folder

Device = Any
"""``FakeDevice`` of conftest.py."""

Lines = Callable[[Path], list[str]]
"""``uncommented`` of conftest.py."""


@pytest.fixture
def on_fake(monkeypatch: pytest.MonkeyPatch, gated_space: SearchSpace, fake_device: Device, tmp_path: Path) -> Device:
    """The command measures on a fake device; its space is in space.yaml."""
    (tmp_path / "space.yaml").write_text(gated_space.to_yaml())
    device = fake_device(gated_space, 12)
    replaced = functools.partial(measure_folder, load=device.load, clock=device.clock, runtime="1.0")
    monkeypatch.setattr(profile_folder, "measure_folder", replaced)
    monkeypatch.chdir(tmp_path)
    return device


COMMAND = ["profile", "--space", "space.yaml", "--networks", "12"]


def invoke(*options: str) -> Result:
    return CliRunner().invoke(cli, [*COMMAND, *options])


def test_the_command_writes_a_table_that_other_commands_take(on_fake: Device) -> None:
    done = invoke("--out", "t.csv")
    assert done.exit_code == 0, done.output
    assert "Spearman" in done.output and "Files: t.csv, t.profile.json" in done.output
    kept = json.loads(Path("t.profile.json").read_text())
    assert kept["correction"]["int8"]["after"]["spearman"] > 0.95
    limited = ["--objective", "weight_bytes", "--constraint", "latency_ms<=1", "--evaluations", "200"]
    done = CliRunner().invoke(cli, ["search", "space.yaml", "--table", "t.csv", *limited])
    assert done.exit_code == 0, done.output
    note = "t.csv: latency_ms is no smaller below 8 bits: on this runtime fewer bits save bytes, not time"
    assert done.output.count(note) == 1
    unlimited = CliRunner().invoke(cli, ["search", "space.yaml", "--table", "t.csv", "--objective", "macs"])
    assert note not in unlimited.output


def test_interrupted_and_given_again_it_makes_the_same_table(
    on_fake: Device, tmp_path: Path, uncommented: Lines
) -> None:
    assert invoke("--out", "whole.csv").exit_code == 0
    first = {"left": 100}
    on_fake.now = 0.0

    def slow() -> float:
        first["left"] -= 1
        if first["left"] == 0:
            raise KeyboardInterrupt
        return 1.0

    on_fake.slow = slow
    done = invoke("--out", "t.csv")
    assert done.exit_code == 130
    assert "the same command goes on where it stopped" in done.output
    assert not Path("t.csv").exists() and (tmp_path / "t.profile" / RESULTS).exists()
    loaded = len(on_fake.loaded)
    assert invoke("--out", "t.csv").exit_code == 0
    assert len(on_fake.loaded) > loaded
    assert uncommented(Path("t.csv")) == uncommented(Path("whole.csv"))
    loaded = len(on_fake.loaded)
    assert invoke("--out", "t.csv").exit_code == 0
    assert len(on_fake.loaded) == loaded  # nothing is measured a third time


def test_a_folder_of_other_options_is_refused(on_fake: Device) -> None:
    assert invoke("--out", "t.csv", "--minutes", "0.001").exit_code in (0, 1)
    done = CliRunner().invoke(cli, ["profile", "--space", "digits", "--networks", "12", "--out", "t.csv"])
    assert "t.profile: is a profile of another space" in str(done.exception)
    done = CliRunner().invoke(cli, [*COMMAND[:-1], "13", "--out", "t.csv"])
    assert "with networks 12, not 13; choose another" in str(done.exception)


def test_in_python_the_table_is_that_of_the_command(on_fake: Device, gated_space: SearchSpace) -> None:
    assert invoke("--out", "t.csv").exit_code == 0
    on_fake.now = 0.0
    visits: list[tuple[int, int, int, float]] = []
    lines = profile(gated_space, "own.csv", networks=12, on_visit=lambda *visit: visits.append(visit))
    assert Path("own.csv").read_text() == Path("t.csv").read_text()
    assert lines == tuple(line[2:] for line in Path("own.csv").read_text().splitlines() if line.startswith("# "))
    n_visits, n_begun, n_files, _ = visits[-1]
    assert n_begun == n_files == len(on_fake.items) and n_visits == n_files * measure.REPEATS


def test_operations_are_not_exported_into_a_folder_of_something_else(on_fake: Device, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "measure.py").write_text("mine")
    done = invoke("--export-ops", "own")
    assert done.exit_code == 1 and "own" in str(done.exception)
    assert [path.read_text() for path in (tmp_path / "own").iterdir()] == ["mine"]


def test_a_board_measures_what_was_exported(on_fake: Device, tmp_path: Path, uncommented: Lines) -> None:
    done = invoke("--export-ops", "ops")
    assert done.exit_code == 0 and "copy the folder to the device" in done.output
    assert on_fake.loaded == []
    shutil.copytree("ops", "board")
    list(measure.measure(tmp_path / "board", load=on_fake.load, clock=on_fake.clock, runtime="1.0"))
    done = CliRunner().invoke(cli, ["profile", "--collect", "board", "--out", "board.csv"])
    assert done.exit_code == 0, done.output
    on_fake.now = 0.0
    assert invoke("--out", "here.csv").exit_code == 0
    assert uncommented(Path("board.csv")) == uncommented(Path("here.csv"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "t.csv"], "give --space"),
        (["--space", "digits"], "give --out"),
        (["--space", "digits", "--export-ops", "d", "--out", "t.csv"], "measures nothing; leave --collect and --out"),
        (["--export-ops", "d"], "give --space"),
        (["--collect", "d"], "give --out"),
        (["--collect", "d", "--out", "t.csv", "--threads", "2"], "leave --threads out"),
        (["--space", "digits", "--export-ops", "d", "--minutes", "2"], "give --minutes to measure.py on the device"),
        (["--space", "digits", "--out", "t.json"], "give a name that ends in .csv"),
        (["--space", "digits", "--out", "t.csv", "--minutes", "0"], "give a number above 0"),
        (["--space", "digits", "--out", "t.csv", "--threads", "0"], "give a whole number from 1"),
        (["--space", "digits", "--out", "t.csv", "--on", "tpu"], "'tpu' is not 'onnxruntime-cpu'"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["profile", *options])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
