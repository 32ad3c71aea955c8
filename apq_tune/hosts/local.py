"""Executor on processes of this machine.

Workers are forked from ``multiprocessing``'s fork server, which imports the modules of the function once, or spawned on
platforms without it. Unlike in pools of ``concurrent.futures`` and loky, which break when a worker is killed, a dead
worker is replaced and only its item is retried.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

import cloudpickle

from apq_tune.hosts.shared_files import read_shared, write_shared
from apq_tune.hosts.work import Attempts, Failure, Result, Work, attempt, failure_of, finished

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of workers, which use one thread each, as there may be one for each processor."""

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT: Any = multiprocessing.get_context(_METHOD)


class LocalExecutor:
    """Executor on single-threaded worker processes of this machine.

    Attributes:
        concurrency: Maximum number of workers at once.
    """

    place = "this machine"

    def __init__(self, concurrency: int) -> None:
        """Begin without workers, which are started on demand.

        Args:
            concurrency: Maximum number of workers at once.
        """
        self.concurrency = concurrency
        self._idle: list[_Worker] = []
        self._busy: dict[connection.Connection, tuple[_Worker, str]] = {}
        self._numbers = itertools.count()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(*self._idle)
        self._idle.clear()
        self._stop_busy()

    @property
    def n_gpus(self) -> float:
        """Number of GPUs of this machine."""
        import torch

        return float(torch.cuda.device_count() if torch.cuda.is_available() else 0)

    def prepare(self, work: Work) -> None:
        """Start importing the module of ``work`` in the fork server."""
        if _METHOD == "forkserver":
            _CONTEXT.set_forkserver_preload([work.__module__])
            with _starting(), _deaf_to_interrupts():
                forkserver.ensure_running()

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
        if not items:
            return
        self.prepare(work)
        n_gpus = self.n_gpus if gpus else 0.0
        most = min(self.concurrency, max(1, int(n_gpus / gpus + 1e-6))) if gpus else self.concurrency
        attempts, waiting = Attempts(directory), deque(items)
        job = directory / f"shared-{uuid.uuid4().hex}.pickle"
        try:
            write_shared((work, shared), job)
            while waiting or self._busy:
                while waiting and len(self._busy) < most:
                    self._begin(waiting.popleft(), job, items, int(n_gpus))
                for ready in connection.wait(list(self._busy)):
                    channel: Any = ready
                    worker, key = self._busy[channel]
                    said = worker.said()
                    if isinstance(said, int):
                        if on_progress is not None:
                            on_progress(key, said)
                        continue
                    del self._busy[channel]
                    if said is None:
                        if attempts.again_after_death(key, worker.death()):
                            waiting.append(key)
                        continue
                    self._idle.append(worker)
                    if isinstance(said, Result):
                        yield key, said
                    elif attempts.again(key, said):
                        waiting.append(key)
        finally:
            self._stop_busy()  # if the iterator was abandoned
            job.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                directory.rmdir()  # unless it holds tracebacks
        attempts.close()

    def _begin(self, key: str, job: Path, items: Mapping[str, Any], n_gpus: int) -> None:
        while self._idle:
            worker = self._idle.pop()
            if worker.begin(job, items[key], n_gpus):
                self._busy[worker.channel] = worker, key
                return
            worker.death()
        worker = _Worker(next(self._numbers))
        self._busy[worker.channel] = worker, key
        worker.begin(job, items[key], n_gpus)  # if it has died, its channel will show it

    def _stop_busy(self) -> None:
        self._stop(*(worker for worker, _ in self._busy.values()))
        self._busy.clear()

    @staticmethod
    def _stop(*workers: _Worker) -> None:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.death()


class _Worker:
    """Worker process, which computes one item at a time.

    Attributes:
        process: Worker process.
        channel: Connection to the worker.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.channel, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
        # The fork server already ignores Ctrl-C. While it is still importing, Ctrl-C must be handled here.
        with _starting(), contextlib.nullcontext() if _METHOD == "forkserver" else _deaf_to_interrupts():
            self.process.start()
        theirs.close()

    def begin(self, job: Path, item: Any, n_gpus: int) -> bool:
        """Send an item to the worker.

        Args:
            job: File with the function and the argument that all items share.
            item: Item to compute.
            n_gpus: Number of GPUs that workers are distributed over.

        Returns:
            Whether the worker is alive.
        """
        gpu = self._number % n_gpus if n_gpus else None
        try:
            self.channel.send_bytes(cloudpickle.dumps((str(job), gpu, item)))
        except OSError:  # it is dead, which its channel will show
            return False
        return True

    def said(self) -> int | Result | Failure | None:
        """Receive the progress or the outcome of an item, which must be available; ``None`` if the worker died."""
        try:
            said: int | Result | Failure = self.channel.recv()
        except (EOFError, OSError):
            return None
        return said

    def death(self) -> str:
        """Wait for the end of the process, and return the reason in one line."""
        self.process.join()
        self.channel.close()
        code = self.process.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"crashed (exit status {code})"
        return f"its process {how}, most often because memory ran out (dmesg tells); run fewer at once, with --num-cpus"


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Context in which workers and the fork server are started.

    The main module is hidden, since ``multiprocessing`` would import the user's script in each worker, which would run
    it again unless it is guarded. Objects that it defines are pickled by value.
    """
    main, before = sys.modules["__main__"], {name: os.environ.get(name) for name in ONE_THREAD}
    hidden = types.ModuleType("__main__")
    vars(hidden).update({name: value for name, value in vars(main).items() if name not in ("__file__", "__spec__")})
    sys.modules["__main__"] = hidden
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Context in which started processes ignore Ctrl-C; this process handles it and ends its workers."""
    if threading.current_thread() is not threading.main_thread():  # signal handlers can only be set in the main thread
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)


def _serve(channel: connection.Connection) -> None:
    """Compute items until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    loaded: tuple[str, Any] = "", None
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            content = channel.recv_bytes()
            try:
                path, gpu, item = pickle.loads(content)
                if gpu is not None:
                    _take(gpu)
                if path != loaded[0]:
                    loaded = "", None  # free its memory before loading the next
                    loaded = path, read_shared(Path(path))
                work, shared = loaded[1]
                words = cloudpickle.dumps(finished(attempt(work, item, shared), channel.send))
            except Exception as error:
                words = cloudpickle.dumps(failure_of(error))
            channel.send_bytes(words)


def _take(gpu: int) -> None:
    """Select the GPU that ``"cuda"`` refers to."""
    import torch

    torch.cuda.set_device(gpu)


def _end_with_parent() -> None:
    """End this worker as soon as the process that started it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
