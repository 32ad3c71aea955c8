"""Readers of cost tables in published formats."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from apq_tune.cost.rows import BLOCK, CONV, FIXED
from apq_tune.cost.table import CostTable, read_csv
from apq_tune.errors import DocumentError, TableError
from apq_tune.inputs.documents import load_json, load_yaml

BITFUSION_KEY = re.compile(r"\((\d+), (\d+), (\d+), (\d+), (\d+), (\d+), (\d+)\)-W(\d+)A(\d+)")
OFA_BLOCK = re.compile(
    r"expanded_conv-input:(\d+)x\1x(\d+)-output:(\d+)x\3x(\d+)-expand:(\d+)-kernel:(\d+)-stride:(\d+)"
    r"-idskip:([01])(?:-se:([01])-hs:([01]))?"
)
OFA_FIXED = re.compile(r"(Conv|Conv_1|Conv_2|AvgPool2D|Logits)-input:(\d+)x\2x(\d+)-output:(?:(\d+)x\4x)?(\d+)")
OFA_NEEDED = ("Conv", "Conv_1", "Logits")
"""Fixed parts of every once-for-all network; MobileNetV3 networks have ``AvgPool2D`` and ``Conv_2``, too."""

OFA_REST = ("middle_channels", "kernel_size", "stride", "shortcut", "squeeze_excite", "h_swish")

NO_GATES = "its entries have no -se and -hs, so its blocks count as without squeeze-excite and with ReLU6"


class TableRow(NamedTuple):
    """Row of a table with its name for messages."""

    row: dict[str, Any]
    place: str


def load_cost_table(path: str | Path) -> CostTable:
    """Read a cost table in any supported format.

    Args:
        path: CSV file in the format of this package, JSON file of APQ's BitFusion table (Wang 2020), YAML file of
            once-for-all's latency tables (Cai 2020), or a folder of the latter with one file per resolution.

    Raises:
        TableError: If the file has none of these formats, or an entry is invalid.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _is_yaml(file) and not file.name.startswith("."))
        if not files:
            raise TableError(f"{path}: holds no .yaml file; give a folder of latency tables, or a .csv or JSON file")
        return _ofa_table(files, str(path))
    if path.suffix.lower() == ".csv":
        return read_csv(path)
    if _is_yaml(path):
        return _ofa_table([path], str(path))
    return _from_entries(_bitfusion_entries(path), str(path))


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _from_entries(entries: list[TableRow], source: str, note: str = "") -> CostTable:
    rows = [entry.row for entry in entries]
    return CostTable.from_frame(pd.DataFrame(rows, dtype=object), source, [entry.place for entry in entries], note)


def _read_mapping(path: Path, load: Callable[[str, str], Any], what: str) -> dict[str, Any]:
    """Load a file that should hold entries by name."""
    try:
        data = load(path.read_bytes().decode("utf-8-sig"), str(path))
    except (OSError, UnicodeError) as error:
        raise TableError(f"{path}: is not a readable {what} ({error}); give .csv, .yaml or APQ's JSON") from None
    except DocumentError as error:
        raise TableError(f"{error}; {path.name} was read as {what}, give .csv, .yaml or APQ's JSON") from None
    if not isinstance(data, dict) or not data:
        held = "nothing" if not data else f"a {type(data).__name__}, no entries by name"
        raise TableError(f"{path}: is not a {what}: it holds {held}; give .csv, .yaml or APQ's JSON")
    return data


def _bitfusion_entries(path: Path) -> list[TableRow]:
    """Read APQ's format: ``(in_channels, out_channels, in_size, kernel, stride, padding, groups)-WwAa`` -> ms, mJ."""
    data = _read_mapping(path, load_json, "cost table in JSON")
    entries: list[TableRow] = []
    for key, value in data.items():
        if not isinstance(value, dict) or {"latency", "energy"} - set(value):
            raise TableError(f"{path}: entry {key!r} has no latency and energy; give both")
        costs = {"latency_ms": value["latency"], "energy_mj": value["energy"]}
        if match := BITFUSION_KEY.fullmatch(key):
            names = ("in_channels", "out_channels", "in_size", "kernel_size", "stride", "padding", "groups")
            shape = dict(zip((*names, "w_bits", "a_bits"), map(int, match.groups()), strict=True))
            if shape.pop("padding") != shape["kernel_size"] // 2:
                raise TableError(f"{path}: entry {key!r} is not padded by kernel // 2; our convolutions are")
            row: dict[str, Any] = {"op": CONV} | shape | costs
        elif key in ("head", "tail"):
            row = {"op": FIXED, "name": key} | costs
        else:
            raise TableError(
                f"{path}: cannot read entry {key!r}; expected 'head', 'tail' or '(96, 456, 14, 1, 1, 0, 1)-W4A4'"
            )
        entries.append(TableRow(row, f"entry {key!r}"))
    for name in ("head", "tail"):
        if name not in data:
            raise TableError(f"{path}: has no entry {name!r}; give what is not searched, it never counts as zero")
    return entries


