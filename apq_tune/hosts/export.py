"""Where an Optuna study is kept for others to read: a database or a journal file, told apart by name and content."""

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
"""Endings of the names of SQLite's files."""

SQLITE_HEAD = b"SQLite format 3\x00"
"""How SQLite's files begin."""

LISTED = "constraints"
"""The system attribute in which optuna-dashboard 0.21 looks for a trial's violations, as a list. Optuna 5 itself keeps
each by its name and reads both."""


def storage_of(place: str | os.PathLike[str]) -> str | JournalStorage:
    """The storage that a URL or a path means: SQLite where the name says so, else a journal.

    A file is not made yet; whatever can be seen without it is checked.

    Raises:
        StudyError: if it is a file of another kind, or cannot be written.
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
    """Refuse a file that is no storage of the kind, and a place where none can be made."""
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
    """See before any work whether a study can be kept there.

    Args:
        place: a URL or a path.
        name: of the new study; a database, or a file that exists, is asked whether it has one of that name.

    Raises:
        StudyError: if the place cannot be used, or has such a study.
    """
    storage = storage_of(place)
    if name is None or (not isinstance(storage, str) and not Path(os.fspath(place)).exists()):
        return
    if isinstance(storage, str) and storage.startswith("sqlite:///") and not Path(storage[10:].split("?")[0]).exists():
        return  # asking would make it
    with _Refusal(place):
        if name in optuna.get_all_study_names(storage):
            raise StudyError(f"{place} has a study {name!r} already; choose another name")


class _Refusal:
    """What a storage raises, in one line."""

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self._place = place

    def __enter__(self) -> None:
        """Nothing is needed."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from sqlalchemy.exc import SQLAlchemyError  # which comes with Optuna and takes as long to import

        if isinstance(error, optuna.exceptions.DuplicatedStudyError):
            raise StudyError(f"{self._place} has a study of that name already; choose another name") from None
        known = (ImportError, OSError, SQLAlchemyError, ValueError, optuna.exceptions.StorageInternalError)
        if isinstance(error, known) and not isinstance(error, StudyError):
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise StudyError(f"{self._place} cannot be used ({first}); give a path, or sqlite:///FILE") from None


def write_study(
    place: str | os.PathLike[str], name: str, directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial]
) -> Study:
    """A new study with finished trials, for optuna-dashboard and Optuna's plots.

    Args:
        place: a URL such as ``"sqlite:///runs.db"``, or a path: SQLite if it ends with ``.db`` or ``.sqlite``, else a
            journal file, which is written much faster.
        name: of the new study.
        directions: of its objectives.
        trials: to copy.

    Raises:
        StudyError: if there is a study of that name, or the place cannot be used.
    """
    check_place(place, name)
    with _Refusal(place):
        study = optuna.create_study(storage=storage_of(place), study_name=name, directions=list(directions))
        study.add_trials([_listed(trial) for trial in trials])
    return study


def _listed(trial: FrozenTrial) -> FrozenTrial:
    """A trial whose violations stand in a list as well."""
    if trial.constraints:
        trial.system_attrs = trial.system_attrs | {LISTED: list(trial.constraints.values())}
    return trial
