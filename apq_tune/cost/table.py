"""Cost tables: measured costs of ops or whole blocks, which must cover a search space.

The format is documented in ``docs/reference/cost_tables.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.cost.bits import note_on_bits
from apq_tune.cost.model import CostModel
from apq_tune.cost.rows import (
    BLOCK,
    CONV,
    CONV_KEY,
    FIXED,
    KEYS,
    KINDS,
    PLAIN,
    SHAPE_COLUMNS,
    Key,
    Wanted,
    fixed_shapes,
    has_row,
    in_words,
    output_sizes,
    wanted_rows,
)
from apq_tune.cost.sparse import noted
from apq_tune.cost.sums import sum_over_parts
from apq_tune.errors import TableError
from apq_tune.inputs.sheets import is_count, no_number, number_in, read_sheet
from apq_tune.network.layer import Layer
from apq_tune.network.network import HasNetwork, Network
from apq_tune.space.gene import BIT_KINDS

UNITS = {
    **{unit: unit for unit in ("s", "ms", "us", "ns", "j", "w", "kb", "mb", "kib", "mib", "bytes", "bits", "cycles")},
    **{unit: unit for unit in ("macs", "flops", "ops", "params", "percent", "fraction", "mm2", "usd", "units")},
    **{"mj": "mJ", "uj": "uJ", "nj": "nJ", "j": "J", "w": "W", "mw": "mW", "kb": "kB", "mb": "MB"},
    **{"kib": "KiB", "mib": "MiB"},
}
"""Units by the last word of a column's name."""

N_LISTED = 5
"""Maximum number of missing ops that a message names."""


