"""The convolutions of a network, described once: every cost model and every module count reads these.

Numbers may be arrays that broadcast against each other, so one call describes a block at all of its choices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.candidate import Candidate
from apq_tune.space.geometry import out_size, squeezed_channels
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.skeleton import Slot

Numbers = int | NDArray[Any]


class Op(NamedTuple):
    """One convolution, or the classifier as a 1x1 convolution on one pixel."""

    in_channels: Numbers
    out_channels: Numbers
    kernel_size: Numbers
    groups: Numbers
    in_size: int
    out_size: int
    w_bits: Numbers
    a_bits: Numbers  # of its input
    stride: int = 1

    @property
    def n_weights(self) -> Numbers:
        """Number of weights, without the bias."""
        return self.kernel_size**2 * (self.in_channels // self.groups) * self.out_channels

    @property
    def macs(self) -> Numbers:
        """Multiply-accumulates for one image."""
        return self.n_weights * self.out_size**2


class BlockOps(NamedTuple):
    """The convolutions of an inverted bottleneck; ``gate`` has the two of squeeze-excite, or none."""

    expand: Op
    depthwise: Op
    gate: tuple[Op, ...]
    project: Op

    @property
    def all(self) -> tuple[Op, ...]:
        """In the order of the forward pass."""
        return (self.expand, self.depthwise, *self.gate, self.project)


def block_ops(
    slot: Slot,
    fixed_bits: int,
    kernel_size: Numbers,
    channels: Numbers,
    pw_w_bits: Numbers,
    pw_a_bits: Numbers,
    dw_w_bits: Numbers,
    dw_a_bits: Numbers,
) -> BlockOps:
    """Describe the block in ``slot`` at the given values of its choices; squeeze-excite stays at ``fixed_bits``."""
    gate: tuple[Op, ...] = ()
    if slot.squeeze_excite:
        squeezed = squeezed_channels(channels)
        gate = (
            Op(channels, squeezed, 1, 1, 1, 1, fixed_bits, fixed_bits),
            Op(squeezed, channels, 1, 1, 1, 1, fixed_bits, fixed_bits),
        )
    return BlockOps(
        Op(slot.in_channels, channels, 1, 1, slot.in_size, slot.in_size, pw_w_bits, pw_a_bits),
        Op(channels, channels, kernel_size, channels, slot.in_size, slot.out_size, dw_w_bits, dw_a_bits, slot.stride),
        gate,
        Op(channels, slot.out_channels, 1, 1, slot.out_size, slot.out_size, pw_w_bits, pw_a_bits),
    )


class FixedOps(NamedTuple):
    """What every network of a space has, at ``fixed_bits``; ``first`` and ``features`` may be empty."""

    stem: Op
    first: tuple[Op, ...]
    head: Op
    features: tuple[Op, ...]
    classifier: Op

    @property
    def before(self) -> tuple[Op, ...]:
        """What runs before the searched blocks, in order."""
        return (self.stem, *self.first)

    @property
    def after(self) -> tuple[Op, ...]:
        """What runs after them, in order."""
        return (self.head, *self.features, self.classifier)

    @property
    def all(self) -> tuple[Op, ...]:
        """In the order of the forward pass."""
        return self.before + self.after


def fixed_ops(space: SearchSpace, resolution: int) -> FixedOps:
    """Describe the parts of the skeleton that are not searched, for an input of ``resolution`` pixels."""
    bits, stem, first, head = space.fixed_bits, space.stem, space.first, space.head
    last, size = space.slots_at(resolution)[-1], out_size(resolution, stem.stride)
    first_ops: tuple[Op, ...] = ()
    if first is not None:
        first_ops = (
            Op(stem.channels, stem.channels, first.kernel_size, stem.channels, size, size, bits, bits),
            Op(stem.channels, first.channels, 1, 1, size, size, bits, bits),
        )
    features = () if head.features is None else (Op(head.channels, head.features, 1, 1, 1, 1, bits, bits),)
    return FixedOps(
        Op(space.input.channels, stem.channels, stem.kernel_size, 1, resolution, size, bits, bits, stem.stride),
        first_ops,
        Op(last.out_channels, head.channels, 1, 1, last.out_size, last.out_size, bits, bits),
        features,
        Op(head.features or head.channels, space.classes, 1, 1, 1, 1, bits, bits),
    )


def active_slots(space: SearchSpace, candidate: Candidate) -> list[Slot]:
    """The slots that the candidate's depths leave switched on, in the order of its blocks, at its resolution."""
    slots = space.slots if candidate.resolution is None else space.slots_at(candidate.resolution)
    return [slot for slot in slots if slot.position < candidate.depths[slot.stage]]


def candidate_ops(space: SearchSpace, candidate: Candidate) -> list[Op]:
    """All convolutions of one candidate in the order of the forward pass, the classifier last."""
    fixed = fixed_ops(space, candidate.resolution or space.resolutions[-1])
    pairs = zip(active_slots(space, candidate), candidate.blocks, strict=True)
    blocks = [op for slot, block in pairs for op in block_ops(slot, space.fixed_bits, *block).all]
    return [*fixed.before, *blocks, *fixed.after]


def all_choices(space: SearchSpace, slot: Slot) -> tuple[BlockOps, NDArray[np.bool_]]:
    """The block in ``slot`` at all of its choices at once.

    Returns:
        Ops whose numbers broadcast to ``(n_kernel_sizes, n_channels, n_pw_w, n_pw_a, n_dw_w, n_dw_a)``, and a mask of
        that shape of the combinations that are allowed.
    """
    axes = np.ix_(slot.kernel_sizes, slot.channels, *space.bit_choices())
    allowed = np.expand_dims(space.allowed(slot), 1)
    return block_ops(slot, space.fixed_bits, *axes), np.broadcast_to(allowed, [axis.size for axis in axes])
