"""Export of Optuna studies to databases and journal files, which are told apart by name and content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from apq_tune.errors import StudyError

SQLITE = (".db", ".db3", ".sqlite", ".sqlite3")
"""Suffixes of SQLite files."""

SQLITE_HEAD = b"SQLite format 3\x00"
"""First bytes of SQLite files."""

LISTED = "constraints"
"""System attribute from which optuna-dashboard 0.21 reads a trial's violations as a list. Optuna 5 stores each of them
by name and reads both."""


def storage_of(place: str | os.PathLike[str]) -> str | JournalStorage:
    """Storage of a URL or a path: SQLite if the suffix says so, otherwise a journal file.

    The file is not created, but checked as far as possible.

    Raises:
        StudyError: If the file is of another kind or cannot be written.
    """
    text = os.fspath(place)
    if "://" in text:
        scheme, _, rest = text.partition(":///")
        if scheme == "sqlite" and rest:
            _check_file(text, Path(rest.partition("?")[0]), is_sqlite=True)
        return text
    path = Path(text)
    is_sqlite = path.suffix.lower() in SQLITE
    _check_file(text, path, is_sqlite=is_sqlite)
    return f"sqlite:///{path}" if is_sqlite else JournalStorage(JournalFileBackend(text))


def _check_file(text: str, path: Path, *, is_sqlite: bool) -> None:
    """Refuse a file of another kind, and a path at which no file can be created."""
    try:
        if path.is_dir() or not path.name:
            raise StudyError(f"{text!r} is a folder; give the path of a file, such as {path / 'study.db'}")
        if path.exists():
            with path.open("rb") as file:
                head = file.read(len(SQLITE_HEAD))
            if head and is_sqlite != (head == SQLITE_HEAD):
                raise StudyError(
                    f"{text} is not an SQLite database, although its name says so; choose another name"
                    if is_sqlite
                    else f"{text} is an SQLite database; give sqlite:///{path}"
                    if head == SQLITE_HEAD
                    else f"{text} is not an Optuna journal; choose another name"
                )
            if head and not is_sqlite and not head.startswith(b'{"op_code"'):
                raise StudyError(f"{text} is not an Optuna journal; choose another name")
        place = path if path.exists() else path.parent
        if not place.exists():
            raise StudyError(f"{text} cannot be used: there is no folder {place}; make it first")
        if not os.access(place, os.W_OK) or not os.access(path.parent, os.W_OK):  # both write a lock beside the file
            raise StudyError(f"{text} cannot be used: {place} cannot be written; give another path")
    except OSError as error:
        raise StudyError(f"{text} cannot be used ({error.strerror}); give the path of a file") from None


def check_place(place: str | os.PathLike[str], name: str | None = None) -> None:
    """Check whether a study can be stored at a place.

    Args:
        place: URL or path of the storage.
        name: Name of the new study; if given, an existing storage is checked for a study of that name.

    Raises:
        StudyError: If the storage cannot be used or has a study of that name.
    """
    storage = storage_of(place)
    if name is None or (not isinstance(storage, str) and not Path(os.fspath(place)).exists()):
        return
    if isinstance(storage, str) and storage.startswith("sqlite:///") and not Path(storage[10:].split("?")[0]).exists():
        return  # listing the studies would create the file
    with _Refusal(place):
        if name in optuna.get_all_study_names(storage):
            raise StudyError(f"{place} has a study {name!r} already; choose another name")


class _Refusal:
    """Context manager that turns errors of a storage into one-line messages."""

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self._place = place

    def __enter__(self) -> None:
        """Enter the context."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from sqlalchemy.exc import SQLAlchemyError  # a dependency of Optuna that is slow to import

        if isinstance(error, optuna.exceptions.DuplicatedStudyError):
            raise StudyError(f"{self._place} has a study of that name already; choose another name") from None
        known = (ImportError, OSError, SQLAlchemyError, ValueError, optuna.exceptions.StorageInternalError)
        if isinstance(error, known) and not isinstance(error, StudyError):
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise StudyError(f"{self._place} cannot be used ({first}); give a path, or sqlite:///FILE") from None


def write_study(
    place: str | os.PathLike[str], name: str, directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial]
) -> Study:
    """Create a study with finished trials, for optuna-dashboard and Optuna's visualizations.

    Args:
        place: URL such as ``"sqlite:///runs.db"``, or path of an SQLite file (suffix ``.db`` or ``.sqlite``) or of a
            journal file, which is written much faster.
        name: Name of the new study.
        directions: Directions of its objectives.
        trials: Finished trials to copy.

    Raises:
        StudyError: If there is a study of that name, or the storage cannot be used.
    """
    check_place(place, name)
    with _Refusal(place):
        study = optuna.create_study(storage=storage_of(place), study_name=name, directions=list(directions))
        study.add_trials([_listed(trial) for trial in trials])
    return study


def _listed(trial: FrozenTrial) -> FrozenTrial:
    """Add the list of violations that optuna-dashboard reads to a trial."""
    if trial.constraints:
        trial.system_attrs = trial.system_attrs | {LISTED: list(trial.constraints.values())}
    return trial
