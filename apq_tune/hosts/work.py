"""Functions of items, their results and failures, and repeated attempts at failed items."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from apq_tune.errors import ApqError, RunError

MAX_RETRIES = 2
"""Number of retries of an item whose worker died or that raised an error that may be temporary."""

LONGEST_REASON = 300
"""Maximum number of characters of an error in a message; the traceback is written to a file."""

TELL_SECONDS = 0.5
"""Minimum seconds between progress reports of an item, each of which costs milliseconds with Ray."""

Found = TypeVar("Found")


class Result(NamedTuple):
    """Result of an item."""

    metrics: dict[str, Any]  # plain data
    files: Mapping[str, bytes] = MappingProxyType({})  # name -> content
    seconds: float = 0.0  # wall time of the worker; filled in by executors


Work = Callable[[Any, Any], Result | Generator[int, None, Result]]
"""Function from an item and an argument that all items share to a result; it may yield its progress as a count."""


class Failure(NamedTuple):
    """Failure of an item."""

    reason: str  # one line
    traceback: str  # empty for errors of the user, which are not retried


def attempt(work: Work, item: Any, shared: Any) -> Generator[int, None, Result | Failure]:
    """Compute one item inside a worker, and return a ``Failure`` if it raises.

    Args:
        work: Function to apply.
        item: First argument of the function.
        shared: Second argument of the function.

    Yields:
        Progress, if ``work`` yields it, at most every ``TELL_SECONDS``.
    """
    start = reported = time.monotonic()
    steps = _steps(work, item, shared)
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result._replace(seconds=time.monotonic() - start)
        except ApqError as error:
            return Failure(str(error), "")
        except Exception as error:
            return failure_of(error)
        if time.monotonic() - reported >= TELL_SECONDS:
            yield done
            reported = time.monotonic()


def result_of(work: Work, item: Any, shared: Any) -> Result:
    """Compute one item in this process."""
    return finished(_steps(work, item, shared), lambda _: None)


def _steps(work: Work, item: Any, shared: Any) -> Generator[int, None, Result]:
    doing = work(item, shared)
    return doing if isinstance(doing, Result) else (yield from doing)


def finished(steps: Generator[int, None, Found], tell: Callable[[int], None]) -> Found:
    """Exhaust a generator, calling a function with each yielded value, and return its return value."""
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            found: Found = end.value
            return found
        tell(done)


def failure_of(error: BaseException) -> Failure:
    """Describe an exception as a failure."""
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return Failure(line[:LONGEST_REASON], "".join(traceback.format_exception(error)))


class Attempts:
    """Counts of the attempts at each item, and the items that finally failed."""

    def __init__(self, directory: Path) -> None:
        """Begin without attempts.

        Args:
            directory: Folder for tracebacks.
        """
        self._directory = directory
        self._tries: Counter[str] = Counter()
        self._failed: dict[str, str] = {}

    def again(self, key: str, failure: Failure) -> bool:
        """Whether to retry an item that raised."""
        if not failure.traceback:
            self._failed[key] = failure.reason
            return False
        if self._counted(key):
            return True
        self._failed[key] = f"{failure.reason}{self._kept(key, failure.traceback)}"
        return False

    def again_after_death(self, key: str, reason: str) -> bool:
        """Whether to retry an item whose worker died."""
        if self._counted(key):
            return True
        self._failed[key] = reason
        return False

    def _counted(self, key: str) -> bool:
        self._tries[key] += 1
        return self._tries[key] <= MAX_RETRIES

    def _kept(self, key: str, text: str) -> str:
        file = self._directory / f"{key}.txt"
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            return f"; see {file}"
        return ""

    def close(self) -> None:
        """Finish after the last item.

        Raises:
            RunError: If items failed.
        """
        if self._failed:
            key, reason = next(iter(self._failed.items()))
            others = f" (and {len(self._failed) - 1} more)" if len(self._failed) > 1 else ""
            raise RunError(f"{key} failed{others}: {reason}")
