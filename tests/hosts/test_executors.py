"""What executors of every kind promise: the same results, nothing finished is lost, failures are one line."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apq_tune import RunError
from apq_tune.hosts.executor import Executor, check_executor, executor_kind, gpu_share, start_executor
from apq_tune.hosts.local import LocalExecutor
from apq_tune.hosts.shared_files import read_shared, write_shared
from apq_tune.hosts.work import TELL_SECONDS, Result

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
        1.1 * TELL_SECONDS,
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


SCRIPT = """
import os, sys, time
from pathlib import Path
from apq_tune.hosts.executor import start_executor
from apq_tune.hosts.work import TELL_SECONDS, Result

def slow(item, folder):
    Path(folder, f"pid_{item}").write_text(str(os.getpid()))
    if item:
        time.sleep(600)
    return Result({"item": item})

with start_executor(sys.argv[1], None, 2) as executor:
    items = {str(i): i for i in range(3)}
    for key, result in executor.map(slow, sys.argv[2], items, directory=Path(sys.argv[2], "work")):
        print(key, flush=True)
"""
"""As a user writes it: no guard of the main module, and its function is nobody else's."""


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc/self").exists() else True


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_workers_end_with_their_command_however_it_ends(kind: str, how: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), kind, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C reaches workers as it does in a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    deadline = time.monotonic() + 240
    while not all((tmp_path / f"pid_{i}").exists() and (tmp_path / f"pid_{i}").read_text() for i in range(3)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = {int((tmp_path / f"pid_{i}").read_text()) for i in range(3)}
    assert len(workers) == 2
    assert process.pid not in workers
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    printed, said = process.communicate(timeout=60)
    assert printed == "0\n"
    assert process.returncode == -how
    if how == signal.SIGINT:
        assert said.strip().splitlines()[-1] == "KeyboardInterrupt"
        assert said.count("Traceback") == 1  # the command's own
    while any(map(lives, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_map_that_is_abandoned_stops_its_workers_and_the_next_one_starts_anew(tmp_path: Path) -> None:
    with LocalExecutor(2) as executor:
        mapped = executor.map(waiting, str(tmp_path), {"0": 0, "1": 1}, directory=tmp_path / "work")
        assert next(mapped)[0] == "0"
        (pid,) = map(int, (tmp_path / "pid_1").read_text().split())
        mapped.close()
        assert not lives(pid)
        assert not (tmp_path / "work").exists()
        assert len(told(squared, executor, np.arange(3), {"a": 1, "b": 2}, tmp_path)) == 2


def waiting(item: int, folder: str) -> Result:
    """Item 1 goes on for long, item 0 ends when it has begun."""
    if item:
        Path(folder, "new").write_text(str(os.getpid()))
        Path(folder, "new").rename(Path(folder, f"pid_{item}"))
        time.sleep(600)
    while not Path(folder, "pid_1").exists():
        time.sleep(0.01)
    return Result({})


def seen(item: int, shared: dict[str, Any]) -> Result:
    import threadpoolctl

    array = shared["array"]
    with contextlib.suppress(ValueError):
        array[0] = -1
    threads = [library["num_threads"] for library in threadpoolctl.threadpool_info()]
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "shared-" in line]
    of_command = (os.getpriority(os.PRIO_PROCESS, 0), str(Path.cwd()))
    return Result({"first": float(array[0]), "threads": threads, "mapped": len(lines), "of_command": of_command})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_workers_share_memory_and_have_one_thread_and_the_priority_of_the_command(tmp_path: Path) -> None:
    with LocalExecutor(2) as executor:
        shared = {"array": np.full(1_000_000, 7.0)}
        results = told(seen, executor, shared, {"a": 0, "b": 1, "c": 2}, tmp_path)
    for result in results.values():
        assert result.metrics["first"] == 7.0  # nobody can change what others see
        assert set(result.metrics["threads"]) <= {1}
        assert result.metrics["mapped"] > 0
        assert result.metrics["of_command"] == (os.getpriority(os.PRIO_PROCESS, 0), str(Path.cwd()))


def test_what_is_shared_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"a": np.arange(5), "b": [np.eye(3, dtype=np.float32), "text"], "empty": np.zeros((0, 2)), "own": lambda: 3}
    write_shared(value, tmp_path / "new" / "file")
    again = read_shared(tmp_path / "new" / "file")
    (tmp_path / "new" / "file").unlink()
    np.testing.assert_array_equal(again["a"], value["a"])
    np.testing.assert_array_equal(again["b"][0], value["b"][0])
    assert (again["b"][1], again["empty"].shape, again["own"]()) == ("text", (0, 2), 3)
    assert again["a"].ctypes.data % 64 == 0
    with pytest.raises(RunError, match=r"cannot be sent to other processes: .*lock.*; define it in a module"):
        write_shared(threading.Lock(), tmp_path / "lock")


def test_a_full_disk_is_told_before_work_and_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere/shared")

    monkeypatch.setattr("apq_tune.hosts.local.write_shared", full)
    with LocalExecutor(1) as executor, pytest.raises(OSError, match="No space left on device: 'somewhere/shared'"):
        told(squared, executor, np.arange(3), {"a": 1}, tmp_path)
    assert not list(tmp_path.rglob("shared-*"))


def test_ray_is_taken_where_a_cluster_is_named_and_else_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert executor_kind(None, None) == "local"
    assert executor_kind("ray", None) == "ray"
    assert executor_kind(None, "10.0.0.1:6379") == "ray"
    with pytest.raises(RunError, match=r"--address '10.0.0.1:6379' is that of a Ray cluster; leave it out, or"):
        executor_kind("local", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert executor_kind(None, None) == "ray"
    assert executor_kind("local", None) == "local"
    assert check_executor("local", None) == "local"
    with pytest.raises(RunError, match=r"cannot reach a Ray cluster at '127\.0\.0\.1:1'"):
        check_executor(None, None)
    with start_executor("local", num_cpus=3) as executor:
        assert executor.concurrency == 3


def test_gpus_are_shared_or_refused() -> None:
    class Two(LocalExecutor):
        n_gpus = 2.0

    assert gpu_share(Two(4)) == 0.5
    assert gpu_share(Two(1)) == 1
    assert gpu_share(Two(4), 0.25) == 0.25
    with pytest.raises(RunError, match=r"--gpus-per-trial 3: this machine has 2 GPUs; give --device cpu, or join"):
        gpu_share(Two(4), 3)
    Two.n_gpus = 0.0
    with pytest.raises(RunError, match=r"--device cuda: this machine has no GPU; give --device cpu, or join"):
        gpu_share(Two(4))