@dataclass(frozen=True)
class CostTable:
    """Costs of ops or whole blocks, and of the fixed parts of a network.

    A resolution of 0 stands for any resolution.

    Attributes:
        source: File that the table was read from.
        metrics: Names of the metrics, units included.
        convs: Values by shape and bits of a convolution (``CONV_KEY``).
        blocks: Values by shape of a whole block (``BLOCK_KEY``), whatever its bits.
        fixed: Total values of all fixed parts, by resolution.
        note: Remark on how the table was read, for the message that ops are missing.
        plain: Values of layers without weights by kind and shape (``PLAIN_KEY``); if there are any, the table must
            have those of all such layers, otherwise they cost nothing.
        fixed_shapes: Shapes and bits (``CONV_KEY``) of the fixed rows that give them, by resolution; if there are any,
            they must be those of the search space.
    """

    source: str
    metrics: tuple[str, ...]
    convs: dict[Key, tuple[float, ...]]
    blocks: dict[Key, tuple[float, ...]]
    fixed: dict[int, tuple[float, ...]]
    note: str = ""
    plain: dict[str, dict[Key, tuple[float, ...]]] = field(default_factory=dict)
    fixed_shapes: dict[int, frozenset[Key]] = field(default_factory=dict)

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, source: str, places: Sequence[str] | None = None, note: str = ""
    ) -> CostTable:
        """Check and index the rows of a table.

        Args:
            frame: Columns ``op``, key columns of the ops, and one column per metric; ``source`` and ``name`` are
                comments.
            source: File name for messages.
            places: Name of each row in messages; by default ``row 1`` and so on.
            note: Remark on how the table was read.

        Raises:
            TableError: If a row is invalid; the message names the row, the column and the value.
        """
        places = [f"row {number}" for number in range(1, len(frame) + 1)] if places is None else places
        if "op" not in frame:
            raise TableError(
                f"{source}: has no column 'op'; it has {_listed(frame.columns)}; see docs/reference/cost_tables.md"
            )
        metrics = [str(c) for c in frame.columns if c not in {"op", "name", "source", *SHAPE_COLUMNS}]
        if not metrics or frame.empty:
            raise TableError(f"{source}: has no {'rows' if metrics else 'value column such as latency_ms'}; add some")
        for name in metrics:
            _check_metric(frame, name, source)
        values = np.column_stack([_values(frame, name, source, places) for name in metrics])
        indexed: dict[str, dict[Key, tuple[float, ...]]] = {kind: {} for kind in KINDS}
        seen: dict[tuple[Any, ...], int] = {}
        rows_by_op: dict[str, list[int]] = {}
        for row, op in enumerate(frame["op"]):
            rows_by_op.setdefault(str(op), []).append(row)
        for kind, rows in rows_by_op.items():
            if kind not in KEYS:
                raise TableError(f"{source}: {places[rows[0]]} has op {kind!r}; use one of {list(KEYS)}")
            keys = map(tuple, _shapes(frame.iloc[rows], kind, source, [places[row] for row in rows]).tolist())
            for row, key in zip(rows, keys, strict=True):
                value = tuple(values[row].tolist())
                name = _text(frame["name"].iloc[row]) if kind == FIXED and "name" in frame else ""
                if (name or kind != FIXED) and (first := seen.setdefault((kind, name, *key), row)) != row:
                    said = " ".join([kind, *([name] if name else []), in_words(kind, key)])
                    raise TableError(f"{source}: {places[row]} repeats {said} of {places[first]}; keep one")
                if kind == FIXED:
                    known = indexed[FIXED].get(key, (0.0,) * len(metrics))
                    value = tuple(a + b for a, b in zip(known, value, strict=True))
                indexed[kind][key] = value
        fixed = {key[0]: value for key, value in indexed[FIXED].items()}
        if 0 in fixed and len(fixed) > 1:
            raise TableError(
                f"{source}: some fixed rows have a resolution and some have none; give it in all or in none"
            )
        plain = {kind: indexed[kind] for kind in PLAIN if indexed[kind]}
        shapes = _fixed_shapes(frame, rows_by_op.get(FIXED, []), source, places)
        return cls(source, tuple(metrics), indexed[CONV], indexed[BLOCK], fixed, note, plain, shapes)

    def models(self, encoding: Any) -> tuple[CostModel, ...]:
        """Cost models of all metrics.

        Args:
            encoding: Encoding of the search space, all of whose allowed choices the table must cover.

        Raises:
            TableError: If ops are missing; the message has the first of them and their number.
        """
        space = encoding.space
        if not isinstance(getattr(space, "network", None), Network):
            raise TableError(_no_network(self.source, encoding))
        if missing := self.missing(space):
            listed = "; ".join(missing[:N_LISTED])
            more = "; ..." if len(missing) > N_LISTED else ""
            note = f"; {self.note}" if self.note else ""
            raise TableError(
                f"{self.source}: {len(missing)} ops of {space.name} are missing: {listed}{more}; "
                f"measure them or change the space{note}"
            )
        self._check_fixed(space)
        return tuple(self._model(encoding, number) for number in range(len(self.metrics)))

    def _check_fixed(self, space: Any) -> None:
        """Check that fixed rows with a shape are those of a search space.

        Raises:
            TableError: If they are of another one.
        """
        for size in space.network.sizes:
            wanted, given = (
                fixed_shapes(space.network, size),
                self.fixed_shapes.get(size, self.fixed_shapes.get(0, frozenset())),
            )
            if given and given != wanted.keys():
                named = [
                    f"has no fixed {name} {in_words(CONV, key)}" for key, name in wanted.items() if key not in given
                ]
                named += [f"has fixed {in_words(CONV, key)}, which is not in it" for key in given - wanted.keys()]
                raise TableError(
                    f"{self.source}: is of another search space than {space.name}: {named[0]}; measure this space"
                )

    def missing(self, space: HasNetwork) -> list[str]:
        """Description of the ops that the search space needs and the table lacks."""
        absent: dict[str, None] = {}
        network = space.network
        for size in network.sizes:
            if size not in self.fixed and 0 not in self.fixed:
                absent[f"fixed resolution={size}"] = None
            for part in network.searched:
                allowed = network.allowed(part)
                rows = self._wanted(network.layers(part, size), size, output_sizes(network, size))
                if rows is None:
                    absent[f"block {part.name}, which is not an inverted bottleneck"] = None
                for row in rows or ():
                    gone = np.isnan(self._gather(row, None))
                    if gone.any():
                        needed = _needed(np.broadcast_to(gone, allowed.shape) & allowed, gone)
                        keys = np.stack(np.broadcast_arrays(*row.key), axis=-1)
                        absent |= {f"{row.op} {in_words(row.op, key)}": None for key in keys[needed].tolist()}
        return list(absent)

    def share(self, encoding: Any, number: int) -> dict[str, CostModel]:
        """Cost models of the contributions of each kind of layer to one metric, which add up to the whole cost.

        Returns:
            Cost models by the role of a layer in its part, such as ``"depthwise"``, or ``"blocks"`` or ``"fixed"``.
        """
        network: Network = encoding.space.network
        described = [network.layers(part, network.sizes[-1]) for part in network.searched]
        counted = [layer.role for layers in described for layer in layers if has_row(layer, plain=bool(self.plain))]
        roles = ["blocks"] if self.blocks else counted
        kinds = [*dict.fromkeys(roles), FIXED]
        return {kind: self._model(encoding, number, only=kind) for kind in kinds}

    def of_layers(self, layers: Sequence[Layer], size: int, number: int) -> dict[str, float] | None:
        """Values of single layers for one metric, by name of the layer.

        Args:
            layers: Searched layers of one candidate.
            size: Image size.
            number: Index of the metric.

        Returns:
            Values of the layers that have rows; ``None`` if the table has rows of whole blocks.
        """
        if self.blocks:
            return None
        names = [layer.name for layer in layers if has_row(layer, plain=bool(self.plain))]
        rows = self._wanted(tuple(layers), size) or []
        return {name: float(self._gather(row, number)) for name, row in zip(names, rows, strict=True)}

    def _model(self, encoding: Any, number: int, only: str | None = None) -> CostModel:
        name = self.metrics[number]

        def fixed_cost(size: int) -> float:
            wanted = only in (None, FIXED)
            return self.fixed.get(size, self.fixed.get(0, ()))[number] if wanted else 0.0

        network: Network = encoding.space.network
        outside = {size: output_sizes(network, size) for size in network.sizes}
        part_cost = functools.partial(self._part_cost, number=number, only=only, outside=outside)
        model = sum_over_parts(name, unit_of(name) or "", encoding, part_cost, fixed_cost)
        if any(gene.kind in BIT_KINDS and len(gene.values) > 1 for gene in encoding.genes):
            costs = {key: values[number] for key, values in self.convs.items()}
            model.note = note_on_bits(self.source, name, model.unit, costs, blocks=bool(self.blocks))
        return noted(model, encoding)

    def _part_cost(
        self,
        layers: tuple[Layer, ...],
        size: int,
        *,
        number: int,
        only: str | None,
        outside: Mapping[int, Mapping[str, int]],
    ) -> Any:
        total: Any = 0.0
        for row in self._wanted(layers, size, outside[size]) or ():
            if only is None or row.role == only:
                total = total + self._gather(row, number)
        return total

    def _wanted(
        self, layers: tuple[Layer, ...], size: int, outside: Mapping[str, int] = MappingProxyType({})
    ) -> list[Wanted] | None:
        any_size = not any(key[-1] for key in self.blocks)
        given = 0 if any_size else size
        return wanted_rows(layers, given, blocks=bool(self.blocks), plain=bool(self.plain), outside=outside)

    def _gather(self, row: Wanted, number: int | None) -> NDArray[np.float64]:
        """Values of rows for one metric, by default the first one; NaN where a row is missing."""
        table = {BLOCK: self.blocks, CONV: self.convs, **self.plain}.get(row.op, {})
        arrays = np.broadcast_arrays(*row.key)
        nothing = (np.nan,) * len(self.metrics)
        keys, places = np.unique(np.stack([array.ravel() for array in arrays], axis=1), axis=0, return_inverse=True)
        found = np.array([table.get(tuple(key), nothing)[number or 0] for key in keys.tolist()])
        return found[places.ravel()].reshape(arrays[0].shape)


