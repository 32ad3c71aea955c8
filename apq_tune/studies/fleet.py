"""Many searches in one folder, side by side: each is done once, whatever interrupts the fleet."""

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
from apq_tune.hosts.executor import WORK_FILES, Executor, Kind, Work, check_executor, gpu_share
from apq_tune.searchers import Searching
from apq_tune.store.digests import Digests
from apq_tune.store.disk import SMALL_BYTES, check_space
from apq_tune.store.files import write_atomically
from apq_tune.store.folder import CommandFolder
from apq_tune.store.items import Items, compute_missing
from apq_tune.supernet.device import Device

FORMAT = 2
"""Of a fleet's folder; raise it when an older one cannot be resumed. Those of 1 had no digests."""

LONGEST = 200
"""Bytes of a key: it is the name of files, with endings of ours."""

CHECKPOINT_SECONDS = 5.0
"""How much of a search may be lost when its worker dies."""

STEPS = 20
"""Generations between looks at the clock."""


class Fleet:
    """A folder of independent searches: ``fleet.json``, ``items/`` with a result each, ``checkpoints/`` meanwhile.

    This process owns it as long as the object lives.

    Attributes:
        path: The folder.
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
        """Open or create; what an earlier command with the same basis left is gone on from.

        Args:
            path: The folder.
            kind: What it is called, such as ``"sweep"``.
            basis: All that the results depend on, as plain data.
            command: The command line, kept in ``fleet.json``.
            executor: Where searches run; ``None`` for Ray if a cluster is named, else processes of this machine.
            address: Address of a Ray cluster to join, whose machines must see the folder, too.
            num_cpus: Searches at once; ``None`` for all processors.

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
        """Folder of searches under way; a trial may keep one file there, its key with ``.npz``."""
        return self.path / "checkpoints"

    def finished(self) -> dict[str, Any]:
        """Key -> result of the searches that are done.

        Raises:
            RunError: If a result is damaged, naming its file.
        """
        return self._items.finished()

    def weights(self, key: str) -> bytes:
        """The checkpoint that a finished search handed back.

        Raises:
            RunError: If it is missing.
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
        """Do what is not done.

        Args:
            work: The function that does one search.
            shared: Its second argument.
            items: Key, good as a file name, -> its first argument.
            on_done: Called with how many searches are done, and of how many.
            device: Where trials run networks.
            gpus: GPUs of each search on ``"cuda"``; ``None`` shares all of them among the searches at work.

        Returns:
            Key -> result, in the order of ``items``.

        Raises:
            RunError: If a search failed; the results of the others are kept. If there is no such GPU.
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
                check_space(self.path, SMALL_BYTES)
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
    """Run a search to its end, from its checkpoint if there is a good one.

    A checkpoint that is damaged costs the time that it would have saved and nothing else.

    Args:
        searching: Just begun.
        checkpoint: File, written every few seconds.
        seconds: How many.
    """
    with contextlib.suppress(OSError, RunError):
        searching.load(checkpoint.read_bytes())
    saved = time.monotonic()
    while not searching.done:
        searching.step(STEPS)
        if not searching.done and time.monotonic() - saved >= seconds:
            write_atomically(checkpoint, searching.to_bytes())
            saved = time.monotonic()
