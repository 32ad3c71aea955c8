"""One point of a search space, readable and canonical: blocks that depth switches off do not exist in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from apq_tune.errors import CandidateError, DocumentError
from apq_tune.inputs.documents import load_json
from apq_tune.inputs.ranges import shown
from apq_tune.space.block_type import BlockType
from apq_tune.space.block_types import ALL_TYPES, DEFAULT, type_of
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.space.sparsities import as_share

_COLUMNS = TypeAdapter(dict[str, list[Annotated[int, Field(strict=True, gt=0)]]])
_SHARES = TypeAdapter(dict[str, list[Annotated[float, Field(strict=True, ge=0, lt=1), AfterValidator(as_share)]]])

_TYPES = "block"
"""Key of the block type of each stage, which is omitted if all are the default."""


Value = int | float | str | bool | tuple[Any, ...] | None


def plain_value(value: Any) -> Value:
    """Convert a value of a choice to one that JSON represents exactly.

    NumPy's numbers become Python's, lists become tuples.

    Raises:
        CandidateError: If that is impossible; the message is to be prefixed with the name of the choice.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(plain_value(item) for item in value)
    if isinstance(value, bool | None):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CandidateError(
                f"{value} cannot be the value of a choice; give a finite number, or text such as '{value}'"
            )
        return float(value)
    if isinstance(value, str):
        return str(value)
    kind = type(value).__name__
    raise CandidateError(f"{shown(value)} is a {kind}; values are numbers, text, true or false, or lists of these")


def same_value(one: Any, other: Any) -> bool:
    """Whether two values are one and the same: Python holds ``True`` and ``1`` to be equal."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same_value, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


@dataclass(frozen=True)
class Configuration:
    """One point of a space of named choices, without a network.

    Attributes:
        values: Name and value of each choice, in the order of the space.
    """

    values: tuple[tuple[str, Value], ...]

    def __getitem__(self, name: str) -> Value:
        return dict(self.values)[name]

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """``{"choices": {name: value}}``."""
        return {"choices": dict(self.values)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Configuration:
        """Inverse of ``to_dict``.

        Raises:
            CandidateError: If it is not such a mapping.
        """
        if not isinstance(data, Mapping) or set(data) != {"choices"} or not isinstance(data["choices"], Mapping):
            got = list(data) if isinstance(data, Mapping) else f"a {type(data).__name__}"
            raise CandidateError(f"a candidate of named choices has the key 'choices' with a mapping, got {got}")
        try:
            return cls(tuple((name, plain_value(value)) for name, value in data["choices"].items()))
        except CandidateError as error:
            raise CandidateError(f"choices: {error}") from None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        """``name=value`` for each choice."""
        return " ".join(f"{name}={value}" for name, value in self.values)

    short_name = "choices"

    @property
    def short(self) -> str:
        """All choices."""
        return str(self)


@dataclass(frozen=True)
class Candidate:
    """A network and its bit policy; equal networks are equal objects.

    Attributes:
        stages: The active blocks of each stage, each the named tuple of its ``BlockType``; all blocks of a stage are of
            one type, and its depth is their number.
        resolution: Pixels along a side of the input, where the space offers several; else ``None``.
    """

    stages: tuple[tuple[Any, ...], ...]
    resolution: int | None = None

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks in each stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def blocks(self) -> tuple[Any, ...]:
        """All blocks in the order of the forward pass."""
        return tuple(block for stage in self.stages for block in stage)

    @property
    def types(self) -> tuple[BlockType, ...]:
        """Type of the blocks of each stage."""
        return tuple(type_of(stage[0]) if stage else DEFAULT for stage in self.stages)

    short_name = "depths"

    @property
    def short(self) -> str:
        """Depths and resolution, such as ``2-3-1 at 32``."""
        size = "" if self.resolution is None else f" at {self.resolution}"
        return "-".join(map(str, self.depths)) + size

    def with_bits(self, bits: int) -> Candidate:
        """The same network with every searched layer at ``bits``."""
        stages = []
        for known, stage in zip(self.types, self.stages, strict=True):
            everywhere = {field.name: bits for field in known.fields if field.kind in BIT_KINDS}
            stages.append(tuple(block._replace(**everywhere) for block in stage))
        return Candidate(tuple(stages), self.resolution)

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain data: ``depths``, the values of each field over all blocks, and ``resolution`` if there are several.

        With types of blocks other than MBConv, ``block`` has the type of each stage.
        """
        data: dict[str, list[Any]] = {"depths": list(self.depths)}
        for known in self.types:
            for name in known.names:
                if name not in data:
                    data[name] = [getattr(block, name) for block in self.blocks if name in block._fields]
        if any(known is not DEFAULT for known in self.types):
            data[_TYPES] = [known.name for known in self.types]
        return data | ({} if self.resolution is None else {"resolution": [self.resolution]})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """Inverse of ``to_dict``.

        Raises:
            CandidateError: If keys are missing or unknown, values are not positive integers (of sparsities: shares), or
                lists do not have one value for each block.
        """
        types = _types_in(data)
        known = types or [DEFAULT]
        expected = {"depths", *(name for each in known for name in each.names)}
        if not isinstance(data, Mapping) or set(data) - {"resolution", _TYPES} != expected:
            keys = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise CandidateError(f"a candidate has the keys {sorted(expected)}, got {keys}")
        shares = {field.name for each in known for field in each.fields if field.kind == "sparsity"}
        columns: dict[str, list[Any]] = {}
        for adapter, what, keys in (
            (_COLUMNS, "positive integers", [key for key in data if key != _TYPES and key not in shares]),
            (_SHARES, "shares of zeros from 0 to below 1", [key for key in data if key in shares]),
        ):
            try:
                columns |= adapter.validate_python({key: data[key] for key in keys})
            except ValidationError as error:  # noqa: PERF203
                field = str(error.errors()[0]["loc"][0])
                raise CandidateError(f"{field}: {data[field]!r} is not a list of {what}; give such a list") from None
        depths = columns["depths"]
        types = types or [DEFAULT] * len(depths)
        if len(types) != len(depths):
            raise CandidateError(
                f"{_TYPES}: {len(types)} types for {len(depths)} stages; give one for each stage, or leave the key out"
            )
        for name in (name for each in known for name in each.names):
            n = sum(depth for depth, own in zip(depths, types, strict=True) if name in own.names)
            if len(columns[name]) != n:
                raise CandidateError(
                    f"{name}: {len(columns[name])} values for depths {depths}; give {n}, one for each block"
                )
        resolution = columns.get("resolution", [None])
        if len(resolution) != 1:
            raise CandidateError(f"resolution: {resolution} is not one number; give a list of one")
        rest = {name: iter(column) for name, column in columns.items()}
        stages = [
            tuple(own.make(*(next(rest[name]) for name in own.names)) for _ in range(depth))
            for depth, own in zip(depths, types, strict=True)
        ]
        return cls(tuple(stages), resolution[0])

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Candidate:
        """Inverse of ``to_json``."""
        return cls.from_dict(_json(text))

    def __str__(self) -> str:
        """Compact form, a block as ``k3c48w42a84``: kernel, channels, weight bits, activation bits (of pw, dw)."""
        resolution = "" if self.resolution is None else f"r{self.resolution} | "
        return resolution + " | ".join(
            " ".join(map(known.compact, stage)) for known, stage in zip(self.types, self.stages, strict=True)
        )


