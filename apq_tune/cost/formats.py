"""Cost tables in other people's formats, read into ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from apq_tune.cost.table import BLOCK, CONV, FIXED, CostTable, read_csv
from apq_tune.errors import TableError

BITFUSION_KEY = re.compile(r"\((\d+), (\d+), (\d+), (\d+), (\d+), (\d+), (\d+)\)-W(\d+)A(\d+)")
OFA_BLOCK = re.compile(
    r"expanded_conv-input:(\d+)x\d+x(\d+)-output:\d+x\d+x(\d+)-expand:(\d+)-kernel:(\d+)-stride:(\d+)"
    r"-idskip:([01])-se:([01])-hs:([01])"
)
OFA_STEM = re.compile(r"Conv-input:(\d+)x\d+x\d+-output:\d+x\d+x(\d+)")


def load_cost_table(path: str | Path) -> CostTable:
    """Read a table in any of the formats that are known.

    Args:
        path: our CSV; the JSON of APQ's BitFusion table (Wang 2020); one YAML file of once-for-all's latency tables
            (Cai 2020), or a folder of them, one for each resolution.

    Raises:
        TableError: if it is none of these, or an entry makes no sense.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.yaml"))
        if not files:
            raise TableError(f"{path}: holds no .yaml file; give a folder of latency tables, or a .csv or JSON file")
        return _from_rows([row for file in files for row in _ofa_rows(file)], str(path))
    if path.suffix == ".csv":
        return read_csv(path)
    if path.suffix in (".yaml", ".yml"):
        return _from_rows(_ofa_rows(path), str(path))
    return _from_rows(_bitfusion_rows(path), str(path))


def _from_rows(rows: list[dict[str, Any]], source: str) -> CostTable:
    return CostTable.from_frame(pd.DataFrame(rows), source)


def _bitfusion_rows(path: Path) -> list[dict[str, Any]]:
    """``(in_channels, out_channels, in_size, kernel, stride, padding, groups)-WwAa`` -> latency (ms), energy (mJ)."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"holds a {type(data).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: is no readable cost table ({error}); give .csv, .yaml or APQ's JSON") from None
    rows: list[dict[str, Any]] = []
    for key, value in data.items():
        if not isinstance(value, dict) or {"latency", "energy"} - set(value):
            raise TableError(f"{path}: entry {key!r} has no latency and energy; give both")
        costs = {"latency_ms": value["latency"], "energy_mj": value["energy"]}
        if match := BITFUSION_KEY.fullmatch(key):
            names = ("in_channels", "out_channels", "in_size", "kernel_size", "stride", "padding", "groups")
            shape = dict(zip((*names, "w_bits", "a_bits"), map(int, match.groups()), strict=True))
            if shape.pop("padding") != shape["kernel_size"] // 2:
                raise TableError(f"{path}: entry {key!r} is not padded by kernel // 2; our convolutions are")
            rows.append({"op": CONV} | shape | costs)
        elif key in ("head", "tail"):
            rows.append({"op": FIXED, "name": key} | costs)
        else:
            raise TableError(f"{path}: cannot read entry {key!r}; expected '(96, 456, 14, 1, 1, 0, 1)-W4A4'")
    return rows


def _ofa_rows(path: Path) -> list[dict[str, Any]]:
    """Whole blocks of one resolution; means over runs in ms."""
    try:
        data = yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if not isinstance(data, dict):
            raise ValueError(f"holds a {type(data).__name__}, not a mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TableError(f"{path}: is no readable latency table ({' '.join(str(error).split())})") from None
    stems = [match for key in data if (match := OFA_STEM.fullmatch(key))]
    if len(stems) != 1:
        raise TableError(f"{path}: has {len(stems)} entries 'Conv-input:...', expected the one first convolution")
    resolution, stem_channels = map(int, stems[0].groups())
    rows: list[dict[str, Any]] = []
    for key, value in data.items():
        if not isinstance(value, dict) or "mean" not in value:
            raise TableError(f"{path}: entry {key!r} has no mean; give it in ms")
        costs = {"latency_ms": value["mean"]}
        names = ("in_size", "in_channels", "out_channels", "middle_channels", "kernel_size", "stride", "shortcut")
        match = OFA_BLOCK.fullmatch(key)
        if match is None:
            rows.append({"op": FIXED, "name": key, "resolution": resolution} | costs)
            continue
        shape = dict(zip((*names, "squeeze_excite", "h_swish"), map(int, match.groups()), strict=True))
        is_first = shape["middle_channels"] == shape["in_channels"] == stem_channels and shape["kernel_size"] == 3
        rows.append(
            (
                {"op": FIXED, "name": key, "resolution": resolution}
                if is_first
                else {"op": BLOCK, "resolution": resolution} | shape
            )
            | costs
        )
    return rows
