"""Costs that somebody measured: a table of ops or of whole blocks, checked against a search space when it is read.

The format is documented in ``docs/reference/cost_tables.md``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.cost.model import CostModel
from apq_tune.errors import TableError
from apq_tune.inputs.sheets import is_count, no_number, number_in, read_sheet
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.ops import BlockOps, Op, all_choices
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.skeleton import Slot

FIXED, CONV, BLOCK = "fixed", "conv", "block"
KINDS = (FIXED, CONV, BLOCK)

CONV_KEY = ("in_channels", "out_channels", "in_size", "kernel_size", "stride", "groups", "w_bits", "a_bits")
BLOCK_KEY = (
    "in_channels",
    "middle_channels",
    "out_channels",
    "in_size",
    "kernel_size",
    "stride",
    "shortcut",
    "squeeze_excite",
    "h_swish",
    "resolution",
)
FIXED_KEY = ("resolution",)
KEYS = {CONV: CONV_KEY, BLOCK: BLOCK_KEY, FIXED: FIXED_KEY}
SHAPE_COLUMNS = tuple(dict.fromkeys((*CONV_KEY, *BLOCK_KEY)))

UNITS = {
    **{unit: unit for unit in ("s", "ms", "us", "ns", "j", "w", "kb", "mb", "kib", "mib", "bytes", "bits", "cycles")},
    **{unit: unit for unit in ("macs", "flops", "ops", "params", "percent", "fraction", "mm2", "usd", "units")},
    **{"mj": "mJ", "uj": "uJ", "nj": "nJ", "j": "J", "w": "W", "mw": "mW", "kb": "kB", "mb": "MB"},
    **{"kib": "KiB", "mib": "MiB"},
}
"""Last word of a value column -> unit for people."""

N_LISTED = 5
"""Missing ops that an error names."""

Key = tuple[int, ...]


@dataclass(frozen=True)
class CostTable:
    """Values of ops or blocks, and of the parts of a network that are not searched.

    A resolution of 0 stands for any.

    Attributes:
        source: file it was read from.
        metrics: names of its values, units included.
        convs: shape and bits of a convolution (``CONV_KEY``) -> values.
        blocks: shape of a whole block (``BLOCK_KEY``) -> values; bits do not matter to it.
        fixed: resolution -> sum of the values of all parts that are not searched.
        note: on how it was read, for the message that ops are missing.
    """

    source: str
    metrics: tuple[str, ...]
    convs: dict[Key, tuple[float, ...]]
    blocks: dict[Key, tuple[float, ...]]
    fixed: dict[int, tuple[float, ...]]
    note: str = ""

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, source: str, places: Sequence[str] | None = None, note: str = ""
    ) -> CostTable:
        """Check rows and index them.

        Args:
            frame: columns ``op``, those of the op's key, and one for each metric; ``source`` and ``name`` are notes.
            source: file name for messages.
            places: ``(n_rows,)``, what to call each row in messages; by default ``row 1`` and so on.
            note: see above.

        Raises:
            TableError: naming the row, the column, the value and what is wrong with it.
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
                    said = " ".join([kind, *([name] if name else []), _words(kind, key)])
                    raise TableError(f"{source}: {places[row]} repeats {said} of {places[first]}; keep one")
                if kind == FIXED:
                    known = indexed[FIXED].get(key, (0.0,) * len(metrics))
                    value = tuple(a + b for a, b in zip(known, value, strict=True))
                indexed[kind][key] = value
        fixed = {key[0]: value for key, value in indexed[FIXED].items()}
        return cls(source, tuple(metrics), indexed[CONV], indexed[BLOCK], fixed, note)

    def models(self, encoding: NetworkEncoding | Any) -> tuple[CostModel, ...]:
        """A cost model for each metric.

        Args:
            encoding: of the space, all of whose allowed choices the table must cover.

        Raises:
            TableError: if it does not, with the first missing ops and their number.
        """
        if not isinstance(encoding, NetworkEncoding):
            raise TableError(_no_network(self.source, encoding))
        if missing := self.missing(encoding.space):
            listed = "; ".join(missing[:N_LISTED])
            more = "; ..." if len(missing) > N_LISTED else ""
            note = f"; {self.note}" if self.note else ""
            raise TableError(
                f"{self.source}: {len(missing)} ops of {encoding.space.name} are missing: {listed}{more}; "
                f"measure them or change the space{note}"
            )
        return tuple(self._model(encoding, number) for number in range(len(self.metrics)))

    def missing(self, space: SearchSpace) -> list[str]:
        """In words, what the space can ask for and the table has not."""
        absent: dict[str, None] = {}
        for resolution in space.resolutions:
            if resolution not in self.fixed and 0 not in self.fixed:
                absent[f"fixed resolution={resolution}"] = None
            for slot in space.slots_at(resolution):
                ops, allowed = all_choices(space, slot)
                for kind, fields in self._lookups(ops, slot):
                    found = self._gather(kind, fields, None)
                    gone = np.isnan(found)
                    if gone.any():
                        needed = _needed(np.broadcast_to(gone, allowed.shape) & allowed, gone.shape)
                        keys = np.stack(np.broadcast_arrays(*fields), axis=-1)
                        absent |= {f"{kind} {_words(kind, key)}": None for key in keys[needed].tolist()}
        return list(absent)

    def share(self, encoding: NetworkEncoding, number: int) -> dict[str, CostModel]:
        """One cost model for each kind of op, of one metric: together they make the whole."""
        if self.blocks:
            kinds: tuple[str, ...] = ("blocks",)
        else:
            kinds = ("expand", "depthwise", "gate", "project")
        models = {kind: self._model(encoding, number, only=kind) for kind in kinds}
        return models | {"fixed": self._model(encoding, number, only="fixed")}

    def _model(self, encoding: NetworkEncoding, number: int, only: str | None = None) -> CostModel:
        name = self.metrics[number]

        def block_cost(ops: BlockOps, slot: Slot) -> Any:
            total: Any = 0.0
            for part, (kind, fields) in zip(self._parts(ops), self._lookups(ops, slot), strict=True):
                if only is None or part == only:
                    total = total + self._gather(kind, fields, number)
            return total

        def fixed_cost(resolution: int) -> float:
            wanted = only in (None, "fixed")
            return self.fixed.get(resolution, self.fixed.get(0, ()))[number] if wanted else 0.0

        return CostModel(name, _unit(name) or "", encoding, block_cost, fixed_cost)

    def _parts(self, ops: BlockOps) -> list[str]:
        return ["blocks"] if self.blocks else ["expand", "depthwise", *["gate"] * len(ops.gate), "project"]

    def _lookups(self, ops: BlockOps, slot: Slot) -> Iterator[tuple[str, list[NDArray[np.int64]]]]:
        """The kind of row and the key (arrays, one for each column) of everything in a block."""
        if self.blocks:
            flags = (slot.has_shortcut, slot.squeeze_excite, slot.activation == "h_swish")
            fields = (slot.in_channels, ops.expand.out_channels, slot.out_channels, slot.in_size)
            any_resolution = not any(key[-1] for key in self.blocks)
            resolution = 0 if any_resolution else slot.resolution
            yield BLOCK, _arrays(*fields, ops.depthwise.kernel_size, slot.stride, *flags, resolution)
            return
        for op in ops.all:
            yield CONV, _conv_key(op)

    def _gather(self, kind: str, fields: list[NDArray[np.int64]], number: int | None) -> NDArray[np.float64]:
        """Values of keys, NaN where there is none; without a number, of the first metric."""
        table = self.blocks if kind == BLOCK else self.convs
        keys = np.broadcast(*fields)
        nothing = (np.nan,) * len(self.metrics)
        found = [table.get(tuple(map(int, key)), nothing)[number or 0] for key in keys]
        return np.array(found).reshape(keys.shape)


