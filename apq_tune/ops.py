"""The convolutions of a network, described once: every cost model and every module count reads these.

Numbers may be arrays that broadcast against each other, so one call describes a block at all of its choices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.candidate import Candidate
from apq_tune.geometry import out_size
from apq_tune.space import SearchSpace, Slot

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

    @property
    def n_weights(self) -> Numbers:
        """Number of weights, without the bias."""
        return self.kernel_size**2 * (self.in_channels // self.groups) * self.out_channels

    @property
    def macs(self) -> Numbers:
        """Multiply-accumulates for one image."""
        return self.n_weights * self.out_size**2


class BlockOps(NamedTuple):
    """The three convolutions of an inverted bottleneck."""

    expand: Op
    depthwise: Op
    project: Op


def block_ops(
    slot: Slot,
    kernel_size: Numbers,
    channels: Numbers,
    pw_w_bits: Numbers,
    pw_a_bits: Numbers,
    dw_w_bits: Numbers,
    dw_a_bits: Numbers,
) -> BlockOps:
    """Describe the block in ``slot`` at the given values of its choices."""
    return BlockOps(
        Op(slot.in_channels, channels, 1, 1, slot.in_size, slot.in_size, pw_w_bits, pw_a_bits),
        Op(channels, channels, kernel_size, channels, slot.in_size, slot.out_size, dw_w_bits, dw_a_bits),
        Op(channels, slot.out_channels, 1, 1, slot.out_size, slot.out_size, pw_w_bits, pw_a_bits),
    )


class FixedOps(NamedTuple):
    """What every network of a space has, at ``fixed_bits``."""

    stem: Op
    head: Op
    classifier: Op


def fixed_ops(space: SearchSpace) -> FixedOps:
    """Describe the parts of the skeleton that are not searched."""
    bits, stem, last = space.fixed_bits, space.stem, space.slots[-1]
    stem_size = out_size(space.input.size, stem.stride)
    return FixedOps(
        Op(space.input.channels, stem.channels, stem.kernel_size, 1, space.input.size, stem_size, bits, bits),
        Op(last.out_channels, space.head.channels, 1, 1, last.out_size, last.out_size, bits, bits),
        Op(space.head.channels, space.classes, 1, 1, 1, 1, bits, bits),
    )


def active_slots(space: SearchSpace, candidate: Candidate) -> list[Slot]:
    """The slots that the candidate's depths leave switched on, in the order of its blocks."""
    return [slot for slot in space.slots if slot.position < candidate.depths[slot.stage]]


def candidate_ops(space: SearchSpace, candidate: Candidate) -> list[Op]:
    """All convolutions of one candidate in the order of the forward pass, the classifier last."""
    fixed = fixed_ops(space)
    pairs = zip(active_slots(space, candidate), candidate.blocks, strict=True)
    return [fixed.stem, *(op for slot, block in pairs for op in block_ops(slot, *block)), fixed.head, fixed.classifier]


def all_choices(space: SearchSpace, slot: Slot) -> tuple[BlockOps, NDArray[np.bool_]]:
    """The block in ``slot`` at all of its choices at once.

    Returns:
        Ops whose numbers broadcast to ``(n_kernel_sizes, n_channels, n_pw_w, n_pw_a, n_dw_w, n_dw_a)``, and a mask of
        that shape of the combinations that are allowed.
    """
    axes = np.ix_(slot.kernel_sizes, slot.channels, *space.bit_choices())
    allowed = np.expand_dims(space.allowed(slot), 1)
    return block_ops(slot, *axes), np.broadcast_to(allowed, [axis.size for axis in axes])