def _ofa_table(files: list[Path], source: str) -> CostTable:
    """Read the format of once-for-all: mean latencies of whole blocks in ms, one resolution per file."""
    entries: list[TableRow] = []
    gates: dict[bool, str] = {}
    resolutions: dict[int, Path] = {}
    for path in files:
        data = _read_mapping(path, load_yaml, "latency table in YAML")
        found, resolution = _ofa_entries(path, data, gates, alone=len(files) == 1)
        if (other := resolutions.setdefault(resolution, path)) != path:
            raise TableError(f"{source}: {other.name} and {path.name} are both of resolution {resolution}; keep one")
        entries += found
    if len(gates) > 1:
        raise TableError(
            f"{source}: {gates[False]} has no -se:0-hs:0 at its end, {gates[True]} has; write both or none"
        )
    return _from_entries(entries, source, NO_GATES if False in gates else "")


def _ofa_entries(
    path: Path, data: dict[str, Any], gates: dict[bool, str], *, alone: bool
) -> tuple[list[TableRow], int]:
    """Rows and resolution of one file.

    Args:
        path: Path of the file.
        data: Entries by name.
        gates: First entry whose key names squeeze-excite and h-swish (``True``) or does not (``False``); updated here.
        alone: Whether this is the only file.
    """
    fixed: dict[str, re.Match[str]] = {}
    blocks: dict[str, dict[str, int]] = {}
    for key, value in data.items():
        if not isinstance(value, dict) or "mean" not in value:
            raise TableError(f"{path}: entry {key!r} has no mean; give it in ms")
        if match := OFA_FIXED.fullmatch(str(key)):
            if match[1] in fixed:
                raise TableError(f"{path}: has several entries '{match[1]}-input:...'; keep one")
            fixed[match[1]] = match
        elif match := OFA_BLOCK.fullmatch(str(key)):
            gates.setdefault(match[9] is not None, f"entry {key!r}")
            names = ("in_size", "in_channels", "out_size", "out_channels", *OFA_REST)
            blocks[key] = dict(zip(names, (int(number or 0) for number in match.groups()), strict=True))
        else:
            raise TableError(
                f"{path}: cannot read entry {key!r}; blocks are called 'expanded_conv-input:10x10x136-output:10x10x136-"
                f"expand:408-kernel:3-stride:1-idskip:1-se:1-hs:1', other parts '{OFA_NEEDED[0]}-input:160x160x3-"
                "output:80x80x24', Conv_1, Conv_2, AvgPool2D or Logits"
            )
    _check_whole(path, fixed)
    resolution, stem_channels = int(fixed["Conv"][2]), int(fixed["Conv"][5])
    first = [
        key
        for key, shape in blocks.items()
        if shape["middle_channels"] == shape["in_channels"] == stem_channels and shape["kernel_size"] == 3
    ]
    if len(first) != 1:
        raise TableError(
            f"{path}: has {len(first)} entries for the first block, which every network begins with "
            f"(expanded_conv, input and expand {stem_channels}, kernel 3); give one"
        )
    own = {match[0] for match in fixed.values()} | set(first)
    entries = []
    for key, value in data.items():
        row: dict[str, Any] = {"op": FIXED, "name": str(key)} if key in own else {"op": BLOCK} | blocks[key]
        row.pop("out_size", None)
        row |= {"resolution": resolution, "latency_ms": value["mean"]}
        entries.append(TableRow(row, f"entry {key!r}" if alone else f"{path.name}: entry {key!r}"))
    return entries, resolution


def _check_whole(path: Path, fixed: dict[str, re.Match[str]]) -> None:
    """Refuse a table that lacks a fixed part, whose cost would otherwise be zero."""
    if absent := [name for name in OFA_NEEDED if name not in fixed]:
        raise TableError(f"{path}: has no entry '{absent[0]}-input:...'; give it, it never counts as zero")
    before = "Conv_2" if "Conv_2" in fixed else "Conv_1"
    if fixed[before][5] != fixed["Logits"][3]:
        raise TableError(
            f"{path}: {before} gives {fixed[before][5]} channels, Logits takes {fixed['Logits'][3]}; "
            "the entry between them is missing, give it"
        )
