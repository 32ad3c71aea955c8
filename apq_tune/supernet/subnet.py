"""The stand-alone network of one candidate, batch norm folded."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from apq_tune.space.candidate import Candidate
from apq_tune.space.geometry import squeezed_channels
from apq_tune.space.mbconv import Block
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.skeleton import Slot
from apq_tune.supernet.forward import BlockQuantizers, Convs, FixedConvs, FixedQuantizers, forward_pass
from apq_tune.supernet.quantize import quantize_weight


class FoldedConv(nn.Conv2d):
    """A convolution with bias whose weights are quantized on the way in."""

    def forward(self, x: Tensor, w_bits: int | None = None) -> Tensor:
        """Convolve with weights at ``w_bits`` (``None``: full precision)."""
        y: Tensor = self._conv_forward(x, quantize_weight(self.weight, w_bits), self.bias)
        return y


class FoldedLinear(nn.Linear):
    """A linear layer whose weights are quantized on the way in."""

    def forward(self, x: Tensor, w_bits: int | None = None) -> Tensor:
        """Multiply with weights at ``w_bits`` (``None``: full precision)."""
        return functional.linear(x, quantize_weight(self.weight, w_bits), self.bias)


class FoldedBlock(nn.Module):
    """An inverted bottleneck of fixed shape, batch norm folded."""

    def __init__(self, space: SearchSpace, slot: Slot, block: Block) -> None:
        super().__init__()
        c, k = block.channels, block.kernel_size
        self.expand = FoldedConv(slot.in_channels, c, 1)
        self.depthwise = FoldedConv(c, c, k, slot.stride, k // 2, groups=c)
        self.project = FoldedConv(c, slot.out_channels, 1)
        if slot.squeeze_excite:
            self.squeeze = FoldedLinear(c, squeezed_channels(c))
            self.excite = FoldedLinear(squeezed_channels(c), c)
        self.quantizers = BlockQuantizers(space, slot)

    def convs(self) -> Convs:
        """The layers as functions."""
        gate = (self.squeeze, self.excite) if hasattr(self, "squeeze") else (None, None)
        return Convs(self.expand, self.depthwise, self.project, *gate)


class Subnet(nn.Module):
    """One network on its own, batch norm folded as in integer inference (Jacob 2018).

    Attributes:
        space: where the candidate is from.
        candidate: the network and the bits that ``forward`` applies unless others are given.
    """

    def __init__(self, space: SearchSpace, candidate: Candidate) -> None:
        super().__init__()
        self.space, self.candidate = space, candidate
        stem, last = space.stem, space.slots[-1].out_channels
        self._slots = space.active_slots(candidate)
        self.stem = FoldedConv(
            space.input.channels, stem.channels, stem.kernel_size, stem.stride, stem.kernel_size // 2
        )
        if space.first is not None:
            c, k = stem.channels, space.first.kernel_size
            self.first_depthwise = FoldedConv(c, c, k, 1, k // 2, groups=c)
            self.first_project = FoldedConv(c, space.first.channels, 1)
        self.blocks = nn.ModuleList(
            [FoldedBlock(space, slot, block) for slot, block in zip(self._slots, candidate.blocks, strict=True)]
        )
        self.head = FoldedConv(last, space.head.channels, 1)
        if space.head.features is not None:
            self.features = FoldedLinear(space.head.channels, space.head.features)
        self.classifier = FoldedLinear(space.head.features or space.head.channels, space.classes)
        self.quantizers = FixedQuantizers(space)

    def forward(self, x: Tensor, *, quantize: bool = True, bits: Candidate | None = None) -> Tensor:
        """Run the network.

        Args:
            x: ``(n, channels, size, size)`` images.
            quantize: whether to apply bits at all.
            bits: a candidate of the same architecture whose bits to apply; by default its own.

        Returns:
            ``(n, classes)`` logits.
        """
        blocks = (bits or self.candidate).blocks
        parts = zip(cast("list[FoldedBlock]", self.blocks), blocks, self._slots, strict=True)
        has_first = self.space.first is not None
        fixed = FixedConvs(
            self.stem,
            self.first_depthwise if has_first else None,
            self.first_project if has_first else None,
            self.head,
            self.features if self.space.head.features is not None else None,
            self.classifier,
        )
        convs = ((own.convs(), own.quantizers, block, slot) for own, block, slot in parts)
        return forward_pass(x, fixed, convs, self.quantizers, self.candidate.resolution, quantize)
