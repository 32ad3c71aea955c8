"""The folder of a stage: it says what is done, and what it was done from."""

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
"""Remedy for a damaged file, told by a process that can make it anew."""


def fingerprint(basis: Mapping[str, Any]) -> str:
    """Hash of all that a stage's product depends on."""
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


class StageFiles:
    """The folder of a stage, to read.

    Attributes:
        path: The folder.
        redo: What makes a product anew once it is deleted, in words.
    """

    def __init__(self, path: Path, redo: str) -> None:
        self.path, self.redo = path, redo
        self._record = path / RECORD

    def record(self) -> dict[str, Any]:
        """``status``, ``seconds``, ``basis`` and, of a stage that is done, ``products``: name -> digest.

        Raises:
            RunError: If it is damaged.
        """
        return read_record(self._record, f"delete the folder {self.path}, {self.redo}")

    @property
    def begun(self) -> bool:
        """Whether there is a record."""
        return self._record.exists()

    @property
    def done(self) -> bool:
        """Whether the product is complete."""
        return bool(self.record()["status"] == "done")

    @property
    def fingerprint(self) -> str:
        """Hash of the basis, and of the products of a stage that is done; later stages name it in theirs."""
        record = self.record()
        products = {name: digest for name, digest in record.get("products", {}).items() if "/" not in name}
        return fingerprint({"basis": record["basis"], "products": products})

    def checked(self, name: str) -> Path:
        """Path of a product that is what the stage wrote.

        Raises:
            RunError: If it is missing or damaged, naming it and the remedy.
        """
        digest = self.record().get("products", {}).get(name)
        if digest is None or not check(self.path / name, [digest], self.redo):
            raise RunError(f"{self.path / name}: is missing; {self.redo}")
        return self.path / name


class StageDirectory(StageFiles):
    """Where one stage keeps its product, and its unfinished part.

    While the stage is not done, digests of what is written are in a list; then they are in its record. A product that
    is gone is made again, the others stay.

    Attributes:
        stale: Why the stage is not done any more, or ``None``.
        items: Results of its parts.
    """

    def __init__(self, path: Path, basis: Mapping[str, Any]) -> None:
        """Open, or start afresh if what the stage depends on has changed.

        Args:
            path: The folder.
            basis: All that the product depends on, as plain data.

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
            self._clear()  # whatever is left belongs to nothing that is known
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
        """Wall time of the stage, all of its attempts together."""
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
        """Keep a product."""
        self._digests.write(name, content)

    def has(self, name: str, redo: str = AGAIN) -> bool:
        """Whether a product is there, as it was written.

        Args:
            name: Name of its file.
            redo: What happens once it is deleted, in words.

        Raises:
            RunError: If it is damaged.
        """
        return self._digests.whole(name, redo)

    def remove(self, name: str) -> None:
        """Delete what is not needed any more."""
        with contextlib.suppress(OSError):
            (self.path / name).unlink(missing_ok=True)


def _difference(before: Any, after: Any) -> str:
    """Which settings changed, and how, in one line."""
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
