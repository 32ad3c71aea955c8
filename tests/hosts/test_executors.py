"""What executors of every kind promise: the same results, nothing finished is lost, failures are one line."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apq_tune import RunError
from apq_tune.hosts import executor as executors
from apq_tune.hosts.executor import (
    Executor,
    Result,
    start_executor,
)

KINDS = ["serial", "local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.fixture(scope="module", params=KINDS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with start_executor(request.param, None, 2) as started:
        yield started


def squared(item: int, shared: Any) -> Result:
    return Result({"square": item * item, "sum": float(shared.sum())}, {"file": bytes([item])})


def works_or_not(item: str, folder: str) -> Result:
    with Path(folder, item).open("a") as file:
        file.write("tried\n")
    if item == "refused":
        raise RunError("clip is -1; give more")
    if item == "broken":
        raise ZeroDivisionError
    if item == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "a/file")
    return Result({"item": item})


def killed_once(item: int, folder: str) -> Result:
    """The worker of item 3 is killed in its first attempt."""
    mark = Path(folder, f"began_{item}")
    first = not mark.exists()
    mark.touch()
    if item == 3 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return Result({"item": item})


def killed_always(item: str, folder: str) -> Result:
    with Path(folder, item).open("a") as file:
        file.write("tried\n")
    if item == "large":
        os.kill(os.getpid(), signal.SIGKILL)
    return Result({"item": item})


def in_three_parts(item: int, pause: float):
    for part in range(3):
        time.sleep(pause)
        yield part + 1
    return Result({"item": item})


def told(work: Any, executor: Executor, shared: Any, items: dict[str, Any], folder: Path) -> dict[str, Any]:
    return dict(executor.map(work, shared, items, directory=folder / "work"))


def test_results_come_with_their_keys_files_and_seconds(executor: Executor, tmp_path: Path) -> None:
    items = {f"k{i}": i for i in range(7)}
    found = told(squared, executor, np.arange(10), items, tmp_path)
    assert {key: result.metrics for key, result in found.items()} == {
        key: {"square": i * i, "sum": 45.0} for key, i in items.items()
    }
    assert all(result.files == {"file": bytes([items[key]])} for key, result in found.items())
    assert all(0 < result.seconds < 60 for result in found.values())
    assert not (tmp_path / "work").exists()
    assert told(squared, executor, np.arange(3), {}, tmp_path) == {}
    assert told(squared, executor, np.arange(3), {"a": 2}, tmp_path)["a"].metrics == {"square": 4, "sum": 3.0}


@pytest.mark.parametrize(
    ("bad", "words", "tries"),
    [
        ("refused", r"^1 failed: clip is -1; give more$", 1),
        ("broken", r"^1 failed: ZeroDivisionError; see ", 3),
        ("full", r"^1 failed: OSError: \[Errno 28\] No space left on device: 'a/file'; see ", 3),
    ],
)
def test_an_item_that_fails_is_one_line_and_loses_no_other(
    bad: str, words: str, tries: int, executor: Executor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done: dict[str, Any] = {}
    with pytest.raises(RunError, match=words) as caught:
        for key, result in executor.map(
            works_or_not, str(tmp_path), {"1": bad, "2": "good"}, directory=tmp_path / "work"
        ):
            done[key] = result.metrics
    assert "\n" not in str(caught.value)
    assert done == {"2": {"item": "good"}}
    assert (tmp_path / bad).read_text().count("tried") == tries
    assert capfd.readouterr().err == ""
    if tries > 1:
        text = Path(str(caught.value).split("see ")[1]).read_text()
        assert "in works_or_not" in text
        assert "Error" in text.splitlines()[-1]


def test_failures_are_counted(executor: Executor, tmp_path: Path) -> None:
    items = {"1": "refused", "2": "good", "3": "refused"}
    with pytest.raises(RunError, match=r"^[13] failed \(and 1 more\): clip is -1; give more$"):
        told(works_or_not, executor, str(tmp_path), items, tmp_path)


def test_work_that_says_how_much_is_done_goes_on_to_its_end(executor: Executor, tmp_path: Path) -> None:
    said: list[tuple[str, int]] = []
    mapped = executor.map(
        in_three_parts,
        1.1 * executors.TELL_SECONDS,
        {"a": 5},
        directory=tmp_path / "work",
        on_progress=lambda key, n: said.append((key, n)),
    )
    assert [(key, result.metrics) for key, result in mapped] == [("a", {"item": 5})]
    assert said == [("a", 1), ("a", 2), ("a", 3)]


def test_a_worker_that_is_killed_costs_its_own_item_some_time_and_nothing_else(
    executor: Executor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if executor.place == "this process":
        pytest.skip("there is no worker")
    found = told(killed_once, executor, str(tmp_path), {str(i): i for i in range(6)}, tmp_path)
    assert {key: result.metrics["item"] for key, result in found.items()} == {str(i): i for i in range(6)}
    with pytest.raises(RunError, match=r"^1 failed: its process was killed.* run fewer at once, with --num-cpus$"):
        told(killed_always, executor, str(tmp_path), {"1": "large", "2": "small"}, tmp_path)
    assert (tmp_path / "large").read_text().count("tried") == 3
    assert (tmp_path / "small").read_text().count("tried") == 1
    assert capfd.readouterr().err == ""
