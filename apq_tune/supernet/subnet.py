"""Stand-alone networks of single candidates, with folded batch norm."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from apq_tune.space.candidate import Candidate
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.blocks import FoldedBlock, layers_of, run_block
from apq_tune.supernet.folded import FoldedConv, FoldedLinear
from apq_tune.supernet.forward import FixedConvs, FixedQuantizers, forward_pass


class Subnet(nn.Module):
    """Stand-alone network of a candidate, with batch norm folded as in integer inference (Jacob 2018).

    Attributes:
        space: Search space of the candidate.
        candidate: Architecture, and the bits that ``forward`` applies by default.
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
            x: Images, shape ``(n, channels, size, size)``.
            quantize: Whether to quantize weights and activations.
            bits: Candidate of the same architecture whose bits are applied; by default its own.

        Returns:
            Logits, shape ``(n, classes)``.
        """
        space, chosen = self.space, (bits or self.candidate).blocks
        has_first = space.first is not None
        fixed = FixedConvs(
            self.stem,
            self.first_depthwise if has_first else None,
            self.first_project if has_first else None,
            self.head,
            self.features if space.head.features is not None else None,
            self.classifier,
        )
        fixed_bits = space.fixed_bits if quantize else None

        def run_blocks(x: Tensor) -> Tensor:
            for own, slot, block in zip(cast("list[FoldedBlock]", self.blocks), self._slots, chosen, strict=True):
                layers = layers_of(slot, space.fixed_bits, block)
                x = run_block(x, layers, own.convs(layers), own.quantizers, fixed_bits)
            return x

        return forward_pass(x, fixed, run_blocks, self.quantizers, self.candidate.resolution, fixed_bits)
