"""Exclusive locks of folders, which the operating system releases when a process ends."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import weakref
from pathlib import Path
from typing import IO

from apq_tune.errors import RunError
from apq_tune.store.files import cannot_write

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
"""Name of the locked file, which names the owner and is removed by ``release``."""

_held: dict[Path, weakref.ref[FolderLock]] = {}
"""Locks of this process, so that it can open the same folder again."""


class FolderLock:
    """Lock of a folder until ``release``, garbage collection of the object, or the end of the process.

    Attributes:
        folder: Locked folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._release: weakref.finalize[..., FolderLock] = weakref.finalize(self, _nothing)
        self._release.detach()

    def take(self, wait: float) -> None:
        """Lock the folder, which is created if necessary.

        Raises:
            RunError: If another process still holds it after ``wait`` seconds, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            give_up = time.monotonic() + wait
            while (file := _locked(self.folder / NAME)) is None:
                if time.monotonic() >= give_up:
                    raise RunError(_in_use(self.folder))
                time.sleep(0.1)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        except OSError as error:
            raise cannot_write(self.folder, error) from None
        self._release = weakref.finalize(self, _unlock, file, self.folder / NAME, os.getpid())

    @property
    def held(self) -> bool:
        """Whether the folder is locked by this object."""
        return self._release.alive

    def release(self) -> None:
        """Unlock the folder."""
        self._release()


def own(folder: Path, *, wait: float = 0.0) -> FolderLock:
    """Lock a folder for the lifetime of the returned object.

    Args:
        folder: Folder to lock, which is created if necessary.
        wait: Seconds to wait for another process to end, such as a worker of a killed command.

    Raises:
        RunError: If another process has locked it, which the message names, or if the folder cannot be written.
    """
    try:
        key = folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(f"cannot use {folder}: {error}; choose another --out") from None
    held = _held.get(key)
    lock = held() if held is not None else None
    if lock is None or not lock.held:
        lock = FolderLock(folder.absolute())
        lock.take(wait)
        _held[key] = weakref.ref(lock)
    return lock


def _locked(path: Path) -> IO[str] | None:
    """The locked, open file; ``None`` if another process has locked it."""
    while True:
        file = path.open("a+", encoding="utf-8")  # not inherited by programs that this process starts
        try:
            if fcntl is None:
                raise OSError("no locks on this system")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            logging.getLogger(__name__).warning(
                "%s: its file system knows no locks; see to it that no other command uses this folder now", path.parent
            )
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its owner removed it in between


def _in_use(folder: Path) -> str:
    owner = "another process"
    with contextlib.suppress(OSError):
        owner = (folder / NAME).read_text("utf-8", "replace").strip() or owner
    return f"{folder}: is in use by {owner}; wait until that has ended, or choose another --out"


def _unlock(file: IO[str], path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child, whose parent keeps the lock
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    file.close()


def _nothing() -> None:
    """There is nothing to release."""
