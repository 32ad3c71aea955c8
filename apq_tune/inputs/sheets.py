"""Strict reader of CSV files as written by people and spreadsheets; cells stay text until a number is needed.

Blanks around cells, a byte order mark, empty lines, an index column written by pandas and trailing commas are dropped.
Semicolons or tabs are accepted as separators in files without commas. Ambiguous files are refused, with the row or
column at fault: duplicate or unnamed columns, cells beyond the last column, unterminated quotes.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.errors import ApqError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_UNNAMED = re.compile(r"(Unnamed: \d+)?")


def read_sheet(path: str | Path, refused: type[ApqError], *, comments: bool = False) -> pd.DataFrame:
    """Read a CSV file with a header.

    Args:
        path: Path of the file.
        refused: Class of the error to raise.
        comments: Whether lines that begin with ``#`` are comments.

    Returns:
        Table of text, one row per line, with empty cells as ``""``; its index counts rows from 1, as messages do.

    Raises:
        ApqError: An error of class ``refused`` if the file cannot be read or is ambiguous; the message names the file,
            the row or column, and the remedy.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise refused(f"{path}: is not a readable CSV ({error.strerror}); give the path of one") from None
    except UnicodeDecodeError as error:
        raise refused(f"{path}: is not UTF-8 text (byte {error.start}); save it as 'CSV UTF-8'") from None
    lines = text.splitlines(keepends=True)
    if comments:
        lines = ["\n" if line.lstrip().startswith("#") else line for line in lines]
    first = next((line for line in lines if line.strip()), "")
    separator = next((mark for mark in SEPARATORS if mark in first), ",")
    try:
        reader = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=separator, strict=True)
        found = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise refused(
            f"{path}: is not a readable CSV (line {reader.line_num}: {error}); close the quotes there"
        ) from None
    found = [(line, row) for line, row in found if any(row)]
    if len(found) < 2:
        raise refused(f"{path}: has {'no rows under its header' if found else 'no text in it'}; give one row a line")
    (_, header), *rows = found
    while header and not header[-1] and not any(cell for _, row in rows for cell in row[len(header) - 1 :]):
        header.pop()
    for number, (line, row) in enumerate(rows, start=1):
        if any(row[len(header) :]):
            raise refused(
                f"{path}: row {number} (line {line}) has {len(row)} cells, the header has {len(header)}; "
                f"put text that holds {SEPARATORS[separator]} in double quotes"
            )
    cells = [row[: len(header)] + [""] * (len(header) - len(row)) for _, row in rows]
    frame = pd.DataFrame(cells, columns=header, index=range(1, len(cells) + 1), dtype=object)
    return _named_once(_without_index(frame), path, refused)


def _without_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop a first column that is unnamed and numbers the rows, as pandas writes one."""
    counted = list(frame.iloc[:, 0]) if len(frame.columns) else []
    if _UNNAMED.fullmatch(str(frame.columns[0])) and is_count(counted):
        return frame.iloc[:, 1:]
    return frame


def is_count(texts: list[str]) -> bool:
    """Whether cells number the rows, from 0 or from 1."""
    return any(texts == [str(number + first) for number in range(len(texts))] for first in (0, 1))


def _named_once(frame: pd.DataFrame, path: str | Path, refused: type[ApqError]) -> pd.DataFrame:
    names = list(frame.columns)
    for place, name in enumerate(names):
        if _UNNAMED.fullmatch(name):
            raise refused(f"{path}: column {place + 1} has no name ({name!r}); name it, or remove it")
        if name in names[:place]:
            raise refused(f"{path}: has two columns {name!r}; keep one, or rename it")
    return frame


def number_in(text: str) -> float | None:
    """Finite number in a cell; ``None`` if it holds anything else."""
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return value if np.isfinite(value) else None


def numbers_in(frame: pd.DataFrame, name: str, path: str | Path, refused: type[ApqError]) -> NDArray[np.float64]:
    """Column as finite numbers, shape ``(n_rows,)``.

    Raises:
        ApqError: An error of class ``refused`` if a cell is not a finite number; the message names the row, the value
            and what to write instead.
    """
    values = [number_in(text) for text in frame[name]]
    if None in values:
        place = values.index(None)
        raise refused(
            f"{path}: row {frame.index[place]}: {name} {no_number(frame[name].iloc[place])}; give a finite number"
        )
    return np.array(values, np.float64)


def no_number(text: str) -> str:
    """Explain why a cell is not a finite number and what to write instead, worded to follow the column's name."""
    if not text:
        return "is empty"
    said = f"is {text!r}"
    if re.fullmatch(r"[-+]?\d+,\d+", text):
        thousands = f" (or {text.replace(',', '')}, if it separates thousands)" if text[-4:-3] == "," else ""
        return f"{said}, with a comma: write {text.replace(',', '.')}{thousands}"
    if re.fullmatch(r"[-+]?\d{1,3}([, '\u00a0\u202f]\d{3})+(\.\d+)?", text):
        return f"{said}, with separated thousands: write {re.sub(r'[^-+.0-9]', '', text)}"
    head = re.match(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(?=\s*[a-zA-Z%µ])", text, re.ASCII)
    return f"{said}: write {head[0]} and put the unit in the column's name" if head else said
