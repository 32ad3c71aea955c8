"""Executors: where a function is applied to many items, on processes of this machine or on a Ray cluster.

An executor only maps. It neither chooses items nor writes results, so the same items have the same results wherever
they are computed and however many are computed at once.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from apq_tune.errors import ApqError, RunError
from apq_tune.hosts.joining import check_address, wanted_address

WORK_FILES = "work"
"""Folder, within that of the results, for what workers read meanwhile and for tracebacks."""

MAX_RETRIES = 2
"""How often an item is tried again whose worker died or that raised what may not come again, such as a full disk."""

LONGEST_REASON = 300
"""Characters of an error in a message; the whole traceback is in a file."""

TELL_SECONDS = 0.5
"""Least time between two words on how much of an item is done: through Ray each costs some milliseconds."""

Found = TypeVar("Found")

Kind = Literal["local", "ray", "serial"]


class Result(NamedTuple):
    """What is computed from one item."""

    metrics: dict[str, Any]  # plain data
    files: Mapping[str, bytes] = MappingProxyType({})  # name -> content
    seconds: float = 0.0  # wall time of the worker; filled in by executors


Work = Callable[[Any, Any], Result | Generator[int, None, Result]]
"""From one item, and what all items share, to a result. A function that does several things may yield how many of them
are done."""


class Executor(Protocol):
    """Applies a function to items; a context manager of the module's ``start_executor`` owns its workers.

    Attributes:
        concurrency: Items that are computed at once, each on one processor.
        place: Where, for messages.
    """

    concurrency: int
    place: str

    @property
    def n_gpus(self) -> float:
        """GPUs that there are."""
        ...

    def prepare(self, work: Work) -> None:
        """Let workers import what ``work`` needs while this process does something else."""
        ...

    def map(
        self,
        work: Work,
        shared: Any,
        items: Mapping[str, Any],
        *,
        directory: Path,
        gpus: float = 0,
        on_progress: Callable[[str, int], None] | None = None,
    ) -> Iterator[tuple[str, Result]]:
        """Apply a function to every item; abandoning the iterator stops the workers.

        Args:
            work: The function.
            shared: Its second argument, sent to each worker once.
            items: Key -> its first argument.
            directory: Folder for the tracebacks of items that fail, and for what workers read meanwhile.
            gpus: GPUs of each item; a fraction shares a GPU between items.
            on_progress: Called with a key and how much of that item is done, for functions that yield it.

        Yields:
            Key and result of each item, as soon as it is computed.

        Raises:
            RunError: When no item is left, if some failed: names the first of them, its reason, and how many others
                failed.
        """
        ...


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


class SerialExecutor:
    """Computes one item after the other in this process; for tests and debuggers."""

    concurrency = 1
    place = "this process"
    n_gpus = math.inf  # the work sees for itself

    def prepare(self, work: Work) -> None:
        """Nothing to do."""

    def map(
        self,
        work: Work,
        shared: Any,
        items: Mapping[str, Any],
        *,
        directory: Path,
        gpus: float = 0,  # noqa: ARG002
        on_progress: Callable[[str, int], None] | None = None,
    ) -> Iterator[tuple[str, Result]]:
        """See ``Executor``."""
        attempts = Attempts(directory)
        for key, item in items.items():
            tell = functools.partial(on_progress or _ignore, key)
            while isinstance(found := finished(attempt(work, item, shared), tell), Failure):
                if not attempts.again(key, found):
                    break
            else:
                yield key, found
        attempts.close()


def _ignore(key: str, done: int) -> None:
    """Nobody asked how much is done."""


def executor_kind(kind: Kind | None, address: str | None) -> Kind:
    """Which executor is meant: Ray where a cluster is named, by ``address`` or ``RAY_ADDRESS``, else the local one.

    Args:
        kind: As given; ``None`` if it was not.
        address: Of a Ray cluster, as given.

    Raises:
        RunError: If both contradict each other.
    """
    if kind not in (None, "ray") and address is not None:
        raise RunError(f"--address {address!r} is that of a Ray cluster; leave it out, or give --executor ray")
    return kind or ("ray" if address is not None or wanted_address(None) else "local")


def check_executor(kind: Kind | None, address: str | None) -> Kind:
    """Refuse an executor that cannot be started, before any work.

    Args:
        kind: As given; ``None`` if it was not.
        address: Of a Ray cluster, as given.

    Returns:
        Which executor is meant.

    Raises:
        RunError: If kind and address contradict each other, or no Ray cluster can be reached or started.
    """
    kind = executor_kind(kind, address)
    if kind == "ray":
        check_address(address)
    return kind


@contextlib.contextmanager
def start_executor(kind: Kind, address: str | None = None, num_cpus: int | None = None) -> Iterator[Executor]:
    """An executor, whose workers end with the context.

    Args:
        kind: Which one.
        address: Of a Ray cluster to join; ``None`` takes ``RAY_ADDRESS``, or starts a cluster on this machine.
        num_cpus: Items at once; ``None`` for all processors.

    Raises:
        RunError: If no Ray cluster can be reached or started.
    """
    if kind == "serial":
        yield SerialExecutor()
    elif kind == "local":
        from apq_tune.hosts.local import LocalExecutor

        with LocalExecutor(num_cpus or available_cpus()) as local:
            yield local
    else:
        from apq_tune.hosts.ray import cluster
        from apq_tune.hosts.ray_tasks import RayExecutor

        with cluster(address, num_cpus) as concurrency:
            yield RayExecutor(concurrency)


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_share(executor: Executor, wanted: float | None = None) -> float:
    """GPUs of each item.

    Args:
        executor: Where items are computed.
        wanted: GPUs that each item should have; ``None`` shares all of them among the items that are computed at once,
            at most one for each.

    Raises:
        RunError: If there is none, or fewer than wanted: on Ray the items would wait for ever.
    """
    there = executor.n_gpus
    if wanted is not None and wanted > there:
        raise RunError(
            f"--gpus-per-trial {wanted:g}: {executor.place} has {there:g} GPUs; give --device cpu, or join a Ray "
            "cluster that has them with --address"
        )
    if not there:
        raise RunError(
            f"--device cuda: {executor.place} has no GPU; give --device cpu, or join a Ray cluster that has one with "
            "--address"
        )
    return min(1.0, there / executor.concurrency) if wanted is None else wanted
