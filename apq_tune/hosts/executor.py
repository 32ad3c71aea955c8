"""Executors: where a function is applied to many items, on processes of this machine or on a Ray cluster.

An executor only maps. It neither chooses items nor writes results, so the same items have the same results wherever
they are computed and however many are computed at once.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from apq_tune.errors import RunError
from apq_tune.hosts.joining import check_address, wanted_address
from apq_tune.hosts.work import Attempts, Failure, Result, Work, attempt, finished

WORK_FILES = "work"
"""Folder, within that of the results, for what workers read meanwhile and for tracebacks."""

Kind = Literal["local", "ray", "serial"]


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
