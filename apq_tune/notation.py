"""Candidates in files, in our notation or in that of the published APQ and once-for-all code."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from apq_tune.candidate import Block, Candidate
from apq_tune.errors import CandidateError
from apq_tune.geometry import make_divisible
from apq_tune.space import SearchSpace

PUBLISHED_BITS = ("pw_w_bits_setting", "pw_a_bits_setting", "dw_w_bits_setting", "dw_a_bits_setting")


class _Published(BaseModel):
    """One entry for each block of the deepest network; ``d`` for each stage."""

    model_config = ConfigDict(extra="ignore")

    ks: list[int]
    e: list[float]
    d: list[int]
    r: list[int] | None = None
    pw_w_bits_setting: list[int] | None = None
    pw_a_bits_setting: list[int] | None = None
    dw_w_bits_setting: list[int] | None = None
    dw_a_bits_setting: list[int] | None = None


def candidate_from(data: Any, space: SearchSpace) -> Candidate:
    """Read one candidate in either notation.

    Args:
        data: our ``Candidate.to_dict``, or a mapping with ``ks``, ``e`` and ``d`` (Cai 2020), and
            ``pw_w_bits_setting`` and its like (Wang 2020); without bits, ``fixed_bits`` of the space are meant.
        space: that it should belong to; membership is checked by ``Encoding.encode``.

    Raises:
        CandidateError: saying what is wrong.
    """
    if isinstance(data, Mapping) and {"ks", "e", "d"} <= set(data):
        return _from_published(data, space)
    return Candidate.from_dict(data)


def _from_published(data: Mapping[str, Any], space: SearchSpace) -> Candidate:
    try:
        given = _Published.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        raise CandidateError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None
    slots = space.slots
    bits = [getattr(given, name) or [space.fixed_bits] * len(slots) for name in PUBLISHED_BITS]
    for name, values in zip(("ks", "e", *PUBLISHED_BITS), (given.ks, given.e, *bits), strict=True):
        if len(values) != len(slots):
            raise CandidateError(f"{name}: {len(values)} values; {space.name} has {len(slots)} blocks, give as many")
    if len(given.d) < len(space.stages) - (len(space.stages[-1].depth) == 1):
        raise CandidateError(f"d: {len(given.d)} values; {space.name} has {len(space.stages)} stages, give as many")
    stages: list[tuple[Block, ...]] = []
    for number, stage in enumerate(space.stages):
        # The published spaces also write a depth for a stage that always has one block; it means nothing.
        depth = stage.depth[0] if len(stage.depth) == 1 else given.d[number]
        if depth not in stage.depth:
            raise CandidateError(f"d: stage {number + 1} has depth {depth}; choose one of {list(stage.depth)}")
        places = [i for i, slot in enumerate(slots) if slot.stage == number][:depth]
        stages.append(
            tuple(
                Block(
                    given.ks[i],
                    make_divisible(slots[i].in_channels * given.e[i], space.choices.divisor),
                    *(values[i] for values in bits),
                )
                for i in places
            )
        )
    if len(space.resolutions) == 1:
        return Candidate(tuple(stages))
    if not given.r:
        raise CandidateError(f"r: is missing; give one of {list(space.resolutions)}")
    return Candidate(tuple(stages), given.r[0])


def read_candidates(path: str | Path) -> list[Any]:
    """Read the entries of a file, each still as plain data: see ``candidate_from``.

    Args:
        path: ``.json`` (a list, or one candidate), ``.jsonl`` (one a line) or ``.csv``: a column ``candidate_json``,
            ``candidate`` or ``Sub-network`` of JSON (or Python) text, or one column for each key.

    Raises:
        CandidateError: if the file cannot be read.
    """
    path = Path(path)
    try:
        if path.suffix == ".csv":
            return _csv_entries(pd.read_csv(path), path)
        text = path.read_text("utf-8")
        if path.suffix in (".jsonl", ".ndjson"):
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        data = json.loads(text)
    except (OSError, ValueError) as error:
        raise CandidateError(f"{path}: cannot be read ({error}); give .json, .jsonl or .csv") from None
    if isinstance(data, Mapping) and "candidates" in data:
        data = data["candidates"]
    entries = data if isinstance(data, list) else [data]
    return [
        entry.get("spec", entry.get("candidate", entry)) if isinstance(entry, Mapping) else entry for entry in entries
    ]


def _csv_entries(frame: pd.DataFrame, path: Path) -> list[Any]:
    for column in ("candidate_json", "candidate", "Sub-network"):
        if column in frame:
            return [ast.literal_eval(text.replace("null", "None")) for text in frame[column]]
    if "depths" not in frame and "ks" not in frame:
        raise CandidateError(f"{path}: has no column candidate_json, candidate or ks, e, d; has {list(frame.columns)}")
    keys = {"depths", "resolution", "ks", "e", "d", "r", *Block._fields, *PUBLISHED_BITS}
    columns = [column for column in frame.columns if column in keys]
    return [
        {key: ast.literal_eval(value) for key, value in row.items()} for row in frame[columns].to_dict(orient="records")
    ]
