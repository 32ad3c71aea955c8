"""Output folders of commands, locked while a command runs, with a record of what the results depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from apq_tune.errors import RunError
from apq_tune.store.digests import file_digest, read_record, write_record
from apq_tune.store.lock import NAME as LOCK
from apq_tune.store.lock import FolderLock, own

PACKAGES = ("apq-tune", "torch", "ray", "optuna", "numpy", "scikit-learn", "moocore")
"""Packages whose versions are recorded."""


class CommandFolder:
    """Output folder of a command, locked by this process for the lifetime of the object.

    Attributes:
        path: Path of the folder.
        record: JSON file with the format, the command line, versions of packages, everything that the results depend
            on, and its own digest.
    """

    def __init__(
        self, path: Path, kind: str, record: str, current: int, marks: Sequence[str] = (), *, wait: float = 0.0
    ) -> None:
        """Lock the folder, which is created if necessary.

        Args:
            path: Path of the folder.
            kind: Kind of folder, for messages.
            record: Name of the record.
            current: Format of the folder that this version writes and reads.
            marks: Glob patterns of further files that identify such a folder.
            wait: Seconds to wait for another process that owns the folder to end.

        Raises:
            RunError: If it is another kind of folder, in use, or cannot be written.
        """
        self.path, self.record, self._kind, self._current = path, path / record, kind, current
        self._lock = claim(path, kind, (record, *marks), wait=wait)

    def read(self, remedy: str) -> dict[str, Any] | None:
        """Read the record; ``None`` if there is none.

        Args:
            remedy: Remedy for the message if it is damaged.

        Raises:
            RunError: If it is damaged, or of another format.
        """
        return read_record(self.record, remedy, current=self._current) if self.record.exists() else None

    def write(self, command: str, content: Mapping[str, Any]) -> None:
        """Write the record.

        Args:
            command: Command line.
            content: Plain data that the results depend on.

        Raises:
            RunError: If it cannot be written.
        """
        versions = {package: metadata.version(package) for package in PACKAGES}
        write_record(self.record, {"format": self._current, "command": command, "versions": versions, **content})

    def begin(self, command: str, basis: Mapping[str, Any]) -> None:
        """Write the record of a new folder, or check that an existing one has the same basis.

        Args:
            command: Command line.
            basis: Plain data that the results depend on.

        Raises:
            RunError: If the record is damaged, or has another format, kind or basis.
        """
        basis = json.loads(json.dumps(basis))
        before = self.read(f"delete the folder {self.path} to begin anew, or choose another --out")
        if before is None:
            self.write(command, {"kind": self._kind, "basis": basis})
            return
        if before.get("kind") != self._kind:
            raise RunError(f"{self.path}: is a {before.get('kind')}, not a {self._kind}; choose another --out")
        was = before.get("basis", {})
        for name in {**basis, **was}:
            if was.get(name) != basis.get(name):
                raise RunError(
                    f"{self.path}: is a {self._kind} whose {name} is {json.dumps(was.get(name))}, not "
                    f"{json.dumps(basis.get(name))}; repeat what it began with, or choose another --out"
                )

    def hold(self) -> None:
        """Lock the folder again after ``release``.

        Raises:
            RunError: If another process has locked it.
        """
        self._lock = own(self.path)

    def release(self) -> None:
        """Unlock the folder."""
        self._lock.release()


def claim(path: Path, kind: str, marks: Sequence[str], *, wait: float = 0.0) -> FolderLock:
    """Lock a folder that is new, empty or of the given kind.

    Args:
        path: Path of the folder.
        kind: Kind of folder, for messages.
        marks: Glob patterns of files that identify such a folder.
        wait: Seconds to wait for another process that owns the folder to end.

    Raises:
        RunError: If it is another kind of folder, in use, or cannot be written.
    """
    try:
        new = not path.exists() or (path.is_dir() and all(entry.name == LOCK for entry in path.iterdir()))
        known = path.is_dir() and any(any(path.glob(mark)) for mark in marks)
    except OSError as error:
        raise RunError(f"cannot use {path}: {error.strerror}; choose another --out") from None
    if not new and not known:
        raise RunError(f"{path}: exists and is not a {kind}; choose another --out")
    return own(path, wait=wait)


def digest(path: Path | None) -> str | None:
    """SHA-256 of a file, or of the names and contents of the files of a folder; ``None`` for ``None``."""
    if path is None:
        return None
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        name = "" if file == path else str(file.relative_to(path))
        whole.update(os.fsencode(name) + b"\0" + bytes.fromhex(file_digest(file)))
    return whole.hexdigest()