def read_candidate(data: Any) -> Any:
    """Read a candidate of any kind of search space from plain data.

    Args:
        data: What ``to_dict`` of a candidate gives.

    Returns:
        A ``Candidate``, ``ModelCandidate`` or ``Configuration``, by its keys.

    Raises:
        CandidateError: If it is none of them.
    """
    if isinstance(data, Mapping) and "choices" in data:
        return Configuration.from_dict(data)
    if isinstance(data, Mapping) and "skipped" in data:
        return ModelCandidate.from_dict(data)
    return Candidate.from_dict(data)


def candidate_in(text: Any) -> Any:
    """Read a candidate of any kind of search space from one line of JSON, as ``to_json`` gives it.

    Raises:
        CandidateError: If the text is no candidate.
    """
    return read_candidate(_json(text))


def _json(text: Any) -> Any:
    if not isinstance(text, str):  # such as the NaN of an empty cell
        raise CandidateError(f"a candidate is one JSON object, got {str(text)[:40]!r}")
    try:
        return load_json(text, "candidate")
    except DocumentError as error:
        raise CandidateError(f"a candidate is one JSON object, got {text[:40]!r} ({error})") from None


def _types_in(data: Any) -> list[BlockType] | None:
    """The types of each stage's blocks that a candidate as plain data names; ``None`` if it names none."""
    named = data.get(_TYPES) if isinstance(data, Mapping) else None
    if named is None:
        return None
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise CandidateError(
            f"{_TYPES}: {named!r} is not a list of types; give one of {list(ALL_TYPES)} for each stage"
        )
    if unknown := [name for name in named if name not in ALL_TYPES]:
        raise CandidateError(f"{_TYPES}: {unknown[0]!r} is not a type of block; choose among {list(ALL_TYPES)}")
    return [ALL_TYPES[name] for name in named]
