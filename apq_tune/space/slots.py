"""Blocks of the deepest network of a search space, with their places, shapes and choices."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from apq_tune.space.block_type import BlockField, BlockType
from apq_tune.space.block_types import ALL_TYPES, BLOCK_TYPES, DEFAULT
from apq_tune.space.candidate import Candidate
from apq_tune.space.device import PresetOrName
from apq_tune.space.device_slots import RunChoices, choices_run
from apq_tune.space.geometry import out_size, ratio_channels, stepped_channels
from apq_tune.space.skeleton import (
    Bits,
    BlockName,
    ChoiceLists,
    Classes,
    ExpandRange,
    First,
    Forbidden,
    Head,
    Input,
    Model,
    Stage,
    Stem,
)
from apq_tune.space.slot import Slot
from apq_tune.space.sparse_blocks import SPARSE, sparsity_fields
from apq_tune.space.sparsities import sparsities


class Skeleton(Model):
    """Content of the file of a search space, and the blocks that it defines."""

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=100)]
    data: str | None = None
    input: Input
    classes: Classes
    stem: Stem
    first: First | None = None
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=100)]
    head: Head
    fixed_bits: Bits = 8
    block: BlockName | None = None
    choices: ChoiceLists
    forbidden: tuple[Forbidden, ...] = ()
    device: PresetOrName | None = None

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Input sizes to choose from, ascending."""
        return (self.input.size,) if isinstance(self.input.size, int) else self.input.size

    @functools.cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The blocks of the deepest network, in order, at the largest resolution."""
        return self.slots_at(self.resolutions[-1])

    def slots_at(self, resolution: int) -> tuple[Slot, ...]:
        """The blocks of the deepest network, in order, for an input of ``resolution`` pixels."""
        return self._slots[resolution]

    @functools.cached_property
    def _slots(self) -> dict[int, tuple[Slot, ...]]:
        found = {resolution: self._slots_for(resolution) for resolution in self.resolutions}
        if self.device is None:
            return found
        return {resolution: tuple(map(self._of_device, slots)) for resolution, slots in found.items()}

    def _of_device(self, slot: Slot) -> Slot:
        """A block with the shapes that the device runs."""
        shapes = {field.kind: values for field, values in self._run[slot.name].values.items()}
        return slot._replace(kernel_sizes=shapes["kernel"], channels=shapes["width"])

    @functools.cached_property
    def _run(self) -> dict[str, RunChoices]:
        """What the device runs of the choices of each block by name, which does not depend on the image size."""
        assert self.device is not None
        return {
            slot.name: choices_run(self.device, self.type_of(slot), slot, self._offered(slot), self.fixed_bits)
            for slot in self._slots_for(self.resolutions[-1])
        }

    def _slots_for(self, resolution: int) -> tuple[Slot, ...]:
        slots = []
        in_channels = self.stem.channels if self.first is None else self.first.channels
        size = out_size(resolution, self.stem.stride)
        for number, stage in enumerate(self.stages):
            expand = self.choices.expand_ratio if stage.expand_ratio is None else stage.expand_ratio
            kernel_sizes = self.choices.kernel_size if stage.kernel_size is None else stage.kernel_size
            for position in range(stage.depth[-1]):
                stride = stage.stride if position == 0 else 1
                if isinstance(expand, ExpandRange):
                    channels = stepped_channels(in_channels, expand.min_ratio, expand.max_ratio, expand.step)
                else:
                    channels = ratio_channels(in_channels, expand, self.choices.divisor)
                block, groups = self._block_and_groups(stage.block or self.block or DEFAULT.name)
                slots.append(
                    Slot(
                        stage=number,
                        position=position,
                        resolution=resolution,
                        in_channels=in_channels,
                        out_channels=stage.channels,
                        in_size=size,
                        out_size=out_size(size, stride),
                        stride=stride,
                        kernel_sizes=kernel_sizes,
                        channels=channels,
                        activation=stage.activation,
                        squeeze_excite=stage.squeeze_excite,
                        block=block,
                        sparse_groups=groups,
                    )
                )
                in_channels, size = stage.channels, out_size(size, stride)
        return tuple(slots)

    def _block_and_groups(self, name: str) -> tuple[str, tuple[int, ...]]:
        """The type of blocks for the choices, and the inputs in a group of N:M sparsity for each choice of sparsity."""
        given = [getattr(self.choices, field.name) for field in sparsity_fields(BLOCK_TYPES[name])]
        if all(values is None for values in given):
            return name, ()
        return SPARSE + name, tuple(sparsities(values or (0,)).group for values in given)

    def type_of(self, slot: Slot) -> BlockType:
        """The type of the block in ``slot``."""
        return ALL_TYPES[slot.block]

    def fields(self, slot: Slot) -> dict[BlockField, tuple[int, ...]]:
        """Fields of the block in ``slot``, with the values of each."""
        return self._offered(slot) if self.device is None else self._run[slot.name].values

    def _offered(self, slot: Slot) -> dict[BlockField, tuple[int, ...]]:
        """Fields of a block with the values that the file gives them, whatever the device."""
        shapes = {"kernel": slot.kernel_sizes, "width": slot.channels}
        found: dict[BlockField, tuple[int, ...]] = {}
        for field in self.type_of(slot).fields:
            values = shapes[field.kind] if field.kind in shapes else getattr(self.choices, field.name)
            found[field] = sparsities(values or (0,)).values if field.kind == "sparsity" else values
        return found

    def allowed(self, slot: Slot) -> NDArray[np.bool_]:
        """Whether combinations of values are allowed for the block in ``slot``.

        Returns:
            Array with one axis for each field of the block except widths, which cannot be forbidden.
        """
        lists = {field.name: values for field, values in self.fields(slot).items() if field.kind != "width"}
        axes = dict(zip(lists, np.ix_(*lists.values()), strict=True))
        allowed = np.ones([axis.size for axis in axes.values()], bool)
        for rule in (forbidden.rule for forbidden in self.forbidden):
            if set(rule) <= set(axes):
                broken = np.broadcast_arrays(*(axes[field] == value for field, value in rule.items()))
                allowed &= ~np.logical_and.reduce(broken)
        return allowed if self.device is None else allowed & self._run[slot.name].allowed

    def active_slots(self, candidate: Candidate) -> list[Slot]:
        """Slots of the active blocks of a candidate, in order, at its resolution."""
        slots = self.slots if candidate.resolution is None else self.slots_at(candidate.resolution)
        return [slot for slot in slots if slot.position < candidate.depths[slot.stage]]
