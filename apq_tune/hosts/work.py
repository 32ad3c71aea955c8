"""Work on items: a function, its results, and attempts at it, whatever it raises."""

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
"""How often an item is tried again whose worker died or that raised what may not come again, such as a full disk."""

LONGEST_REASON = 300
"""Characters of an error in a message; the whole traceback is in a file."""

TELL_SECONDS = 0.5
"""Least time between two words on how much of an item is done: through Ray each costs some milliseconds."""

Found = TypeVar("Found")


class Result(NamedTuple):
    """What is computed from one item."""

    metrics: dict[str, Any]  # plain data
    files: Mapping[str, bytes] = MappingProxyType({})  # name -> content
    seconds: float = 0.0  # wall time of the worker; filled in by executors


Work = Callable[[Any, Any], Result | Generator[int, None, Result]]
"""From one item, and what all items share, to a result. A function that does several things may yield how many of them
are done."""


class Failure(NamedTuple):
    """An item that raised."""

    reason: str  # one line
    traceback: str  # empty if trying again is of no use: the message says all


def attempt(work: Work, item: Any, shared: Any) -> Generator[int, None, Result | Failure]:
    """Compute one item inside a worker, whatever it raises.

    Args:
        work: The function.
        item: Its first argument.
        shared: Its second argument.

    Yields:
        How much is done, if ``work`` yields it, at most every ``TELL_SECONDS``.
    """
    start = told = time.monotonic()
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
        if time.monotonic() - told >= TELL_SECONDS:
            yield done
            told = time.monotonic()


def result_of(work: Work, item: Any, shared: Any) -> Result:
    """Compute one item in this process."""
    return finished(_steps(work, item, shared), lambda _: None)


def _steps(work: Work, item: Any, shared: Any) -> Generator[int, None, Result]:
    doing = work(item, shared)
    return doing if isinstance(doing, Result) else (yield from doing)


def finished(steps: Generator[int, None, Found], tell: Callable[[int], None]) -> Found:
    """What a generator returns in the end, after telling everything that it yields."""
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            found: Found = end.value
            return found
        tell(done)


def failure_of(error: BaseException) -> Failure:
    """What is remembered of an error."""
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return Failure(line[:LONGEST_REASON], "".join(traceback.format_exception(error)))


class Attempts:
    """Counts the attempts at each item of one map, and remembers which items failed for good."""

    def __init__(self, directory: Path) -> None:
        """Without any attempt.

        Args:
            directory: Folder for tracebacks.
        """
        self._directory = directory
        self._tries: Counter[str] = Counter()
        self._failed: dict[str, str] = {}

    def again(self, key: str, failure: Failure) -> bool:
        """Whether an item that raised is tried again."""
        if not failure.traceback:
            self._failed[key] = failure.reason
            return False
        if self._counted(key):
            return True
        self._failed[key] = f"{failure.reason}{self._kept(key, failure.traceback)}"
        return False

    def again_after_death(self, key: str, reason: str) -> bool:
        """Whether an item whose worker died is tried again."""
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
        """Call when no item is left.

        Raises:
            RunError: If items failed.
        """
        if self._failed:
            key, reason = next(iter(self._failed.items()))
            others = f" (and {len(self._failed) - 1} more)" if len(self._failed) > 1 else ""
            raise RunError(f"{key} failed{others}: {reason}")
