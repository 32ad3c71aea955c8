"""Independent searches that share a folder, run in parallel, and are resumed after interruptions."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apq_tune.errors import RunError
from apq_tune.hosts import executor as executors
from apq_tune.hosts.executor import WORK_FILES, Executor, Kind, check_executor, gpu_share
from apq_tune.hosts.work import Work
from apq_tune.searchers import Searching
from apq_tune.store.digests import Digests
from apq_tune.store.disk import SMALL_BYTES, check_space
from apq_tune.store.files import write_atomically
from apq_tune.store.folder import CommandFolder
from apq_tune.store.items import Items, compute_missing
from apq_tune.supernet.device import Device

FORMAT = 2
"""Format of the folder; raise it when older ones cannot be resumed. Format 1 had no digests."""

LONGEST = 200
"""Maximum number of bytes of a key, which is part of file names."""

CHECKPOINT_SECONDS = 5.0
"""Seconds between checkpoints of a search."""

STEPS = 20
"""Number of generations between checks of the time."""


class Fleet:
    """Folder of independent searches: ``fleet.json``, results in ``items/``, and temporary ``checkpoints/``.

    The folder is locked by this process for the lifetime of the object.

    Attributes:
        path: Path of the folder.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        basis: Mapping[str, Any],
        *,
        command: str = "",
        executor: Kind | None = None,
        address: str | None = None,
        num_cpus: int | None = None,
    ) -> None:
        """Create the folder, or resume one with the same basis.

        Args:
            path: Path of the folder.
            kind: Name of the kind of study, such as ``"sweep"``.
            basis: Plain data that all results depend on.
            command: Command line, for the record.
            executor: Executor of the searches; by default Ray if a cluster is named, else local processes.
            address: Address of a Ray cluster to join, whose machines must see the folder, too.
            num_cpus: Number of searches at once; ``None`` for all processors.

        Raises:
            RunError: If the folder cannot be used or is in use, or no cluster answers at the address.
        """
        self._executor = check_executor(executor, address)
        self.path, self._address, self._num_cpus = path.absolute(), address, num_cpus
        self._folder = CommandFolder(path, kind, "fleet.json", FORMAT)
        self._folder.begin(command, basis)
        self._items = Items(Digests(self.path), "the same command does that search again", "items/")

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints; each search may write the file ``KEY.npz`` there."""
        return self.path / "checkpoints"

    def finished(self) -> dict[str, Any]:
        """Results of the finished searches by key.

        Raises:
            RunError: If a result is damaged; the message names its file.
        """
        return self._items.finished()

    def weights(self, key: str) -> bytes:
        """Weights that a finished search returned.

        Raises:
            RunError: If the file is missing.
        """
        path = self.path / self._items.weights(key)
        try:
            return path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}); give the same command again") from None

    def run(
        self,
        work: Work,
        shared: Any,
        items: Mapping[str, Any],
        on_done: Callable[[int, int], None] | None = None,
        device: Device = "cpu",
        gpus: float | None = None,
    ) -> dict[str, Any]:
        """Run the searches that are not done yet.

        Args:
            work: Function that runs one search.
            shared: Second argument of ``work``.
            items: First argument of ``work`` by key; keys are valid file names.
            on_done: Callback with the number of finished searches and the number of all searches.
            device: Device on which networks run.
            gpus: GPUs per search on ``"cuda"``; ``None`` divides them evenly among the running ones.

        Returns:
            Results by key, in the order of ``items``.

        Raises:
            RunError: If a search failed, in which case the results of the others are kept, or there is no such GPU.
        """
        if long := [key for key in items if len(os.fsencode(key)) > LONGEST]:
            raise RunError(f"{long[0][:60]}...: is too long for the name of a file; give shorter names or fewer limits")

        def tell(key: str | None, done: int, total: int) -> None:
            if key is not None:
                with contextlib.suppress(OSError):
                    (self.checkpoints / f"{key}.npz").unlink(missing_ok=True)
            if on_done is not None:
                on_done(done, total)

        with contextlib.ExitStack() as stack:

            def start() -> Executor:
                check_space(self.path, SMALL_BYTES, ray=self._executor == "ray")
                return stack.enter_context(executors.start_executor(self._executor, self._address, self._num_cpus))

            results = compute_missing(
                self._items,
                start,
                work,
                shared,
                items,
                directory=self.path / WORK_FILES,
                gpus=lambda executor: gpu_share(executor, gpus) if device == "cuda" else 0,
                tell=tell,
            )
        for folder in (self.path / WORK_FILES, self.checkpoints):
            shutil.rmtree(folder, ignore_errors=True)
        return results


def finish(searching: Searching, checkpoint: Path, seconds: float = CHECKPOINT_SECONDS) -> None:
    """Run a search to its end, from its checkpoint if there is a valid one.

    Args:
        searching: New search.
        checkpoint: File of the checkpoint; a damaged one is ignored.
        seconds: Seconds between checkpoints.
    """
    with contextlib.suppress(OSError, RunError):
        searching.load(checkpoint.read_bytes())
    saved = time.monotonic()
    while not searching.done:
        searching.step(STEPS)
        if not searching.done and time.monotonic() - saved >= seconds:
            write_atomically(checkpoint, searching.to_bytes())
            saved = time.monotonic()
