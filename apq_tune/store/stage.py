"""Folders of stages, which record whether a stage is done and what it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apq_tune.errors import RunError
from apq_tune.store.digests import Digests, check, read_record, write_record
from apq_tune.store.files import cannot_write
from apq_tune.store.items import Items

RECORD = "stage.json"
"""Record in the folder of a stage."""

AGAIN = "the same command makes it anew"
"""Remedy for a damaged file in messages of commands that can recreate it."""


def fingerprint(basis: Mapping[str, Any]) -> str:
    """Hash of everything that the products of a stage depend on."""
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


class StageFiles:
    """Folder of a stage for reading.

    Attributes:
        path: Path of the folder.
        redo: Remedy for messages about a damaged product, after its deletion.
    """

    def __init__(self, path: Path, redo: str) -> None:
        self.path, self.redo = path, redo
        self._record = path / RECORD

    def record(self) -> dict[str, Any]:
        """Record with ``status``, ``seconds``, ``basis`` and, if the stage is done, digests of its ``products``.

        Raises:
            RunError: If it is damaged.
        """
        return read_record(self._record, f"delete the folder {self.path}, {self.redo}")

    @property
    def begun(self) -> bool:
        """Whether the stage has a record."""
        return self._record.exists()

    @property
    def done(self) -> bool:
        """Whether the products are complete."""
        return bool(self.record()["status"] == "done")

    @property
    def fingerprint(self) -> str:
        """Hash of the basis and of the products, which is part of the basis of dependent stages."""
        record = self.record()
        products = {name: digest for name, digest in record.get("products", {}).items() if "/" not in name}
        return fingerprint({"basis": record["basis"], "products": products})

    def checked(self, name: str) -> Path:
        """Path of a product, whose digest is checked.

        Raises:
            RunError: If it is missing or damaged; the message names it and the remedy.
        """
        digest = self.record().get("products", {}).get(name)
        if digest is None or not check(self.path / name, [digest], self.redo):
            raise RunError(f"{self.path / name}: is missing; {self.redo}")
        return self.path / name


class StageDirectory(StageFiles):
    """Folder of a stage for reading and writing.

    Digests of written files are in a list until the stage is done, and then in its record. Missing products are
    recreated; the others are kept.

    Attributes:
        stale: Reason why a stage that was done has to be repeated, or ``None``.
        items: Results of the parts of the stage.
    """

    def __init__(self, path: Path, basis: Mapping[str, Any]) -> None:
        """Open the folder, and clear it if anything that the stage depends on has changed.

        Args:
            path: Path of the folder.
            basis: Plain data that the products depend on.

        Raises:
            RunError: If the record or a product of a stage that is done is damaged.
        """
        super().__init__(path, AGAIN)
        self._basis = json.loads(json.dumps(basis))
        self.stale: str | None = None
        if self.begun and (before := self.record()["basis"]) != self._basis:
            self.stale = _difference(before, self._basis)
            self._clear()
        if not self.begun:
            self._clear()  # files without a record are of unknown origin
            write_record(self._record, {"status": "started", "seconds": 0.0, "basis": self._basis})
        self._digests = Digests(path, self.record().get("products"))
        self.items = Items(self._digests, AGAIN)
        if self.done and (missing := [name for name in self._digests if not self.has(name)]):
            self.stale = f"{missing[0]} was missing"
            self._digests.save()
            self._write_record("started", self.seconds)

    def _clear(self) -> None:
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    @property
    def seconds(self) -> float:
        """Wall time of all attempts at the stage in seconds."""
        return float(self.record()["seconds"])

    def add_seconds(self, seconds: float, *, done: bool) -> None:
        """Record time spent and whether the stage is complete."""
        self._write_record("done" if done else "started", round(self.seconds + seconds, 2))

    def _write_record(self, status: str, seconds: float) -> None:
        record = {"status": status, "seconds": seconds, "basis": self._basis}
        done = status == "done"
        write_record(self._record, record | ({"products": self._digests.current()} if done else {}))
        if done:
            self._digests.drop()

    def write(self, name: str, content: str | bytes) -> None:
        """Write a product."""
        self._digests.write(name, content)

    def has(self, name: str, redo: str = AGAIN) -> bool:
        """Whether a product exists with its recorded content.

        Args:
            name: Name of the file.
            redo: Remedy for the message if it is damaged, after its deletion.

        Raises:
            RunError: If it is damaged.
        """
        return self._digests.whole(name, redo)

    def remove(self, name: str) -> None:
        """Delete a file that is no longer needed."""
        with contextlib.suppress(OSError):
            (self.path / name).unlink(missing_ok=True)


def _difference(before: Any, after: Any) -> str:
    """Describe changes of the basis in one line."""
    old, new = _flat(before.get("settings", {})), _flat(after.get("settings", {}))
    names = sorted({*old, *new})
    changed = [f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]
    changed += [f"stage {name} changed" for name, value in after["needs"].items() if before["needs"].get(name) != value]
    if before.get("space") != after["space"]:
        changed.append("the search space changed")
    if before.get("data") != after.get("data"):
        changed.append("the images changed")
    if before.get("tables") != after.get("tables"):
        changed.append("the cost tables changed")
    return ", ".join(changed)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
