"""Types of blocks whose weights have a sparsity, one choice for each layer that has bits of its own."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

from apq_tune.network.layer import Layer, Numbers
from apq_tune.space.block_type import BlockField, BlockType
from apq_tune.space.fused_mbconv import FUSED_MBCONV
from apq_tune.space.mbconv import MBCONV
from apq_tune.space.residual import RESIDUAL
from apq_tune.space.slot import Slot

SPARSE = "sparse_"
"""What the name of such a type begins with, before that of the type with dense weights."""


def sparse_layers(known: BlockType, slot: Slot, fixed_bits: int, source: str, *values: Numbers) -> tuple[Layer, ...]:
    """Describe a block with sparse weights; squeeze-excite stays dense.

    Args:
        known: Type of the same block with dense weights.
        slot: Place of the block.
        fixed_bits: Bits of the residual stream.
        source: Name of the part that the block reads.
        values: Values of its choices, those of the dense type first.
    """
    dense, shares = values[: len(known.fields)], values[len(known.fields) :]
    groups = slot.sparse_groups or (1,) * len(shares)
    own: dict[str, dict[str, Any]] = {
        role: {"sparsity": share, "sparse_group": group}
        for (_, roles), share, group in zip(known.roles, shares, groups, strict=True)
        for role in roles
    }
    return tuple(
        layer._replace(op=layer.op._replace(**own[layer.role])) if layer.op is not None and layer.role in own else layer
        for layer in known.layers(slot, fixed_bits, source, *dense)
    )


def sparsity_fields(known: BlockType) -> tuple[BlockField, ...]:
    """The choices that the type with sparse weights has beside those of a type."""
    return tuple(BlockField(f"{layer}_sparsity", "sparsity", layer) for layer, _ in known.roles)


def _names(known: BlockType) -> tuple[str, ...]:
    return (*known.names, *(field.name for field in sparsity_fields(known)))


SparseBlock: Any = namedtuple("SparseBlock", _names(MBCONV))  # type: ignore[misc]
SparseResidual: Any = namedtuple("SparseResidual", _names(RESIDUAL))  # type: ignore[misc]
SparseFusedMBConv: Any = namedtuple("SparseFusedMBConv", _names(FUSED_MBCONV))  # type: ignore[misc]


def _mbconv_layers(slot: Slot, fixed_bits: int, source: str, *values: Numbers) -> tuple[Layer, ...]:
    return sparse_layers(MBCONV, slot, fixed_bits, source, *values)


def _residual_layers(slot: Slot, fixed_bits: int, source: str, *values: Numbers) -> tuple[Layer, ...]:
    return sparse_layers(RESIDUAL, slot, fixed_bits, source, *values)


def _fused_layers(slot: Slot, fixed_bits: int, source: str, *values: Numbers) -> tuple[Layer, ...]:
    return sparse_layers(FUSED_MBCONV, slot, fixed_bits, source, *values)


def _of(known: BlockType, make: Callable[..., Any], layers: Callable[..., tuple[Layer, ...]]) -> BlockType:
    fields = (*known.fields, *sparsity_fields(known))
    return known._replace(name=SPARSE + known.name, make=make, fields=fields, layers=layers)


# Functions and named tuples by their names, so that types are equal in other processes.
SPARSE_TYPES = (
    _of(MBCONV, SparseBlock, _mbconv_layers),
    _of(RESIDUAL, SparseResidual, _residual_layers),
    _of(FUSED_MBCONV, SparseFusedMBConv, _fused_layers),
)
