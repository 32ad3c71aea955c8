"""Candidates of MBConv spaces in the notation of the published APQ and once-for-all code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from apq_tune.errors import CandidateError
from apq_tune.space.block_types import DEFAULT
from apq_tune.space.candidate import Candidate
from apq_tune.space.geometry import make_divisible
from apq_tune.space.mbconv import Block
from apq_tune.space.search_space import SearchSpace

PUBLISHED_BITS = ("pw_w_bits_setting", "pw_a_bits_setting", "dw_w_bits_setting", "dw_a_bits_setting")

PUBLISHED_KEYS = ("ks", "e", "d", "r", *PUBLISHED_BITS)
"""All keys of the notation; the first three are always there."""


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


def is_published(data: Any) -> bool:
    """Whether plain data is a candidate in this notation."""
    return isinstance(data, Mapping) and {"ks", "e", "d"} <= set(data)


def from_published(data: Mapping[str, Any], space: SearchSpace) -> Candidate:
    """Read a candidate; without bits, ``fixed_bits`` of the space are meant.

    Raises:
        CandidateError: If it is not such a candidate, or the space has blocks other than MBConv.
    """
    if any(slot.block != DEFAULT.name for slot in space.slots):
        raise CandidateError(f"ks, e and d describe {DEFAULT.name} blocks; {space.name} has others, give their fields")
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
