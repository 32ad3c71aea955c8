"""Executors, which apply a function to many items in processes of this machine or on a Ray cluster.

An executor neither chooses items nor writes results, so that results depend neither on the executor nor on its number
of workers.
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
"""Name of the folder for temporary files of workers and for tracebacks, within that of the results."""

Kind = Literal["local", "ray", "serial"]


class Executor(Protocol):
    """Applies a function to items; the context manager ``start_executor`` starts and ends its workers.

    Attributes:
        concurrency: Maximum number of items that are computed at once, each on one processor.
        place: Description of where items are computed, for messages.
    """

    concurrency: int
    place: str

    @property
    def n_gpus(self) -> float:
        """Number of available GPUs."""
        ...

    def prepare(self, work: Work) -> None:
        """Start importing the modules that ``work`` needs in the background."""
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
            work: Function to apply.
            shared: Second argument of the function, sent to each worker once.
            items: First arguments of the function by key.
            directory: Folder for tracebacks of failed items and for temporary files of workers.
            gpus: GPUs per item; items share a GPU if it is a fraction.
            on_progress: Callback with the key and the progress of an item, for functions that yield it.

        Yields:
            Key and result of each item, as soon as it is computed.

        Raises:
            RunError: If items failed, raised after all others are computed; the message names the first failed item,
                its reason, and the number of other failed items.
        """
        ...


class SerialExecutor:
    """Executor that computes items sequentially in this process, for tests and debugging."""

    concurrency = 1
    place = "this process"
    n_gpus = math.inf  # not limited here

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
    """Ignore progress."""


def executor_kind(kind: Kind | None, address: str | None) -> Kind:
    """Kind of executor: by default Ray if ``address`` or ``RAY_ADDRESS`` names a cluster, else local processes.

    Args:
        kind: Kind given by the user, if any.
        address: Address of a Ray cluster given by the user, if any.

    Raises:
        RunError: If both contradict each other.
    """
    if kind not in (None, "ray") and address is not None:
        raise RunError(f"--address {address!r} is that of a Ray cluster; leave it out, or give --executor ray")
    return kind or ("ray" if address is not None or wanted_address(None) else "local")


def check_executor(kind: Kind | None, address: str | None) -> Kind:
    """Check early that an executor can be started.

    Args:
        kind: Kind given by the user, if any.
        address: Address of a Ray cluster given by the user, if any.

    Returns:
        Kind of executor; see ``executor_kind``.

    Raises:
        RunError: If kind and address contradict each other, or no Ray cluster can be reached or started.
    """
    kind = executor_kind(kind, address)
    if kind == "ray":
        check_address(address)
    return kind


@contextlib.contextmanager
def start_executor(kind: Kind, address: str | None = None, num_cpus: int | None = None) -> Iterator[Executor]:
    """Start an executor, whose workers end with the context.

    Args:
        kind: Kind of executor.
        address: Address of a Ray cluster to join; ``None`` uses ``RAY_ADDRESS``, or starts a cluster on this machine.
        num_cpus: Maximum number of items at once; ``None`` for all processors.

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
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_share(executor: Executor, wanted: float | None = None) -> float:
    """GPUs per item.

    Args:
        executor: Executor of the items.
        wanted: Requested GPUs per item; ``None`` divides all of them among concurrent items, with at most one for each.

    Raises:
        RunError: If there are fewer GPUs than requested, or none, in which case items would wait forever on Ray.
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
