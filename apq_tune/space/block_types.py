"""The types of blocks that search spaces are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from apq_tune.space.block_type import BlockField, BlockType
from apq_tune.space.fused_mbconv import FUSED_MBCONV
from apq_tune.space.mbconv import MBCONV
from apq_tune.space.residual import RESIDUAL
from apq_tune.space.sparse_blocks import SPARSE_TYPES

BLOCK_TYPES: Mapping[str, BlockType] = {known.name: known for known in (MBCONV, RESIDUAL, FUSED_MBCONV)}
"""Types of blocks by name, the default first, as stages ask for them."""

ALL_TYPES: Mapping[str, BlockType] = {**BLOCK_TYPES, **{known.name: known for known in SPARSE_TYPES}}
"""Types of blocks by name, and those with sparse weights, which spaces with a choice of their sparsity have."""

DEFAULT = MBCONV


def type_of(block: Any) -> BlockType:
    """The type of a block's values."""
    return next(known for known in ALL_TYPES.values() if known.make is type(block))


def type_with(fields: Iterable[BlockField]) -> BlockType:
    """The type of block that has just these fields."""
    wanted = tuple(fields)
    return next(known for known in ALL_TYPES.values() if known.fields == wanted)
