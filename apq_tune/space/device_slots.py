"""Choices of a block that a device runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import DeviceError
from apq_tune.space.block_type import BlockField, BlockType
from apq_tune.space.device import DevicePreset
from apq_tune.space.device_rules import OpVerdict, check_function, kind_of, rule_of, verdicts, who
from apq_tune.space.slot import Slot

REMEDY = "change the stage (activation, squeeze_excite), or take another device"
"""What to do about an activation function that a device does not compute."""

Fields = Mapping[BlockField, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class RunChoices:
    """Choices of a block that a device runs.

    Attributes:
        values: Values of each field.
        allowed: Which of their combinations, widths excluded; one axis for each other field.
    """

    values: dict[BlockField, tuple[int, ...]]
    allowed: NDArray[np.bool_]


def choices_run(preset: DevicePreset, known: BlockType, slot: Slot, fields: Fields, fixed_bits: int) -> RunChoices:
    """Choices of a block that a device runs.

    Args:
        preset: Preset of the device.
        known: Type of the block.
        slot: Place of the block.
        fields: Values of each of its fields.
        fixed_bits: Bits of what is not searched.

    Raises:
        DeviceError: If none is left of a field, or a layer that no choice changes is not run; the message names the
            layer, what it offers, what the device runs, and the remedy.
    """
    axes = list(fields)
    kept = [np.ones(len(values), bool) for values in fields.values()]
    several: list[tuple[tuple[int, ...], NDArray[np.bool_]]] = []
    for layer in known.layers(slot, fixed_bits, "input", *np.ix_(*fields.values())):
        check_function(preset, layer.name, layer.activation, REMEDY)
        if layer.op is None:
            continue
        kind = kind_of(layer)
        rule = rule_of(
            preset, layer.name, kind, None, f"take other blocks (block: {_others(known)}), or another device"
        )
        for verdict in verdicts(rule, layer, None):
            ok = verdict.ok.reshape((1,) * (len(axes) - verdict.ok.ndim) + verdict.ok.shape)
            own = tuple(axis for axis in range(ok.ndim) if ok.shape[axis] > 1)
            said = f"{who(kind, None, rule, preset)} with {verdict.allowed}"
            if not ok.any():
                raise DeviceError(_nothing(preset, layer.name, verdict, said, fixed_bits))
            if len(own) == 1:
                kept[own[0]] &= ok.ravel()
                if not kept[own[0]].any():
                    raise DeviceError(_nothing(preset, layer.name, verdict, said, fixed_bits))
            elif own:
                several.append((own, ok))
    allowed = _without_partners(preset, slot, kept, several)
    values = {
        field: tuple(value for value, keep in zip(fields[field], mask, strict=True) if keep)
        for field, mask in zip(axes, kept, strict=True)
    }
    widths = tuple(axis for axis, field in enumerate(axes) if field.kind == "width")
    inside = allowed[
        np.ix_(*(np.flatnonzero(mask) if size > 1 else [0] for mask, size in zip(kept, allowed.shape, strict=True)))
    ]
    shape = [len(values[field]) for axis, field in enumerate(axes) if axis not in widths]
    return RunChoices(values, np.broadcast_to(np.squeeze(inside, axis=widths), shape))


def _without_partners(
    preset: DevicePreset,
    slot: Slot,
    kept: list[NDArray[np.bool_]],
    several: list[tuple[tuple[int, ...], NDArray[np.bool_]]],
) -> NDArray[np.bool_]:
    """Combinations of fields that are run; values that are in none of them are struck from ``kept``."""
    allowed = np.ones((1,) * len(kept), bool)
    for _, ok in several:
        allowed = allowed & ok
    for axis, mask in enumerate(kept):
        if allowed.shape[axis] > 1:
            allowed = allowed & mask.reshape([-1 if axis == other else 1 for other in range(len(kept))])
    if not allowed.any():
        raise DeviceError(
            f"{slot.name}: {preset.name} runs none of its combinations of bits; offer more, or take another device"
        )
    for axis in {axis for own, _ in several for axis in own}:
        others = tuple(other for other in range(len(kept)) if other != axis)
        kept[axis] &= allowed.any(axis=others)
    return allowed


def _nothing(preset: DevicePreset, layer: str, verdict: OpVerdict, said: str, fixed_bits: int) -> str:
    """Message about a layer of which nothing is left."""
    offers = " and ".join(str(sorted(set(np.ravel(own).tolist()))) for own in verdict.values)
    remedy = "offer one of these in the space"
    if verdict.quantity.endswith("bits") and offers == f"[{fixed_bits}]":
        remedy += ", in choices or by fixed_bits"
    return (
        f"{layer}: offers {verdict.quantity} {offers}, but {preset.name} runs {said}; {remedy}, or take another device"
    )


def _others(known: BlockType) -> str:
    from apq_tune.space.block_types import BLOCK_TYPES

    return " or ".join(name for name in BLOCK_TYPES if name != known.name)
