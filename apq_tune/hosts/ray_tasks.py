"""Executor on a Ray cluster, on which each item is a task.

Tasks have less overhead than trials of Ray Tune: a hundred trivial items take 4 s rather than 9 s. Searches that users
run on Ray Tune themselves use trials (``APQObjective``, ``ApqSearch``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from apq_tune.hosts.work import Attempts, Failure, Result, Work, attempt, failure_of

RAN_OUT_OF_MEMORY = "the machine ran out of memory and Ray ended the process; run fewer at once, with --num-cpus"
DIED = (
    "its process was killed or crashed, most often because memory ran out (dmesg tells); "
    "run fewer at once, with --num-cpus"
)


class RayExecutor:
    """Executor on tasks of one processor each on the cluster that this process is connected to."""

    place = "the Ray cluster"

    def __init__(self, concurrency: int) -> None:
        """Begin without tasks.

        Args:
            concurrency: Maximum number of tasks at once.
        """
        self.concurrency = concurrency

    @property
    def n_gpus(self) -> float:
        """Number of GPUs of the cluster."""
        return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]

    def prepare(self, work: Work) -> None:
        """Nothing: Ray imports modules with the first task."""

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
        """See ``Executor``."""
        attempts, waiting = Attempts(directory), deque(items)
        # Retries are counted here, since Ray retries without limit when memory runs out.
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, num_returns="streaming")(_task)
        job = ray.put((work, shared))
        running: dict[Any, str] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.concurrency:
                    key = waiting.popleft()
                    running[task.remote(job, items[key])] = key
                for stream in ray.wait(list(running), num_returns=1)[0]:
                    key = running[stream]
                    said = _said(stream)
                    if isinstance(said, int):
                        if on_progress is not None:
                            on_progress(key, said)
                        continue
                    del running[stream]
                    if isinstance(said, Result):
                        yield key, said
                    elif attempts.again_after_death(key, said) if isinstance(said, str) else attempts.again(key, said):
                        waiting.append(key)
        finally:
            for stream in running if ray.is_initialized() else ():  # if the iterator was abandoned
                ray.cancel(stream, force=True)
        attempts.close()


def _said(stream: Any) -> int | Result | Failure | str:
    """Next output of a task, which must be available; if its process died, the reason as text."""
    try:
        said: int | Result | Failure = ray.get(next(stream))
    except OutOfMemoryError:
        return RAN_OUT_OF_MEMORY
    except RayTaskError as error:  # the task could not start, for example for lack of a module
        return failure_of(error)
    except (RayError, StopIteration):
        return DIED
    return said


def _task(job: tuple[Work, Any], item: Any) -> Generator[int | Result | Failure, None, None]:
    """Task: yield the progress of an item, and finally its result or failure."""
    work, shared = job
    yield (yield from attempt(work, item, shared))
