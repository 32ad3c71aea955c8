"""Reader of tables of layers and of genes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.cost.gene_table import GeneTable
from apq_tune.cost.layer_table import Bits, LayerTable
from apq_tune.cost.table import unit_of
from apq_tune.errors import TableError
from apq_tune.inputs.sheets import numbers_in, read_sheet
from apq_tune.space.gene import BIT_KINDS

KEYS = ("layer", "gene")
"""First column of a table by layers, and of one by genes."""


def is_additive_table(path: str | Path) -> bool:
    """Whether a file is a table of layers or genes and not one of operations."""
    path = Path(path)
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    columns = list(read_sheet(path, TableError, comments=True).columns)
    return "op" not in columns and any(key in columns for key in KEYS)


def load_additive_tables(path: str | Path) -> tuple[LayerTable | GeneTable, ...]:
    """Read a table of layers or of genes, one for each column of values.

    A table of layers has the columns ``layer`` and ``w_bits``, ``a_bits`` or both: a row with both is of this pair of
    bits, one in which a cell is empty of the other alone. A table of genes has the columns ``gene`` and ``value``. Each
    further column is a metric; a column ``source`` and lines that begin with ``#`` are comments.

    Args:
        path: Path of a CSV file.

    Raises:
        TableError: If the file cannot be read, or a row is invalid or repeats another one; the message names it.
    """
    path = Path(path)
    frame = read_sheet(path, TableError, comments=True)
    key = next((name for name in KEYS if name in frame), None)
    if key is None or "op" in frame:
        raise TableError(
            f"{path}: is no table of layers or genes, it has {', '.join(map(str, frame.columns))}; give columns layer, "
            "w_bits, a_bits and a value such as loss, or gene, value and loss"
        )
    keys = [key, "value"] if key == "gene" else [key, *(kind for kind in BIT_KINDS if kind in frame)]
    if any(name not in frame for name in keys) or len(keys) < 2:
        raise TableError(
            f"{path}: a column {key!r} needs {'value' if key == 'gene' else 'w_bits, a_bits or both'} beside it; add it"
        )
    metrics = [str(name) for name in frame.columns if name not in (*keys, "source")]
    if not metrics:
        raise TableError(f"{path}: has no column of values; add one, such as loss")
    first: dict[tuple[str, ...], int] = {}
    for row, cells in zip(frame.index, frame[keys].itertuples(index=False), strict=True):
        if not cells[0]:
            raise TableError(f"{path}: row {row}: {key} is empty; name one")
        if (before := first.setdefault(tuple(cells), row)) != row:
            raise TableError(f"{path}: row {row} repeats {' '.join(filter(None, cells))} of row {before}; keep one")
    numbers = [numbers_in(frame, name, path, TableError) for name in metrics]
    read = functools.partial(_gene_table if key == "gene" else _layer_table, frame, keys, path)
    return tuple(read(name, values) for name, values in zip(metrics, numbers, strict=True))


def _layer_table(
    frame: pd.DataFrame, keys: Sequence[str], path: Path, name: str, values: NDArray[np.float64]
) -> LayerTable:
    rows: dict[str, dict[Bits, float]] = {}
    places: dict[str, int] = {}
    for row, (layer, *cells), value in zip(frame.index, frame[list(keys)].itertuples(index=False), values, strict=True):
        texts = dict(zip(keys[1:], cells, strict=True))
        bits: list[int | None] = []
        for kind in BIT_KINDS:
            text = texts.get(kind, "")
            if text and not (text.isdecimal() and int(text) > 0):
                raise TableError(f"{path}: row {row}: {kind} is {text!r}; give a number of bits, or leave it empty")
            bits.append(int(text) if text else None)
        if bits == [None, None]:
            raise TableError(f"{path}: row {row}: gives no bits of {layer}; give w_bits, a_bits or both")
        own = rows.setdefault(layer, {})
        paired = None not in bits
        if any((None not in known) != paired for known in own):
            raise TableError(
                f"{path}: row {row}: {layer} has rows of pairs of bits and of w_bits or a_bits alone; give one form"
            )
        places.setdefault(layer, int(row))
        own[bits[0], bits[1]] = float(value)
    return LayerTable(name, rows, unit_of(name) or "", str(path), places)


def _gene_table(
    frame: pd.DataFrame, keys: Sequence[str], path: Path, name: str, values: NDArray[np.float64]
) -> GeneTable:
    rows: dict[str, dict[str, float]] = {}
    places: dict[str, int] = {}
    for row, (gene, text), value in zip(frame.index, frame[list(keys)].itertuples(index=False), values, strict=True):
        places.setdefault(gene, int(row))
        rows.setdefault(gene, {})[text] = float(value)
    return GeneTable(name, rows, unit_of(name) or "", str(path), places)
