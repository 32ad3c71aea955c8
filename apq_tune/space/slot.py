"""The place of one block in the deepest network of a search space."""

from __future__ import annotations

from typing import NamedTuple

from apq_tune.network.layer import Activation


class Slot(NamedTuple):
    """The place of one block: everything about it that no choice changes, and the choices that it has."""

    stage: int
    position: int  # within the stage; active when position < depth
    resolution: int  # input resolution of the network
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    stride: int
    kernel_sizes: tuple[int, ...]
    channels: tuple[int, ...]  # middle channels
    activation: Activation
    squeeze_excite: bool  # between the depthwise and the last pointwise convolution (Hu 2018)
    block: str = "mbconv"  # type of the block
    sparse_groups: tuple[int, ...] = ()  # inputs in a group of N:M sparsity (1 for none), for each choice of sparsity

    @property
    def has_shortcut(self) -> bool:
        """Whether the block adds its input to its output (Sandler 2018)."""
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def name(self) -> str:
        """Name ``stage.block``, counted from 1."""
        return f"{self.stage + 1}.{self.position + 1}"
