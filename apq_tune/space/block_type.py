"""A type of block: its fields, each of a kind, and its layers at given values of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from apq_tune.network.layer import Layer
from apq_tune.space.gene import Kind

LETTERS: dict[Kind, str] = {"kernel": "k", "width": "c", "w_bits": "w", "a_bits": "a", "sparsity": "s"}
"""Kinds of fields in compact notation, in this order."""


class BlockField(NamedTuple):
    """One choice of a block.

    Attributes:
        name: Name of the field in candidates and in YAML.
        kind: What it decides.
        layer: Layer of the block that it belongs to; empty if it belongs to several.
    """

    name: str
    kind: Kind
    layer: str = ""


def bits_of(layer: str) -> tuple[BlockField, BlockField]:
    """Bits of a layer: those of its weights, then those of its input."""
    return BlockField(f"{layer}_w_bits", "w_bits", layer), BlockField(f"{layer}_a_bits", "a_bits", layer)


class BlockType(NamedTuple):
    """A type of block.

    Attributes:
        name: Name in YAML (``block: mbconv``).
        make: Named tuple of a block's values, with one field for each of ``fields``, in their order.
        fields: Choices of a block.
        layers: Function from the place of a block (a ``Slot``), the bits of layers that are not searched, the name of
            the input and the values of the fields, which may be broadcastable arrays, to the layers of the block.
            Layers with weights have distinct roles, the last components of their names.
        roles: Each layer of ``fields``, with the roles of the layers that it stands for.
        squeeze_excite: Whether a stage may ask for squeeze-excite in its blocks.
    """

    name: str
    make: Callable[..., Any]
    fields: tuple[BlockField, ...]
    layers: Callable[..., tuple[Layer, ...]]
    roles: tuple[tuple[str, tuple[str, ...]], ...]
    squeeze_excite: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(field.name for field in self.fields)

    def compact(self, block: tuple[Any, ...]) -> str:
        """Write a block as ``k3c48w42a84``: the letter of each kind, then the values of its fields."""
        by_kind: dict[Kind, list[str]] = {}
        for field, value in zip(self.fields, block, strict=True):
            by_kind.setdefault(field.kind, []).append(str(value))
        parts = {kind: ("" if kind.endswith("bits") else "-").join(values) for kind, values in by_kind.items()}
        return "".join(letter + parts[kind] for kind, letter in LETTERS.items() if kind in parts)
