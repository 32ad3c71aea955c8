"""Processes of this machine as an executor.

Workers are forked off a server that imports the work's modules once and runs no threads (``multiprocessing``'s own),
or spawned where there is none. A pool of ``concurrent.futures`` or of loky ends as a whole when one of its workers is
killed; here a worker that dies costs the item that it worked on, and its place is filled anew.
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
"""Environment of workers: as many run as there are processors."""

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT: Any = multiprocessing.get_context(_METHOD)


class LocalExecutor:
    """Worker processes on this machine: of the command's own priority, with one thread each.

    Attributes:
        concurrency: Most workers at once.
    """

    place = "this machine"

    def __init__(self, concurrency: int) -> None:
        """Without any worker; they are started when there is work.

        Args:
            concurrency: Most workers at once.
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
        """GPUs of this machine."""
        import torch

        return float(torch.cuda.device_count() if torch.cuda.is_available() else 0)

    def prepare(self, work: Work) -> None:
        """Begin to import the module of ``work`` in the server that workers are forked off."""
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
            self._stop_busy()  # of a map that is abandoned
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
        worker.begin(job, items[key], n_gpus)  # if it died meanwhile, its channel says so

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
    """A process that computes one item after the other.

    Attributes:
        process: It.
        channel: This process's end of the connection to it.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.channel, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
        # A server ignores Ctrl-C already, and may still be importing, in which Ctrl-C must be heard here.
        with _starting(), contextlib.nullcontext() if _METHOD == "forkserver" else _deaf_to_interrupts():
            self.process.start()
        theirs.close()

    def begin(self, job: Path, item: Any, n_gpus: int) -> bool:
        """Hand over an item.

        Args:
            job: File of the function and of what all items share.
            item: The item.
            n_gpus: GPUs that workers take turns at.

        Returns:
            Whether the worker lives.
        """
        gpu = self._number % n_gpus if n_gpus else None
        try:
            self.channel.send_bytes(cloudpickle.dumps((str(job), gpu, item)))
        except OSError:  # it does not: its channel will say so
            return False
        return True

    def said(self) -> int | Result | Failure | None:
        """How much is done, or the end of an item, which must be ready; ``None`` if the worker died."""
        try:
            said: int | Result | Failure = self.channel.recv()
        except (EOFError, OSError):
            return None
        return said

    def death(self) -> str:
        """Wait for the end of the process; why it died, in one line."""
        self.process.join()
        self.channel.close()
        code = self.process.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"crashed (exit status {code})"
        return f"its process {how}, most often because memory ran out (dmesg tells); run fewer at once, with --num-cpus"


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """The state of this process in which workers, and the server that they are forked off, are started.

    The user's script is hidden: ``multiprocessing`` would import it in each worker, where it would begin anew unless it
    is guarded. What it defines travels by value.
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
    """What is started here is never ended by Ctrl-C: that is this process's affair, which then ends its workers."""
    if threading.current_thread() is not threading.main_thread():  # there, signals cannot be set
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)


def _serve(channel: connection.Connection) -> None:
    """Compute what comes until the other end is closed."""
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
                    loaded = "", None  # the last one's memory, before the next takes some
                    loaded = path, read_shared(Path(path))
                work, shared = loaded[1]
                words = cloudpickle.dumps(finished(attempt(work, item, shared), channel.send))
            except Exception as error:
                words = cloudpickle.dumps(failure_of(error))
            channel.send_bytes(words)


def _take(gpu: int) -> None:
    """Let ``"cuda"`` mean this GPU."""
    import torch

    torch.cuda.set_device(gpu)


def _end_with_parent() -> None:
    """Whatever this worker computes, it ends with the process that started it, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