def _needed(absent: NDArray[np.bool_], own: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Reduce a mask over all choices of a part to the shape of the choices of one layer, that of ``own``."""
    shape = (1,) * (absent.ndim - own.ndim) + own.shape
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(absent.any(axis=axes, keepdims=True), bool).reshape(own.shape)


def _shapes(rows: pd.DataFrame, kind: str, source: str, places: Sequence[str]) -> NDArray[np.int64]:
    """Keys of all rows as integers, shape ``(n, len(key))``; an empty ``resolution`` becomes 0."""
    columns = list(KEYS[kind])
    if absent := [column for column in columns if column not in rows and column != "resolution"]:
        raise TableError(f"{source}: rows of op {kind!r} need the columns {columns}; {absent} are missing")
    shapes = np.zeros((len(rows), len(columns)), np.int64)
    for number, column in enumerate(columns):
        for row, given in enumerate(rows[column] if column in rows else [""] * len(rows)):
            text = _text(given)
            if not text and column == "resolution":
                continue
            value = number_in(text)
            if value is None or value != np.floor(value) or not 0 <= value < 2**31:
                why = no_number(text) if value is None else f"is {text}"
                raise TableError(
                    f"{source}: {places[row]}: {column} {why}; rows of op {kind!r} need a whole number >= 0 there"
                )
            shapes[row, number] = int(value)
    return shapes


def _fixed_shapes(
    frame: pd.DataFrame, rows: Sequence[int], source: str, places: Sequence[str]
) -> dict[int, frozenset[Key]]:
    """Shapes and bits of the fixed rows that give them, by resolution."""
    columns = [column for column in CONV_KEY if column in frame]
    shaped = [row for row in rows if len(columns) == len(CONV_KEY) and all(_text(frame[c].iloc[row]) for c in columns)]
    if not shaped:
        return {}
    own, at = frame.iloc[shaped], [places[row] for row in shaped]
    sizes, keys = _shapes(own, FIXED, source, at)[:, 0], _shapes(own, CONV, source, at)
    return {
        int(size): frozenset(tuple(map(int, key)) for key in keys[sizes == size].tolist()) for size in np.unique(sizes)
    }


def _values(frame: pd.DataFrame, name: str, source: str, places: Sequence[str]) -> NDArray[np.float64]:
    """Non-negative values of a metric in all rows, shape ``(n_rows,)``."""
    values = np.zeros(len(frame))
    for row, given in enumerate(frame[name]):
        text = _text(given)
        value = number_in(text.partition(" #")[0].strip())  # without a comment after the last value
        if value is None or value < 0:
            why = no_number(text) if value is None else f"is {text}"
            raise TableError(f"{source}: {places[row]}: {name} {why}; give a number >= 0")
        values[row] = value
    return values


def _text(given: Any) -> str:
    """Cell as text; cells of other formats may be numbers, lists or other JSON values."""
    if given is None or (isinstance(given, float) and np.isnan(given)):
        return ""
    return given if isinstance(given, str) else repr(given) if isinstance(given, bool | list | dict) else str(given)


def unit_of(name: str) -> str | None:
    """Unit of a value column for display; ``None`` if the last word of its name is not a known unit."""
    return UNITS.get(name.replace("-", "_").rsplit("_", 1)[-1].lower())


def _check_metric(frame: pd.DataFrame, name: str, source: str) -> None:
    """Refuse a column whose name does not end with a known unit."""
    if unit_of(name) is not None:
        return
    if len(frame) > 1 and is_count([_text(value) for value in frame[name]]):
        raise TableError(f"{source}: column {name!r} only numbers the rows and is not a metric; remove it")
    raise TableError(
        f"{source}: column {name!r} ends in no unit that is known; if it is a metric, put its unit last ({name}_ms; "
        f"units: {', '.join(UNITS)}), else remove it"
    )


def _no_network(source: str, encoding: Any) -> str:
    name = getattr(encoding, "name", encoding)
    return f"{source}: prices the blocks of networks, {name} holds named choices; leave the table out"


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))


def read_csv(path: Path) -> CostTable:
    """Read the CSV format of this package."""
    return CostTable.from_frame(read_sheet(path, TableError, comments=True), str(path))
