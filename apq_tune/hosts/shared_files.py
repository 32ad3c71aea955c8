"""Files by which processes of one machine share the memory of arrays."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path
from typing import Any

import cloudpickle

from apq_tune.errors import RunError

ALIGNMENT = 64
"""Alignment of arrays in a file in bytes, as of NumPy's arrays in memory."""


def write_shared(value: Any, file: Path) -> None:
    """Write a value such that processes that read it share the memory of its arrays.

    Args:
        value: Value to write.
        file: File to write; its folder is created.

    Raises:
        RunError: If it cannot be pickled.
        OSError: If it cannot be written.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        content = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise RunError(f"cannot be sent to other processes: {error}; define it in a module") from None
    parts = [memoryview(content), *(buffer.raw() for buffer in buffers)]
    file.parent.mkdir(parents=True, exist_ok=True)
    head = pickle.dumps([len(part) for part in parts])
    with file.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for part in parts:
            out.write(b"\0" * (-out.tell() % ALIGNMENT))
            out.write(part)


def read_shared(file: Path) -> Any:
    """Inverse of ``write_shared``; arrays are read-only views of the file, which may be deleted afterwards."""
    with file.open("rb") as opened:
        whole = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    start = 8 + int.from_bytes(whole[:8], "little")
    parts = []
    for length in pickle.loads(whole[8:start]):
        start += -start % ALIGNMENT
        parts.append(whole[start : start + length])
        start += length
    return pickle.loads(parts[0], buffers=parts[1:])
