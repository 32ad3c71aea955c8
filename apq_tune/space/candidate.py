"""One point of a search space, readable and canonical: blocks that depth switches off do not exist in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from apq_tune.errors import CandidateError, DocumentError
from apq_tune.inputs.documents import load_json

_COLUMNS = TypeAdapter(dict[str, list[Annotated[int, Field(strict=True, gt=0)]]])


class Block(NamedTuple):
    """The choices of one inverted bottleneck; bits are of the inputs (a) and weights (w) of its convolutions."""

    kernel_size: int
    channels: int  # between the two pointwise convolutions
    pw_w_bits: int
    pw_a_bits: int
    dw_w_bits: int
    dw_a_bits: int


Value = int | float | str | bool | tuple[Any, ...] | None


def plain_value(value: Any) -> Value:
    """A value of a choice as one that JSON can hold and that is equal to itself when read again.

    NumPy's numbers become Python's, lists become tuples.

    Raises:
        CandidateError: saying what is wrong with it, to be put behind the name of the choice.
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
            raise CandidateError(f"{value} is no value of a choice; give a finite number, or text such as '{value}'")
        return float(value)
    if isinstance(value, str):
        return str(value)
    kind = type(value).__name__
    raise CandidateError(f"{_short(value)} is a {kind}; values are numbers, text, true or false, or lists of these")


def same_value(one: Any, other: Any) -> bool:
    """Whether two values are one and the same: Python holds ``True`` and ``1`` to be equal."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same_value, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Configuration:
    """One point of a space of named choices, without a network.

    Attributes:
        values: name and value of each choice, in the order of the space.
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
            CandidateError: if it is no such mapping.
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


@dataclass(frozen=True)
class Candidate:
    """A network and its bit policy; equal networks are equal objects.

    Attributes:
        stages: the active blocks of each stage, so a stage's depth is its length.
        resolution: pixels along a side of the input, where the space offers several; else ``None``.
    """

    stages: tuple[tuple[Block, ...], ...]
    resolution: int | None = None

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks in each stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in the order of the forward pass."""
        return tuple(block for stage in self.stages for block in stage)

    def with_bits(self, bits: int) -> Candidate:
        """The same network with every searched layer at ``bits``."""
        return Candidate(
            tuple(
                tuple(Block(b.kernel_size, b.channels, bits, bits, bits, bits) for b in stage) for stage in self.stages
            ),
            self.resolution,
        )

    def to_dict(self) -> dict[str, list[int]]:
        """``depths`` and, for each field of ``Block``, its values over all blocks; ``resolution`` if it has one."""
        columns = zip(*self.blocks, strict=True)
        data = {"depths": list(self.depths)} | {f: list(v) for f, v in zip(Block._fields, columns, strict=True)}
        return data | ({} if self.resolution is None else {"resolution": [self.resolution]})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """Inverse of ``to_dict``.

        Raises:
            CandidateError: for missing or unknown keys, values that are no positive integers, or lists whose length is
                not ``sum(depths)``.
        """
        expected = {"depths", *Block._fields}
        if not isinstance(data, Mapping) or set(data) - {"resolution"} != expected:
            keys = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise CandidateError(f"a candidate has the keys {sorted(expected)}, got {keys}")
        try:
            columns = _COLUMNS.validate_python(dict(data))
        except ValidationError as error:
            field = str(error.errors()[0]["loc"][0])
            raise CandidateError(f"{field}: {data[field]!r} is no list of positive integers; give one") from None
        depths = columns["depths"]
        for field in Block._fields:
            if len(columns[field]) != sum(depths):
                raise CandidateError(
                    f"{field}: {len(columns[field])} values for depths {depths}; give {sum(depths)}, one for each block"
                )
        resolution = columns.get("resolution", [None])
        if len(resolution) != 1:
            raise CandidateError(f"resolution: {resolution} is not one number; give a list of one")
        blocks = iter([Block(*values) for values in zip(*(columns[f] for f in Block._fields), strict=True)])
        return cls(tuple(tuple(next(blocks) for _ in range(depth)) for depth in depths), resolution[0])

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Candidate:
        """Inverse of ``to_json``."""
        try:
            data = load_json(text, "candidate")
        except DocumentError as error:
            raise CandidateError(f"a candidate is one JSON object, got {text[:40]!r} ({error})") from None
        return cls.from_dict(data)

    def __str__(self) -> str:
        """Compact form, a block as ``k3c48w42a84``: kernel, channels, weight bits pw/dw, activation bits pw/dw."""
        resolution = "" if self.resolution is None else f"r{self.resolution} | "
        return resolution + " | ".join(
            " ".join(
                f"k{b.kernel_size}c{b.channels}w{b.pw_w_bits}{b.dw_w_bits}a{b.pw_a_bits}{b.dw_a_bits}" for b in stage
            )
            for stage in self.stages
        )
