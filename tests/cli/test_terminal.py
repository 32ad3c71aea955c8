"""How commands end and what a terminal sees: one line for each fault, whole figures however narrow it is."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.table import Table

import apq_tune.cli as command_line
from apq_tune.cli import ending
from apq_tune.report.screen import Screen

PROGRAM = [sys.executable, "-c", "from apq_tune.cli import main; main()"]


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str = "spaces") -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(command_line.cli.commands[name], "callback", fail)
    monkeypatch.setattr(command_line.cli.commands[name], "params", [])


def _status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_what_is_unforeseen_is_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _failing(monkeypatch, ZeroDivisionError("division\nby zero"))
    assert _status(["spaces"]) == 1
    said = capsys.readouterr().err
    (kept,) = tmp_path.glob("apq-tune-*.txt")
    assert said.count("\n") == 1
    assert said.startswith("error: unforeseen ZeroDivisionError: division; ")
    assert "please report it" in said
    assert str(kept) in said
    assert "in fail" in kept.read_text("utf-8")
    assert "ZeroDivisionError: division\nby zero" in kept.read_text("utf-8")


def test_without_a_place_for_the_file_the_line_remains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    _failing(monkeypatch, ZeroDivisionError())
    assert _status(["spaces"]) == 1
    assert "could not be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "/data/x: No space left on device; make room"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "File name too long; choose a shorter name"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot print: No space left on device"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_the_system_refuses_has_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, said: str
) -> None:
    _failing(monkeypatch, error)
    monkeypatch.setattr(ending, "_drop_output", lambda: None)
    assert _status(["spaces"]) == 1
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert len(line) < 400


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run", "the same command goes on where it stopped"),
        ("refine", "the same command goes on where it stopped"),
        ("sweep", "the same command goes on where it stopped"),
        ("joint-vs-staged", "the same command goes on where it stopped"),
        ("search", "nothing was kept; the same command starts from the beginning"),
        ("transfer", "nothing was kept; the same command starts from the beginning"),
    ],
)
def test_an_interruption_says_what_the_command_can_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    _failing(monkeypatch, KeyboardInterrupt(), name)
    assert _status([name]) == 130
    assert capsys.readouterr().err == f"interrupted; {said}\n"


def test_ctrl_c_in_a_search(tmp_path: Path) -> None:
    arguments = ["search", "digits", "--front", "bit_ops,macs", "--evaluations", "100000000"]
    process = subprocess.Popen(
        [*PROGRAM, *arguments, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    while not (tmp_path / "out").exists():  # made just before the search begins
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "interrupted; nothing was kept; the same command starts from the beginning\n"


def _run(
    arguments: list[str], stdout: object = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*PROGRAM, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_behind_stdout() -> None:
    with Path("/dev/full").open("w") as full:
        done = _run(["spaces"], full)
    assert done.returncode == 1
    assert done.stderr == "error: cannot print: No space left on device; send the output elsewhere\n"


def test_a_reader_that_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = _run(["spaces"], writing)
    os.close(writing)
    assert done.returncode != 0
    assert done.stderr == ""


def test_the_backend_of_a_notebook_does_not_matter() -> None:
    done = _run(["space", "digits"], MPLBACKEND="module://no_such_backend")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("columns", ["0", "1", "20", "40", "80", "abc", "²", "-5", "", "9" * 30])
def test_no_figure_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    table = Table(title="A title of several words")
    for name in ("a", "a long name", "rate", "count"):
        table.add_column(name, justify="right")
    table.add_row("0.123456", "1234567890", "5.86301e+07", "[4, 8]")
    screen = Screen()
    screen.print(table)
    screen.print("files in [red]x[/red] :smile:", soft_wrap=True)
    said = capsys.readouterr().out
    for figure in ("0.123456", "1234567890", "5.86301e+07", "[4,"):
        assert figure in said
    assert "…" not in said
    assert "[red]x[/red] :smile:" in said
