"""A run directory: plain files, written atomically, that say what is done and what it was done from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from apq_tune.errors import RunError
from apq_tune.space.search_space import SearchSpace
from apq_tune.store.digests import Digests, check, file_digest, read_record, write_record
from apq_tune.store.files import cannot_write, read_json, to_json, write_atomically
from apq_tune.store.lock import NAME as LOCK
from apq_tune.store.lock import FolderLock, own

FORMAT = 2
"""Of run directories; raise it when an older run cannot be resumed. Those of 1 had no digests."""

RECORD = "stage.json"
"""Of a stage's folder."""

AGAIN = "the same command makes it anew"
"""What a process that can do so says of a file which it needs whole."""

TABLES = "tables"
"""Folder of a run's cost tables."""

PACKAGES = ("apq-tune", "torch", "ray", "optuna", "numpy", "scikit-learn", "moocore")


def fingerprint(basis: Mapping[str, Any]) -> str:
    """Hash of all that a stage's product depends on."""
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


class StageFiles:
    """The folder of a stage, to read.

    Attributes:
        path: the folder.
        redo: what makes a product anew once it is deleted, in words.
    """

    def __init__(self, path: Path, redo: str) -> None:
        self.path, self.redo = path, redo
        self._record = path / RECORD

    def record(self) -> dict[str, Any]:
        """``status``, ``seconds``, ``basis`` and, of a stage that is done, ``products``: name -> digest.

        Raises:
            RunError: if it is damaged.
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
            RunError: if it is missing or damaged, naming it and the remedy.
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
        stale: why the stage is not done any more, or ``None``.
    """

    def __init__(self, path: Path, basis: Mapping[str, Any]) -> None:
        """Open, or start afresh if what the stage depends on has changed.

        Args:
            path: the folder.
            basis: all that the product depends on, as plain data.

        Raises:
            RunError: if the record or a product of a stage that is done is damaged.
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
            name: of its file.
            redo: what happens once it is deleted, in words.

        Raises:
            RunError: if it is damaged.
        """
        return self._digests.whole(name, redo)

    def remove(self, name: str) -> None:
        """Delete what is not needed any more."""
        with contextlib.suppress(OSError):
            (self.path / name).unlink(missing_ok=True)

    def finished_items(self) -> dict[str, Any]:
        """Key -> result of the parts of the stage that are done, by key.

        Raises:
            RunError: if one is damaged.
        """
        keys = sorted(name[6:-5] for name in self._digests if name.startswith("items/"))
        names = {key: f"items/{key}.json" for key in keys}
        return {key: read_json(self.path / name) for key, name in names.items() if self.has(name)}

    def finish_item(self, key: str, result: Any) -> None:
        """Keep the result of one part."""
        self.write(f"items/{key}.json", to_json(result))


class RunDirectory:
    """One run of one search space, owned by this process as long as the object lives.

    Attributes:
        path: the folder.
        tables: a digest of each cost table.
    """

    def __init__(
        self,
        path: Path,
        space: SearchSpace,
        settings: Mapping[str, Any],
        command: str,
        data_root: Path | None = None,
        *,
        tables: Sequence[Path] = (),
        wait: float = 0.0,
        taken: Sequence[str] = (),
    ) -> None:
        """Open or create.

        Args:
            path: the folder.
            space: to search.
            settings: of the run.
            command: the command line, to remember.
            data_root: folder with the files of data sets.
            tables: cost tables, which are copied into the folder.
            wait: seconds that another process which owns the folder may need to end.
            taken: lines about the images, to keep.

        Raises:
            RunError: if it cannot be written, is in use, or holds a run of another space or of another version.
        """
        self.path, record = path, path / "run.json"
        self._lock = claim(path, "run directory", ("run.json", f"1_*/{RECORD}"), wait=wait)
        before = _before(record)
        if before.get("data", space.data) != space.data:
            raise RunError(f"{path}: is a run on {before.get('data')}, not on {space.data}; choose another --out")
        if before.get("space", space.name) != space.name:
            raise RunError(
                f"{path}: is a run of space {before.get('space')!r}, not {space.name!r}; choose another --out"
            )
        versions = {package: metadata.version(package) for package in PACKAGES}
        self.tables = self._keep(tables)
        yaml = space.to_yaml()
        content = {
            "format": FORMAT,
            "space": space.name,
            "data": space.data,
            "command": command,
            "data_root": None if data_root is None else str(data_root.absolute()),
            "settings": dict(settings),
            "versions": versions,
            "digests": {"space.yaml": hashlib.sha256(yaml.encode("utf-8")).hexdigest(), "tables": self.tables},
        } | ({"taken": list(taken)} if taken else {})
        write_atomically(path / "space.yaml", yaml)
        write_record(record, content)

    def _keep(self, tables: Sequence[Path]) -> list[str]:
        """Copy cost tables into the run, so that whatever goes on from it has them; what was there before goes.

        Returns:
            A digest of each.

        Raises:
            RunError: if they cannot be written.
        """
        digests = [str(digest(table)) for table in tables]
        folder = self.path / TABLES
        if [str(digest(kept)) for kept in kept_tables(self.path)] == digests:
            return digests
        try:
            shutil.rmtree(folder, ignore_errors=True)
            for number, table in enumerate(tables, start=1):
                folder.mkdir(exist_ok=True)
                (shutil.copytree if table.is_dir() else shutil.copy)(table, folder / f"{number}_{table.name}")
        except OSError as error:
            raise RunError(f"cannot write {folder}: {error.strerror}; mend that or choose another --out") from None
        return digests

    def hold(self) -> None:
        """Own the folder again, if it was given back.

        Raises:
            RunError: if another process owns it now.
        """
        self._lock = own(self.path)

    def release(self) -> None:
        """Let other processes work in the folder."""
        self._lock.release()


def claim(path: Path, kind: str, marks: Sequence[str], *, wait: float = 0.0) -> FolderLock:
    """Own a folder that is new or empty, or holds what it should.

    Args:
        path: the folder.
        kind: what it should be, in words.
        marks: patterns of files by which it is known.
        wait: seconds that another process which owns the folder may need to end.

    Raises:
        RunError: if it is something else, in use, or cannot be written.
    """
    try:
        new = not path.exists() or (path.is_dir() and all(entry.name == LOCK for entry in path.iterdir()))
        known = path.is_dir() and any(any(path.glob(mark)) for mark in marks)
    except OSError as error:
        raise RunError(f"cannot use {path}: {error.strerror}; choose another --out") from None
    if not new and not known:
        raise RunError(f"{path}: exists and is no {kind}; choose another --out")
    return own(path, wait=wait)


def _before(record: Path) -> dict[str, Any]:
    """What run.json says; without it, as much as the first stage knows."""
    if record.exists():
        return read_record(record, f"delete it, {AGAIN}", current=FORMAT)
    for first in record.parent.glob(f"1_*/{RECORD}"):
        space = StageFiles(first.parent, AGAIN).record()["basis"]["space"]
        return {"space": space["name"], "data": space.get("data")}
    return {}


def kept_tables(run: Path) -> list[Path]:
    """The cost tables that a run has copied, in their order."""
    folder = run / TABLES
    return sorted(folder.iterdir(), key=lambda path: int(path.name.split("_")[0])) if folder.is_dir() else []


def digest(path: Path | None) -> str | None:
    """SHA-256 of a file, or of the names and contents of a folder's files; ``None`` stays what it is."""
    if path is None:
        return None
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        name = "" if file == path else str(file.relative_to(path))
        whole.update(os.fsencode(name) + b"\0" + bytes.fromhex(file_digest(file)))
    return whole.hexdigest()


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
