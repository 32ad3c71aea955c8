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
from apq_tune.space import SearchSpace

FORMAT = 1
"""Of run directories; raise it when an older run cannot be resumed."""

TABLES = "tables"
"""Folder of a run's cost tables."""

PACKAGES = ("apq-tune", "torch", "ray", "optuna", "numpy", "scikit-learn", "moocore")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a run that resumes after a crash, sees all of it or nothing.

    Raises:
        RunError: if it cannot be written (no permission, disk full), with the reason.
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
        raise RunError(f"cannot write {path}: {error.strerror}; mend that or choose another --out") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: if it is missing or damaged, naming the file and the remedy.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); delete {path.parent} to have that stage done again"
        ) from None


def to_json(data: Any) -> str:
    """Readable JSON."""
    return json.dumps(data, indent=1) + "\n"


def fingerprint(basis: Mapping[str, Any]) -> str:
    """Hash of all that a stage's product depends on."""
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


class StageDirectory:
    """Where one stage keeps its product, and its unfinished part.

    Attributes:
        path: the folder.
        stale: why an earlier product was dropped, or ``None``.
    """

    def __init__(self, path: Path, basis: Mapping[str, Any]) -> None:
        """Open, or start afresh if what the stage depends on has changed.

        Args:
            path: the folder.
            basis: all that the product depends on, as plain data.
        """
        self.path, self._basis = path, json.loads(json.dumps(basis))
        self.stale: str | None = None
        self._record = path / "stage.json"
        if self._record.exists():
            before = read_json(self._record).get("basis", {})
            if before != self._basis:
                self.stale = _difference(before, self._basis)
                shutil.rmtree(path)
        if not self._record.exists():
            write_atomically(self._record, to_json({"status": "started", "basis": self._basis}))

    @property
    def fingerprint(self) -> str:
        """Hash of the basis; later stages name it in theirs."""
        return fingerprint(self._basis)

    @property
    def done(self) -> bool:
        """Whether the product is complete."""
        return bool(read_json(self._record)["status"] == "done")

    @property
    def seconds(self) -> float:
        """Wall time of the stage, all of its attempts together."""
        return float(read_json(self._record).get("seconds", 0.0))

    def add_seconds(self, seconds: float, *, done: bool) -> None:
        """Record time spent and whether the stage is complete."""
        status = "done" if done else "started"
        record = {"status": status, "seconds": round(self.seconds + seconds, 2), "basis": self._basis}
        write_atomically(self._record, to_json(record))

    def finished_items(self) -> dict[str, Any]:
        """Key -> result of the parts of the stage that are done."""
        return {path.stem: read_json(path) for path in sorted((self.path / "items").glob("*.json"))}

    def finish_item(self, key: str, result: Any) -> None:
        """Keep the result of one part."""
        write_atomically(self.path / "items" / f"{key}.json", to_json(result))


class RunDirectory:
    """One run of one search space.

    Attributes:
        path: the folder.
    """

    def __init__(
        self, path: Path, space: SearchSpace, settings: Mapping[str, Any], command: str, data_root: Path | None = None
    ) -> None:
        """Open or create.

        Raises:
            RunError: if it cannot be written, or holds a run of another space or of another version.
        """
        self.path = path
        record = path / "run.json"
        if record.exists():
            before = read_json(record)
            if before.get("format") != FORMAT:
                raise RunError(
                    f"{path}: is a run of format {before.get('format')}, this version writes {FORMAT}; "
                    "choose another --out"
                )
            if before.get("data", space.data) != space.data:
                raise RunError(f"{path}: is a run on {before.get('data')}, not on {space.data}; choose another --out")
            if before.get("space") != space.name:
                raise RunError(
                    f"{path}: is a run of space {before.get('space')!r}, not {space.name!r}; choose another --out"
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path}: exists and is no run directory; choose another --out")
        versions = {package: metadata.version(package) for package in PACKAGES}
        content = {
            "format": FORMAT,
            "space": space.name,
            "data": space.data,
            "command": command,
            "data_root": None if data_root is None else str(data_root.absolute()),
            "settings": dict(settings),
            "versions": versions,
        }
        write_atomically(record, to_json(content))
        write_atomically(path / "space.yaml", space.to_yaml())

    def keep_tables(self, tables: Sequence[Path]) -> list[str]:
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
        whole.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
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
