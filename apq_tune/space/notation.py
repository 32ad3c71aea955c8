"""Reading of candidates from files, in the notation of this package or of the published APQ and once-for-all code."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from apq_tune.errors import CandidateError, DocumentError
from apq_tune.inputs.documents import load_json
from apq_tune.inputs.ranges import shown
from apq_tune.inputs.sheets import number_in, read_sheet
from apq_tune.space.block_types import ALL_TYPES
from apq_tune.space.candidate import Candidate, Configuration
from apq_tune.space.mbconv_published import PUBLISHED_KEYS, from_published, is_published
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.network_space import NetworkSpace
from apq_tune.space.parameters import Space
from apq_tune.space.search_space import SearchSpace

MOST_TEXT, MOST_BRACKETS = 100_000, 200
"""Maximum length and number of brackets of a cell with a candidate, as Python's parser may fail on larger ones."""


def candidate_from(data: Any, space: Space) -> Any:
    """Read one candidate in either notation.

    Args:
        data: ``to_dict`` of a candidate of any kind, or a mapping with ``ks``, ``e`` and ``d`` (Cai 2020),
            and ``pw_w_bits_setting`` and its like (Wang 2020); without bits, ``fixed_bits`` of the space are meant.
        space: Search space that the candidate should belong to; ``encode`` checks whether it does.

    Raises:
        CandidateError: If it is not a valid candidate.
    """
    if isinstance(space, ModelSpace):
        return ModelCandidate.from_dict(data)
    if not isinstance(space, SearchSpace):
        return Configuration.from_dict(data)
    if is_published(data):
        return from_published(data, space)
    if isinstance(data, Mapping) and set(data) == {"choices"}:
        raise CandidateError(f"is a candidate of named choices; {space.name} has networks")
    return Candidate.from_dict(data)


def read_candidates(path: str | Path, space: Space | None = None) -> list[Any]:
    """Read the entries of a file, each still as plain data: see ``candidate_from``.

    Args:
        path: ``.json`` (a list, or one candidate), ``.jsonl`` (one a line) or ``.csv``: see ``entries_of``.
        space: Space of named choices, whose names are columns of a CSV.

    Raises:
        CandidateError: If the file cannot be read.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind == ".csv":
        return entries_of(read_sheet(path, CandidateError), path, space)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if kind in (".jsonl", ".ndjson"):
            lines = enumerate(text.splitlines(), start=1)
            data: Any = [load_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]
        else:
            data = load_json(text, str(path))
    except (OSError, UnicodeError) as error:
        raise CandidateError(f"{path}: cannot be read ({error}); give .json, .jsonl or .csv") from None
    except DocumentError as error:
        raise CandidateError(f"{error}; candidates are read from .json, .jsonl or .csv") from None
    if isinstance(data, Mapping) and "candidates" in data:
        data = data["candidates"]
    entries = data if isinstance(data, list) else [data]
    return [
        entry.get("spec", entry.get("candidate", entry)) if isinstance(entry, Mapping) else entry for entry in entries
    ]


def entries_of(frame: pd.DataFrame, path: Path, space: Space | None = None) -> list[Any]:
    """The candidates of a CSV, each still as plain data.

    Args:
        frame: Cells as text, see ``read_sheet``: a column ``candidate_json``, ``candidate`` or ``Sub-network`` of JSON
            (or Python) text, or one column for each key; of named choices, one column for each name.
        path: File that the frame is from, for messages.
        space: Search space; what is no space of networks has candidates of named choices.

    Raises:
        CandidateError: If a cell cannot be read; the message names the row and the cell.
    """
    own = {} if space is None or isinstance(space, NetworkSpace) else space.parameters
    if space is not None and own and not {"candidate_json", "candidate"} & (set(frame.columns) - set(own)):
        return _choices_of(frame, path, space)
    for column in ("candidate_json", "candidate", "Sub-network"):
        if column in frame and column not in own:
            return [_cell(path, row, column, text) for row, text in frame[column].items()]
    if "depths" not in frame and "ks" not in frame:
        raise CandidateError(f"{path}: has no column candidate_json, candidate or ks, e, d; has {list(frame.columns)}")
    fields = (name for known in ALL_TYPES.values() for name in known.names)
    keys = {"depths", "resolution", "block", *fields, *PUBLISHED_KEYS}
    columns = [column for column in frame.columns if column in keys]
    entries = []
    for row, cells in frame[columns].to_dict(orient="index").items():
        entry = {key: _cell(path, row, key, text) for key, text in cells.items() if text}
        for key in ("resolution", "r"):  # one number, with or without brackets
            if isinstance(entry.get(key), int):
                entry[key] = [entry[key]]
        entries.append(entry)
    return entries


def _cell(path: Path, row: Any, column: str, text: str) -> Any:
    """Parse a cell of JSON or Python literals."""
    where = f"{path}: row {row}: {column}"
    if not text:
        raise CandidateError(f"{where} is empty; give a candidate in every row, or remove the row")
    if len(text) > MOST_TEXT or text.count("[") + text.count("{") + text.count("(") > MOST_BRACKETS:
        raise CandidateError(f"{where} is {shown(text)}, too long for a candidate; give one a row")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise CandidateError(
            f"{where} is {shown(text)}, which is not a candidate in JSON; write it as in the "
            "column candidate_json of front.csv"
        ) from None


def _choices_of(frame: pd.DataFrame, path: Path, space: Space) -> list[dict[str, Any]]:
    """Read candidates of named choices, whose values are matched as text or as equal numbers."""
    if absent := [name for name in space.parameters if name not in frame]:
        raise CandidateError(
            f"{path}: has no column {absent[0]!r}, a choice of {space.name}; it has {list(frame.columns)}"
        )
    columns = {}
    for name, values in space.parameters.items():
        by_text = {text: value for value in reversed(values) for text in _texts(value)}
        by_number = {float(v): v for v in values if isinstance(v, int | float) and not isinstance(v, bool)}
        found = []
        for row, text in frame[name].items():
            number = number_in(text)
            if text in by_text:
                found.append(by_text[text])
            elif number in by_number:
                found.append(by_number[number])
            else:
                offered = ", ".join(map(str, values[:20])) + (", ..." if len(values) > 20 else "")
                raise CandidateError(f"{path}: row {row}: {name} is {text!r}; choose one of {offered}")
        columns[name] = found
    return [{"choices": dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)]


def _texts(value: Any) -> set[str]:
    """Texts by which a value may be written in a cell, for lists in JSON and in Python notation."""
    if isinstance(value, str):
        return {value}
    return {str(value), json.dumps(value), *([str(list(value))] if isinstance(value, tuple) else [])}
