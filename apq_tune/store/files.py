"""Atomic writing of files, and JSON."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from apq_tune.errors import RunError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a run that resumes after a crash, sees all of it or nothing.

    Raises:
        RunError: If it cannot be written, such as for lack of permission or space; the message has the reason.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> RunError:
    """Error for a file or a folder that cannot be written."""
    return RunError(f"cannot write {path}: {error.strerror or error}; fix it or choose another --out")


def read_json(path: Path, remedy: str = "delete it and repeat the command") -> Any:
    """Read a JSON file of this package.

    Args:
        path: Path of the file.
        remedy: Remedy for the message if it is damaged.

    Raises:
        RunError: If it is missing or damaged; the message names the file and the remedy.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {remedy}") from None


def to_json(data: Any) -> str:
    """Format data as indented JSON."""
    return json.dumps(data, indent=1) + "\n"