def pairs_that_shrink(table: CostTable, number: int) -> tuple[int, int]:
    """How often more bits cost less, among ops of equal shape where no bit-width is smaller and one is larger.

    Args:
        table: of convolutions.
        number: of the metric.

    Returns:
        Pairs the wrong way round, and all pairs that can be compared.
    """
    shapes: dict[Key, list[tuple[int, int, float]]] = {}
    for key, values in table.convs.items():
        shapes.setdefault(key[:-2], []).append((key[-2], key[-1], values[number]))
    wrong = total = 0
    for entries in shapes.values():
        for (w1, a1, low), (w2, a2, high) in itertools.permutations(entries, 2):
            if w1 <= w2 and a1 <= a2:
                total += 1
                wrong += high < low
    return wrong, total


def _needed(absent: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Reduce a mask over all choices to the shape of one op's own choices."""
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(absent.any(axis=axes, keepdims=True), bool)


def _arrays(*fields: Any) -> list[NDArray[np.int64]]:
    return [np.asarray(field, np.int64) for field in fields]


def _conv_key(op: Op) -> list[NDArray[np.int64]]:
    fields = (op.in_channels, op.out_channels, op.in_size, op.kernel_size, op.stride, op.groups, op.w_bits, op.a_bits)
    return _arrays(*fields)


def _words(kind: str, key: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in zip(KEYS[kind], key, strict=True))


def _shapes(rows: pd.DataFrame, kind: str, source: str, places: Sequence[str]) -> NDArray[np.int64]:
    """``(n, len(key))`` integers; an empty ``resolution`` becomes 0."""
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


def _values(frame: pd.DataFrame, name: str, source: str, places: Sequence[str]) -> NDArray[np.float64]:
    """A metric of all rows: ``(n_rows,)`` numbers >= 0."""
    values = np.zeros(len(frame))
    for row, given in enumerate(frame[name]):
        text = _text(given)
        value = number_in(text.partition(" #")[0].strip())  # a comment behind the last value
        if value is None or value < 0:
            why = no_number(text) if value is None else f"is {text}"
            raise TableError(f"{source}: {places[row]}: {name} {why}; give a number >= 0")
        values[row] = value
    return values


def _text(given: Any) -> str:
    """A cell as text: ours hold text already, those of other formats numbers, lists and what else JSON has."""
    if given is None or (isinstance(given, float) and np.isnan(given)):
        return ""
    return given if isinstance(given, str) else repr(given) if isinstance(given, bool | list | dict) else str(given)


def _unit(name: str) -> str | None:
    """The unit for people of a value column; ``None`` where its last word is none that is known."""
    return UNITS.get(name.replace("-", "_").rsplit("_", 1)[-1].lower())


def _check_metric(frame: pd.DataFrame, name: str, source: str) -> None:
    """Refuse a column of whose values nobody could say what they are."""
    if _unit(name) is not None:
        return
    if len(frame) > 1 and is_count([_text(value) for value in frame[name]]):
        raise TableError(f"{source}: column {name!r} only counts the rows and is no metric; remove it")
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
    """Read our own format."""
    return CostTable.from_frame(read_sheet(path, TableError, comments=True), str(path))
