"""Supernet: the weight-shared network of a search space.

There is no active subnet as state: the candidate, batch norm statistics and quantization are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from apq_tune.network.layer import Layer, Op
from apq_tune.space.candidate import Candidate
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.blocks import ElasticBlock, FoldedBlock, layers_of, run_block
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.elastic import EPS, ElasticConv, ElasticLinear, Norms, Statistics
from apq_tune.supernet.forward import FixedConvs, FixedQuantizers, forward_pass
from apq_tune.supernet.interfaces import AnySupernet
from apq_tune.supernet.masks import pruned
from apq_tune.supernet.subnet import Subnet
from apq_tune.supernet.widths import SearchedWidth


class Supernet(AnySupernet):
    """Weight-shared network of a space of blocks.

    Attributes:
        space: Search space.
    """

    space: SearchSpace

    @plain_torch()
    def __init__(self, space: SearchSpace) -> None:
        """Initialise weights with torch's global generator, which ``torch.manual_seed`` seeds."""
        super().__init__()
        self.space = space
        stem, last = space.stem, space.slots[-1].out_channels
        self.stem = ElasticConv(space.input.channels, stem.channels, (stem.kernel_size,), depthwise=False)
        if space.first is not None:
            kernel_sizes = (space.first.kernel_size,)
            self.first_depthwise = ElasticConv(stem.channels, stem.channels, kernel_sizes, depthwise=True)
            self.first_project = ElasticConv(stem.channels, space.first.channels, depthwise=False)
        self.blocks = nn.ModuleList([ElasticBlock(space, slot) for slot in space.slots])
        self.head = ElasticConv(last, space.head.channels, depthwise=False)
        if space.head.features is not None:
            self.features = ElasticLinear(space.head.channels, space.head.features)
        self.classifier = ElasticLinear(space.head.features or space.head.channels, space.classes)
        self.quantizers = FixedQuantizers(space)

    def forward(
        self, x: Tensor, candidate: Candidate, *, quantize: bool = False, statistics: Statistics | None = None
    ) -> Tensor:
        """Run one candidate; ``statistics`` are those of ``recalibrate``, or ``None`` for those of this batch."""
        return self._run(x, candidate, quantize, Norms(statistics, None))

    @torch.no_grad()
    def recalibrate(self, x: Tensor, candidate: Candidate, *, quantize: bool = False) -> Statistics:
        """Batch norm statistics of one candidate on the images ``x``, which its evaluation requires."""
        statistics: Statistics = []
        self._run(x, candidate, quantize, Norms(None, statistics))
        return statistics

    def _run(self, x: Tensor, candidate: Candidate, quantize: bool, norms: Norms) -> Tensor:
        fixed_bits = self.space.fixed_bits if quantize else None

        def run_blocks(x: Tensor) -> Tensor:
            for block, layers in self.chosen(candidate):
                x = run_block(x, layers, block.convs(layers, norms), block.quantizers, fixed_bits)
            return x

        return self.run_around(x, run_blocks, candidate.resolution, norms, quantize=quantize)

    def run_around(
        self, x: Tensor, blocks: Callable[[Tensor], Tensor], resolution: int | None, norms: Norms, *, quantize: bool
    ) -> Tensor:
        """Run the layers that are not searched around given blocks.

        Args:
            x: Images, shape ``(n, channels, size, size)``.
            blocks: Function that applies the searched blocks.
            resolution: Image size; ``None`` if the space has one.
            norms: Batch norm.
            quantize: Whether to quantize weights and activations.

        Returns:
            Logits, shape ``(n, classes)``.
        """
        conv = norms.conv
        stem, first, head, space = self.space.stem, self.space.first, self.space.head, self.space
        fixed = FixedConvs(
            conv(self.stem, stem.kernel_size, space.input.channels, stem.channels, stem.stride),
            None if first is None else conv(self.first_depthwise, first.kernel_size, stem.channels, stem.channels),
            None if first is None else conv(self.first_project, 1, stem.channels, first.channels),
            conv(self.head, 1, space.slots[-1].out_channels, head.channels),
            self.features.sliced(head.channels, head.features) if head.features is not None else None,
            self.classifier.sliced(head.features or head.channels, space.classes),
        )
        fixed_bits = space.fixed_bits if quantize else None
        return forward_pass(x, fixed, blocks, self.quantizers, resolution, fixed_bits)

    def chosen(self, candidate: Candidate) -> list[tuple[ElasticBlock, tuple[Layer, ...]]]:
        """Blocks of a candidate and their layers, in the order of the forward pass."""
        index = {(slot.stage, slot.position): i for i, slot in enumerate(self.space.slots)}
        chosen = self.space.active_slots(candidate)
        return [
            (
                cast("ElasticBlock", self.blocks[index[slot.stage, slot.position]]),
                layers_of(slot, self.space.fixed_bits, block),
            )
            for slot, block in zip(chosen, candidate.blocks, strict=True)
        ]

    def sort_channels(self) -> None:
        """Sort the inner channels of all blocks by importance, which preserves the output of the largest network."""
        for block in self.blocks:
            cast("ElasticBlock", block).sort_channels()

    def searched_widths(self) -> list[SearchedWidth]:
        """Channels that can be chosen, block by block."""
        return [width for block in self.blocks for width in cast("ElasticBlock", block).searched_widths()]

    def rank_widths(self, importance: Sequence[Tensor]) -> None:
        """Reorder the channels of each searched width by importance, which preserves the output."""
        own = iter(importance)
        for block in self.blocks:
            elastic = cast("ElasticBlock", block)
            elastic.rank_widths([next(own) for _ in elastic.searched_widths()])

    @torch.no_grad()
    def extract(self, candidate: Candidate, statistics: Statistics) -> Subnet:
        """Stand-alone network with folded batch norm, whose output equals that of ``forward``."""
        with self.stem.weight.device:  # to avoid copies of its tensors between devices
            subnet = Subnet(self.space, candidate)
        given = iter(statistics)

        def copy(target: Any, source: Any, op: Op | None = None) -> None:
            out, in_ = target.weight.shape[:2]
            weight = source.weights(in_, out, target.weight.shape[-1])
            if op is not None:
                weight = pruned(weight, op.sparsity, op.sparse_group)
            mean, variance = next(given)
            factor = source.gamma[:out] * (variance + EPS).rsqrt()
            target.weight.copy_(weight * factor[:, None, None, None])
            target.bias.copy_(source.beta[:out] - mean * factor)

        copy(subnet.stem, self.stem)
        if self.space.first is not None:
            copy(subnet.first_depthwise, self.first_depthwise)
            copy(subnet.first_project, self.first_project)
        for module, (source, layers) in zip(subnet.blocks, self.chosen(candidate), strict=True):
            target = cast(FoldedBlock, module)
            for layer in layers:
                if layer.kind == "conv":
                    copy(target.get_submodule(layer.role), source.get_submodule(layer.role), layer.op)
                elif layer.kind == "linear":
                    _copy_corner(target.get_submodule(layer.role), source.get_submodule(layer.role))
            target.quantizers.load_state_dict(source.quantizers.state_dict())
        copy(subnet.head, self.head)
        if self.space.head.features is not None:
            _copy_corner(subnet.features, self.features)
        _copy_corner(subnet.classifier, self.classifier)
        subnet.quantizers.load_state_dict(self.quantizers.state_dict())
        return subnet


def _copy_corner(target: Any, source: Any) -> None:
    n_out, n_in = target.weight.shape
    target.weight.copy_(source.weight[:n_out, :n_in])
    target.bias.copy_(source.bias[:n_out])
