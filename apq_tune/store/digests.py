"""SHA-256 digests of files, recorded before a file is written and compared when it is read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apq_tune.errors import RunError
from apq_tune.store.files import cannot_write, write_atomically

LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
"""Line of a list of digests in the format of ``sha256sum``."""

SEAL = "sha256"
"""Key of a record for the digest of its other content."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: If it cannot be read.
    """
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            whole.update(chunk)
    return whole.hexdigest()


class Digests:
    """Digests of the files of a folder during work, in a list that is only appended to.

    Digests are written before their files: if the process is killed in between, the file is missing or has its earlier
    content, and both digests are in the list. Files that are not in the list are ignored.

    Attributes:
        folder: Folder of the files; names are relative to it.
    """

    NAME = "digests.sha256"

    def __init__(self, folder: Path, products: Mapping[str, str] | None = None) -> None:
        """Read the list, or begin with digests from elsewhere.

        Args:
            folder: Folder of the files.
            products: Digests by name; ``None`` reads the list.
        """
        self.folder, self._list = folder, folder / self.NAME
        self._known = {name: [digest] for name, digest in (products or {}).items()}
        if products is not None:
            return
        with contextlib.suppress(FileNotFoundError):
            for line in _lines(self._list):
                if match := LINE.fullmatch(line):  # the last one may be cut short
                    self._known.setdefault(match[2], []).append(match[1])

    def __iter__(self) -> Iterator[str]:
        """Names, in the order in which they were recorded."""
        return iter(self._known)

    def write(self, name: str, content: str | bytes) -> None:
        """Record a digest, then write the file.

        Raises:
            RunError: If either cannot be written.
        """
        data = content.encode("utf-8") if isinstance(content, str) else content
        digest = hashlib.sha256(data).hexdigest()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._list.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    whole = file.read(1) == b"\n"
                    file.write(b"" if whole else b"\n")
                file.write(f"{digest}  {name}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self._list, error) from None
        self._known.setdefault(name, []).append(digest)
        write_atomically(self.folder / name, data)

    def whole(self, name: str, redo: str) -> bool:
        """Whether a recorded file exists with its recorded content.

        Args:
            name: Name of the file.
            redo: Remedy for the message if it is damaged, after its deletion.

        Raises:
            RunError: If it is damaged.
        """
        if name not in self._known:
            return False
        return check(self.folder / name, self._known[name], redo)

    def current(self) -> dict[str, str]:
        """Digests of the existing recorded files by name, sorted."""
        return {name: self._known[name][-1] for name in sorted(self._known) if (self.folder / name).exists()}

    def save(self) -> None:
        """Rewrite the list with the last digest of each file."""
        write_atomically(self._list, "".join(f"{own[-1]}  {name}\n" for name, own in self._known.items()))

    def drop(self) -> None:
        """Remove the list after its digests have been recorded elsewhere."""
        with contextlib.suppress(OSError):
            self._list.unlink(missing_ok=True)


def check(path: Path, digests: Sequence[str], redo: str) -> bool:
    """Whether a file exists, whose content must have one of the digests.

    Args:
        path: Path of the file.
        digests: Digests of all contents that the file may have.
        redo: Remedy for the message if it is damaged, after its deletion.

    Raises:
        RunError: If it is damaged or cannot be read.
    """
    try:
        found = file_digest(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); fix it, or delete it, {redo}") from None
    if found in digests:
        return True
    how = "its content is not what was written" if path.stat().st_size else "it is empty"
    raise RunError(f"{path}: is damaged ({how}); delete it, {redo}")


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8", "replace").splitlines()


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON record that includes its own digest."""
    plain = json.loads(json.dumps(dict(content)))
    write_atomically(path, json.dumps({**plain, SEAL: _seal(path, plain)}, indent=1) + "\n")


def read_record(path: Path, remedy: str, *, current: int | None = None) -> dict[str, Any]:
    """Read a record of ``write_record``.

    Args:
        path: Path of the record.
        remedy: Remedy for the message if it is damaged.
        current: Format that this version reads; ``None`` for records without a format.

    Raises:
        RunError: If it is missing or damaged, or of another format.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        if not isinstance(record, dict):
            raise ValueError(f"holds a {type(record).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: is damaged ({str(error).splitlines()[0]}); {remedy}") from None
    if current is not None and (was := record.get("format", current)) != current:
        raise RunError(
            f"{path.parent}: is of format {was}, this version of apq-tune writes {current} and reads no other; "
            "make it anew in another --out, or use the version that made it"
        )
    if record.pop(SEAL, None) != _seal(path, record):
        raise RunError(f"{path}: is damaged (its content is not what was written); {remedy}")
    return record


def _seal(path: Path, plain: Mapping[str, Any]) -> str:
    """Digest of the content and the file name of a record, so that kinds of records cannot be confused."""
    return hashlib.sha256(f"{path.name} {json.dumps(plain, sort_keys=True)}".encode()).hexdigest()
